"""Finding damage in a store, and saving what is whole.

    python -m mmagent_memory verify FOLDER
    python -m mmagent_memory repair FOLDER

`verify` reads everything and changes nothing. `repair` copies what is whole into a new database
and puts it in the place of the old one, which is kept beside it under another name. No other
program may have the store open meanwhile, which is checked.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mmagent_memory import wal
from mmagent_memory.checksums import ITEM_COLUMNS
from mmagent_memory.database import DATABASE, MARKER, Database
from mmagent_memory.erasing import BACKUP, INDEX_FOLDER, STAGE, remove_leftovers
from mmagent_memory.errors import (
    CorruptStoreError,
    MissingStoreError,
    NewerStoreError,
    ReadOnlyStoreError,
)
from mmagent_memory.highwater import HIGH_WATER, HighWater, newest_change
from mmagent_memory.problems import (
    full_text_problems,
    header_problems,
    link_problems,
    sqlite_problems,
)
from mmagent_memory.replacing import alone, finish, put_in_place
from mmagent_memory.salvage import UNREADABLE, Found, Item, Progress, find_whole
from mmagent_memory.schema import LIKELY_VERSION, VERSION, create_or_check

__all__ = ["Report", "repair", "verify"]

_INSERT = f"INSERT OR IGNORE INTO items VALUES ({', '.join('?' * len(ITEM_COLUMNS))})"  # noqa: S608


@dataclass
class Report:
    """What was found, or saved.

    Attributes:
        items: Items that are whole.
        images: Pictures that are whole.
        lost: Items that are damaged, by what is left of their names.
        lost_images: Pictures that are damaged, by their ids.
        vectors: Items whose text is whole but whose vectors are not; `reembed()` makes them anew.
        missing_changes: Acknowledged changes of which nothing is left, as far as is known.
        problems: Everything that is wrong, in words.
        backup: Where `repair` left the old database; None where there was nothing to repair.
    """

    items: int = 0
    images: int = 0
    lost: list[str] = field(default_factory=list)
    lost_images: list[str] = field(default_factory=list)
    vectors: list[str] = field(default_factory=list)
    missing_changes: int = 0
    problems: list[str] = field(default_factory=list)
    backup: str | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"whole": self.whole, **self.__dict__}

    def take(self, found: Found) -> None:
        """Take over what was found to be damaged."""
        self.lost, self.lost_images, self.vectors = found.lost, found.lost_images, found.vectors
        self.problems += [words for words in found.problems if words not in self.problems]


def verify(path: str | Path, progress: Progress | None = None) -> Report:
    """Read everything in a store and report what is damaged; nothing is changed.

    Args:
        path: The store's folder.
        progress: Called with how many items were read, and of how many.

    Raises:
        MissingStoreError: There is no store in the folder.
        NewerStoreError: A newer version wrote it.
        CorruptStoreError: The database cannot be read at all.
    """
    file = _existing(path)
    finish(file)
    report = Report()
    log = wal.examine(file.with_name(file.name + "-wal"))
    if not log.whole:
        report.problems.append(f"{str(log).capitalize()}.")
    with _readable(file) as db:
        if db is None:
            return report
        report.problems += header_problems(db)
        missing = 0
        with suppress(*UNREADABLE):
            missing = HighWater(file.parent).missing(db)
        if missing:
            report.missing_changes = missing
            report.problems.append(f"The last {missing} acknowledged changes are missing.")
        report.problems += sqlite_problems(db)
        found = find_whole(db)
        for _ in found.items(progress):
            report.items += 1
        for _ in found.images():
            report.images += 1
        report.take(found)
        report.problems += link_problems(db)
        report.problems += full_text_problems(db)
    return report


def repair(path: str | Path, progress: Progress | None = None) -> Report:
    """Copy what is whole into a new database, and put it in the place of the damaged one.

    A store that is whole is left as it is. A kill on the way leaves the old store or the new one.

    Args:
        path: The store's folder.
        progress: Called with how many items were looked at, and of how many.

    Raises:
        MissingStoreError: There is no store in the folder.
        NewerStoreError: A newer version wrote it.
        StoreBusyError: Some program has the store open.
        CorruptStoreError: Nothing can be saved; nothing was changed.
    """
    file = _existing(path)
    finish(file)
    with suppress(CorruptStoreError):
        report = verify(path)
        if report.whole:
            return report
    try:
        with alone(file):
            return _repair(file, progress)
    except OSError as error:
        raise ReadOnlyStoreError(
            f"The memory folder {file.parent} cannot be repaired ({error.strerror or error}); "
            "make it writable and make room for a second copy of the store."
        ) from error


def _repair(file: Path, progress: Progress | None) -> Report:
    report = Report()
    remove_leftovers(file.parent, backups=False)
    stage = Path(tempfile.mkdtemp(prefix=STAGE, dir=file.parent))
    try:
        copy = stage / "old.sqlite3"
        if file.exists():
            shutil.copyfile(file, copy)
        else:
            copy.touch()
        report.problems += wal.fold(file.with_name(file.name + "-wal"), copy)
        with closing(Database(stage / "new")) as new:
            # A reading of the pages first: opening the copy may change it.
            found = find_whole(_opened_copy(copy), copy)
            missing = _missing(file.parent, found)
            if missing:
                report.missing_changes = missing
                report.problems.append(f"The last {missing} acknowledged changes are lost.")
            _fill(new, found, report, progress)
            report.take(found)
            if found.db is not None:
                found.db.close()
        if not report.items and not report.images and not found.meta:
            raise CorruptStoreError(
                f"Nothing in {file} can be read; put back a copy from a backup."
            )
        backup = file.with_name(f"{file.name}{BACKUP}{time.strftime('%Y%m%d-%H%M%S')}")
        put_in_place(stage / "new" / DATABASE, file, backup)
        for snapshot in (file.parent / INDEX_FOLDER).glob("*"):
            snapshot.unlink(missing_ok=True)
        report.backup = str(backup)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return report


def _fill(new: Database, found: Found, report: Report, progress: Progress | None) -> None:
    """Write what is whole into a new store."""
    with new.writing() as db:
        for name in ("embedder", "dims"):
            if name in found.meta:
                value = found.dims if name == "dims" and found.dims else found.meta[name]
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
        shown: list[tuple[int, bytes]] = []
        for item in found.items(progress):
            item.row[ITEM_COLUMNS.index("ns")] = _namespace(db, item)
            report.items += db.execute(_INSERT, item.row).rowcount
            shown += [(item.row[0], digest) for digest in _pictures_of(item)]
        for image in found.images():
            db.execute("INSERT OR IGNORE INTO images VALUES (?, ?, ?, ?, ?)", image)
        db.executemany(
            "INSERT OR IGNORE INTO item_images SELECT ?1, ?2 "
            "WHERE EXISTS (SELECT 1 FROM items WHERE id = ?1) "
            "AND EXISTS (SELECT 1 FROM images WHERE hash = ?2)",
            [*found.links(), *shown],
        )
        # A picture that no item shows would be kept for nobody.
        db.execute("DELETE FROM images WHERE hash NOT IN (SELECT hash FROM item_images)")
        report.images = db.execute("SELECT count(*) FROM images").fetchone()[0]
        db.execute(
            "UPDATE meta SET value = (SELECT coalesce(max(id), 0) FROM items) WHERE name = 'words'"
        )
        db.execute("INSERT INTO full_text (full_text) VALUES ('rebuild')")
        # One above all that was, so that no index of the old database fits the new one.
        top = max(found.newest + report.missing_changes, newest_change(db)) + 1
        db.execute("INSERT INTO tombstones VALUES (?, 0, 0)", (top,))


def _namespace(db: sqlite3.Connection, item: Item) -> int:
    db.execute("INSERT OR IGNORE INTO namespaces (path) VALUES (?)", (item.path,))
    number: int = db.execute("SELECT id FROM namespaces WHERE path = ?", (item.path,)).fetchone()[0]
    return number


def _pictures_of(item: Item) -> Iterator[bytes]:
    """Yield the hashes of the pictures that a memory says it shows."""
    value = json.loads(item.row[ITEM_COLUMNS.index("value")])
    entries = value.get("images") if isinstance(value, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        with suppress(ValueError, TypeError, KeyError):
            yield bytes.fromhex(entry["id"])


def _missing(folder: Path, found: Found) -> int:
    """Return how many acknowledged changes have left no trace at all."""
    if found.db is None:
        return 0
    try:
        seen = HighWater(folder).missing(found.db)
        return max(0, seen + newest_change(found.db) - found.newest) if seen else 0
    except UNREADABLE:
        return 0


def _existing(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    file = folder / DATABASE
    traces = (file, folder / MARKER, folder / HIGH_WATER)
    if not any(trace.is_file() for trace in traces):
        raise MissingStoreError(f"There is no memory in {path}; check the folder's name.")
    return file


@contextmanager
def _readable(file: Path) -> Iterator[sqlite3.Connection | None]:
    """Give a connection that only reads, so that closing it leaves the log as it is.

    None where a store was being made and nothing is in it yet.
    """
    if not file.is_file():
        raise CorruptStoreError(f"{file} is gone; put back a copy from a backup.")
    with closing(_connected(file)) as db:
        try:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
            version = db.execute("PRAGMA user_version").fetchone()[0]
        except UNREADABLE as error:
            raise CorruptStoreError(
                f"Nothing in {file} can be read ({error}); `repair` looks through its pages, or "
                "put back a copy from a backup."
            ) from error
        if not tables and not any((file.parent / name).exists() for name in (MARKER, HIGH_WATER)):
            yield None
            return
        if version > LIKELY_VERSION:
            raise CorruptStoreError(f"The header of {file} is damaged; run `repair`.")
        if version > VERSION:
            raise NewerStoreError(
                f"{file} was written by a newer version of mmagent (format {version}); upgrade "
                "with: pip install --upgrade mmagent"
            )
        if "items" not in tables:
            raise CorruptStoreError(
                f"Nothing in {file} can be read (its tables are gone); `repair` looks through its "
                "pages, or put back a copy from a backup."
            )
        if version == VERSION:
            yield db
            return
        with tempfile.TemporaryDirectory() as place, closing(_upgraded(db, Path(place))) as new:
            yield new


def _connected(file: Path) -> sqlite3.Connection:
    address = f"file:{quote(str(file.absolute()))}?mode=ro"
    db = sqlite3.connect(address, uri=True, isolation_level=None)
    try:
        db.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError:
        log = file.with_name(file.name + "-wal")
        if os.access(file.parent, os.W_OK) or (log.exists() and log.stat().st_size):
            return db
        # Where nothing can be written, nobody else writes either.
        db.close()
        db = sqlite3.connect(f"{address}&immutable=1", uri=True, isolation_level=None)
    except UNREADABLE:
        pass  # It is said where more is asked of it.
    return db


def _upgraded(db: sqlite3.Connection, place: Path) -> sqlite3.Connection:
    """Return a copy of a store of an earlier version, brought to this one."""
    new = sqlite3.connect(place / DATABASE, isolation_level=None)
    try:
        db.backup(new)
        create_or_check(new, str(place), may_create=False)
    except UNREADABLE as error:
        new.close()
        raise CorruptStoreError(
            f"A store of an earlier version cannot be read ({error}); run `repair`."
        ) from error
    return new


def _opened_copy(copy: Path) -> sqlite3.Connection | None:
    """Return a connection to a copy of the database, if that can be opened at all."""
    db = sqlite3.connect(copy, isolation_level=None)
    try:
        create_or_check(db, str(copy), may_create=False)
        db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'items'")
    except NewerStoreError:
        db.close()
        raise
    except (*UNREADABLE, CorruptStoreError):
        db.close()
        return None
    return db
