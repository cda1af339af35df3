from dataclasses import dataclass

import pytest

from mmagent.middleware.addressed import about_the_persona, asks_the_persona_alone


@pytest.mark.parametrize(
    "words",
    [
        "What is your name?", "Where do you live?", "What is your pet called?",
        "Which colour do you like best?", "How old are you?", "May I know your name?",
        "Do you have a pet?", "你叫什么名字？", "你住在哪里？",
    ],
)  # fmt: skip
def test_questions_about_the_persona(words: str) -> None:
    assert asks_the_persona_alone(words)


@pytest.mark.parametrize(
    "words",
    [
        "What do you remember about my allergies?", "What did you recommend?", "Where do I live?",
        "Do you know what happened yesterday?", "What do you think of it?", "You are nice.",
        "What is my sister called?", "What do you know about Anna?", "你记得我妹妹叫什么吗？",
        "Which picture do you like?", "Where is the key?", "x" * 200 + " your?", "",
    ],
)  # fmt: skip
def test_others_are_left_alone(words: str) -> None:
    assert not asks_the_persona_alone(words)


@dataclass
class Hit:
    text: str
    speaker: str


def test_what_the_persona_said_of_herself_stays() -> None:
    own = Hit("I have a parrot named Bruno.", "Mia")
    hits = [Hit("I live by the sea.", "Sam"), own, Hit("You haven't told us that.", "Mia")]
    assert about_the_persona(hits, "Mia") == [own]
