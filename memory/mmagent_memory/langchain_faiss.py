"""Taking over what LangChain's FAISS vector store has saved: a folder with `index.pkl`.

That file is a pickle, and a pickle can run anything. This one is read by an unpickler that knows
the docstore and its documents alone, and even these as empty shells: no code of theirs runs. Any
other name in the file is an error, and then nothing is imported. `index.faiss` is not read at all;
the texts are embedded anew.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmagent_memory.backends import run
from mmagent_memory.errors import MemoryUsageError
from mmagent_memory.memory import LongTermMemory

__all__ = ["PICKLE", "OldDocument", "import_langchain_faiss", "read_langchain_faiss"]

PICKLE = "index.pkl"
_MAX_BYTES = 2 * 1024**3
_BATCH = 200
_MODULES = ("langchain_community", "langchain_core", "langchain", "langchain_classic")
_DATES = ("at", "date", "timestamp", "created_at", "time")


@dataclass(frozen=True)
class OldDocument:
    """One document of the folder."""

    id: str
    text: str
    metadata: dict[str, Any]


class _Shell:
    """Stands for an object in the pickle: it keeps the state and does nothing with it."""

    state: Any = None

    def __init__(self, *_: Any) -> None:
        """Take nothing."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Docstore(_Shell):
    """Stands for `InMemoryDocstore`."""


class _Document(_Shell):
    """Stands for `Document`."""


class _Restricted(pickle._Unpickler):
    """Knows the docstore, documents, and the sets of names that pydantic keeps.

    The one written in Python: the other one lets a number in the file choose how much memory to
    take.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return the shell that stands for a class.

        Raises:
            UnpicklingError: It is any other.
        """
        known = module.split(".")[0] in _MODULES
        if known and name == "InMemoryDocstore" and "docstore" in module:
            return _Docstore
        if known and name == "Document" and ("document" in module or "schema" in module):
            return _Document
        if (module, name) in (("builtins", "set"), ("__builtin__", "set")):
            return set
        raise pickle.UnpicklingError(f"it holds a {module}.{name}, which is no document")

    def persistent_load(self, pid: Any) -> Any:
        """Refuse what stands outside of the file."""
        raise pickle.UnpicklingError("it refers to something outside of the file")


def read_langchain_faiss(folder: str | Path) -> list[OldDocument]:
    """Return the documents of a folder that LangChain's FAISS store has saved, in its order.

    Raises:
        MemoryUsageError: There is none, it is damaged, or holds anything but documents.
    """
    file = Path(folder) / PICKLE
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise MemoryUsageError(f"{file} has more than 2 GB; it cannot be read safely.")
        data = file.read_bytes()
    except OSError as error:
        raise MemoryUsageError(
            f"{file} cannot be read ({error.strerror or error}); give the folder that LangChain's "
            f"FAISS.save_local made, which holds {PICKLE} and index.faiss."
        ) from error
    try:
        found = _Restricted(io.BytesIO(data)).load()
        docstore, names = found
        documents = docstore.state["_dict"]
        return [_document(str(names[place]), documents[names[place]]) for place in sorted(names)]
    except Exception as error:  # A pickle can fail in any way.
        reason = str(error) if isinstance(error, pickle.UnpicklingError) else type(error).__name__
        raise MemoryUsageError(
            f"{file} is no list of documents as LangChain's FAISS store saves it: {reason}. "
            "Nothing was imported."
        ) from error


def import_langchain_faiss(
    memory: LongTermMemory,
    folder: str | Path,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Remember the documents of such a folder; return how many.

    Their ids are kept, so that importing twice does no harm. Metadata becomes the memory's
    `metadata`; a `speaker` and a date in it count as such.

    Raises:
        MemoryUsageError: As `read_langchain_faiss`.
    """
    documents = read_langchain_faiss(folder)
    saved = datetime.fromtimestamp((Path(folder) / PICKLE).stat().st_mtime, UTC)
    wanted = [document for document in documents if document.text.strip()]
    for start in range(0, len(wanted), _BATCH):
        some = []
        for document in wanted[start : start + _BATCH]:
            speaker = document.metadata.get("speaker")
            new = memory._new(
                document.text,
                (),
                speaker if isinstance(speaker, str) else None,
                _date_of(document.metadata) or saved,
                None,
                document.id,
                (),
                None,
            )
            some.append(replace(new, value={**new.value, "metadata": document.metadata}))
        run(memory.store, memory._backend.add(memory._namespace, some))
        if progress:
            progress(start + len(some), len(wanted))
    return len(wanted)


def _document(name: str, shell: Any) -> OldDocument:
    if type(shell) is not _Document:
        raise pickle.UnpicklingError(f"{name!r} is no document")
    # pydantic 1 and 2 both keep the fields here.
    fields = shell.state["__dict__"]
    text, metadata = fields["page_content"], fields.get("metadata") or {}
    if not isinstance(text, str) or not isinstance(metadata, dict):
        raise pickle.UnpicklingError(f"{name!r} has no text")
    return OldDocument(name, text, json.loads(json.dumps(metadata)))


def _date_of(metadata: Mapping[str, Any]) -> datetime | None:
    for name in _DATES:
        value = metadata.get(name)
        if isinstance(value, str):
            try:
                found = datetime.fromisoformat(value)
            except ValueError:
                continue
            return found if found.tzinfo else found.replace(tzinfo=UTC)
    return None
