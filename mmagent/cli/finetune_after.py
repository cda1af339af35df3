"""What stands around a training: measuring and exporting it, data for it, ratings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["evaluate", "example_data", "export", "fsdp_config", "rate"]

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The output folder of a run.")]


def evaluate(
    run: Run,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report.")] = False,
) -> None:
    """Measure a finished run on its test rows, and write its card anew.

    Needed after a run over several GPUs, which does not measure by itself.
    """
    from mmagent.cli.finetune_chat import show_report
    from mmagent.cli.screen import note, print_json
    from mmagent.finetune.results import evaluate_run

    report = evaluate_run(run, note=(lambda text: None) if quiet else note)
    if as_json:
        print_json(report)
    else:
        show_report(report)


def export(
    run: Run,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    base: Annotated[
        str | None, typer.Option("--base", help="The base [default: what the run names].")
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")
    ] = "auto",
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="ORG/NAME", help="Upload it to the model hub too."),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody see what is uploaded.")
    ] = False,
) -> None:
    """Write the whole model as one folder: adapter merged, safetensors.

    AutoModelForImageTextToText, vLLM and mmagent load it as it is.
    """
    from mmagent.finetune.export import export as write
    from mmagent.finetune.export import push as upload

    typer.echo(write(run, out, base=base, dtype=dtype))
    if push is not None:
        typer.echo(upload(out, push, private=not public))


def example_data(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder.")],
    rows: Annotated[int, typer.Option("--rows", metavar="N", min=20, help="How many.")] = 240,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the drawing.")] = 0,
) -> None:
    """Make a small data set with drawn pictures, and settings for it."""
    from mmagent.finetune.data.example import make_example

    make_example(out, rows=rows, seed=seed)
    typer.echo(f"{out}: dialogues.jsonl, pictures/, run.yaml")
    typer.echo(f"Try: cd {out} && mmagent finetune chat --config run.yaml")


def rate(
    id_: Annotated[str, typer.Argument(metavar="ID", help="A memory's id, or its beginning.")],
    rating: Annotated[str, typer.Argument(metavar="good|bad", help="How the answer was.")],
    folder: Annotated[
        Path | None,
        typer.Option("--memory", metavar="FOLDER", help="The memory folder [default: your own]."),
    ] = None,
    user: Annotated[str, typer.Option("--user", help="Whose memory it is.")] = "user",
) -> None:
    """Say of a remembered answer that it was good or bad.

    `mmagent finetune chat --from-memory FOLDER --rated-only` learns from the
    good ones; bad ones are never learned from.
    """
    from mmagent.cli.memory import find, opened
    from mmagent.errors import UsageError

    if rating not in ("good", "bad"):
        raise UsageError(f"A rating is good or bad, not {rating!r}.")
    with opened(folder, user, None) as memory:
        whole = find(memory, id_)
        memory.rate(whole, 1 if rating == "good" else -1)
    typer.echo(f"Rated {rating}: {whole}")


def fsdp_config() -> None:
    """Print the path of a settings file for `accelerate launch` (FSDP).

    accelerate launch --config_file "$(mmagent finetune fsdp-config)" -m mmagent finetune chat …
    """
    import mmagent.finetune

    typer.echo(Path(mmagent.finetune.__file__).with_name("fsdp.yaml"))
