"""What is shown to the model: things told before answers, answers before bare questions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from mmagent.middleware.worth import only_asks, worth_showing


@dataclass
class Hit:
    text: str
    score: float
    speaker: str = "Sam"
    images: list[Any] = field(default_factory=list)


def test_what_was_told_goes_before_the_question_that_was_asked_before() -> None:
    asked = Hit("What do you remember about my allergies?", 1.3)
    told = Hit("I am allergic to nuts.", 0.5)
    assert worth_showing([asked, told], "Mia", 2) == [told, asked]


def test_the_personas_own_answers_count_less_but_count() -> None:
    answer = Hit("You should try the almond cake.", 0.6, "Mia")
    told = Hit("I am allergic to nuts.", 0.5)
    assert worth_showing([answer, told], "Mia", 2) == [told, answer]
    assert worth_showing([answer, told], "Ada", 2) == [answer, told]


def test_repetitions_and_noise_are_left_out_but_pictures_are_kept() -> None:
    told = Hit("Look at  my cat", 1.0, images=["a"])
    again = Hit("look at my cat", 0.9, images=["b"])
    words = Hit("Look at my cat", 0.8)
    noise = Hit("The weather was fine.", 0.05)
    assert worth_showing([noise, words, again, told], "Mia", 4) == [told, again]


def test_scores_below_zero_keep_their_order() -> None:
    hits = [Hit("one?", -0.2), Hit("two", -0.1)]
    assert [h.text for h in worth_showing(hits, "Mia", 5)] == ["two", "one?"]
    assert worth_showing([], "Mia", 3) == []


@pytest.mark.parametrize(
    ("text", "asks"),
    [("你好吗？", True), ("Where? When?", True), ("I moved. Did I say so?", False), ("", False),
     ("...", False)],
)  # fmt: skip
def test_only_asks(text: str, asks: bool) -> None:
    assert only_asks(text) is asks
