"""A PostgreSQL server for the tests that need one, started once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    from mmagent_memory.temporary_postgres import temporary_postgres

    with temporary_postgres() as url:
        yield url


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Callable[..., Any]]:
    """Open stores in a fresh schema of their own; all are closed afterwards."""
    from mmagent_memory import HashEmbedder
    from mmagent_memory.postgres import PostgresMemoryStore

    schema = f"test{next(_NUMBERS)}"
    made = []

    def opened(embeddings: Any = None, **options: Any) -> Any:
        given = HashEmbedder() if embeddings is None else embeddings
        made.append(PostgresMemoryStore(postgres_url, given, **{"schema": schema, **options}))
        return made[-1]

    yield opened
    for store in made:
        store.close()
