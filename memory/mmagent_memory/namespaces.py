"""Match conditions of `list_namespaces`: whole labels, `*` for any one."""

from __future__ import annotations

from langgraph.store.base import MatchCondition

from mmagent_memory.errors import MemoryUsageError

__all__ = ["labels_match"]


def labels_match(labels: tuple[str, ...], condition: MatchCondition) -> bool:
    """Whether a namespace begins or ends as a condition says.

    Raises:
        MemoryUsageError: The condition is of a kind that does not exist.
    """
    wanted = tuple(condition.path)
    if condition.match_type == "prefix":
        end = labels[: len(wanted)]
    elif condition.match_type == "suffix":
        end = labels[max(0, len(labels) - len(wanted)) :]
    else:
        raise MemoryUsageError(
            f"There is no match type {condition.match_type!r}; use prefix or suffix."
        )
    return len(end) == len(wanted) and all(
        pattern in ("*", label) for label, pattern in zip(end, wanted, strict=True)
    )
