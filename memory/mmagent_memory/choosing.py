"""Which backend keeps the memories of a store, and whose memories it holds."""

from __future__ import annotations

from langgraph.store.base import BaseStore

from mmagent_memory.backends import Backend, run
from mmagent_memory.generic import GenericBackend
from mmagent_memory.names import ANY_PERSONA, decode_name

__all__ = ["backend_of", "list_users"]


def list_users(store: BaseStore) -> list[tuple[str, str | None]]:
    """Return whose memories a store holds: pairs of user and persona, None for no persona."""
    found = []
    for namespace in run(store, backend_of(store).users()):
        if len(namespace) == 3:
            label = namespace[2]
            persona = None if label == ANY_PERSONA else decode_name(label)
            found.append((decode_name(namespace[1]), persona))
    return sorted(found, key=lambda pair: (pair[0], pair[1] or ""))


def backend_of(store: BaseStore) -> Backend:
    """Return what keeps memories in a store."""
    own = getattr(store, "memory_backend", None)
    if own is not None:
        made: Backend = own()
        return made
    # Here and not at the top: any other store needs none of FaissStore's machinery.
    from mmagent_memory.store import FaissStore

    if isinstance(store, FaissStore):
        from mmagent_memory.native import NativeBackend

        return NativeBackend(store)
    return GenericBackend()
