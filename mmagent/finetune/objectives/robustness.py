"""How far a trained classifier holds when its pictures are changed: attacks and corruptions.

FGSM takes one step along the sign of the loss's gradient (Goodfellow, Shlens and Szegedy 2015);
PGD takes many small ones from a random start and stays within the same distance (Madry et al.
2018). Distances are the largest change of any channel of any pixel, in 255ths. Corruptions are
those of Hendrycks and Dietterich (2019) that need no downloads, at severities 1 to 5.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmagent.errors import UsageError
from mmagent.finetune.curves import figure
from mmagent.finetune.objectives.rows import PairRow

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["CORRUPTIONS", "Subject", "attack", "draw", "load_subject", "measure"]

_BATCH = 64
_FITS = ("does not fit", "fits")


@dataclass(frozen=True)
class Subject:
    """A trained model that says one of a few things about a picture and a text.

    Attributes:
        model: The module, in evaluation mode.
        feeder: Its tokenizer and image processor.
        labels: What it can say.
        logits: From (model, inputs) to [rows, labels].
        words: Key of the text in a row.
        label: Key of the right label.
    """

    model: Any
    feeder: Any
    labels: list[str]
    logits: Callable[[Any, dict[str, Any]], Any]
    words: str
    label: str


def load_subject(folder: Path) -> Subject:
    """Load the result of `finetune vqa`, `match` or `classify`.

    Raises:
        UsageError: The folder holds none of them.
    """
    import json

    from mmagent.finetune.objectives.classify import load_classifier
    from mmagent.finetune.objectives.models import feeder_of, load_model

    folder = folder / "model" if (folder / "model").is_dir() else folder
    if (folder / "classifier.json").exists():
        model, feeder, _, labels = load_classifier(folder)
        return Subject(model, feeder, labels, lambda m, x: m(**x), "text", "label")
    try:
        kinds = json.loads((folder / "config.json").read_text("utf-8")).get("architectures") or []
    except (OSError, ValueError):
        kinds = []
    import transformers

    if "ViltForQuestionAnswering" in kinds:
        model = load_model(transformers.ViltForQuestionAnswering, str(folder), None).eval()
        labels = [model.config.id2label[number] for number in sorted(model.config.id2label)]
        feeder = feeder_of(str(folder), [], 40)
        return Subject(model, feeder, labels, lambda m, x: m(**x).logits, "question", "answer")
    if "BlipForImageTextRetrieval" in kinds:
        model = load_model(transformers.BlipForImageTextRetrieval, str(folder), None).eval()
        feeder = feeder_of(str(folder), [], 40)
        return Subject(model, feeder, list(_FITS), lambda m, x: m(**x).itm_score, "text", "label")
    raise UsageError(
        f"{folder} holds no classifier; name the output of `mmagent finetune vqa`, `match` or "
        "`classify`."
    )


def measure(
    subject: Subject,
    rows: Sequence[PairRow],
    *,
    epsilons: Sequence[float] = (1, 2, 4, 8),
    steps: int = 10,
    severities: Sequence[int] = (1, 3, 5),
    seed: int = 0,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Return accuracy on clean, attacked and corrupted pictures.

    Args:
        subject: The model.
        rows: What it is asked, with the right labels.
        epsilons: Largest changes of a channel, in 255ths.
        steps: Of PGD.
        severities: Of the corruptions, 1 to 5.
        seed: Of PGD's starts and of noise.
        note: Is told what is being done.

    Raises:
        UsageError: None of the rows has a label that the model knows.
    """
    rows = [row for row in (_labelled(row, subject) for row in rows) if row.label is not None]
    if not rows:
        raise UsageError("None of the rows has a label that this model can say.")
    found: dict[str, Any] = {"rows": len(rows), "clean": _accuracy(subject, rows)}
    found["fgsm"], found["pgd"] = {}, {}
    for epsilon in epsilons:
        note(f"attacks at {epsilon:g}/255")
        found["fgsm"][f"{epsilon:g}"] = _attacked(subject, rows, epsilon, 1, seed)
        found["pgd"][f"{epsilon:g}"] = _attacked(subject, rows, epsilon, steps, seed)
    found["corruptions"] = {}
    for name, corrupt in CORRUPTIONS.items():
        note(name)
        found["corruptions"][name] = {
            str(severity): _corrupted(subject, rows, corrupt, severity, seed)
            for severity in severities
        }
    return found


def attack(
    subject: Subject, rows: Sequence[PairRow], epsilon: float, steps: int, seed: int = 0
) -> tuple[Any, Any]:
    """Return pictures changed to mislead, and as they were; both [rows, 3, height, width], 0–1.

    Args:
        subject: The model.
        rows: With labels that it knows.
        epsilon: Largest change of a channel, in 255ths.
        steps: 1 is FGSM; more are PGD from a random start.
        seed: Of the start.
    """
    import torch

    inputs, truth = _inputs(subject, rows)
    mean, std = _scale(subject)
    clean = (inputs["pixel_values"] * std + mean).clamp(0, 1)
    reach = epsilon / 255
    changed = clean.clone()
    if steps > 1:
        draw_from = torch.Generator().manual_seed(seed)
        changed = changed + (torch.rand(clean.shape, generator=draw_from) * 2 - 1) * reach
        changed = changed.clamp(0, 1)
    stride = reach if steps == 1 else 2.5 * reach / steps
    for _ in range(steps):
        changed = changed.detach().requires_grad_()
        logits = subject.logits(subject.model, {**inputs, "pixel_values": (changed - mean) / std})
        loss = torch.nn.functional.cross_entropy(logits, truth)
        (gradient,) = torch.autograd.grad(loss, changed)
        moved = changed.detach() + stride * gradient.sign()
        changed = torch.minimum(torch.maximum(moved, clean - reach), clean + reach).clamp(0, 1)
    return changed.detach(), clean


def draw(found: dict[str, Any], file: Path) -> None:
    """Draw accuracy by the size of an attack, with the corruptions' means."""
    with figure(file) as axes:
        for name, colour in (("fgsm", "#d9822b"), ("pgd", "#b3352f")):
            at = [0.0, *map(float, found[name])]
            axes.plot(at, [found["clean"], *found[name].values()], "o-", color=colour, label=name)
        for corruption, by in found["corruptions"].items():
            mean = sum(by.values()) / max(1, len(by))
            axes.axhline(mean, color="#8a8f98", linewidth=0.7, linestyle=":")
            axes.annotate(corruption, (axes.get_xlim()[1], mean), fontsize=7, color="#8a8f98")
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("largest change of a channel (255ths); dotted: mean of a corruption")
        axes.set_ylabel(f"accuracy on {found['rows']} rows")
        axes.legend(frameon=False)


def _labelled(row: PairRow, subject: Subject) -> PairRow:
    """The row with its label as the model says it; None if it never does."""
    label = row.label
    if tuple(subject.labels) == _FITS and label is not None:
        label = _FITS[label.lower() in ("true", "1", "yes")]
    return replace(row, label=label if label in subject.labels else None)


def _inputs(subject: Subject, rows: Sequence[PairRow]) -> tuple[dict[str, Any], Any]:
    import torch

    inputs = {**subject.feeder.text([row.text for row in rows]), **subject.feeder.pixels(rows)}
    if type(subject.model).__name__ != "ViltForQuestionAnswering":
        inputs.pop("pixel_mask", None)
    return inputs, torch.tensor([subject.labels.index(row.label or "") for row in rows])


def _scale(subject: Subject) -> tuple[Any, Any]:
    import torch

    images = subject.feeder.images
    mean, std = getattr(images, "image_mean", None), getattr(images, "image_std", None)
    if not getattr(images, "do_normalize", True) or mean is None:
        mean, std = [0.0] * 3, [1.0] * 3
    return torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)


def _right(subject: Subject, inputs: dict[str, Any], truth: Any) -> int:
    import torch

    with torch.inference_mode():
        return int((subject.logits(subject.model, inputs).argmax(-1) == truth).sum())


def _accuracy(subject: Subject, rows: Sequence[PairRow]) -> float:
    right = 0
    for start in range(0, len(rows), _BATCH):
        right += _right(subject, *_inputs(subject, rows[start : start + _BATCH]))
    return right / len(rows)


def _attacked(
    subject: Subject, rows: Sequence[PairRow], epsilon: float, steps: int, seed: int
) -> float:
    right = 0
    mean, std = _scale(subject)
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        changed, _ = attack(subject, part, epsilon, steps, seed + start)
        inputs, truth = _inputs(subject, part)
        right += _right(subject, {**inputs, "pixel_values": (changed - mean) / std}, truth)
    return right / len(rows)


def _corrupted(
    subject: Subject,
    rows: Sequence[PairRow],
    corrupt: Callable[[Image.Image, int, np.random.Generator], Image.Image],
    severity: int,
    seed: int,
) -> float:
    from mmagent.media import load_image

    rng = np.random.default_rng(seed)
    changed = []
    for row in rows:
        target = io.BytesIO()
        corrupt(row.image.pil(), severity, rng).save(target, "PNG", compress_level=1)
        changed.append(replace(row, image=load_image(target.getvalue())))
    return _accuracy(subject, changed)


def _noise(picture: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    from PIL import Image

    pixels = np.asarray(picture, dtype=np.float32)
    spread = (8, 14, 22, 34, 50)[severity - 1]
    noisy = pixels + rng.normal(0.0, spread, pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _blur(picture: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    from PIL import ImageFilter

    share = (0.006, 0.01, 0.016, 0.024, 0.034)[severity - 1]
    return picture.filter(ImageFilter.GaussianBlur(share * max(picture.size)))


def _jpeg(picture: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    from PIL import Image

    target = io.BytesIO()
    picture.save(target, "JPEG", quality=(40, 25, 15, 10, 5)[severity - 1])
    return Image.open(target).convert("RGB")


def _brightness(picture: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    from PIL import ImageEnhance

    return ImageEnhance.Brightness(picture).enhance((0.8, 0.65, 0.5, 0.38, 0.28)[severity - 1])


def _contrast(picture: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    from PIL import ImageEnhance

    return ImageEnhance.Contrast(picture).enhance((0.7, 0.55, 0.4, 0.27, 0.17)[severity - 1])


def _pixelate(picture: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    from PIL import Image

    share = (0.6, 0.45, 0.33, 0.25, 0.18)[severity - 1]
    small = (max(1, int(picture.width * share)), max(1, int(picture.height * share)))
    return picture.resize(small, Image.Resampling.BOX).resize(
        picture.size, Image.Resampling.NEAREST
    )


CORRUPTIONS: dict[str, Callable[..., Image.Image]] = {
    "noise": _noise,
    "blur": _blur,
    "jpeg": _jpeg,
    "brightness": _brightness,
    "contrast": _contrast,
    "pixelate": _pixelate,
}
"""Name of each corruption: from (picture, severity 1–5, generator) to a picture."""
