"""The conversation in a terminal: streams answers, takes commands, survives Ctrl-C."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from mmagent.cli import memory as memories
from mmagent.cli.failures import explain, is_debugging
from mmagent.cli.pictures import load_pictures
from mmagent.cli.screen import colour, dim, note, printable
from mmagent.cli.stopping import ctrl_c_stops
from mmagent.errors import UsageError
from mmagent.personas.persona import Persona

if TYPE_CHECKING:
    from mmagent.cli.session import ChatSession
    from mmagent.media import LoadedImage

__all__ = ["Interactive"]

_HELP = """\
Just type. Also:
  /image PATH    show a picture with
                 your next message
  /memories      what is remembered
  /forget ID     forget one of these
  /persona NAME  talk with another one
                 (a name, YAML, card)
  /help          this
  /quit          leave (or Ctrl-D)
Ctrl-C stops an answer."""


class Interactive:
    """Reads lines and answers them until the person leaves."""

    def __init__(
        self,
        session: ChatSession,
        pictures: list[LoadedImage] | None = None,
        *,
        read: Callable[[str], str] = input,
    ) -> None:
        """Talk over `session`; `read` asks for a line with a prompt."""
        self._session = session
        self._pictures = pictures or []
        self._read = read
        self._commands: dict[str, Callable[[str], None]] = {
            "/image": self._image,
            "/memories": self._memories,
            "/forget": self._forget,
            "/persona": self._persona,
            "/help": lambda _: print(_HELP),
        }

    def run(self) -> None:
        """Talk until `/quit` or the end of the input."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives `input` history and editing
        note("Loading the model …")
        self._session.load()
        note("/help shows what you can type; /quit leaves.")
        self._greet()
        while True:
            try:
                line = self._read("You: ").strip()
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print()
                note("/quit or Ctrl-D leaves.")
                continue
            if line in ("/quit", "/exit"):
                return
            if line:
                self._take(line)

    def _take(self, line: str) -> None:
        """One line; what goes wrong with it ends neither the conversation nor the program."""
        try:
            name, _, rest = line.partition(" ")
            if name in self._commands:
                self._commands[name](rest.strip())
            elif name.startswith("/") and "/" not in name[1:]:
                raise UsageError(f"There is no command {name}: /help shows those there are.")
            else:
                self._answer(line)
        except KeyboardInterrupt:
            print()
            note("Stopped.")
        except Exception as error:
            if is_debugging():
                raise
            message = " ".join(explain(error)[0].split())
            print(colour(message, "red", sys.stderr), file=sys.stderr, flush=True)

    def _answer(self, text: str) -> None:
        asking = self._session.ask(text, self._pictures)
        with ctrl_c_stops(asking):
            print(f"{self._name()} ", end="", flush=True)
            for piece in asking:
                print(printable(piece), end="", flush=True)
        print(dim(" … (stopped)") if asking.turn.stopped else "", flush=True)
        self._pictures = []  # only now: a message that failed keeps its pictures for the next try

    def _greet(self) -> None:
        greeting = self._session.persona.first_message(user=self._session.user_name)
        if greeting:
            print(f"{self._name()} {printable(greeting)}", flush=True)

    def _name(self) -> str:
        return colour(f"{printable(self._session.persona.spoken_name)}:", "magenta")

    # ---- commands --------------------------------------------------------------------------

    def _image(self, path: str) -> None:
        if not path:
            raise UsageError("Say which picture: /image PATH.")
        # Shells quote paths that are dropped into a terminal; a path with blanks may be bare.
        with contextlib.suppress(ValueError):
            parts = shlex.split(path)
            path = parts[0] if len(parts) == 1 else path
        (picture,) = load_pictures([path])
        self._pictures.append(picture)
        note(f"{picture.width}×{picture.height} pixels; it goes with your next message.")

    def _memories(self, _: str) -> None:
        hits = self._session.memory.list(20)
        for hit in reversed(hits):
            print(memories.shown(hit))
        if not hits:
            note("Nothing is remembered yet.")

    def _forget(self, wanted: str) -> None:
        if not wanted:
            raise UsageError("Say which memory: /forget ID. /memories shows the ids.")
        whole = memories.find(self._session.memory, wanted)
        self._session.memory.forget(whole)
        note(f"Forgotten: {whole}")

    def _persona(self, name: str) -> None:
        if not name:
            names = ", ".join(Persona.catalogue())
            raise UsageError(f"Say which persona: /persona NAME. There are {names}.")
        self._session.change_persona(Persona.load(name))
        note("The conversation goes on; each persona remembers for itself.")
        self._greet()
