"""`mmagent finetune vqa | match | embed | classify | pretrain`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from mmagent.cli.screen import note, print_json
from mmagent.cli.settings_options import settings_command
from mmagent.finetune.objectives import objective_of
from mmagent.finetune.objectives.settings import (
    ClassifySettings,
    EmbedSettings,
    MatchSettings,
    ObjectiveSettings,
    PretrainSettings,
    VqaSettings,
)

__all__ = [
    "classify_command",
    "embed_command",
    "match_command",
    "pretrain_command",
    "vqa_command",
]

_HELP = {
    "vqa": """Train question answering on pictures (ViLT).

    Rows: {"image": "a.png", "question": "...", "answer": "..."}. The answers of
    the rows are the classes to choose from. Try it:
    mmagent finetune vqa --example 1500 --output vqa
    """,
    "match": """Train to tell whether a text fits a picture (BLIP).

    Rows: {"image": "a.png", "text": "...", "label": true}. Without labels wrong
    texts are drawn from other rows. Try it:
    mmagent finetune match --example 2000 --output match
    """,
    "embed": """Train vectors of pictures and texts in one space (CLIP).

    Rows: {"image": "a.png", "text": "..."}. The result is an embedder for the
    memory. Try it: mmagent finetune embed --example 2000 --output embed
    """,
    "classify": """Train classes for a picture and a text together.

    Rows: {"image": "a.png", "text": "...", "label": "..."}; --fusion says how
    both are joined. Try it:
    mmagent finetune classify --example 2000 --fusion late --output classes
    """,
    "pretrain": """Train on hidden words, hidden regions and matching (FLAVA).

    Rows: {"image": "a.png", "text": "..."}. The result is a base for
    `finetune classify --fusion attention`. Try it:
    mmagent finetune pretrain --example 2000 --output pretrained
    """,
}


def _command(name: str, kind: type[ObjectiveSettings]) -> Callable[..., None]:
    def run(settings: Any, *, resume: bool, quiet: bool, as_json: bool) -> None:
        from mmagent.finetune.objectives.running import run_objective

        say = (lambda text: None) if quiet else note
        report = run_objective(objective_of(name), settings, resume=resume, quiet=quiet, note=say)
        if as_json:
            print_json(report)
            return
        if not report["after"]:
            typer.echo("Nothing was measured: there are no test rows in this run.")
        else:
            typer.echo(f"On {report['rows']['test']} rows held out, before -> after:")
        for figure, value in report["after"].items():
            before = report["before"].get(figure)
            typer.echo(f"  {figure}: {before:.3f} -> {value:.3f}")
        if report["table"]:
            typer.echo(report["table"])
        out = settings.output
        typer.echo(f"{out}: model/, README.md (model card), curves.png, report.json")

    run.__doc__ = _HELP[name]
    return settings_command(
        kind,
        run,
        {
            "resume": (
                Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")],
                False,
            ),
            "quiet": (
                Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")],
                False,
            ),
            "as_json": (Annotated[bool, typer.Option("--json", help="Print the report.")], False),
        },
    )


vqa_command = _command("vqa", VqaSettings)
match_command = _command("match", MatchSettings)
embed_command = _command("embed", EmbedSettings)
classify_command = _command("classify", ClassifySettings)
pretrain_command = _command("pretrain", PretrainSettings)
