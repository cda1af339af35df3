"""Finding damage in a store, and saving what is whole.

    python -m mmagent_memory verify FOLDER
    python -m mmagent_memory repair FOLDER

`verify` reads everything and changes nothing. `repair` copies what is whole into a new database
and puts it in the place of the old one, which is kept beside it under another name. No other
program may have the store open meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmagent_memory.checksums import ITEM_COLUMNS, item_checksum
from mmagent_memory.database import DATABASE, Database
from mmagent_memory.erasing import INDEX_FOLDER
from mmagent_memory.errors import CorruptStoreError, MissingStoreError
from mmagent_memory.rows import labels_of, unpack_vectors

__all__ = ["Report", "repair", "verify"]

_COLUMNS = ", ".join(ITEM_COLUMNS)


@dataclass
class Report:
    """What was found, or saved.

    Attributes:
        items: Items that are whole.
        images: Pictures that are whole.
        lost: Items that are damaged, by what is left of their names.
        lost_images: Pictures that are damaged, by their ids.
        vectors: Items whose text is whole but whose vectors are not; `reembed()` makes them anew.
        problems: Everything that is wrong, in words.
        backup: Where `repair` left the old database.
    """

    items: int = 0
    images: int = 0
    lost: list[str] = field(default_factory=list)
    lost_images: list[str] = field(default_factory=list)
    vectors: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    backup: str | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"whole": self.whole, **self.__dict__}


def verify(path: str | Path) -> Report:
    """Read everything in a store and report what is damaged; nothing is changed.

    Raises:
        MissingStoreError: There is no store in the folder.
        CorruptStoreError: The database cannot be read at all.
    """
    file = _existing(path)
    report = Report()
    with closing(_open(file)) as db:
        try:
            for (line,) in db.execute("PRAGMA integrity_check(20)"):
                if line != "ok":
                    report.problems.append(f"SQLite: {line}")
        except sqlite3.DatabaseError as error:
            report.problems.append(f"SQLite: {error}")
        for _ in _whole_items(db, report):
            report.items += 1
        for _ in _whole_images(db, report):
            report.images += 1
        with suppress(sqlite3.DatabaseError):
            dangling = db.execute(
                "SELECT count(*) FROM item_images WHERE hash NOT IN (SELECT hash FROM images)"
            ).fetchone()[0]
            if dangling:
                report.problems.append(f"{dangling} pictures are named but not there.")
    return report


def repair(path: str | Path) -> Report:
    """Copy what is whole into a new database, and put it in the place of the damaged one.

    Raises:
        MissingStoreError: There is no store in the folder.
        CorruptStoreError: The database cannot be read at all; nothing was changed.
    """
    file = _existing(path)
    report = Report()
    fresh = file.parent / f".repair-{time.time_ns()}"
    with closing(_open(file)) as old:
        new = Database(fresh)
        with new.writing() as db:
            _copy_meta(old, db, report)
            for row in _whole_items(old, report):
                db.execute(f"INSERT INTO items VALUES ({', '.join('?' * len(ITEM_COLUMNS))})", row)  # noqa: S608
                report.items += 1
            for image in _whole_images(old, report):
                db.execute("INSERT INTO images VALUES (?, ?, ?, ?, ?)", image)
                report.images += 1
            for link in _readable(old, "SELECT item, hash FROM item_images", report):
                db.execute(
                    "INSERT OR IGNORE INTO item_images SELECT ?1, ?2 "
                    "WHERE EXISTS (SELECT 1 FROM items WHERE id = ?1) "
                    "AND EXISTS (SELECT 1 FROM images WHERE hash = ?2)",
                    link,
                )
            db.execute(
                "INSERT OR REPLACE INTO meta SELECT 'words', coalesce(max(id), 0) FROM items"
            )
            db.execute("INSERT INTO full_text (full_text) VALUES ('rebuild')")
            # One above all that was, so that no index of the old database fits the new one.
            top = db.execute("SELECT coalesce(max(id), 0) FROM items").fetchone()[0]
            db.execute("INSERT INTO tombstones VALUES (?, 0, 0)", (top + 1,))
            db.execute("UPDATE meta SET value = lower(hex(randomblob(16))) WHERE name = 'store'")
        new.close()
    backup = file.with_name(f"{file.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    for suffix in ("-wal", "-shm"):
        log = file.with_name(file.name + suffix)
        if log.exists():
            log.replace(backup.with_name(backup.name + suffix))
    file.replace(backup)
    (fresh / DATABASE).replace(file)
    for left in fresh.iterdir():
        left.unlink()
    fresh.rmdir()
    for snapshot in (file.parent / INDEX_FOLDER).glob("*"):
        snapshot.unlink(missing_ok=True)
    report.backup = str(backup)
    return report


def _existing(path: str | Path) -> Path:
    file = Path(path).expanduser() / DATABASE
    if not file.is_file():
        raise MissingStoreError(f"There is no memory in {path}; check the folder's name.")
    return file


def _open(file: Path) -> sqlite3.Connection:
    db = sqlite3.connect(file, isolation_level=None)
    try:
        if not db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'items'").fetchone()[0]:
            raise sqlite3.DatabaseError("its tables are gone")
    except sqlite3.DatabaseError as error:
        db.close()
        raise CorruptStoreError(
            f"Nothing in {file} can be read ({error}); put back a copy from a backup."
        ) from error
    return db


def _readable(db: sqlite3.Connection, query: str, report: Report) -> Iterator[tuple[Any, ...]]:
    """Yield rows until one cannot be read."""
    try:
        yield from db.execute(query)
    except sqlite3.DatabaseError as error:
        report.problems.append(f"SQLite: {error}")


def _whole_items(db: sqlite3.Connection, report: Report) -> Iterator[list[Any]]:
    """Yield the items that match their checksums; vectors that do not are left out."""
    dims = 0
    for (value,) in _readable(db, "SELECT value FROM meta WHERE name = 'dims'", report):
        dims = int(value)
    names = dict(_namespaces(db, report))
    for number in _numbers(db, report):
        try:
            row = db.execute(
                f"SELECT {_COLUMNS} FROM items WHERE id = ?",  # noqa: S608
                (number,),
            ).fetchone()
            if row is None:
                continue
            _, namespace, key, value, *_ = row
            crc, kinds, vectors = row[10], row[15], row[16]
            if namespace not in names:
                raise ValueError("its namespace is lost")
            if item_checksum(names[namespace], row) != crc:
                raise ValueError("it does not match its checksum")
            json.loads(value)
        except (sqlite3.DatabaseError, ValueError, TypeError, AttributeError) as error:
            name = _name(db, number)
            report.lost.append(name)
            report.problems.append(f"The item {name} is damaged: {error}.")
            continue
        columns = list(row)
        try:
            if kinds:
                unpack_vectors(number, kinds, vectors, dims)
        except (CorruptStoreError, TypeError, ValueError):
            name = f"{'/'.join(labels_of(names[namespace]))}/{key.decode('utf-8', 'replace')}"
            report.vectors.append(name)
            report.problems.append(f"The vectors of {name} are damaged.")
            columns[15], columns[16] = b"", b""
            columns[10] = item_checksum(names[namespace], columns)
        yield columns


def _namespaces(db: sqlite3.Connection, report: Report) -> Iterator[tuple[Any, ...]]:
    """Yield the namespaces; those that the table has lost from its index."""
    yield from _readable(db, "SELECT id, path FROM namespaces NOT INDEXED", report)
    yield from _readable(
        db, "SELECT id, path FROM namespaces INDEXED BY sqlite_autoindex_namespaces_1", report
    )


def _numbers(db: sqlite3.Connection, report: Report) -> Iterator[int]:
    """Yield the ids of items; where the table is broken, every id there may be."""
    try:
        numbers = [number for (number,) in db.execute("SELECT id FROM items NOT INDEXED")]
    except sqlite3.DatabaseError:
        highest = 0
        for query in ("SELECT max(id) FROM items", "SELECT max(rowid) FROM full_text_docsize"):
            with suppress(sqlite3.DatabaseError):
                highest = max(highest, db.execute(query).fetchone()[0] or 0)
        if not highest:
            report.problems.append("The table of items cannot be read.")
        numbers = list(range(1, highest + 1))
    yield from numbers


def _name(db: sqlite3.Connection, number: int) -> str:
    with suppress(sqlite3.DatabaseError, TypeError, AttributeError):
        (key,) = db.execute("SELECT key FROM items WHERE id = ?", (number,)).fetchone()
        return f"{key.decode('utf-8', 'replace')} (number {number})"
    return f"number {number}"


def _whole_images(db: sqlite3.Connection, report: Report) -> Iterator[tuple[Any, ...]]:
    """Yield the pictures that match their hash."""
    for (digest,) in _readable(db, "SELECT hash FROM images", report):
        try:
            image = db.execute(
                "SELECT hash, mime, width, height, data FROM images WHERE hash = ?", (digest,)
            ).fetchone()
            if image is None or hashlib.sha256(image[4]).digest() != digest:
                raise ValueError("it does not match its hash")
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            name = digest.hex() if isinstance(digest, bytes) else repr(digest)
            report.lost_images.append(name)
            report.problems.append(f"The picture {name[:16]} is damaged: {error}.")
            continue
        yield image


def _copy_meta(old: sqlite3.Connection, new: sqlite3.Connection, report: Report) -> None:
    for row in _readable(old, "SELECT name, value FROM meta", report):
        new.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", row)
    for row in _namespaces(old, report):
        new.execute("INSERT OR IGNORE INTO namespaces VALUES (?, ?)", row)
