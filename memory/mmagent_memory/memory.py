"""`LongTermMemory`: what one user and one persona have said and shown to each other."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from langgraph.store.base import BaseStore, ListNamespacesOp, MatchCondition

from mmagent_memory.asking import ask, moment_of
from mmagent_memory.backends import NewMemory, Steps, arun, run
from mmagent_memory.choosing import backend_of, list_users
from mmagent_memory.copying import Progress, Reading, export_steps, import_steps
from mmagent_memory.derived import DerivedMemory
from mmagent_memory.deriving import forget_steps
from mmagent_memory.errors import MemoryUsageError
from mmagent_memory.names import ROOT, encode_name, is_derived, memory_namespace
from mmagent_memory.pictures import read_picture
from mmagent_memory.ranking import Weights
from mmagent_memory.recalling import checked_kinds, recall_steps
from mmagent_memory.records import PROGRESS, TURN, EraseReceipt, MemoryHit, hit_of, kind_of
from mmagent_memory.rerank import reranker_of

__all__ = ["LongTermMemory", "list_users"]

# Inside the class, `list` is the method.
_Hits = list[MemoryHit]


class LongTermMemory(DerivedMemory):
    """The memory of one user with one persona; nothing of another user is ever in it.

    Works on any LangGraph store. On a `FaissStore` what is remembered is on disk when the call
    returns, is found by words, meaning and pictures, and leaves no trace when it is erased.

    Args:
        store: Where memories are kept.
        user: Whose they are; any name.
        persona: With whom; each persona remembers for itself. None reads, forgets and erases
            over all personas of the user, and remembers apart from all of them.
        clock: What time it is, with a time zone.
        weights: How the ways of finding are weighed.
        reranker: What reads the best memories once more: a function from a question and texts to
            scores, a sentence-transformers `CrossEncoder`, or a LangChain
            `BaseDocumentCompressor`. None by default.

    Raises:
        MemoryUsageError: A name is empty, or the store is no LangGraph store.
    """

    def __init__(
        self,
        store: BaseStore,
        *,
        user: str,
        persona: str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        weights: Weights | None = None,
        reranker: Any = None,
    ) -> None:
        if not isinstance(store, BaseStore):
            raise MemoryUsageError(
                "A memory needs a LangGraph store, such as FaissStore(path), not "
                f"{type(store).__name__}."
            )
        self.store = store
        self.user = user
        self.persona = persona
        self.clock = clock
        self.weights = weights or Weights()
        self._namespace = memory_namespace(user, persona)
        self._prefix = self._namespace if persona is not None else (ROOT, encode_name(user))
        self._backend = backend_of(store)
        self._reranker = reranker_of(reranker)

    def remember(
        self,
        text: str,
        images: Sequence[Any] = (),
        *,
        speaker: str | None = None,
        at: datetime | None = None,
        thread: str | None = None,
        id: str | None = None,
        captions: Sequence[str | None] = (),
        importance: float | None = None,
    ) -> str:
        """Keep what was said and shown, unchanged; return its id.

        Args:
            text: What was said; may be empty where there are pictures.
            images: Pictures: bytes, paths, PIL images, `StoredImage`, or mappings with `data`
                and `caption`; None for a picture of which only the caption is known.
            speaker: Who said it.
            at: When; by default now.
            thread: In which conversation; the previous turn of the same one helps to find it.
            id: A name for it. If there is a memory of that name already, nothing changes.
            captions: What the pictures show, in their order; may go beyond `images`.
            importance: 0–1; decides between memories that fit alike.

        Raises:
            MemoryUsageError: There is nothing to remember, or a picture cannot be read.
            MemoryStoreError: It could not be stored; then nothing of it was.
        """
        memory = self._new(text, images, speaker, at, thread, id, captions, importance)
        run(self.store, self._backend.add(self._namespace, [memory]))
        return memory.key

    async def aremember(
        self,
        text: str,
        images: Sequence[Any] = (),
        *,
        speaker: str | None = None,
        at: datetime | None = None,
        thread: str | None = None,
        id: str | None = None,
        captions: Sequence[str | None] = (),
        importance: float | None = None,
    ) -> str:
        """Keep what was said and shown; see `remember`."""
        memory = self._new(text, images, speaker, at, thread, id, captions, importance)
        await arun(self.store, self._backend.add(self._namespace, [memory]))
        return memory.key

    def recall(
        self,
        question: str,
        images: Sequence[Any] = (),
        k: int = 10,
        *,
        captions: Sequence[str | None] = (),
        now: datetime | None = None,
        kinds: Collection[str] | None = None,
    ) -> _Hits:
        """Return the memories that fit a question best, best first.

        Args:
            question: In words; may be empty where there are pictures.
            images: Pictures that belong to the question, as in `remember`.
            k: Most memories.
            captions: What the pictures show.
            now: When it is asked; by default now.
            kinds: Which of "turn", "fact", "summary" and "caption"; by default all but captions,
                by which the turns of their pictures are found.

        Raises:
            MemoryUsageError: `k` is negative, or a picture cannot be read.
        """
        return run(self.store, self._recall(question, images, k, captions, now, kinds))

    async def arecall(
        self,
        question: str,
        images: Sequence[Any] = (),
        k: int = 10,
        *,
        captions: Sequence[str | None] = (),
        now: datetime | None = None,
        kinds: Collection[str] | None = None,
    ) -> _Hits:
        """Return the memories that fit a question best; see `recall`."""
        return await arun(self.store, self._recall(question, images, k, captions, now, kinds))

    def get(self, id: str) -> MemoryHit | None:
        """Return one memory, or None if there is none of that id."""
        return run(self.store, self._get(id))

    async def aget(self, id: str) -> MemoryHit | None:
        """Return one memory, or None if there is none of that id."""
        return await arun(self.store, self._get(id))

    def list(
        self,
        limit: int | None = None,
        offset: int = 0,
        *,
        newest_first: bool = True,
        kinds: Collection[str] = (TURN,),
    ) -> _Hits:
        """Return memories by the time they are of, without a score; by default the turns."""
        return run(self.store, self._list(limit, offset, newest_first, kinds))

    async def alist(
        self,
        limit: int | None = None,
        offset: int = 0,
        *,
        newest_first: bool = True,
        kinds: Collection[str] = (TURN,),
    ) -> _Hits:
        """Return memories by time; see `list`."""
        return await arun(self.store, self._list(limit, offset, newest_first, kinds))

    def count(self) -> int:
        """Return how many turns are remembered; what was derived from them is not counted."""
        return run(self.store, self._count())

    async def acount(self) -> int:
        """Return how many memories there are."""
        return await arun(self.store, self._count())

    def forget(self, id: str) -> bool:
        """Remove one memory and every trace of it; False if there is none of that id.

        What was derived from a turn goes with it, unless other turns say it too.
        """
        return run(self.store, self._forget(id))

    async def aforget(self, id: str) -> bool:
        """Remove one memory and every trace of it; False if there is none of that id."""
        return await arun(self.store, self._forget(id))

    def erase(self) -> EraseReceipt:
        """Remove all of this memory and every trace of it on disk; return what went."""
        return run(self.store, self._backend.erase(self._prefix))

    async def aerase(self) -> EraseReceipt:
        """Remove all of this memory and every trace of it on disk; return what went."""
        return await arun(self.store, self._backend.erase(self._prefix))

    def export_jsonl(self, path: str | Path, *, progress: Progress | None = None) -> int:
        """Write every memory with its pictures and vectors to a file; return how many.

        Args:
            path: The file; it is there whole or not at all.
            progress: Told how many are done, and of how many.

        Raises:
            MemoryUsageError: The file cannot be written.
            StoreFullError: The disk is full.
        """
        steps = export_steps(self.store, self._backend, self._prefix, path, progress)
        return run(self.store, steps)

    async def aexport_jsonl(self, path: str | Path, *, progress: Progress | None = None) -> int:
        """Write every memory to a file; see `export_jsonl`."""
        steps = export_steps(self.store, self._backend, self._prefix, path, progress)
        return await arun(self.store, steps)

    def import_jsonl(
        self,
        path: str | Path,
        *,
        progress: Progress | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> int:
        """Remember what `export_jsonl` wrote; return how many lines were read.

        The file is read to its end before anything is remembered. A memory whose id exists is
        left as it is, so importing twice does no harm, and an import that was cut off goes on.
        Without a persona of its own this memory gives each line back to the persona it names.

        Args:
            path: The file.
            progress: Told how many are done, and of how many.
            notify: Told what a person should know: that the file's vectors are of another
                embedder, so that everything is embedded anew. Otherwise it is logged.

        Raises:
            MemoryUsageError: The file cannot be read, is cut off, or has a line that is no
                memory; the message names it, and nothing was imported.
        """
        return run(self.store, self._import(path, progress, notify))

    async def aimport_jsonl(
        self,
        path: str | Path,
        *,
        progress: Progress | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> int:
        """Remember what `export_jsonl` wrote; see `import_jsonl`."""
        return await arun(self.store, self._import(path, progress, notify))

    def __repr__(self) -> str:
        return f"LongTermMemory(user={self.user!r}, persona={self.persona!r})"

    def _new(
        self,
        text: str,
        images: Sequence[Any],
        speaker: str | None,
        at: datetime | None,
        thread: str | None,
        id: str | None,
        captions: Sequence[str | None],
        importance: float | None,
    ) -> NewMemory:
        if not isinstance(text, str):
            raise MemoryUsageError(f"The text must be a string, not {type(text).__name__}.")
        pictures = tuple(read_picture(*pair) for pair in zip_longest(_several(images), captions))
        if not text.strip() and not pictures:
            raise MemoryUsageError("There is nothing to remember: give a text or a picture.")
        if importance is not None and not 0 <= importance <= 1:
            raise MemoryUsageError(f"The importance must lie between 0 and 1, not {importance}.")
        if id is not None and (not isinstance(id, str) or not id):
            raise MemoryUsageError(f"The id of a memory must be a non-empty string, not {id!r}.")
        value = {
            "text": text,
            "speaker": speaker,
            "at": (at or self.clock()).isoformat(),
            "thread": thread,
            "importance": importance,
            "images": [picture.entry() for picture in pictures],
        }
        return NewMemory(id or secrets.token_hex(8), value, pictures)

    def _recall(
        self,
        question: str,
        images: Sequence[Any],
        k: int,
        captions: Sequence[str | None],
        now: datetime | None,
        kinds: Collection[str] | None,
    ) -> Steps[_Hits]:
        wanted = checked_kinds(kinds)
        if k < 0:
            raise MemoryUsageError(f"k must be 0 or more, not {k}.")
        pictures = tuple(read_picture(*pair) for pair in zip_longest(_several(images), captions))
        if k == 0 or not (question.strip() or pictures):
            return []
        asked = ask(question, pictures, now or self.clock(), self.user)
        best = yield from recall_steps(
            self._backend, self._prefix, asked, k, self.weights, wanted, self._reranker
        )
        load = self._loader
        return [hit_of(one.stored, load, score=one.score, explain=one.explain) for one in best]

    def _get(self, id: str) -> Steps[MemoryHit | None]:
        stored = yield from self._backend.get(self._prefix, id)
        if stored is None or kind_of(stored.value) == PROGRESS:
            return None
        return hit_of(stored, self._loader)

    def _count(self) -> Steps[int]:
        everything = yield from self._backend.count(self._prefix)
        if not everything:
            return 0
        prefix = MatchCondition("prefix", self._prefix)
        (places,) = yield [ListNamespacesOp((prefix,), limit=2**31 - 1)]
        for place in filter(is_derived, places):
            everything -= yield from self._backend.count(tuple(place))
        return everything

    def _list(
        self, limit: int | None, offset: int, newest_first: bool, kinds: Collection[str]
    ) -> Steps[_Hits]:
        kinds = checked_kinds(kinds)
        if offset < 0 or (limit is not None and limit < 0):
            raise MemoryUsageError("limit and offset must be 0 or more.")
        every = yield from self._backend.everything(self._prefix)
        every = [stored for stored in every if kind_of(stored.value) in kinds]
        every = sorted(every, key=lambda stored: (moment_of(stored), stored.order))
        if newest_first:
            every.reverse()
        end = None if limit is None else offset + limit
        return [hit_of(stored, self._loader) for stored in every[offset:end]]

    def _forget(self, id: str) -> Steps[bool]:
        stored = yield from self._backend.get(self._prefix, id)
        if stored is None or kind_of(stored.value) == PROGRESS:
            return False
        yield from forget_steps(self._backend, stored)
        if not is_derived(stored.namespace):
            yield from self._backend.remove(stored)
        return True

    def _import(
        self,
        path: str | Path,
        progress: Progress | None,
        notify: Callable[[str], None] | None,
    ) -> Steps[int]:
        reading = Reading(path, self._place_of, self._new)
        return import_steps(self.store, self._backend, reading, progress, notify)

    def _place_of(self, persona: str | None) -> tuple[str, ...]:
        if self.persona is None and persona:
            return memory_namespace(self.user, persona)
        return self._namespace

    def _loader(self, namespace: tuple[str, ...], image_id: str) -> Callable[[], bytes]:
        def load() -> bytes:
            data = run(self.store, self._backend.picture(namespace, image_id))
            if data is None:
                raise LookupError(f"The picture {image_id[:8]} has been forgotten.")
            return data

        return load


def _several(images: Any) -> Sequence[Any]:
    """Return pictures as a list; a single one is a slip that is easy to forgive."""
    return [images] if isinstance(images, bytes | str | Path) else list(images)
