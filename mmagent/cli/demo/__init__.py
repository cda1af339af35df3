"""`mmagent demo`: a first conversation; without a terminal, one that is played from a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]

SCRIPT = Path(__file__).parent / "demo.yaml"


def demo(
    model: Annotated[str, typer.Option("--model", help="What `chat --model` takes.")] = "tiny",
    play: Annotated[
        bool, typer.Option("--play", help="Play the conversation from the file in any case.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a turn.")] = False,
) -> None:
    """Talk with Mia; from a pipe, watch a short conversation.

    The one that is played shows pictures, comes back another day, and
    leaves nothing behind: its memory is a folder of its own.
    """
    import tempfile

    from mmagent.cli.chat import converse
    from mmagent.cli.screen import is_terminal, note
    from mmagent.cli.script import load_script
    from mmagent.cli.script import play as play_script
    from mmagent.cli.session import Settings
    from mmagent.home import default_memory_folder

    if is_terminal(sys.stdin) and not play:
        note(f"Pictures to try: /image {SCRIPT.parent / 'cat.png'}")
        settings = Settings(model=model, persona="mia", memory=default_memory_folder())
        converse(settings, [], [])
        return
    with tempfile.TemporaryDirectory(prefix="mmagent-demo-") as folder:
        sampling = {"temperature": 0.0, "max_tokens": 60}  # the same conversation every time
        settings = Settings(
            model=model, persona="mia", memory=Path(folder) / "memory", sampling=sampling
        )
        play_script(load_script(SCRIPT), settings, as_json=as_json)
