"""Embedding a whole store anew, when its embedder has changed."""

from __future__ import annotations

import json

from mmagent_memory.database import Database
from mmagent_memory.rows import FullText, Picture, Put, labels_of
from mmagent_memory.vectorizer import Vectorizer
from mmagent_memory.writer import PreparedPut, Writer

__all__ = ["reembed"]

_BATCH = 256


def reembed(database: Database, vectorizer: Vectorizer) -> int:
    """Replace every vector of a store; return how many items have one now.

    One transaction: whoever looks meanwhile sees the old vectors, and a failure leaves them.
    Other processes wait with their writes until it is done.
    """
    count = 0
    with database.writing() as db:
        vectorizer.adopt(db)
        numbers = [number for (number,) in db.execute("SELECT id FROM items ORDER BY id")]
        writer = Writer(db)
        for start in range(0, len(numbers), _BATCH):
            puts = []
            for number in numbers[start : start + _BATCH]:
                path, key, value, fields, created, ttl, *words = db.execute(
                    "SELECT path, key, value, fields, created, ttl, body, about, caption, "
                    "context FROM items JOIN namespaces ON namespaces.id = ns WHERE items.id = ?",
                    (number,),
                ).fetchone()
                pictures = tuple(
                    Picture(*columns)
                    for columns in db.execute(
                        "SELECT images.hash, mime, width, height, data FROM item_images "
                        "JOIN images USING (hash) WHERE item = ?",
                        (number,),
                    )
                )
                puts.append(
                    Put(
                        namespace=labels_of(path),
                        key=key.decode("utf-8", "surrogatepass"),
                        value=json.loads(value),
                        index=None if fields is None else json.loads(fields),
                        ttl=None if ttl is None else ttl / 60e6,
                        texts=FullText(*(word or "" for word in words)),
                        pictures=pictures,
                        created_us=created,
                    )
                )
            vectors = vectorizer.vectors_of(puts)
            count += sum(mine is not None for mine in vectors)
            writer.apply(
                [
                    PreparedPut(put, put.texts or FullText()).with_vectors(mine)
                    for put, mine in zip(puts, vectors, strict=True)
                ]
            )
        writer.finish()
    return count
