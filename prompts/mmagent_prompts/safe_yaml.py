"""YAML from files that anybody may have written.

`yaml.SafeLoader` runs no code, but a few hundred bytes of aliases still unfold into gigabytes,
deep nesting exhausts the stack, and of two equal keys the last one wins in silence. This
loader bounds all three and refuses the last.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "CatalogueError", "load_yaml"]

MAX_BYTES = 1_000_000
"""Largest YAML text that is read, in UTF-8 bytes."""
MAX_DEPTH = 24
"""Deepest nesting of lists and mappings."""
MAX_NODES = 50_000
"""Most values in a document, each alias counted as often as it is used."""
MAX_ALIASES = 32
"""Most uses of `*alias` in a document."""


class CatalogueError(ValueError):
    """A catalogue entry that is absent, or a YAML text that cannot be used."""


class _BoundedLoader(yaml.SafeLoader):
    """A SafeLoader that counts depth and aliases while it composes."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > MAX_ALIASES:
                raise CatalogueError(f"more than {MAX_ALIASES} YAML aliases; write the values out")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise CatalogueError(f"nested deeper than {MAX_DEPTH} levels; flatten it")
        try:
            # types-PyYAML leaves the composer's methods untyped.
            node: yaml.Node | None = super().compose_node(parent, index)  # type: ignore[no-untyped-call, unused-ignore]
        finally:
            self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    line = key.start_mark.line + 1
                    raise CatalogueError(f"the key {key.value!r} stands twice (line {line})")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_yaml(text: str | bytes, *, source: str = "the YAML text") -> Any:
    """Read one YAML document of plain values, within bounds.

    Args:
        text: The document; bytes are read as UTF-8.
        source: What to call it in errors, for instance the file's name.

    Raises:
        CatalogueError: It is not UTF-8 or not YAML, holds other than plain values, repeats a
            key, or passes one of the bounds of this module.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(raw) > MAX_BYTES:
        raise CatalogueError(f"{source} is larger than {MAX_BYTES:,} bytes; shorten it.")
    try:
        decoded = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CatalogueError(f"{source} is not UTF-8 text; save it as UTF-8.") from error
    try:
        loader = _BoundedLoader(decoded)
        try:
            document = loader.get_single_data()
        finally:
            loader.dispose()
    except CatalogueError as error:
        raise CatalogueError(f"{source} cannot be used: {error}.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CatalogueError(f"{source} is not valid YAML: {_in_one_line(error)}.") from error
    _check_size(document, source)
    return document


def _in_one_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error) or type(error).__name__
    where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
    return " ".join(str(problem).split()) + where


def _check_size(document: Any, source: str) -> None:
    """Count the values as if every alias were written out; an alias to itself never ends."""
    waiting = [document]
    count = 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count > MAX_NODES:
            raise CatalogueError(
                f"{source} unfolds into more than {MAX_NODES:,} values; write it without aliases."
            )
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | set | tuple):
            waiting.extend(value)
