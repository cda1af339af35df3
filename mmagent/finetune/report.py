"""The report of a run: figures before and after, curves, and a model card written from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmagent.finetune.arguments import precision_of, world_size
from mmagent.finetune.base import Reader
from mmagent.finetune.config import ChatSettings
from mmagent.finetune.evaluation import Evaluation, evaluate_chat
from mmagent.finetune.metrics import Estimate
from mmagent.finetune.prepare import Prepared

__all__ = ["LABELS", "card", "measure_before", "table", "write_report"]

LABELS: dict[str, tuple[str, str]] = {
    "perplexity": ("Perplexity of the right answers", "lower is better"),
    "exact_match": ("Answers that are the same, word for word", "higher is better"),
    "token_f1": ("Words in common with the right answer (F1)", "higher is better"),
    "chrf": ("Characters in common (chrF)", "higher is better"),
    "rouge_l": ("Word order in common (ROUGE-L)", "higher is better"),
    "answer_words": ("Words of an answer", "only to read the others by"),
    "picture_matters": ("Rows where a wrong picture makes the answer less likely",
                        "50% is chance"),
    "picture_gap": ("Loss that a wrong picture adds (nats a token)", "higher is better"),
    "answer_changes": ("Answers that change with a wrong picture", "higher is better"),
    "general_perplexity": ("Perplexity of general dialogues (forgetting)", "lower is better"),
}  # fmt: skip
_SHARES = {"exact_match", "picture_matters", "answer_changes", "token_f1", "chrf", "rouge_l"}


def measure_before(
    settings: ChatSettings,
    model: Any,
    encoder: Any,
    prepared: Prepared,
    resume: bool,
    note: Callable[[str], None],
) -> Evaluation | None:
    """Measure the untouched base once; a resumed run finds what was measured.

    With several processes the weights are spread out: then nothing is measured here, and
    `mmagent finetune evaluate` does it afterwards.
    """
    file = settings.output / "before.json"
    if resume and file.exists():
        return Evaluation.from_dict(json.loads(file.read_text("utf-8")))
    if world_size() > 1 or not prepared.splits.test:
        return None
    from mmagent.finetune.encoding import ChatCollator

    note("before the training")
    device = _device(settings)
    rows = prepared.splits.test
    found = evaluate_chat(
        model.to(device), ChatCollator(encoder, rows), rows, settings.evaluate,
        seed=settings.seed, note=note,
    )  # fmt: skip
    model.to("cpu")
    file.write_text(json.dumps(found.as_dict(), ensure_ascii=False), "utf-8")
    return found


def _device(settings: ChatSettings) -> str:
    from mmagent.engine.placement import choose_device

    return "cpu" if settings.device == "cpu" else choose_device("auto")


def write_report(
    settings: ChatSettings,
    reader: Reader,
    prepared: Prepared,
    before: Evaluation | None,
    facts: dict[str, Any],
    history: Sequence[dict[str, Any]],
    weights: Path,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Measure what was saved, as users will load it, and write report, curves and card."""
    from mmagent.finetune.curves import draw_curves
    from mmagent.finetune.encoding import ChatCollator
    from mmagent.finetune.results import load_result
    from mmagent.finetune.training import encoder_of

    after = None
    if world_size() == 1 and prepared.splits.test:
        note("after the training")
        device = _device(settings)
        dtype = "bfloat16" if precision_of(settings) == "bf16" else "float32"
        model = load_result(reader.path, weights, device=device, dtype=dtype)
        rows = prepared.splits.test
        after = evaluate_chat(
            model, ChatCollator(encoder_of(reader), rows), rows, settings.evaluate,
            seed=settings.seed, note=note,
        )  # fmt: skip
    report: dict[str, Any] = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "base": settings.base,
        "weights": weights.name,
        "run": facts,
        "data": prepared.as_dict(),
        "before": before.as_dict() if before else None,
        "after": after.as_dict() if after else None,
        "history": list(history),
        "settings": json.loads(settings.model_dump_json()),
        "versions": _versions(),
    }
    draw_curves(history, settings.output / "curves.png", f"{settings.base}, {weights.name}")
    text = json.dumps(report, indent=2, ensure_ascii=False)
    (settings.output / "report.json").write_text(text + "\n", "utf-8", errors="replace")
    words = card(report)
    (settings.output / "README.md").write_text(words, "utf-8", errors="replace")
    (weights / "README.md").write_text(words, "utf-8", errors="replace")
    return report


def table(before: Evaluation | None, after: Evaluation | None) -> list[tuple[str, str, str, str]]:
    """Rows of (what, before, after, how to read it)."""
    rows = []
    for name, (label, reading) in LABELS.items():
        one = before.figures.get(name) if before else None
        two = after.figures.get(name) if after else None
        if one or two:
            rows.append((label, _shown(name, one), _shown(name, two), reading))
    return rows


def _shown(name: str, figure: Estimate | None) -> str:
    if figure is None:
        return "–"
    if name in _SHARES:
        return f"{figure.value:.0%} ({figure.low:.0%}–{figure.high:.0%})"
    digits = 1 if abs(figure.value) >= 10 else 2
    return f"{figure.value:.{digits}f} ({figure.low:.{digits}f}–{figure.high:.{digits}f})"


def card(report: dict[str, Any]) -> str:
    """The model card: front matter, what it is, how it was made, how good it is, samples."""
    settings, run, data = report["settings"], report["run"], report["data"]
    before = Evaluation.from_dict(report["before"]) if report["before"] else None
    after = Evaluation.from_dict(report["after"]) if report["after"] else None
    adapter = report["weights"] == "adapter"
    rows = data["rows"]
    trained = f"{run['trained_weights']:,} of {run['weights']:,}"
    argument = 'model="{base}", adapter=' if adapter else "model="
    load = f'ChatMMAgent({argument.format(base=report["base"])}"{report["weights"]}")'
    lines = [
        "---",
        f"base_model: {json.dumps(report['base'])}",
        *(["library_name: peft"] if adapter else []),
        "pipeline_tag: image-text-to-text",
        "tags: [mmagent, lora]" if adapter else "tags: [mmagent]",
        "---",
        "",
        f"# {'Adapter for' if adapter else 'Fine-tuned from'} {report['base']}",
        "",
        "Written by `mmagent finetune chat` from the run itself. Load it with:",
        "",
        "```python",
        "from mmagent import ChatMMAgent",
        "",
        f"chat = {load}",
        "```",
        "",
        "## How good it is",
        "",
    ]
    if after is None:
        lines += ["Not measured: run `mmagent finetune evaluate` on the output folder.", ""]
    else:
        lines += [
            f"On {rows['test']} rows that were held out; no picture and no conversation of them "
            "was trained on. Brackets are 95% intervals.",
            "",
            "| | before | after | |",
            "|---|---|---|---|",
            *(f"| {a} | {b} | {c} | {d} |" for a, b, c, d in table(before, after)),
            "",
        ]
    lines += [
        "## How it was made",
        "",
        f"- Rows: {rows['train']} to train, {rows['validation']} to validate, {rows['test']} to "
        f"test; {data['learned_tokens']:,} of {data['tokens']:,} tokens are learned "
        "(the assistant's turns alone).",
        f"- Weights: {trained} trained"
        + (
            f"; LoRA rank {settings['lora']['r']} on {', '.join(settings['lora']['targets'])}"
            if adapter
            else ", in full"
        )
        + f"; frozen: {', '.join(k for k, v in settings['freeze'].items() if v) or 'nothing'}.",
        f"- {run['steps']} steps of {settings['batch']} × {settings['accumulation']} rows in "
        f"{run['seconds'] / 60:.1f} minutes on {run['device']} in {run['precision']}; highest "
        f"rate {settings['lr']:g}, seed {settings['seed']}"
        + (f"; weights of step {run['best_step']} kept." if run.get("best_step") else "."),
        f"- Versions: {', '.join(f'{k} {v}' for k, v in report['versions'].items())}.",
        "",
    ]
    if data["problems"]:
        found = ", ".join(f"{kind} {count}" for kind, count in data["problems"].items())
        lines += [f"Noted in the data: {found}.", ""]
    if settings["from_memory"]["folder"]:
        redacted = sum(data["redacted"].values())
        lines += [
            "Learned from stored conversations, with the consent of the person who had them; "
            f"{redacted} private details were taken out by patterns, which do not find all.",
            "",
        ]
    if after and after.samples:
        lines += ["## Samples from the test rows", ""]
        was = {(s["row"], s["question"]): s["answer"] for s in before.samples} if before else {}
        for sample in after.samples[:6]:
            lines += [
                f"- **{_line(sample['question']) or '(a picture)'}**"
                + (f" [{sample['pictures']} picture(s)]" if sample["pictures"] else ""),
                f"  - right: {_line(sample['reference'])}",
                f"  - before: {_line(was.get((sample['row'], sample['question']), '–'))}",
                f"  - after: {_line(sample['answer'])}",
            ]
        lines.append("")
    lines += [
        "## Limits",
        "",
        "It was measured on rows of the same kind as it was trained on; on others it is the "
        "base model, changed in ways that were not measured. It may repeat what stands in its "
        "training data.",
        "",
    ]
    return "\n".join(lines)


def _line(text: str) -> str:
    short = " ".join(text.split())
    short = short if len(short) <= 160 else f"{short[:157]}…"
    return short.replace("<", "&lt;").replace("|", "\\|").replace("*", "\\*")


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("mmagent", "transformers", "trl", "peft", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
