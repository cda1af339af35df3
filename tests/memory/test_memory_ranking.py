"""Ranking: whose words are meant, what vectors are worth, first and last; and the reranker."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import BaseDocumentCompressor, Document
from langgraph.store.memory import InMemoryStore

from mmagent_memory import FaissStore, HashEmbedder, LongTermMemory
from mmagent_memory.errors import MemoryUsageError
from mmagent_memory.questions import only_asks, wanted_of
from mmagent_memory.ranking import Signals, Wanted, Weights, rank
from mmagent_memory.trust import trust
from mmagent_memory.voices import same_name, voice_of

DAY = datetime(2026, 3, 2, 18, tzinfo=UTC)
SAM = [
    "Sam: I am allergic to nuts.",
    "Mia: Thank you, you are allergic to nuts, I will keep nuts out of every recipe.",
    "Sam: What am I allergic to?",
    "Mia: You are allergic to nuts.",
    "Sam: Good night.",
    "Mia: I recommend the soup, with bread.",
]
MING = [
    "小明: 我对花生过敏。",
    "米娅: 好的，你对花生过敏。",
    "小明: 我对什么过敏？",
    "小明: 晚安。",
]
TWO = [
    "Caroline: I bought a piano for the living room.",
    "Melanie: I bought a violin for the living room.",
    "Caroline: It sounds lovely.",
]


def told(memory: LongTermMemory, lines: list[str]) -> LongTermMemory:
    for number, line in enumerate(lines):
        speaker, _, text = line.partition(": ")
        at = DAY + timedelta(minutes=number)
        memory.remember(text, speaker=speaker, at=at, thread="t", id=f"{number + 1}")
    return memory


def first(memory: LongTermMemory, question: str) -> str:
    return memory.recall(question, now=DAY + timedelta(days=1))[0].id


@pytest.fixture(params=["hash", "none", "in memory", "postgres"])
def store(request, tmp_path: Path):
    if request.param == "postgres":
        yield request.getfixturevalue("postgres")()
    elif request.param == "in memory":
        yield InMemoryStore()
    else:
        with FaissStore(tmp_path, HashEmbedder() if request.param == "hash" else False) as opened:
            yield opened


def test_who_asks_of_themselves_is_answered_by_what_they_said(store):
    memory = told(LongTermMemory(store, user="sam", persona="mia"), SAM)
    assert first(memory, "What am I allergic to?") == "1"
    assert first(memory, "Do you remember what I am allergic to?") == "1"
    assert first(memory, "What did you recommend?") == "6"
    hit = memory.recall("What am I allergic to?")[0]
    assert hit.explain["parts"]["speaker"] > 0
    repeated = next(hit for hit in memory.recall("What am I allergic to?") if hit.id == "3")
    assert repeated.explain["parts"]["question"] < 0


def test_in_chinese_too(store):
    memory = told(LongTermMemory(store, user="小明", persona="米娅"), MING)
    assert first(memory, "我对什么过敏？") == "1"


def test_names_in_questions(store):
    memory = told(LongTermMemory(store, user="group"), TWO)
    assert first(memory, "What did Caroline buy for the living room?") == "1"
    assert first(memory, "What did Melanie buy for the living room?") == "2"
    assert first(memory, "What did Mel buy for the living room?") == "2"


@pytest.mark.parametrize(
    ("question", "speaker", "asked_for"),
    [
        ("What do I like?", "Sam", True),
        ("What do I like?", "Mia", False),
        ("What did you say?", "Mia", True),
        ("What did you say?", "Sam", False),
        ("Do you know what I said?", "Sam", True),
        ("What did Anna say?", "Anna Weber", True),
        ("What did Ann say?", "Anna", True),
        ("what did ann say?", "Anna", False),
        ("An apple?", "Anna", False),
        ("What did Anna's sister say?", "Anna", True),
        ("What is the capital?", "Sam", False),
        ("李雷说了什么？", "李雷", True),
        ("你推荐了什么？", "Mia", True),
        ("我喜欢什么？", "Sam", True),
        ("What do I like?", None, False),
    ],
)
def test_whose_words_are_asked_for(question: str, speaker: str | None, asked_for: bool):
    assert voice_of(question).of(speaker, "sam", "mia") is asked_for


def test_the_person_may_be_called_otherwise():
    assert voice_of("What do I like?").of("Samuel B.", "user-17", "mia")
    assert not voice_of("What do I like?").of("Samuel B.", "user-17", None)
    assert same_name("Mia", "mia-2")
    assert not same_name("Mia", "Max")


def test_first_and_last():
    assert wanted_of("What did she finally buy?") == Wanted(latest=True)
    assert wanted_of("What did I want at first?") == Wanted(first=True, when=True)
    assert wanted_of("最后买了什么？").latest
    turns = [
        Signals(words=1.0, name=n, previous=n - 1 if n else None, group="a", order=n)
        for n in range(5)
    ]
    other = [Signals(words=0.1, name=9, group="b", order=9)]
    assert rank([*turns, *other], 1, Weights(), Wanted(latest=True))[0].place == 4
    assert rank([*turns, *other], 1, Weights(), Wanted(first=True))[0].place == 0
    assert rank([*turns, *other], 1, Weights(), Wanted(when=True))[0].place == 0


def test_only_asks():
    assert only_asks("What? Who?")
    assert only_asks("什么？")
    assert not only_asks("I like tea. And you?")
    assert not only_asks("")


def _conversation(seed: int, likeness: float) -> tuple[list[Any], list[tuple[int, int]]]:
    """Vectors of sixty turns, six a topic, that share their topic as far as asked."""
    rng = np.random.default_rng(seed)
    topics = np.repeat(rng.normal(size=(10, 64)), 6, axis=0)
    vectors = likeness * topics + rng.normal(size=(60, 64))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return list(vectors.astype(np.float32)), [(n + 1, n) for n in range(59)]


def test_vectors_are_trusted_as_far_as_they_tell_what_belongs_together():
    words = [None] * 60
    worth = []
    for likeness in (0.0, 0.5, 1.0, 2.0):
        vectors, pairs = _conversation(1, likeness)
        meaning = [float(vectors[0] @ vector) for vector in vectors]
        worth.append(trust(vectors, pairs, meaning, words))
    assert worth == sorted(worth)
    assert worth[0] < 0.15
    assert worth[-1] > 5 * worth[0]
    # Too little to tell: as usual.
    assert trust([None], [], [0.5], [1.0]) == 1.0


def test_without_their_vectors_words_tell():
    words = [1.0, 0.9] + [0.01] * 20
    agreeing = trust([None] * 22, [], [0.8, 0.7, *np.linspace(0, 0.3, 20)], words)
    opposed = trust([None] * 22, [], [0.0, 0.05, *np.linspace(0.1, 0.6, 20)], words)
    assert agreeing > 2 * opposed


class Noise:
    """A useless embedder: every text its own random direction."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) for text in texts]
        return [np.random.default_rng(seed).normal(size=64).tolist() for seed in seeds]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def test_a_useless_embedder_does_no_harm(tmp_path: Path):
    things = ["kettle", "bicycle", "garden", "violin", "passport", "umbrella", "lantern", "carpet"]
    places = ["kitchen", "cellar", "shed", "attic", "drawer", "hall", "tent", "salon"]
    found = {}
    for name, embedder in (("noise", Noise()), ("words", False)):
        with FaissStore(tmp_path / name, embedder) as store:
            memory = LongTermMemory(store, user="sam")
            for number in range(40):
                thing, place = things[number % 8], places[(number // 5) % 8]
                memory.remember(f"The {thing} number {number} is in the {place}", thread="t")
            found[name] = [
                memory.recall(f"Where is {things[n % 8]} number {n}?", k=1)[0].text
                for n in range(40)
            ]
    right = [f"number {n} " in text for n, text in enumerate(found["noise"])]
    assert sum(right) >= sum(f"number {n} " in text for n, text in enumerate(found["words"])) - 2


class Longest(BaseDocumentCompressor):
    def compress_documents(self, documents, query, callbacks=None):
        return sorted(documents, key=lambda document: -len(document.page_content))[:2]


class Encoder:
    def predict(self, sentences: Any) -> Any:
        return np.array([len(text) for _, text in sentences])


@pytest.mark.parametrize(
    "reranker",
    [lambda question, texts: [len(text) for text in texts], Encoder(), Longest()],
    ids=["a function", "a cross-encoder", "a compressor"],
)
def test_a_reranker_has_its_say(store, reranker):
    lines = ["Sam: tea", "Sam: I had tea at home", "Sam: tea with milk in the garden of my aunt"]
    told(LongTermMemory(store, user="sam"), lines)
    plain = LongTermMemory(store, user="sam").recall("tea")
    assert "reranker" not in plain[0].explain["parts"]
    hits = LongTermMemory(store, user="sam", reranker=reranker).recall("tea", k=2)
    assert hits[0].id == "3"
    assert len(hits) == 2
    assert hits[0].explain["parts"]["reranker"] > 0
    assert hits[0].score == pytest.approx(sum(hits[0].explain["parts"].values()))


def test_a_wrong_reranker_is_named(store):
    memory = told(LongTermMemory(store, user="sam"), ["Sam: tea", "Sam: more tea"])
    for wrong in (lambda q, t: [1.0], lambda q, t: ["x"] * len(t), lambda q, t: [float("nan")] * 2):
        with pytest.raises(MemoryUsageError, match="reranker"):
            LongTermMemory(store, user="sam", reranker=wrong).recall("tea")
    with pytest.raises(MemoryUsageError, match="must be a function"):
        LongTermMemory(store, user="sam", reranker=3)
    assert memory.recall("tea")


def test_compressed_documents_are_langchains():
    assert isinstance(Longest().compress_documents([Document("x")], "q")[0], Document)


def test_the_short_dialogues_are_sound():
    """Every question of the benchmark names lines that are there, and is answered among five."""
    import sys

    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    try:
        from short_dialogues import places
    finally:
        sys.path.pop(0)
    store = InMemoryStore()
    found = places(lambda user, persona: LongTermMemory(store, user=user, persona=persona))
    assert len(found) >= 70
    by_words_alone = [place.place is not None and place.place <= 5 for place in found]
    assert sum(by_words_alone) / len(found) > 0.8
