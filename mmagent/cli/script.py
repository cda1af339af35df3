"""Conversations from a YAML file, played without a terminal: demonstrations and smoke tests.

persona: mia
user: sam
turns:
- say: Look at my new cat!
  images: [cat.png]          # beside the file
- later: The next day.         # the memory is closed and opened, the conversation is new
- say: Do you remember what pet I showed you?
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, model_validator

from mmagent.cli.oneshot import print_answer
from mmagent.cli.pictures import load_pictures
from mmagent.cli.screen import colour, dim, print_json, printable
from mmagent.cli.session import ChatSession, Settings, Turn
from mmagent.errors import UsageError
from mmagent_prompts import CatalogueError, load_yaml

if TYPE_CHECKING:
    from mmagent.media import LoadedImage

__all__ = ["Script", "load_script", "play"]

_MAX_BYTES = 1_000_000


class Step(BaseModel):
    """One thing that happens: something is said, or time passes."""

    model_config = ConfigDict(extra="forbid")

    say: str | None = None
    images: list[str] = []
    later: str | None = None

    @model_validator(mode="after")
    def _one_thing(self) -> Step:
        said = self.say is not None or bool(self.images)
        if said == (self.later is not None):
            raise ValueError("a turn has either `say` (perhaps with `images`) or `later`")
        return self


class Script(BaseModel):
    """A conversation to be played."""

    model_config = ConfigDict(extra="forbid")

    persona: str | None = None
    user: str | None = None
    turns: list[Step]

    _folder: Path = PrivateAttr(default=Path())

    def pictures(self, step: Step) -> list[LoadedImage]:
        """The pictures of a step, which lie beside the file."""
        return load_pictures([self._folder / name for name in step.images])


def load_script(path: Path) -> Script:
    """Read a script.

    Raises:
        UsageError: The file is not there, is no YAML, or has an unknown or wrong field.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)  # more than the YAML loader takes
    except OSError as error:
        raise UsageError(f"The script {path} cannot be read ({error.strerror}).") from error
    try:
        script = Script.model_validate(load_yaml(data, source=path.name))
    except CatalogueError as error:
        raise UsageError(str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"The script {path}: {where}: {first['msg']}.") from error
    script._folder = path.parent
    return script


def play(script: Script, settings: Settings, *, as_json: bool = False) -> None:
    """Play a script; what it says of persona and user wins over the settings."""
    if script.persona is not None:
        beside = script._folder / script.persona
        settings = replace(settings, persona=str(beside) if beside.is_file() else script.persona)
    if script.user is not None:
        settings = replace(settings, user=script.user)
    for step in script.turns:  # before a model is loaded for the first of them
        script.pictures(step)
    session = ChatSession(settings)
    try:
        session.load()
        for step in script.turns:
            if step.later is not None:
                session.close()
                session = _again(session, settings)
                if as_json:
                    print_json({"later": step.later})
                else:
                    print(dim(f"\n— {step.later} —\n"), flush=True)
                continue
            turn = _turn(session, step, script.pictures(step), as_json=as_json)
            if turn.stopped:
                raise KeyboardInterrupt
    finally:
        session.close()


def _again(before: ChatSession, settings: Settings) -> ChatSession:
    """A session as a new process would have it; the weights alone are kept in memory."""
    session = ChatSession(settings)
    session.model = before.model
    session.begin(session.persona)
    return session


def _turn(session: ChatSession, step: Step, pictures: list[LoadedImage], *, as_json: bool) -> Turn:
    text = step.say or ""
    asking = session.ask(text, pictures)
    if not as_json:
        shown = "".join(f"[{name}] " for name in step.images)
        print(f"{colour(f'{session.user_name}:', 'cyan')} {shown}{text}")
        print(f"{colour(f'{session.persona.spoken_name}:', 'magenta')} ", end="", flush=True)
    print_answer(asking, as_json=as_json)
    if as_json:
        return asking.turn
    for hit in asking.turn.memories[:2]:
        pictures_ = "".join(f" [picture {image.id[:8]}]" for image in hit.images)
        words = printable(" ".join(f"{hit.speaker or 'someone'}: {hit.text}{pictures_}".split()))
        print(dim(f"   (recalled: {words})"), flush=True)
    return asking.turn
