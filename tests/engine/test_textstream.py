"""Text that may be shown at once: characters over several tokens, stop texts over several too."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmagent.engine.textstream import Detokenizer, StopFilter


def decode(tokens: list[int]) -> str:
    return bytes(tokens).decode("utf-8", "replace")


@given(st.text(max_size=30))
def test_bytes_as_tokens_come_out_as_the_text_they_are(text):
    stream = Detokenizer(decode)
    pieces = [stream.push(byte) for byte in text.encode()]
    assert all("\ufffd" not in piece or "\ufffd" in text for piece in pieces)
    assert "".join(pieces) + stream.finish() == text


def test_a_broken_character_at_the_end_is_not_lost():
    stream = Detokenizer(decode)
    assert stream.push(ord("a")) == "a"
    assert stream.push("é".encode()[0]) == ""
    assert stream.finish() == "\ufffd"


def test_a_tokenizer_that_drops_the_first_space():
    """Like SentencePiece: a leading space is shown in the middle of a text only."""
    words = {1: " one", 2: " two", 3: " three"}

    def sentencepiece(tokens: list[int]) -> str:
        return "".join(words[token] for token in tokens).removeprefix(" ")

    stream = Detokenizer(sentencepiece)
    assert [stream.push(token) for token in (1, 2, 3)] == ["one", " two", " three"]


def test_decoding_stays_cheap():
    seen: list[int] = []

    def counting(tokens: list[int]) -> str:
        seen.append(len(tokens))
        return decode(tokens)

    stream = Detokenizer(counting)
    for _ in range(500):
        stream.push(ord("x"))
    assert max(seen) <= 3


@given(
    st.text(alphabet="abc", max_size=40),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=5), max_size=3),
    st.lists(st.integers(1, 4), max_size=40),
)
def test_stop_texts_wherever_the_pieces_are_cut(text, stops, sizes):
    pieces, rest = [], text
    for size in itertools.chain(sizes, itertools.repeat(3)):
        if not rest:
            break
        pieces.append(rest[:size])
        rest = rest[size:]
    stream = StopFilter(stops)
    shown = ""
    for piece in pieces:
        shown += stream.push(piece)
        # Nothing that was shown may turn out to be part of a stop text later.
        assert not any(stop in shown for stop in stops)
        if stream.stopped:
            break
    shown += "" if stream.stopped else stream.finish()
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    assert stream.stopped == bool(found)
    if not found:
        assert shown == text
    else:
        # The first stop text to be complete ends it, and the earliest of those complete at once.
        assert text.startswith(shown)
        assert any(text.startswith(stop, len(shown)) for stop in stops)


@pytest.mark.parametrize(("stops", "shown"), [(("END",), "ab"), ((), "abENDc"), (("x",), "abENDc")])
def test_stop_texts_are_not_part_of_the_answer(stops, shown):
    stream = StopFilter(stops)
    text = "".join(stream.push(piece) for piece in ("a", "bE", "N", "D", "c"))
    assert text + stream.finish() == shown
