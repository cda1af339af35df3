"""`mmagent eval robustness`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmagent.cli.screen import note, print_json

__all__ = ["robustness"]


def robustness(
    run: Annotated[Path, typer.Argument(help="Output of finetune vqa, match or classify.")],
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FILE", help="Rows [default: fresh examples].")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=10, help="Most rows.")] = 200,
    epsilons: Annotated[
        str, typer.Option("--epsilons", help="Sizes of attacks, in 255ths.")
    ] = "1,2,4,8",
    steps: Annotated[int, typer.Option("--steps", min=1, max=200, help="Steps of PGD.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of noise and starts.")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Write JSON and plot there.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure a classifier on attacked and corrupted pictures.

    FGSM and PGD change each channel of a pixel by at most epsilon/255; the
    corruptions are noise, blur, JPEG, brightness, contrast and pixels.

    mmagent eval robustness vqa --data rows.jsonl --out robustness
    """
    from mmagent.errors import UsageError
    from mmagent.finetune.extras import require_training

    require_training("matplotlib", "sklearn")
    try:
        sizes = [float(size) for size in epsilons.split(",")]
    except ValueError:
        sizes = []
    if not sizes or any(not 0 < size <= 255 for size in sizes):
        raise UsageError("--epsilons must be numbers from 0 to 255, such as 1,2,4,8.")
    import tempfile

    from mmagent.finetune.objectives.robustness import draw, load_subject, measure

    subject = load_subject(run)
    with tempfile.TemporaryDirectory() as folder:
        asked = _rows(subject, data, rows, seed, Path(folder))
        found = measure(subject, asked, epsilons=sizes, steps=steps, seed=seed, note=note)
        report = {"run": str(run), "data": str(data) if data else f"examples, seed {seed}", **found}
    if out is not None:
        from mmagent.finetune.training import write_json

        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "robustness.json", report)
        draw(report, out / "robustness.png")
    if as_json:
        print_json(report)
        return
    typer.echo(f"Accuracy on {report['rows']} rows: {report['clean']:.3f} clean")
    for size in report["fgsm"]:
        typer.echo(
            f"  epsilon {size}/255: FGSM {report['fgsm'][size]:.3f}, PGD {report['pgd'][size]:.3f}"
        )
    for name, by in report["corruptions"].items():
        said = ", ".join(f"{severity}: {value:.3f}" for severity, value in by.items())
        typer.echo(f"  {name} at severity {said}")
    if out is not None:
        typer.echo(f"{out}: robustness.json, robustness.png")


def _rows(subject: Any, data: Path | None, count: int, seed: int, folder: Path) -> list[Any]:
    """Rows of a file, or of pictures drawn with another seed than any that was trained on."""
    from mmagent.finetune.objectives.rows import read_rows
    from mmagent.finetune.objectives.settings import ObjectiveSettings
    from mmagent.finetune.objectives.shapes import draw_rows

    if data is None:
        name = {"question": "vqa"}.get(subject.words) or (
            "match" if subject.labels[-1] == "fits" else "classify"
        )
        data = draw_rows(name, count, folder, seed + 900_001)
    found, _ = read_rows(
        ObjectiveSettings.model_validate({"data": [data]}), subject.words, subject.label
    )
    return found[:count]
