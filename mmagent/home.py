"""The user's folders: what can be had again (cache) and what cannot (data).

`$MMAGENT_HOME` puts everything into one folder. Without it the XDG rules hold: models and
downloads lie in `~/.cache/mmagent`, memories in `~/.local/share/mmagent`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mmagent.errors import UsageError

__all__ = ["cache_folder", "data_folder", "default_memory_folder", "models_folder", "writable"]


def cache_folder() -> Path:
    """Where downloads and assembled models lie; it need not exist."""
    return _folder("XDG_CACHE_HOME", ".cache")


def data_folder() -> Path:
    """Where what people told us lies; it need not exist."""
    return _folder("XDG_DATA_HOME", ".local/share")


def models_folder() -> Path:
    """Where assembled models lie; it need not exist."""
    return cache_folder() / "models"


def default_memory_folder() -> Path:
    """Where memories are kept by a command line that was told no folder."""
    return data_folder() / "memory"


def writable(folder: Path) -> Path:
    """Make `folder` and return it, once a file could be written in it.

    Raises:
        UsageError: Nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Trying is the only test that is right about mounts, quotas and root alike.
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UsageError(
            f"The folder {folder} cannot be written ({error.strerror or error}): make it "
            "writable, or set MMAGENT_HOME to a folder that is."
        ) from error


def _folder(xdg_variable: str, fallback: str) -> Path:
    if own := os.environ.get("MMAGENT_HOME"):
        return Path(own).expanduser().absolute()
    xdg = os.environ.get(xdg_variable, "")
    # The XDG rules: a path that is not absolute is to be ignored.
    base = Path(xdg) if xdg.startswith("/") else _home() / fallback
    return base / "mmagent"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise UsageError(
            "This account has no home folder: set MMAGENT_HOME to a folder for models and memories."
        ) from error
