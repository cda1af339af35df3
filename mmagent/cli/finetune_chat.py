"""`mmagent finetune chat` and `mmagent finetune inspect`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from mmagent.cli.screen import note, print_json, printable
from mmagent.cli.settings_options import settings_command
from mmagent.finetune.config import ChatSettings

__all__ = ["chat_command", "inspect_command"]


def _chat(settings: ChatSettings, *, resume: bool, quiet: bool, as_json: bool) -> None:
    """Fine-tune a model on dialogues; only the assistant's words are learned.

    Rows are OpenAI messages, ShareGPT, LLaVA JSON or our own; every option
    can stand in a YAML file too (lora.r is --lora-r). The output folder has
    the adapter, curves, a report and a model card.

    `mmagent finetune example-data FOLDER` makes rows to try it with.
    """
    from mmagent.finetune.training import finetune_chat

    first = os.environ.get("RANK", "0") == "0"
    say = (lambda text: None) if quiet or not first else note
    try:
        run = finetune_chat(settings, resume=resume, quiet=quiet or not first, note=say)
    except KeyboardInterrupt:
        if (settings.output / "checkpoints").is_dir():
            say("stopped; the same command with --resume goes on from the last checkpoint")
        raise
    if as_json:
        print_json({"weights": str(run.weights), **run.report})
        return
    show_report(run.report)
    typer.echo(f"{run.output}: README.md (model card), curves.png, report.json")
    if run.weights.name == "adapter":
        typer.echo(f"Talk with it: mmagent chat --model {settings.base} --adapter {run.weights}")
    else:
        typer.echo(f"Talk with it: mmagent chat --model {run.weights}")


def show_report(report: dict[str, Any]) -> None:
    """The figures before and after, for people."""
    from mmagent.finetune.evaluation import Evaluation
    from mmagent.finetune.report import table

    before = Evaluation.from_dict(report["before"]) if report["before"] else None
    after = Evaluation.from_dict(report["after"]) if report["after"] else None
    if after is None:
        typer.echo(
            "Nothing was measured: a run of several processes leaves that to `mmagent finetune "
            "evaluate`, and a run without test rows has nothing to measure on."
        )
        return
    typer.echo(f"On {report['data']['rows']['test']} rows held out, before -> after:")
    for label, one, two, reading in table(before, after):
        typer.echo(f"  {label}")
        typer.echo(f"    {one} -> {two}  ({reading})")


chat_command = settings_command(
    ChatSettings,
    _chat,
    {
        "resume": (
            Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")],
            False,
        ),
        "quiet": (Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")], False),
        "as_json": (Annotated[bool, typer.Option("--json", help="Print the report.")], False),
    },
)


def _inspect(settings: ChatSettings, *, rows: int, histogram: Path | None, as_json: bool) -> None:
    """Show what would be learned from data: tokens in colour, sizes, problems.

    Learned text is green; what is only read is grey. Nothing is trained, and
    no weights are loaded. Exits with 1 where rows cannot be used.
    """
    from mmagent.finetune.base import load_reader
    from mmagent.finetune.curves import bars, draw_histogram
    from mmagent.finetune.data.checking import refuse_bad
    from mmagent.finetune.data.pictures import Gallery
    from mmagent.finetune.extras import require_training
    from mmagent.finetune.inspection import pieces_of
    from mmagent.finetune.prepare import prepare
    from mmagent.finetune.training import encoder_of

    require_training()
    reader = load_reader(settings.base)
    encoder = encoder_of(reader)
    policy, settings.bad_rows = settings.bad_rows, "skip"  # show the good ones first
    found = prepare(settings, encoder, reader.context_length)
    if histogram is not None:
        draw_histogram(found.lengths, found.learned, histogram, found.limit)
    if as_json:
        print_json(found.as_dict())
    else:
        gallery = Gallery()
        for row in found.splits.train[:rows]:
            typer.echo(f"-- {row.where}")
            pieces = pieces_of(encoder, row, gallery)
            typer.echo("".join(_in_colour(piece.kind, piece.text) for piece in pieces))
        _show_sizes(found, bars)
        if histogram is not None:
            typer.echo(f"{histogram}: the histogram of tokens")
    refuse_bad(found.report, policy)


def _in_colour(kind: str, text: str) -> str:
    from mmagent.cli.screen import colour, dim

    if kind == "learned":
        return colour(printable(text), "green")
    return dim(printable(text))


def _show_sizes(found: Any, bars: Any) -> None:
    from mmagent.finetune.prepare import sizes

    rows = sizes(found.splits)
    typer.echo(
        f"-- {found.report.read} rows read, {found.report.kept} usable: {rows['train']} to train, "
        f"{rows['validation']} to validate, {rows['test']} to test"
    )
    typer.echo(
        f"{sum(found.lengths):,} tokens, of which {sum(found.learned):,} are learned and "
        f"{sum(found.image_tokens):,} stand for pictures; the longest row has "
        f"{max(found.lengths, default=0):,} of {found.limit:,}"
    )
    typer.echo("tokens in a row:")
    for line in bars(found.lengths):
        typer.echo(f"  {line}")
    for kind, count in sorted(found.report.counts().items()):
        typer.echo(f"{kind}: {count}")
    for problem in found.report.problems[:20]:
        typer.echo(f"  {printable(str(problem))}")


inspect_command = settings_command(
    ChatSettings,
    _inspect,
    {
        "rows": (
            Annotated[int, typer.Option("--rows", metavar="N", min=0, help="Rows shown.")],
            3,
        ),
        "histogram": (
            Annotated[
                Path | None,
                typer.Option("--histogram", metavar="PNG", help="Draw the token counts."),
            ],
            None,
        ),
        "as_json": (Annotated[bool, typer.Option("--json", help="Print JSON.")], False),
    },
)
