"""The conversation in a terminal: commands, and Ctrl-C at every moment."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmagent.chat_model import ChatMMAgent
from mmagent.cli.interactive import Interactive
from mmagent.cli.session import Asking, ChatSession, Settings
from mmagent.engine.base import Chunk
from mmagent.engine.echo import EchoEngine


class InterruptedEngine(EchoEngine):
    """Somebody presses Ctrl-C at this token of every answer (0: while the prompt is read)."""

    at = -1

    def __init__(self) -> None:
        super().__init__()
        self.noticed = threading.Event()

    def generate(self, *arguments: Any, **options: Any) -> Iterator[Chunk]:
        chunks = super().generate(*arguments, **options)
        for number, chunk in enumerate(chunks):
            if number == self.at:
                os.kill(os.getpid(), signal.SIGINT)
                self.noticed.wait(30)  # the handler runs in the main thread, when that has its turn
            yield chunk


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> InterruptedEngine:
    engine = InterruptedEngine()

    def stop(asking: Asking) -> None:
        original(asking)
        engine.noticed.set()

    original = Asking.stop
    monkeypatch.setattr(Asking, "stop", stop)
    return engine


@pytest.fixture
def session(
    engine: InterruptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ChatSession]:
    monkeypatch.setenv("MMAGENT_EMBEDDER", "hash")
    session = ChatSession(Settings(model="echo", user="sam", memory=tmp_path / "memory"))
    session.model = ChatMMAgent(model="echo", engine=engine)
    session.begin(session.persona)
    yield session
    session.close()


Talk = Callable[..., tuple[str, str]]


@pytest.fixture
def talk(session: ChatSession, capsys: pytest.CaptureFixture[str]) -> Talk:
    """Type these lines; an exception stands for what the terminal does instead of a line."""

    def type_(*lines: str | type[BaseException]) -> tuple[str, str]:
        waiting = iter([*lines, EOFError])

        def read(prompt: str) -> str:
            print(prompt, end="")
            line = next(waiting)
            if isinstance(line, str):
                return line
            raise line

        Interactive(session, read=read).run()
        out, err = capsys.readouterr()
        return out, err

    return type_


def test_it_greets_answers_and_ends_with_the_input(talk: Talk) -> None:
    out, err = talk("Hello", "", "/quit", "never read")
    assert out.startswith("Mia: Hi Sam! I'm Mia.")
    assert "You: Mia: You said: Hello\n" in out, err
    assert "never read" not in out
    assert "Traceback" not in err


def test_pictures_go_with_the_next_message(
    talk: Talk, picture: Callable[..., bytes], tmp_path: Path
) -> None:
    place = tmp_path / "my 猫 cat.png"
    place.write_bytes(picture("blue"))
    out, err = talk(f"/image {place}", f"/image '{place}'", "Two of them", "None now")
    assert "64×48 pixels" in err
    assert out.count("[picture 64x48 #0000ff]") == 2
    assert "Mia: You said: None now\n" in out


def test_memories_can_be_seen_and_forgotten(talk: Talk, session: ChatSession) -> None:
    out, _ = talk("I live in Oslo.", "/memories")
    assert "Sam\n    I live in Oslo." in out
    id_ = next(hit.id for hit in session.memory.list() if hit.speaker == "Sam")
    out, err = talk(f"/forget {id_[:12]}", "/memories")
    assert f"Forgotten: {id_}" in err
    assert "Sam\n    I live in Oslo." not in out


def test_another_persona_takes_over_the_conversation(talk: Talk, session: ChatSession) -> None:
    out, _ = talk("I am Sam.", "/persona ada", "And you?")
    assert "Ada: Hello Sam" in out
    assert "Ada: You said: And you?" in out
    assert session.history[0].text == "I am Sam."
    assert [hit.persona for hit in session.memory.list()] == ["ada", "ada"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/image", "Say which picture"),
        ("/image nosuch.png", r"nosuch\.png: There is no picture file"),
        ("/forget", "Say which memory"),
        ("/forget x", "no memory 'x'"),
        ("/persona", "There are ada, mia"),
        ("/persona nobody", "not in the catalogue"),
        ("/bogus", "There is no command /bogus"),
    ],
)
def test_mistakes_are_one_line_and_the_conversation_goes_on(
    talk: Talk, line: str, says: str
) -> None:
    import re

    out, err = talk(line, "Still there?")
    (message,) = [text for text in err.splitlines() if re.search(says, text)]
    assert message
    assert "Traceback" not in err
    assert "You said: Still there?" in out


def test_ctrl_c_in_an_answer_keeps_what_was_said(
    talk: Talk, session: ChatSession, engine: InterruptedEngine
) -> None:
    engine.at = 3
    out, _ = talk("one two three four five six")
    assert "Mia: You said: one … (stopped)\n" in out
    assert [message.text for message in session.history] == [
        "one two three four five six",
        "You said: one",
    ]
    assert {hit.text for hit in session.memory.list()} == {
        "one two three four five six",
        "You said: one",
    }
    engine.at = -1
    out, _ = talk("and on")
    assert "Mia: You said: and on\n" in out
    assert len(session.history) == 4


def test_ctrl_c_before_the_first_word_keeps_the_question(
    talk: Talk, session: ChatSession, engine: InterruptedEngine
) -> None:
    engine.at = 0
    talk("Tell me everything.")
    assert [message.text for message in session.history] == ["Tell me everything."]
    assert [hit.text for hit in session.memory.list()] == ["Tell me everything."]
    engine.at = -1
    out, _ = talk("Hello?")
    assert "Mia: You said: Hello?\n" in out


def test_ctrl_c_at_the_prompt_says_how_to_leave(talk: Talk) -> None:
    out, err = talk(KeyboardInterrupt, "Still here")
    assert "/quit or Ctrl-D leaves." in err
    assert "You said: Still here" in out


def test_the_handler_of_ctrl_c_is_put_back(talk: Talk, engine: InterruptedEngine) -> None:
    before = signal.getsignal(signal.SIGINT)
    engine.at = 1
    talk("Hello")
    assert signal.getsignal(signal.SIGINT) is before


def test_help_fits_a_narrow_terminal(talk: Talk) -> None:
    out, _ = talk("/help")
    assert "/forget ID" in out
    assert max(len(line) for line in out.splitlines() if line.startswith("  ")) <= 40
    assert "\x1b" not in out
    assert not sys.stdout.isatty()
