"""Changed copies of training rows: other light, another cut, other words of the user.

Every copy has a seed of its own that is drawn once, so a run that is resumed sees the very same
pictures. Nothing is mirrored: "left" and "right", and letters, must stay what they are.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmagent.errors import UsageError
from mmagent.finetune.config import AugmentSettings
from mmagent.finetune.data.rows import Dialogue, Turn

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["augmented", "changed"]

_ASK = (
    "Say the following in other words. Keep its meaning, names and numbers. Answer with the "
    "reworded text alone.\n\n"
)


def augmented(rows: Sequence[Dialogue], settings: AugmentSettings, seed: int) -> list[Dialogue]:
    """The rows and their changed copies.

    Raises:
        UsageError: Paraphrases are wanted and no model is named, or it does not answer.
    """
    draw = random.Random(f"{seed}/augment")
    strength = max(1, round(settings.strength * 100))
    out = list(rows)
    for row in rows:
        for _ in range(settings.copies if row.pictures else 0):
            # The strength travels in the lowest digits of the seed.
            pictures = tuple(
                replace(p, change=draw.randrange(1, 1 << 40) * 128 + strength) for p in row.pictures
            )
            out.append(replace(row, where=f"{row.where} (changed)", pictures=pictures))
    if settings.paraphrases:
        out += _paraphrased(rows, settings)
    return out


def changed(image: Image.Image, change: int) -> Image.Image:
    """The picture with another cut, light, colour and sharpness; the same for the same number."""
    from PIL import ImageEnhance, ImageFilter

    strength = (change % 128) / 100
    draw = random.Random(change)
    width, height = image.size
    keep = 1 - 0.15 * strength * draw.random()
    left = draw.random() * (1 - keep) * width
    top = draw.random() * (1 - keep) * height
    image = image.resize(
        image.size, box=(left, top, left + keep * width, top + keep * height), reducing_gap=2.0
    )
    angle = draw.uniform(-8, 8) * strength
    image = image.rotate(angle, fillcolor=image.getpixel((0, 0)))
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast):
        image = enhance(image).enhance(1 + draw.uniform(-0.3, 0.3) * strength)
    # Colour is often what is asked about: it is only slightly paled.
    image = ImageEnhance.Color(image).enhance(1 - 0.2 * strength * draw.random())
    if draw.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(0.8 * strength))
    return image


def _paraphrased(rows: Sequence[Dialogue], settings: AugmentSettings) -> list[Dialogue]:
    if settings.paraphraser is None:
        raise UsageError(
            "augment.paraphrases needs a model that rewords: name it in augment.paraphraser."
        )
    model = _model(settings.paraphraser)
    out = []
    for row in rows:
        for number in range(settings.paraphrases):
            turns = tuple(_reworded(turn, model, row.where) for turn in row.turns)
            if turns != row.turns:
                where = f"{row.where} (reworded {number + 1})"
                out.append(replace(row, where=where, turns=turns))
    return out


def _reworded(turn: Turn, model: Any, where: str) -> Turn:
    if turn.role != "user":
        return turn  # answers are what is learned: they stay as they were written
    parts: list[str | int] = []
    for part in turn.parts:
        if isinstance(part, str) and part.strip():
            try:
                said = str(model.invoke(_ASK + part).text).strip()
            except Exception as error:  # whatever a model of another house raises
                raise UsageError(
                    f"The model that rewords failed at {where}: {error}. Try again, or set "
                    "augment.paraphrases to 0."
                ) from error
            parts.append(said or part)
        else:
            parts.append(part)
    return replace(turn, parts=tuple(parts))


def _model(name: str) -> Any:
    if ":" in name:
        from langchain.chat_models import init_chat_model

        try:
            return init_chat_model(name)
        except (ImportError, ValueError) as error:
            raise UsageError(f"The model {name} that rewords cannot be used: {error}") from error
    from mmagent.chat_model import ChatMMAgent

    return ChatMMAgent(model=name, temperature=0.7)
