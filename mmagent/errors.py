"""Every error that mmagent raises on purpose.

    MMAgentError                       something went wrong; the message says what and what to do
    ├── UsageError                     a call that cannot work (the command line exits with 2)
    │   ├── MediaError                 a picture, sound or film that is refused or cannot be read
    │   ├── ModelNotFoundError         no model at that path or of that name
    │   ├── PersonaError               a persona file or character card that cannot be used
    │   └── ContextOverflowError       the prompt does not fit the model's context window
    ├── DownloadError                  a download that failed or does not match its checksum
    ├── MissingDependencyError         an optional package is absent; the message names it
    ├── GenerationError                the model failed while answering
    └── ModelBusyError                 too many requests wait for one model; ask again later

Exceptions of other libraries are translated into these at one boundary: the engine for
transformers and torch, `media` for Pillow and httpx, `models` for downloads. Errors of the
memory live in `mmagent_memory.errors`.
"""

from __future__ import annotations

from langchain_core.exceptions import ContextOverflowError as _LangChainContextOverflowError

__all__ = [
    "ContextOverflowError",
    "DownloadError",
    "GenerationError",
    "MMAgentError",
    "MediaError",
    "MissingDependencyError",
    "ModelBusyError",
    "ModelNotFoundError",
    "PersonaError",
    "UsageError",
]


class MMAgentError(Exception):
    """Base of all errors that mmagent raises on purpose."""


class UsageError(MMAgentError, ValueError):
    """What the caller passed cannot work."""


class MediaError(UsageError):
    """A picture, sound or film that is refused or cannot be read."""


class ModelNotFoundError(UsageError):
    """No model at that path or of that name."""


class PersonaError(UsageError):
    """A persona file or character card that cannot be used."""


class ContextOverflowError(UsageError, _LangChainContextOverflowError):
    """The prompt does not fit the model's context window; raised before anything is cut."""


class DownloadError(MMAgentError):
    """A download that failed or does not match its checksum."""


class MissingDependencyError(MMAgentError, ImportError):
    """An optional package is absent; the message has the pip command."""


class GenerationError(MMAgentError, RuntimeError):
    """The model failed while answering."""


class ModelBusyError(MMAgentError, RuntimeError):
    """Too many requests wait for one model; the message says how many may."""
