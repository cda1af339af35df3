"""`mmagent eval`: measure a model with what this package puts around it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mmagent.cli.evaluate_robustness import robustness
from mmagent.cli.screen import note, print_json

__all__ = ["app"]

app = typer.Typer(
    help="Measure templates of thought, personas and more.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Model = Annotated[str, typer.Option("--model", help="tiny, echo, a folder or hub name.")]
Adapter = Annotated[
    str | None, typer.Option("--adapter", metavar="<str>", help="Folder of a fine-tuned adapter.")
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FOLDER", help="Write JSON, table and plot there.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
MaxTokens = Annotated[
    int, typer.Option("--max-tokens", metavar="<int>", min=1, help="Most tokens of an answer.")
]


@app.callback()
def _group() -> None:
    """Measure templates of thought, personas and more."""


@app.command()
def persona(
    persona: Annotated[str, typer.Option("--persona", help="A name, a YAML file, or a card.")] = (
        "mia"
    ),
    model: Model = "tiny",
    adapter: Adapter = None,
    turns: Annotated[
        int, typer.Option("--turns", metavar="<int>", min=1, help="Turns of the user.")
    ] = 32,
    budget: Annotated[
        int | None, typer.Option("--budget", metavar="<int>", min=1, help="Tokens of a prompt.")
    ] = None,
    long: Annotated[
        bool, typer.Option("--long", help="Facts, tokens, time; memory on and off.")
    ] = False,
    rounds: Annotated[
        int, typer.Option("--rounds", metavar="<int>", min=1, help="With --long: probe rounds.")
    ] = 5,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="With memory.")] = True,
    nli: Annotated[
        str | None, typer.Option("--nli", metavar="<str>", help="NLI checkpoint or folder.")
    ] = None,
    max_tokens: MaxTokens = 48,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Measure how well a persona is kept, without a judge."""
    from mmagent.embedders import default_embedder
    from mmagent.evaluation.models import open_model
    from mmagent.personas.persona import Persona

    who = Persona.load(persona)
    chat = open_model(model, max_tokens=max_tokens, adapter=adapter)
    progress = _progress(as_json)
    if long:
        from mmagent.evaluation.long_conversation import draw_long, long_conversation, long_table

        report = long_conversation(
            chat, who, turns=turns, budget=budget or 2048, rounds=rounds,
            embeddings=default_embedder(), progress=progress,
        )  # fmt: skip
        name, table, draw = "long-conversation", long_table, draw_long
    else:
        from mmagent.evaluation.persona import draw_persona, evaluate_persona, persona_table

        report = evaluate_persona(
            chat, who, turns=turns, budget=budget, memory=memory,
            embeddings=default_embedder() if memory else None, nli=nli, progress=progress,
        )  # fmt: skip
        name, table, draw = "persona", persona_table, draw_persona
    report = {"model": model, "adapter": adapter, **report}
    _give(report, name, table, draw, out, as_json)


@app.command()
def reasoning(
    model: Model = "tiny",
    adapter: Adapter = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FILE", help="Your questions as JSON lines."),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option("--template", metavar="<str>", help="Only this one; repeatable."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="<int>", min=1, help="Only so many questions.")
    ] = None,
    language: Annotated[str, typer.Option("--language", help="Of the templates.")] = "en",
    max_thought_tokens: Annotated[
        int, typer.Option("--thoughts", metavar="<int>", min=1, help="Most tokens of a thought.")
    ] = 96,
    together: Annotated[
        int, typer.Option("--together", metavar="<int>", min=1, help="Questions at one time.")
    ] = 8,
    max_tokens: MaxTokens = 96,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Compare every template of thought with answering directly."""
    from mmagent.evaluation.models import open_model
    from mmagent.evaluation.questions import built_in_questions, read_questions
    from mmagent.evaluation.reasoning import compare_templates, draw_reasoning, reasoning_table

    questions = read_questions(data) if data is not None else built_in_questions()
    if limit is not None:
        questions = questions[:: max(1, len(questions) // limit)][:limit]
    chat = open_model(model, max_tokens=max_tokens, adapter=adapter)
    report = compare_templates(
        chat, questions, template, language=language, max_thought_tokens=max_thought_tokens,
        together=together, progress=_progress(as_json),
    )  # fmt: skip
    report = {"model": model, "adapter": adapter, "data": str(data or "built in"), **report}
    _give(report, "reasoning", reasoning_table, draw_reasoning, out, as_json)


def _progress(as_json: bool) -> Callable[[str], None]:
    return lambda text: None if as_json else note(text)


def _give(
    report: dict[str, Any],
    name: str,
    table: Callable[[dict[str, Any]], str],
    draw: Callable[[dict[str, Any], Path], None],
    out: Path | None,
    as_json: bool,
) -> None:
    """Print the report, and write it if asked to; without matplotlib, all but the plot."""
    from mmagent.errors import MissingDependencyError
    from mmagent.evaluation.reporting import write_report

    page = table(report)
    if as_json:
        print_json(report)
    else:
        typer.echo(page)
    if out is None:
        return
    write_report(out, name, report, page)
    try:
        draw(report, out / f"{name}.png")
    except MissingDependencyError as error:
        print(f"mmagent: {error}", file=sys.stderr)


app.command()(robustness)
