"""Moving a memory from a folder to PostgreSQL and back."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory
from mmagent_memory.endpoints import CopiedEmbedder, PostgresEndpoint, endpoint
from mmagent_memory.errors import EmbeddingError, MemoryUsageError, MissingStoreError
from mmagent_memory.migrate import migrate, open_for_copying


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    with FaissStore(tmp_path / "from", HashEmbedder(64)) as store:
        for user in ("sam", "李雷"):
            memory = LongTermMemory(store, user=user, persona="mia")
            for number in range(15):
                memory.remember(
                    f"turn {number} of {user}: 西湖 {number * 7}",
                    speaker=user,
                    at=datetime(2024, 5, 1 + number, tzinfo=UTC),
                    thread="t",
                    id=f"{number}",
                    importance=0.5,
                )
            memory.remember("my bicycle", images=[png("red"), png("blue")], captions=["a", None])
        store.put(("notes", "x.y".replace(".", "")), "k", {"text": "tea", "n": 1}, index=["text"])
        store.put(("notes", "no"), "k", {"text": "tea"}, index=False)
        store.put(("notes", "short"), "k", {"text": "tea"}, ttl=10)
        yield store


def look(store):
    """Everything that can be seen of a store."""
    seen = []
    for user in ("sam", "李雷"):
        memory = LongTermMemory(store, user=user)
        seen += [hit.as_dict() for hit in memory.list()]
        seen += [image.data() for hit in memory.list() for image in hit.images]
        for question in ("turn 3", "西湖 21", "bicycle"):
            now = datetime(2024, 6, 1, tzinfo=UTC)
            seen.append([hit.id for hit in memory.recall(question, k=3, now=now)])
    seen += [(i.key, i.value, i.created_at) for i in store.search(("notes",), limit=9)]
    seen += [(i.namespace, i.score is None) for i in store.search(("notes",), query="tea")]
    return seen


def vectors(store):
    return {
        (put.namespace, put.key): put.vectors.matrix.tobytes()
        for puts in endpoint(store).batches(7)
        for put in puts
    }


def test_there_and_back_again(folder, postgres, tmp_path):
    there = postgres(HashEmbedder(64))
    seen = []
    report = migrate(folder, there, lambda done, total: seen.append((done, total)))
    assert (report.items, report.copied, report.already, report.pictures) == (35, 35, 0, 4)
    assert seen[-1] == (35, 35)
    assert look(there) == look(folder)
    assert vectors(there) == vectors(folder)
    with FaissStore(tmp_path / "back", HashEmbedder(64)) as back:
        assert migrate(there, back).copied == 35
        assert look(back) == look(folder)
        assert vectors(back) == vectors(folder)
        left = back.database.reading()
        with left as db:
            (minutes,) = db.execute("SELECT ttl / 60e6 FROM items WHERE ttl IS NOT NULL").fetchone()
        assert 9 < minutes <= 10


class Interrupted(Exception):
    pass


def test_a_run_that_is_cut_off_goes_on_where_it_stopped(folder, postgres, monkeypatch):
    monkeypatch.setattr("mmagent_memory.migrate._BATCH", 8)
    there = postgres(HashEmbedder(64))
    written = []
    write = PostgresEndpoint.write

    def fail(self, puts):
        if len(written) == 2:
            raise Interrupted
        written.append(len(puts))
        write(self, puts)

    monkeypatch.setattr(PostgresEndpoint, "write", fail)
    with pytest.raises(Interrupted):
        migrate(folder, there)
    monkeypatch.undo()
    report = migrate(folder, there)
    assert (report.already, report.copied) == (16, 19)
    assert look(there) == look(folder)
    again = migrate(folder, there)
    assert (again.already, again.copied, again.different) == (35, 0, ())


def test_what_was_changed_there_is_left_and_named(folder, postgres):
    there = postgres(HashEmbedder(64))
    there.put(("notes", "no"), "k", {"text": "coffee"})
    report = migrate(folder, there)
    assert report.different == ("notes/no/k",)
    assert report.as_dict()["already"] == 1
    assert there.get(("notes", "no"), "k").value == {"text": "coffee"}


def test_no_model_is_needed(folder, tmp_path):
    path = folder.path
    folder.close()
    with (
        open_for_copying(path) as source,
        open_for_copying(tmp_path / "to", like=source) as destination,
    ):
        assert migrate(source, destination).vectors == 40
    with FaissStore(tmp_path / "to", HashEmbedder(64)) as copy:
        found = LongTermMemory(copy, user="sam").recall("bicycle", k=1)[0]
        assert found.explain["raw"]["meaning"] > 0
    with pytest.raises(EmbeddingError):
        CopiedEmbedder("x", 3).embed_documents(["a"])


def test_vectors_of_different_embedders_are_not_mixed(folder, tmp_path):
    with FaissStore(tmp_path / "other", HashEmbedder(32)) as other:
        other.put(("a",), "k", {"text": "x"})
        with pytest.raises(MemoryUsageError, match="hash-embedder-1:32"):
            migrate(folder, other)
        assert other.search(("memory",)) == []


def test_calls_that_cannot_work(tmp_path):
    from langgraph.store.memory import InMemoryStore

    with pytest.raises(MissingStoreError), open_for_copying(tmp_path / "nothing"):
        pass
    with pytest.raises(MemoryUsageError, match="export_jsonl"):
        endpoint(InMemoryStore())


def test_odd_vectors_survive(postgres, tmp_path):
    numbers = np.array([1e-30, 1 / 3, -0.1, 2**-24], dtype=np.float32)

    class Odd:
        fingerprint = "odd"

        def embed_documents(self, texts):
            return [numbers.tolist() for _ in texts]

        def embed_query(self, text):
            return numbers.tolist()

    with FaissStore(tmp_path, Odd()) as source:
        source.put(("a",), "k", {"text": "x"})
        there = postgres(Odd())
        migrate(source, there)
        assert vectors(there) == vectors(source)


def test_the_command_moves_a_folder_into_a_database(folder, postgres_url, capfd):
    from mmagent.cli import main

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert not ended.value.code, err
        return out

    folder.close()
    to = ["--to", postgres_url, "--schema", "moved"]
    out = run("memory", "migrate", "--memory", folder.path, *to)
    assert out.startswith("35 items, 40 vectors and 4 pictures are there now: 35 copied")
    back = ["--memory", postgres_url, "--schema", "moved", "--to", folder.path.parent / "again"]
    assert '"copied": 35' in run("memory", "migrate", *back, "--json")
