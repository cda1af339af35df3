"""Writing into a memory in PostgreSQL: everything of an item in one transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from mmagent_memory.postgres_text import encode, json_of, path_text, search_text
from mmagent_memory.postgres_vectors import NamedVectors, to_text
from mmagent_memory.rows import FullText, Picture, Put, ttl_us

__all__ = ["PostgresPut", "PostgresWriter"]

_UPSERT = """
INSERT INTO store (prefix, key, value, fields, created_at, updated_at, expires_at, ttl_minutes,
    seq, words, word_count)
VALUES (%s, %s, %s::jsonb, %s, COALESCE(%s, now()), now(), now() + %s * interval '1 minute', %s,
    nextval('store_seq'), setweight(to_tsvector('mmagent', %s), 'A')
    || setweight(to_tsvector('mmagent', %s), 'B') || setweight(to_tsvector('mmagent', %s), 'C')
    || setweight(to_tsvector('mmagent', %s), 'D'), %s)
ON CONFLICT (prefix, key) DO UPDATE SET
    value = EXCLUDED.value, fields = EXCLUDED.fields, updated_at = EXCLUDED.updated_at,
    expires_at = EXCLUDED.expires_at, ttl_minutes = EXCLUDED.ttl_minutes, seq = EXCLUDED.seq,
    words = EXCLUDED.words, word_count = EXCLUDED.word_count,
    created_at = COALESCE(%s, store.created_at)
"""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST = "(expires_at <= now())"


@dataclass
class PostgresPut:
    """A put with everything slow done: JSON, words, vectors."""

    put: Put
    vectors: NamedVectors
    texts: FullText

    def __post_init__(self) -> None:
        self.path = path_text(self.put.namespace)
        self.key = encode(self.put.key)
        if self.put.value is not None:
            self.value = json_of(self.put.value, self.put.key)

    def columns(self) -> tuple[Any, ...]:
        """Return the parameters of the statement that writes the item."""
        put = self.put
        minutes = None if put.ttl is None else ttl_us(put.ttl) / 60e6
        created = (
            None if put.created_us is None else _EPOCH + timedelta(microseconds=put.created_us)
        )
        words, count = search_text(self.texts)
        fields = None if put.index is None else json.dumps(put.index)
        return (
            *(self.path, self.key, self.value, fields, created, minutes, minutes),
            *words,
            count,
            created,
        )


class PostgresWriter:
    """Writes into one open transaction."""

    def __init__(self, db: Any, *, has_vectors: bool) -> None:
        self.db = db
        self.has_vectors = has_vectors

    def lock(self, paths: Sequence[str]) -> None:
        """Hold off other writers of namespaces until the transaction ends."""
        self.db.execute(
            "SELECT pg_advisory_xact_lock(number) FROM ("
            "SELECT DISTINCT hashtextextended(path, 0) AS number "
            "FROM unnest(%s::text[]) AS path ORDER BY number) AS numbers",
            (list(paths),),
        )

    def apply(self, puts: Sequence[PostgresPut]) -> None:
        """Write and remove items, in order; hold their namespaces first."""
        paths = sorted({put.path for put in puts})
        self.sweep(paths)
        loose = self._remove([put for put in puts if put.put.value is None])
        written = self._wanted([put for put in puts if put.put.value is not None])
        if written:
            with self.db.cursor() as cursor:
                cursor.executemany(_UPSERT, [put.columns() for put in written])
                self._vectors(cursor, written)
                loose = self._pictures(cursor, written) or loose
        if loose:
            self._drop_pictures(paths)

    def sweep(self, paths: Sequence[str]) -> int:
        """Remove what has expired in namespaces; return how much."""
        count: int = self.db.execute(
            f"DELETE FROM store WHERE prefix = ANY(%s) AND {_EARLIEST}",  # noqa: S608
            (list(paths),),
        ).rowcount
        if count:
            self._drop_pictures(paths)
        return count

    def _wanted(self, puts: Sequence[PostgresPut]) -> list[PostgresPut]:
        """Return the puts to carry out: the last one of a key, or the first where it is kept."""
        keeping = [put for put in puts if put.put.keep_existing]
        there: set[tuple[str, str]] = set()
        if keeping:
            rows = self.db.execute(
                "SELECT store.prefix, store.key FROM store JOIN unnest(%s::text[], %s::text[]) "
                "AS wanted (prefix, key) ON store.prefix = wanted.prefix "
                "AND store.key = wanted.key",
                ([put.path for put in keeping], [put.key for put in keeping]),
            ).fetchall()
            there = {(row["prefix"], row["key"]) for row in rows}
        chosen: dict[tuple[str, str], PostgresPut] = {}
        for put in puts:
            name = (put.path, put.key)
            if put.put.keep_existing and (name in there or name in chosen):
                continue
            chosen.pop(name, None)
            chosen[name] = put
        return list(chosen.values())

    def _remove(self, puts: Sequence[PostgresPut]) -> bool:
        """Remove items; say whether pictures may be left without one."""
        if puts:
            self.db.execute(
                "DELETE FROM store USING unnest(%s::text[], %s::text[]) AS gone (prefix, key) "
                "WHERE store.prefix = gone.prefix AND store.key = gone.key",
                ([put.path for put in puts], [put.key for put in puts]),
            )
        return bool(puts)

    def _vectors(self, cursor: Any, puts: Sequence[PostgresPut]) -> None:
        if not self.has_vectors:
            return
        # The old value's vectors go, also those of fields that the new one lacks.
        cursor.execute(
            "DELETE FROM store_vectors USING unnest(%s::text[], %s::text[]) AS old (prefix, key) "
            "WHERE store_vectors.prefix = old.prefix AND store_vectors.key = old.key",
            ([put.path for put in puts], [put.key for put in puts]),
        )
        rows = [
            (put.path, put.key, name, to_text(vector), kind)
            for put in puts
            for name, kind, vector in put.vectors
        ]
        cursor.executemany(
            "INSERT INTO store_vectors (prefix, key, field_name, embedding, kind) "
            "VALUES (%s, %s, %s, %s::vector, %s) ON CONFLICT (prefix, key, field_name) "
            "DO UPDATE SET embedding = EXCLUDED.embedding, kind = EXCLUDED.kind",
            rows,
        )

    def _pictures(self, cursor: Any, puts: Sequence[PostgresPut]) -> bool:
        """Write the pictures of items; say whether some may be left without one."""
        loose = False
        changed = [put for put in puts if put.put.pictures is not None]
        if changed:
            cursor.execute(
                "DELETE FROM store_item_images USING unnest(%s::text[], %s::text[]) AS old "
                "(prefix, key) WHERE store_item_images.prefix = old.prefix "
                "AND store_item_images.key = old.key",
                ([put.path for put in changed], [put.key for put in changed]),
            )
            loose = cursor.rowcount > 0
        pictures: dict[tuple[str, bytes], Picture] = {}
        links = []
        for put in changed:
            for picture in put.put.pictures or ():
                pictures[put.path, picture.hash] = picture
                links.append((put.path, put.key, picture.hash))
        if pictures:
            cursor.executemany(
                "INSERT INTO store_images VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [
                    (path, p.hash, p.mime_type, p.width, p.height, p.data)
                    for (path, _), p in pictures.items()
                ],
            )
            cursor.executemany(
                "INSERT INTO store_item_images VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", links
            )
        return loose

    def _drop_pictures(self, paths: Sequence[str]) -> None:
        self.db.execute(
            "DELETE FROM store_images WHERE prefix = ANY(%s) AND NOT EXISTS ("
            "SELECT 1 FROM store_item_images AS shown WHERE shown.prefix = store_images.prefix "
            "AND shown.hash = store_images.hash)",
            (list(paths),),
        )
