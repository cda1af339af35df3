"""The six filter operators of LangGraph's stores, on values decoded from JSON.

As in `InMemoryStore`, except that what cannot be compared does not match, where that store
raises: a filter must not fail because one item among thousands lacks a field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mmagent_memory.errors import MemoryUsageError

__all__ = ["check_filter", "matches"]


def matches(value: Mapping[str, Any], conditions: Mapping[str, Any] | None) -> bool:
    """Whether a value fulfils every condition of a filter."""
    return all(_fits(value.get(key), wanted) for key, wanted in (conditions or {}).items())


def check_filter(conditions: Mapping[str, Any] | None) -> None:
    """Refuse a filter with an operator that does not exist, also where nothing is stored.

    Raises:
        MemoryUsageError: The filter is no mapping or has an unknown operator.
    """
    if conditions is None:
        return
    if not isinstance(conditions, Mapping):
        raise MemoryUsageError(f"A filter is a mapping from field to value, not {conditions!r}.")
    for wanted in conditions.values():
        if not isinstance(wanted, Mapping):
            continue
        if _has_operator(wanted):
            for operator in wanted:
                if operator not in _OPERATORS:
                    known = ", ".join(_OPERATORS)
                    raise MemoryUsageError(
                        f"There is no filter operator {operator!r}; use one of {known}."
                    )
        else:
            check_filter(wanted)


def _has_operator(wanted: Mapping[str, Any]) -> bool:
    return any(isinstance(key, str) and key.startswith("$") for key in wanted)


def _fits(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        if _has_operator(wanted):
            return all(_OPERATORS[operator](value, other) for operator, other in wanted.items())
        return isinstance(value, Mapping) and all(
            _fits(value.get(key), other) for key, other in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(wanted)
            and all(_fits(mine, other) for mine, other in zip(value, wanted, strict=True))
        )
    return bool(value == wanted)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def holds(value: Any, other: Any) -> bool:
        if value is None or other is None:
            return False
        try:
            return compare(float(value), float(other))
        except (TypeError, ValueError, OverflowError):
            # Dates in ISO form and other words are ordered as text.
            same = isinstance(value, str) and isinstance(other, str)
            return same and compare(value, other)

    return holds


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda value, other: bool(value == other),
    "$ne": lambda value, other: bool(value != other),
    "$gt": _ordered(lambda value, other: value > other),
    "$gte": _ordered(lambda value, other: value >= other),
    "$lt": _ordered(lambda value, other: value < other),
    "$lte": _ordered(lambda value, other: value <= other),
}
