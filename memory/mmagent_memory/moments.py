"""What a connection sees: looked up once, and again only when the database has changed.

SQLite tells cheaply whether anybody else has committed since a connection last looked
(`PRAGMA data_version`). So long as nobody has, nothing that was derived from the rows is stale.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

__all__ = ["Moment", "moment_of"]


@dataclass(frozen=True)
class Moment:
    """The state of a store as one connection sees it.

    Attributes:
        version: SQLite's own number for it, of this connection only.
        newest: The change sequence.
        namespaces: A number that changes whenever a namespace comes or goes.
        scrubs: How often something was erased for good.
        expiry: When the first item expires, in microseconds since 1970; None for never.
    """

    version: int
    newest: int
    namespaces: int
    scrubs: int
    expiry: int | None


def moment_of(db: sqlite3.Connection) -> Moment:
    """Return what a reading connection sees; call it inside of its transaction."""
    version: int = db.execute("PRAGMA data_version").fetchone()[0]
    known: Moment | None = getattr(db, "moment", None)
    # A connection does not count its own changes, so that one that writes must always look.
    if known is not None and known.version == version and not db.total_changes:
        return known
    items, removed, namespaces, scrubs, expiry = db.execute(
        "SELECT (SELECT max(id) FROM items), (SELECT max(seq) FROM tombstones), "
        "(SELECT value FROM meta WHERE name = 'namespaces'), "
        "(SELECT value FROM meta WHERE name = 'scrubs'), "
        "(SELECT min(expires) FROM items WHERE expires IS NOT NULL)"
    ).fetchone()
    moment = Moment(version, max(items or 0, removed or 0), namespaces or 0, scrubs or 0, expiry)
    if hasattr(db, "moment"):
        db.moment = moment
    return moment
