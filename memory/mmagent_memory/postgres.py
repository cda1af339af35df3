"""`PostgresMemoryStore`: the same memory on PostgreSQL, for more than one machine.

It is LangGraph's `PostgresStore` with pgvector, and its tables, with what they lack for a
memory added: full text, pictures, and the promises of `BaseStore` that they break (see
docs/conformance.md). `LongTermMemory` works on it as on a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from langgraph.store.base import (
    GetOp,
    ListNamespacesOp,
    Result,
    SearchOp,
    TTLConfig,
)

from mmagent_memory.embedding import Matrix, TextEmbedder
from mmagent_memory.errors import MemoryStoreError
from mmagent_memory.rows import Put, Row
from mmagent_memory.surface import ReadOp, StoreSurface, item_of, search_item_of
from mmagent_memory.vectorizer import words_of

try:
    import psycopg
    from langgraph.store.postgres import PostgresStore
    from psycopg_pool import ConnectionPool, PoolTimeout
except ImportError as error:  # pragma: no cover - seen in an environment without the extra
    raise MemoryStoreError(
        "A memory on PostgreSQL needs more packages; install them with: "
        "pip install 'mmagent[postgres]'"
    ) from error

from mmagent_memory.postgres_errors import translated
from mmagent_memory.postgres_reader import PostgresReader
from mmagent_memory.postgres_schema import ensure_schema, make_schema
from mmagent_memory.postgres_vectors import PostgresVectorizer
from mmagent_memory.postgres_writer import PostgresPut, PostgresWriter

if TYPE_CHECKING:
    from mmagent_memory.postgres_backend import PostgresBackend

__all__ = ["PostgresMemoryStore"]

_TABLES = ("store", "store_images", "store_item_images")
_CONNECT_S = 15.0


class PostgresMemoryStore(StoreSurface, PostgresStore):
    """A LangGraph store that keeps items, their vectors and pictures in a PostgreSQL database.

    Args:
        url: `postgresql://user:password@host/database`, or any other connection string of libpq.
        embeddings: What turns texts (and pictures) into vectors, as for `FaissStore`; None for the
            installed default, False for full text alone.
        fields: Paths of the values that are embedded where a put does not say.
        ttl: As in LangGraph: `default_ttl` in minutes, `refresh_on_read`.
        schema: In which schema of the database the tables are; made if it is not there.
        pool_size: Most connections at once.
        rewrite_on_erase: Whether erasing a user writes the tables anew (VACUUM FULL), which holds
            off everybody else for as long; large services turn it off and do it at night.

    Raises:
        MemoryStoreError: The server cannot be reached, or lacks pgvector, or refuses.
        NewerStoreError: A newer version made the tables.
    """

    def __init__(
        self,
        url: str,
        embeddings: TextEmbedder
        | Callable[[Sequence[str]], list[list[float]]]
        | Literal[False]
        | None = None,
        *,
        fields: Sequence[str] = ("$",),
        ttl: TTLConfig | None = None,
        schema: str = "public",
        pool_size: int = 8,
        rewrite_on_erase: bool = True,
    ) -> None:
        self.where = _without_password(url)
        self.schema = schema
        self.rewrite_on_erase = rewrite_on_erase
        self.vectorizer = PostgresVectorizer(embeddings, fields, self.where)
        pool: Any = ConnectionPool(
            url,
            min_size=1,
            max_size=max(2, pool_size),
            timeout=_CONNECT_S,
            # Never prepared on the server, so that a pooler such as PgBouncer may stand between.
            kwargs={
                "autocommit": True,
                "prepare_threshold": None,
                "row_factory": psycopg.rows.dict_row,
                "connect_timeout": int(_CONNECT_S),
            },
            configure=self._configure,
            open=False,
        )
        super().__init__(pool, ttl=ttl)
        self._pool = pool
        self._closed = False
        try:
            with self.translated():
                # One connection first: the pool would try again and again, and not say why.
                psycopg.connect(url, connect_timeout=int(_CONNECT_S)).close()
                pool.open()
                with pool.connection() as db:
                    self.vectorizer.know(self._ensure(db))
        except BaseException:
            pool.close()
            raise

    def write(self, puts: Sequence[Put]) -> None:
        """Write and remove items in one transaction; the server has them when this returns."""
        vectors = self.vectorizer.vectors_of(puts)
        prepared = [
            PostgresPut(put, mine, words_of(put)) for put, mine in zip(puts, vectors, strict=True)
        ]
        with self.writing() as db:
            writer = self.writer(db)
            writer.lock([put.path for put in prepared])
            self._check_unchanged(db)
            writer.apply(prepared)

    @contextmanager
    def reading(self) -> Iterator[PostgresReader]:
        """Give a reader whose reads all see the same moment."""
        with self.translated(), self._connection() as db:
            db.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            db.read_only = True
            try:
                with db.transaction():
                    yield PostgresReader(db)
            finally:
                db.isolation_level = db.read_only = None

    @contextmanager
    def writing(self) -> Iterator[Any]:
        """Give a connection in a transaction: committed on leaving, or undone."""
        with self.translated(), self._connection() as db, db.transaction():
            yield db

    @contextmanager
    def exclusive(self) -> Iterator[Any]:
        """Give a connection outside of a transaction."""
        with self.translated(), self._connection() as db:
            yield db

    def writer(self, db: Any) -> PostgresWriter:
        """Return a writer on a connection of `writing()`."""
        return PostgresWriter(db, has_vectors=self.vectorizer.size > 0)

    def sweep_ttl(self) -> int:
        """Remove every expired item; return how many went. They are invisible anyway."""
        with self.writing() as db:
            rows = db.execute("SELECT DISTINCT prefix FROM store WHERE expires_at <= now()")
            paths = [row["prefix"] for row in rows.fetchall()]
            writer = self.writer(db)
            writer.lock(paths)
            return writer.sweep(paths) if paths else 0

    def reembed(self) -> int:
        """Embed everything anew with this store's embedder; return how many items have vectors."""
        from mmagent_memory.postgres_reembedding import reembed

        return reembed(self)

    def size(self) -> int:
        """Return how many bytes the tables take on the server."""
        from mmagent_memory.postgres_erasing import size_of

        with self.exclusive() as db:
            return size_of(db)

    def memory_backend(self) -> PostgresBackend:
        """Return what `LongTermMemory` keeps memories with."""
        from mmagent_memory.postgres_backend import PostgresBackend

        return PostgresBackend(self)

    def setup(self) -> None:
        """Nothing to do: the tables are there once the store is open."""

    def close(self) -> None:
        """Close the connections."""
        if not self._closed:
            self._closed = True
            self.stop_ttl_sweeper()
            self._pool.close()

    def __repr__(self) -> str:
        return f"PostgresMemoryStore({self.where!r})"

    def translated(self) -> Any:
        """Turn errors of PostgreSQL into ours."""
        return translated(self.where, (PoolTimeout,))

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        if self._closed:
            raise MemoryStoreError("The store is closed; open it again.")
        with self._pool.connection() as db:
            yield db

    def _configure(self, db: Any) -> None:
        row = db.execute(
            "SELECT nspname FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace "
            "WHERE extname = 'vector'"
        ).fetchone()
        also = row["nspname"] if row else "public"  # where pgvector is, or will be
        path = ", ".join(_quoted(name) for name in dict.fromkeys([self.schema, also]))
        db.execute(f"SET search_path TO {path}")

    def _ensure(self, db: Any) -> dict[str, str]:
        if self.schema != "public":
            name = _quoted(self.schema)
            there = db.execute("SELECT to_regnamespace(%s) AS s", (name,)).fetchone()["s"]
            if there is None:
                make_schema(db, name)
        return ensure_schema(
            db, self.where, own=self._make_own_tables, identity=self.vectorizer.identity
        )

    def _make_own_tables(self) -> None:
        identity = self.vectorizer.identity()
        if identity is not None:
            self.index_config = {  # type: ignore[assignment, unused-ignore]
                "dims": identity[1],
                "embed": lambda texts: [[0.0] * identity[1] for _ in texts],
                "ann_index_config": {"kind": "flat"},
            }
        try:
            super().setup()
        finally:
            self.index_config = None

    def _check_unchanged(self, db: Any) -> None:
        """Refuse to write if another process has embedded everything anew meanwhile."""
        if self.vectorizer.fingerprint is None:
            return
        row = db.execute("SELECT value FROM store_meta WHERE name = 'embedder'").fetchone()
        if row and row["value"] != self.vectorizer.fingerprint:
            from mmagent_memory.errors import EmbedderChangedError

            raise EmbedderChangedError(
                f"The memory in {self.where} is embedded with {row['value']} since a short while, "
                f"no longer with {self.vectorizer.fingerprint}; open it again with that embedder."
            )

    def _read(self, reads: Sequence[tuple[int, ReadOp]], results: list[Result]) -> None:
        queries = self._questions_of(reads)
        touched: list[int] = []
        with self.reading() as reader:
            gets = [(place, op) for place, op in reads if isinstance(op, GetOp)]
            if gets:
                found = reader.get([get for _, get in gets])
                for (place, get), row in zip(gets, found, strict=True):
                    results[place] = item_of(row) if row else None
                    if row and row.has_ttl and get.refresh_ttl:
                        touched.append(row.id)
            for place, op in reads:
                if isinstance(op, ListNamespacesOp):
                    results[place] = reader.namespaces(op)
                elif isinstance(op, SearchOp):
                    rows = self._search(reader, op, queries)
                    results[place] = [search_item_of(row, score) for row, score in rows]
                    if op.refresh_ttl:
                        touched += [row.id for row, _ in rows if row.has_ttl]
        if touched:
            with self.writing() as db:
                db.execute(
                    "UPDATE store SET expires_at = now() + ttl_minutes * interval '1 minute' "
                    "WHERE seq = ANY(%s) AND expires_at > now()",
                    (touched,),
                )

    def _search(
        self, reader: PostgresReader, op: SearchOp, queries: dict[str, Matrix]
    ) -> list[tuple[Row, float | None]]:
        if op.query and not self.vectorizer.enabled:
            from mmagent_memory.postgres_words import search_by_words

            return search_by_words(reader, op)
        return reader.search(op, queries[op.query] if op.query else None)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _without_password(url: str) -> str:
    """Return where a database is, for messages: no password in them."""
    if "://" not in url:
        return "the PostgreSQL database"
    parts = urlsplit(url)
    return f"postgresql://{parts.hostname or 'localhost'}{parts.path}"
