"""`mmagent chat`: talk with a persona that sees pictures and remembers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mmagent.cli.session import Settings
    from mmagent.media import LoadedImage

__all__ = ["chat", "converse"]


def chat(
    model: Annotated[
        str, typer.Option("--model", help="tiny, a folder, a hub name, or echo (no model).")
    ] = "tiny",
    adapter: Annotated[
        str | None, typer.Option("--adapter", help="Folder of a fine-tuned adapter.")
    ] = None,
    persona: Annotated[
        str, typer.Option("--persona", help="A name in the catalogue, a YAML file, or a card.")
    ] = "mia",
    user: Annotated[str, typer.Option("--user", help="Who you are; each has a memory.")] = "user",
    memory: Annotated[
        Path | None,
        typer.Option("--memory", metavar="FOLDER", help="The memory folder [default: your own]."),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", metavar="FILE", help="Show it with the first message; repeatable."),
    ] = None,
    message: Annotated[
        list[str] | None,
        typer.Option("--message", "-m", metavar="TEXT", help="Say this and end; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a turn.")] = False,
    script: Annotated[
        Path | None,
        typer.Option("--script", metavar="FILE", help="Play a conversation from a YAML file."),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", help="Instructions above the persona's.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="0 takes the likeliest words.")
    ] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="Nucleus sampling.")] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="Most tokens of an answer.")
    ] = 256,
    seed: Annotated[int | None, typer.Option("--seed", help="Repeatable sampling.")] = None,
    recall: Annotated[
        int, typer.Option("--recall", min=0, help="Most memories recalled for a turn.")
    ] = 6,
) -> None:
    """Talk with a persona that sees pictures and remembers.

    In a terminal it is a conversation: /help shows what you can type.
    With --message it says these and ends; from a pipe it answers each
    line. What is said is remembered in the memory folder.
    """
    from mmagent.cli.pictures import load_pictures
    from mmagent.cli.session import Settings
    from mmagent.errors import UsageError

    if script is not None and (message or image):
        raise UsageError(
            "--script has its own messages and pictures: leave out --message, --image."
        )
    if message and any(not text.strip() for text in message) and not image:
        raise UsageError("--message is empty: say something, or show a picture with --image.")
    pictures = load_pictures(image or [])  # before a model is fetched or a folder made
    sampling = {
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "seed": seed,
    }
    settings = Settings(
        model=model,
        adapter=adapter,
        persona=persona,
        user=user,
        memory=memory or _default_memory(),
        system=system,
        sampling=sampling,
        k=recall,
    )
    if script is not None:
        from mmagent.cli.script import load_script, play

        play(load_script(script), settings, as_json=as_json)
        return
    converse(settings, pictures, message or [], as_json=as_json)


def converse(
    settings: Settings, pictures: list[LoadedImage], messages: list[str], *, as_json: bool = False
) -> None:
    """Open the session and talk: from messages, from a terminal, or from a pipe."""
    from mmagent.cli.screen import is_terminal, note
    from mmagent.cli.session import ChatSession

    session = ChatSession(settings)
    try:
        if messages:
            from mmagent.cli.oneshot import answer_each

            answer_each(session, messages, pictures, as_json=as_json)
        elif is_terminal(sys.stdin) and not as_json:
            from mmagent.cli.interactive import Interactive

            note(f"Memory: {settings.memory}")
            Interactive(session, pictures).run()
        else:
            from mmagent.cli.oneshot import answer_each

            answer_each(session, _lines(), pictures, as_json=as_json)
    finally:
        session.close()


def _lines() -> Iterator[str]:
    for line in sys.stdin:
        if line.strip():
            yield line.rstrip("\n")


def _default_memory() -> Path:
    from mmagent.home import default_memory_folder

    return default_memory_folder()
