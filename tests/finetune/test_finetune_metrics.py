"""Figures that mean what their names say."""

from __future__ import annotations

import math

import pytest

from mmagent.finetune.curves import bars
from mmagent.finetune.metrics import chrf, exact_match, mean, rouge_l, share, token_f1


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("It is Red!", "it is red", True),
        ("A-17", "a 17", True),
        ("red", "dark red", False),
        ("", "", True),
        ("是红色。", "是红色", True),
    ],
)
def test_exact_match_looks_at_words(answer: str, reference: str, same: bool) -> None:
    assert exact_match(answer, reference) is same


def test_overlaps_have_their_known_values() -> None:
    assert token_f1("a red apple", "the red apple") == pytest.approx(2 / 3)
    assert token_f1("", "red") == 0
    assert rouge_l("the cat sat", "the sat cat") == pytest.approx(2 / 3)
    assert rouge_l("红色苹果", "红苹果") == pytest.approx(6 / 7)
    assert chrf("same", "same") == pytest.approx(1)
    assert chrf("abc", "xyz") == 0


# By sacreBLEU 2.6 (CHRF, default settings, sentence_score / 100).
@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("I see a red apple.", "I see a green apple.", 0.463814),
        ("Hello", "Hello you", 0.525012),
        ("The cat sat on the mat", "A dog lay on the rug", 0.190052),
        ("是红色的苹果", "红苹果", 0.406977),
        ("ab", "abcdefgh", 0.234043),
    ],
)
def test_chrf_is_sacrebleus(answer: str, reference: str, expected: float) -> None:
    assert chrf(answer, reference) == pytest.approx(expected, abs=1e-4)


def test_intervals_hold_the_value_and_shrink() -> None:
    few, more = share(8, 10), share(800, 1000)
    assert few.low < 0.8 < few.high
    assert more.high - more.low < 0.06 < few.high - few.low
    assert (share(0, 10).low, share(10, 10).high) == pytest.approx((0.0, 1.0))
    assert share(0, 0).count == 0
    assert math.isnan(mean([]).value)
    one = mean([1.0, 2.0, 3.0], [1.0, 1.0, 2.0])
    assert one.value == pytest.approx(2.25)
    assert one.low <= one.value <= one.high
    assert one == mean([1.0, 2.0, 3.0], [1.0, 1.0, 2.0])


def test_a_histogram_in_text_counts_every_value() -> None:
    lines = bars([1, 1, 2, 50, 99], bins=5)
    assert len(lines) == 5
    assert sum(int(line.split()[-1]) for line in lines) == 5
    assert bars([]) == []
    assert bars([7]) == bars([7])
