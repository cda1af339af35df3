"""From what a user calls a model to what transformers can load."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mmagent.errors import ModelNotFoundError

__all__ = ["resolve_model"]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_KNOWN = "`tiny` (bundled), `echo` (for trying things out), a folder, or a hub name like org/model"


def resolve_model(name: str | Path, *, progress: bool = True) -> str:
    """The folder or hub name of a model.

    `tiny` is fetched and assembled if it is not there yet. A local folder comes back as it is.

    Args:
        name: `tiny`, a folder, or a name on the Hugging Face hub.
        progress: Whether to show the progress of a download on stderr.

    Raises:
        ModelNotFoundError: There is no such model.
        DownloadError: The bundled model could not be fetched.
        UsageError: The cache folder cannot be written.
    """
    text = str(name)
    # A folder wins over everything, so that nobody's own ./tiny is passed over for a download.
    is_path = isinstance(name, Path) or text.startswith(("/", "./", "../", "~"))
    if is_path or (text and Path(text).is_dir()):
        return _folder(Path(text).expanduser())
    if text == "echo":
        return text
    if text == "tiny":
        from mmagent.models.pull import pull

        return str(pull("tiny", progress=progress))
    if not _HUB_NAME.fullmatch(text):
        raise ModelNotFoundError(f"There is no model {text!r}: give {_KNOWN}.")
    _check_hub(text)
    return text


def _folder(folder: Path) -> str:
    if not folder.is_dir():
        kind = "a file, not a folder" if folder.exists() else "not there"
        raise ModelNotFoundError(f"The model folder {folder} is {kind}: give {_KNOWN}.")
    if not (folder / "config.json").is_file():
        hint = ""
        if (folder / "adapter_config.json").is_file():
            hint = " It holds an adapter: pass it as the adapter of its base model."
        raise ModelNotFoundError(
            f"The folder {folder} has no config.json, so it is not a model that transformers "
            f"can load.{hint}"
        )
    return str(folder)


def _check_hub(name: str) -> None:
    """Ask the hub about a model that is not in its local cache."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE") == "1":
        raise ModelNotFoundError(
            f"The model {name} is not in the local hub cache, and the hub is switched off "
            "(HF_HUB_OFFLINE): fetch it once while online, or give a folder."
        )
    try:
        HfApi().model_info(name, timeout=20)
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"There is no folder and no public hub model {name}: check the spelling, or log in "
            "with `hf auth login` if it is private."
        ) from error
    except HfHubHTTPError as error:
        raise ModelNotFoundError(f"The hub refuses the model {name}: {error}.") from error
    except Exception as error:  # no network: each HTTP library has its own family of these
        raise ModelNotFoundError(
            f"The model {name} is not in the local hub cache, and the hub cannot be reached "
            f"({type(error).__name__}): go online, or give a folder."
        ) from error
