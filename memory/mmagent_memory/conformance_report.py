"""Which stores keep which promises: the kit run on several, as a table and as JSON.

    python -m mmagent_memory.conformance                      every store that is installed
    python -m mmagent_memory.conformance package.module:make  your own; `make()` returns a store

`make` must open a fresh, empty store that embeds whole values with
`mmagent_memory.conformance.EMBEDDER`.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import logging
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from langgraph.store.base import BaseStore

from mmagent_memory import conformance
from mmagent_memory.promises import PROMISES

__all__ = ["Subject", "main", "report", "subjects", "table"]

Make = Callable[[], BaseStore]


@dataclass
class Subject:
    """A store under test.

    Attributes:
        name: Whose it is.
        make: Opens a fresh, empty one.
        close: Closes it.
        ours: Whether it must keep every promise.
        without_vectors: Why it runs without an index here; None if it has one.
    """

    name: str
    make: Make
    close: Callable[[Any], None] = field(default=lambda store: None)
    ours: bool = False
    without_vectors: str | None = None


@contextmanager
def subjects(names: Sequence[str] = ()) -> Iterator[list[Subject]]:
    """Give the stores that can be opened here; a server is started for those that need one."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        makers: dict[str, Callable[[], list[Subject]]] = {
            "FaissStore": lambda: [_folder(folder)],
            "PostgresMemoryStore": lambda: [_postgres(stack)],
            "InMemoryStore": lambda: [_in_memory()],
            "SqliteStore": lambda: [_sqlite()],
            "PostgresStore": lambda: [_plain_postgres(stack)],
        }
        yield [one for name, make in makers.items() if not names or name in names for one in make()]


def report(subject: Subject, *, examples: int = 30, steps: int = 12) -> dict[str, str]:
    """Return for each promise "kept", or what was found instead."""
    found = {}
    for promise in PROMISES:
        if promise.vectors and subject.without_vectors:
            found[promise.name] = f"not run: {subject.without_vectors}"
        else:
            found[promise.name] = _outcome(subject, promise.check)

    def histories(store: BaseStore) -> None:
        conformance.check_store(
            subject.make, close=subject.close, examples=examples, steps=steps, shorten=False
        )

    name = "random histories, compared with the contract's model"
    if subject.without_vectors:
        found[name] = f"not run: {subject.without_vectors}"
    else:
        found[name] = _outcome(subject, histories)
    return found


def table(results: dict[str, dict[str, str]]) -> str:
    """Return the results as Markdown: a table, and what was found where a promise is broken."""
    names = list(results)
    lines = ["| promise | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    notes: list[str] = []
    for promise in next(iter(results.values())):
        cells = []
        for name in names:
            said = results[name].get(promise, "not run")
            if said == "kept":
                cells.append("yes")
            elif said.startswith("not run"):
                cells.append("not run")
            else:
                notes.append(f"{name}, {promise}: {said}")
                cells.append(f"**no** ({len(notes)})")
        lines.append(f"| {promise} | " + " | ".join(cells) + " |")
    lines += ["", *(f"{number}. {text}" for number, text in enumerate(notes, start=1))]
    unrun = {
        f"{name}: {said.removeprefix('not run: ')}"
        for name, result in results.items()
        for said in result.values()
        if said.startswith("not run")
    }
    lines += ["", *(f"Not run for {text}." for text in sorted(unrun))] if unrun else []
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 if every store that must keep all promises does."""
    parser = argparse.ArgumentParser(
        prog="python -m mmagent_memory.conformance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("make", nargs="?", help="package.module:function that opens your store")
    parser.add_argument("--store", action="append", default=[], help="only this one; repeatable")
    parser.add_argument("--examples", type=int, default=30, help="how many random histories")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    options = parser.parse_args(arguments)
    results: dict[str, dict[str, str]] = {}
    failed = False
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        stack.callback(logging.disable, logging.NOTSET)
        chosen = (
            [_own(options.make)] if options.make else stack.enter_context(subjects(options.store))
        )
        for subject in chosen:
            print(f"{subject.name} …", file=sys.stderr, flush=True)
            results[subject.name] = report(subject, examples=options.examples)
            failed |= subject.ours and any(
                said != "kept" for said in results[subject.name].values()
            )
    text = _page(results)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n", "utf-8")
    if options.json:
        said = {"versions": _versions(), "results": results}
        options.json.write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return 1 if failed else 0


def _outcome(subject: Subject, check: Callable[[BaseStore], None]) -> str:
    try:
        store = subject.make()
        try:
            check(store)
        finally:
            subject.close(store)
    except Exception as error:
        said = " ".join(str(error).split())
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        return f"{kind}{said[:200]}".replace("|", "/") or type(error).__name__
    return "kept"


def _own(name: str) -> Subject:
    module, _, function = name.partition(":")
    sys.path.insert(0, "")
    make = getattr(importlib.import_module(module), function or "make")
    return Subject(name, make, lambda store: getattr(store, "close", lambda: None)(), ours=True)


def _folder(folder: Path) -> Subject:
    from mmagent_memory import FaissStore

    numbers = itertools.count()
    return Subject(
        "FaissStore",
        lambda: FaissStore(folder / f"{next(numbers)}", conformance.EMBEDDER),
        lambda store: store.close(),
        ours=True,
    )


def _postgres(stack: ExitStack) -> Subject:
    from mmagent_memory.postgres import PostgresMemoryStore
    from mmagent_memory.temporary_postgres import temporary_postgres

    url = stack.enter_context(temporary_postgres())
    store = stack.enter_context(PostgresMemoryStore(url, conformance.EMBEDDER))

    def make() -> BaseStore:
        with store.exclusive() as db:
            db.execute("DELETE FROM store")
        return store

    return Subject("PostgresMemoryStore", make, ours=True)


def _index() -> Any:
    return {"dims": 64, "embed": conformance.EMBEDDER, "fields": ["$"]}


def _in_memory() -> Subject:
    from langgraph.store.memory import InMemoryStore

    return Subject("InMemoryStore", lambda: InMemoryStore(index=_index()))


def _sqlite() -> Subject:
    import sqlite3

    from langgraph.store.sqlite import SqliteStore

    def make(index: Any) -> BaseStore:
        db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        store = SqliteStore(db, index=index)
        store.setup()
        return store

    def close(store: Any) -> None:
        store.conn.close()

    try:
        close(make(_index()))
    except Exception as error:
        reason = f"its setup with an index fails here ({type(error).__name__}: {error})"
        return Subject("SqliteStore", lambda: make(None), close, without_vectors=reason)
    return Subject("SqliteStore", lambda: make(_index()), close)


def _plain_postgres(stack: ExitStack) -> Subject:
    from langgraph.store.postgres import PostgresStore

    from mmagent_memory.temporary_postgres import temporary_postgres

    url = stack.enter_context(temporary_postgres())
    store = stack.enter_context(PostgresStore.from_conn_string(url, index=_index()))
    store.setup()

    def make() -> BaseStore:
        with suppress(Exception), store._cursor() as cursor:
            cursor.execute("DELETE FROM store")
        return store

    return Subject("PostgresStore", make)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in (
        "langgraph",
        "langgraph-checkpoint",
        "langgraph-checkpoint-sqlite",
        "langgraph-checkpoint-postgres",
    ):
        with suppress(Exception):
            found[name] = version(name)
    return found


def _page(results: dict[str, dict[str, str]]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in _versions().items())
    return (
        "# Which stores keep which promises\n\n"
        "Made by `make conformance` (`mmagent_memory.conformance`); do not edit. `FaissStore` and\n"
        "`PostgresMemoryStore` are this package's; the others are LangGraph's, with an index and\n"
        "otherwise as they are by default.\n"
        f"Versions: {versions}.\n\n"
        f"{table(results)}"
    )
