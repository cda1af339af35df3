"""Finds and reads the entries of the catalogue that ships with the package.

An entry is a file `<kind>/<name>.yaml` beside this module, for instance `personas/mia.yaml`.
"""

from __future__ import annotations

import difflib
import functools
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from mmagent_prompts.safe_yaml import CatalogueError, load_yaml

__all__ = ["entry_names", "read_entry"]

_SUFFIX = ".yaml"


@functools.cache
def _entries(kind: str) -> dict[str, Traversable]:
    folder = files("mmagent_prompts").joinpath(kind)
    if "/" in kind or "." in kind or not folder.is_dir():
        raise CatalogueError(f"The catalogue has no entries of the kind {kind!r}.")
    found = [entry for entry in folder.iterdir() if entry.name.endswith(_SUFFIX)]
    return {entry.name.removesuffix(_SUFFIX): entry for entry in found}


def entry_names(kind: str) -> list[str]:
    """Return the names of all entries of a kind (for instance `"personas"`), sorted.

    Raises:
        CatalogueError: There is no such kind.
    """
    return sorted(_entries(kind))


def read_entry(kind: str, name: str) -> dict[str, Any]:
    """Read one entry as the mapping that its file holds.

    Raises:
        CatalogueError: There is no such entry, or its file is not a YAML mapping.
    """
    entries = _entries(kind)
    if name not in entries:
        near = difflib.get_close_matches(name, entries, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise CatalogueError(
            f"{name!r} is not in the catalogue of {kind}, which holds "
            f"{', '.join(sorted(entries))}.{hint}"
        )
    document = load_yaml(entries[name].read_bytes(), source=f"{kind}/{name}{_SUFFIX}")
    if not isinstance(document, dict):
        raise CatalogueError(f"{kind}/{name}{_SUFFIX} must be a mapping of field names to values.")
    return document
