"""Messages that are known beforehand, or come from a pipe: answered one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mmagent.cli.screen import print_json, printable
from mmagent.cli.stopping import ctrl_c_stops
from mmagent.errors import UsageError

if TYPE_CHECKING:
    from mmagent.cli.session import Asking, ChatSession
    from mmagent.media import LoadedImage

__all__ = ["answer_each", "print_answer"]


def answer_each(
    session: ChatSession,
    messages: Iterable[str],
    pictures: Sequence[LoadedImage] = (),
    *,
    as_json: bool = False,
) -> None:
    """Answer each message on stdout; the pictures go with the first.

    Raises:
        UsageError: There are pictures, and no message to show them with.
        KeyboardInterrupt: Ctrl-C; what was said until then is kept.
    """
    shown = list(pictures)
    for message in messages:
        asking = session.ask(message, shown)
        shown = []
        print_answer(asking, as_json=as_json)
        if asking.turn.stopped:
            raise KeyboardInterrupt
    if shown:
        raise UsageError("There is a picture and no message: add --message.")


def print_answer(asking: Asking, *, as_json: bool) -> None:
    """Print an answer piece by piece, or the whole turn as JSON at its end; Ctrl-C stops it."""
    with ctrl_c_stops(asking):
        for piece in asking:
            if not as_json:
                print(printable(piece), end="", flush=True)
    if as_json:
        print_json(asking.turn.as_dict())
    else:
        print(flush=True)
