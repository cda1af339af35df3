"""The user's own personas: files in a folder, loaded by name like those of the catalogue."""

from __future__ import annotations

import re
from pathlib import Path

from mmagent.errors import PersonaError
from mmagent.home import data_folder, writable
from mmagent_prompts import entry_names

__all__ = ["SUFFIXES", "put_on_shelf", "shelf_name", "shelf_names", "shelf_path"]

SUFFIXES = (".yaml", ".yml", ".json", ".png", ".charx")


def _folder() -> Path:
    return data_folder() / "personas"


def shelf_names() -> list[str]:
    """Return the names of the user's own personas, sorted."""
    folder = _folder()
    if not folder.is_dir():
        return []
    return sorted(path.stem for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def shelf_path(name: str) -> Path | None:
    """Return the file of one of the user's own personas, or None."""
    if name != shelf_name(name):
        return None
    paths = (_folder() / f"{name}{suffix}" for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def shelf_name(name: str) -> str:
    """Return a name as it can stand in a file name: `Captain Wren` becomes `captain-wren`."""
    return re.sub(r"[^\w-]+", "-", name.strip().casefold()).strip("-")[:80]


def put_on_shelf(data: bytes, name: str, suffix: str, *, replace: bool = False) -> Path:
    """Keep a persona's file under a name, byte for byte; return where.

    Raises:
        PersonaError: The name is not usable or taken.
        UsageError: The folder cannot be written.
    """
    if not name or name != shelf_name(name):
        raise PersonaError(
            f"{name!r} cannot be a name: use small letters, digits, - and _, as in "
            f"{shelf_name(name) or 'my-persona'!r}."
        )
    if name in entry_names("personas"):
        raise PersonaError(f"{name!r} is a persona of the catalogue; choose another name.")
    old = shelf_path(name)
    if old is not None and not replace:
        raise PersonaError(f"There is a persona {name!r} already; choose another name or --force.")
    target = writable(_folder()) / f"{name}{suffix}"
    temporary = target.with_name(f".{target.name}.new")
    try:
        temporary.write_bytes(data)
        temporary.replace(target)
        if old is not None and old != target:
            old.unlink()
    except OSError as error:
        raise PersonaError(f"{target} cannot be written: {error.strerror}.") from error
    return target
