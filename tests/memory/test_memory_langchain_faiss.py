"""Old folders of LangChain's FAISS store: read without running anything of them."""

from __future__ import annotations

import builtins
import os
import pickle
import sys
import types
from datetime import UTC, datetime
from pathlib import Path

import pytest
from langchain_core.documents import Document

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory
from mmagent_memory.errors import MemoryUsageError
from mmagent_memory.langchain_faiss import import_langchain_faiss, read_langchain_faiss

COMMUNITY = "langchain_community.docstore.in_memory"


@pytest.fixture
def docstore(monkeypatch):
    """The class under the name it has in such files; the package itself is not needed."""

    def make(module: str = COMMUNITY):
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            if name not in sys.modules:
                monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        kind = type("InMemoryDocstore", (), {"__module__": module})
        monkeypatch.setattr(sys.modules[module], "InMemoryDocstore", kind, raising=False)
        return kind()

    return make


def saved(folder: Path, store, documents: dict[str, Document], protocol: int | None = None) -> Path:
    folder.mkdir()
    store._dict = documents
    names = dict(enumerate(documents))
    (folder / "index.pkl").write_bytes(pickle.dumps((store, names), protocol))
    (folder / "index.faiss").write_bytes(b"not read")
    return folder


DOCUMENTS = {
    "a": Document("I like green tea.", metadata={"speaker": "Sam", "date": "2023-05-01"}),
    "b": Document("西湖很美。", metadata={"page": 3, "deep": {"x": [1, None]}}, id="own"),
    "c": Document("   "),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_documents_become_memories(tmp_path, docstore, protocol):
    folder = saved(tmp_path / "old 文件夹", docstore(), DOCUMENTS, protocol)
    os.utime(folder / "index.pkl", (1_600_000_000, 1_600_000_000))
    with FaissStore(tmp_path / "new", HashEmbedder()) as store:
        memory = LongTermMemory(store, user="sam", persona="mia")
        done = []
        assert import_langchain_faiss(memory, folder, lambda *n: done.append(n)) == 2
        assert done == [(2, 2)]
        first, second = memory.get("a"), memory.get("b")
        assert (first.text, first.speaker) == ("I like green tea.", "Sam")
        assert first.at == datetime(2023, 5, 1, tzinfo=UTC)
        assert second.at == datetime.fromtimestamp(1_600_000_000, UTC)
        assert memory.recall("西湖", k=1)[0].id == "b"
        value = store.get(("memory", "sam", "mia"), "b").value
        assert value["metadata"] == {"page": 3, "deep": {"x": [1, None]}}
        assert import_langchain_faiss(memory, folder) == 2
        assert memory.count() == 2


@pytest.mark.parametrize("module", ["langchain.docstore.in_memory", COMMUNITY])
def test_the_old_names_of_the_classes_are_known(tmp_path, docstore, monkeypatch, module):
    folder = saved(tmp_path / "old", docstore(module), {"a": Document("tea")}, 0 + 2)
    data = (folder / "index.pkl").read_bytes()
    for name in (b"langchain.schema.document", b"langchain_core.documents.base"):
        changed = data.replace(b"clangchain_core.documents.base", b"c" + name)
        (folder / "index.pkl").write_bytes(changed)
        assert read_langchain_faiss(folder)[0].text == "tea"


class Evil:
    def __reduce__(self):
        return eval, ("__import__('builtins').__dict__.setdefault('mmagent_was_here', 1)",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_a_malicious_pickle_runs_nothing(tmp_path, docstore, protocol):
    hidden = Document("tea", metadata={"x": 1})
    hidden.metadata["x"] = Evil()
    store = docstore()
    store._dict = {"a": hidden}
    for thing in ((store, {0: "a"}), (Evil(), {0: "a"}), (store, Evil()), Evil()):
        (tmp_path / "index.pkl").write_bytes(pickle.dumps(thing, protocol))
        with pytest.raises(MemoryUsageError, match="Nothing was imported"):
            read_langchain_faiss(tmp_path)
    assert not hasattr(builtins, "mmagent_was_here")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04cbuiltins\neval\n.",
        b"clangchain_core.documents.base\nDocument.__init__\n.",
        b"clangchain_core.load\nloads\n.",
        b"cmmagent_memory.langchain_faiss\nPath\n.",
        b"\x80\x04N\x94r\xff\xff\xff\xff.",  # a place in memory chosen by the file
        b"P1\n.",
        pickle.dumps(({}, {})),
        pickle.dumps([1, 2, 3]),
        pickle.dumps(datetime(2024, 1, 1)),
    ],
)
def test_anything_else_is_an_error(tmp_path, data):
    (tmp_path / "index.pkl").write_bytes(data)
    with pytest.raises(MemoryUsageError, match="Nothing was imported"):
        read_langchain_faiss(tmp_path)


def test_other_classes_in_metadata_are_named(tmp_path, docstore):
    when = Document("tea", metadata={"when": datetime(2024, 1, 1)})
    folder = saved(tmp_path / "old", docstore(), {"a": when})
    with pytest.raises(MemoryUsageError, match=r"datetime\.datetime, which is no document"):
        read_langchain_faiss(folder)


def test_a_folder_without_the_file_says_what_is_wanted(tmp_path):
    with pytest.raises(MemoryUsageError, match="save_local"):
        read_langchain_faiss(tmp_path)
