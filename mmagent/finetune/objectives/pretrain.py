"""`mmagent finetune pretrain`: three objectives at once, small (FLAVA).

Masked language modelling, masked region modelling and image-text matching on `FlavaForPreTraining`
(Singh et al., CVPR 2022). Instead of a discrete autoencoder's codes a region's class is its mean
colour in 4 x 4 x 4 bins, so that nothing else has to be loaded. What comes out is a base for
`finetune classify --fusion attention`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from mmagent.finetune.objectives.models import feeder_of, load_model, small_config
from mmagent.finetune.objectives.rows import PairRow
from mmagent.finetune.objectives.settings import PretrainSettings
from mmagent.finetune.objectives.task import Objective, Report, Task

__all__ = ["PRETRAIN"]

_BINS = 4
_IGNORED = -100
_PARTS = {
    "vision": ("flava.image_model",),
    "projector": ("flava.image_to_mm_projection", "flava.text_to_mm_projection"),
    "language": ("flava.text_model",),
}


class PretrainTask(Task):
    """FlavaForPreTraining on rows of image, text."""

    parts = _PARTS

    def __init__(self, settings: PretrainSettings, rows: Sequence[PairRow]) -> None:
        from transformers import FlavaForPreTraining

        self.settings = settings
        self.feeder = feeder_of(settings.base, rows, settings.max_tokens)
        config = small_config(
            "flava", len(self.feeder.tokenizer), settings.dropout, regions=_BINS**3
        )
        self.model = load_model(FlavaForPreTraining, settings.base, config)
        self._patch = self.model.config.image_config.patch_size
        self._rng = random.Random(settings.seed)

    def collate(self, rows: Sequence[PairRow], *, training: bool) -> dict[str, Any]:
        """Return masked texts and pictures, and what was hidden.

        Shapes: `input_ids_masked`, `mlm_labels` [rows, tokens]; `bool_masked_pos`, `mim_labels`
        [rows, patches]; `itm_labels` [rows], 1 where the text is the picture's own.
        """
        import torch

        rng = self._rng if training else random.Random(0)
        texts, fits = self._matched([row.text for row in rows], rng)
        words = self.feeder.text(texts)
        pixels = self.feeder.pixels(rows)["pixel_values"]  # [rows, 3, height, width]
        masked, hidden = self._mask_words(words["input_ids"], words["attention_mask"], rng)
        regions = self._regions(pixels)  # [rows, patches]
        chance = torch.tensor(
            [[rng.random() for _ in range(regions.shape[1])] for _ in range(len(rows))]
        )
        return {
            "input_ids": words["input_ids"],
            "input_ids_masked": masked,
            "attention_mask": words["attention_mask"],
            "pixel_values": pixels,
            "bool_masked_pos": chance < self.settings.masked_patches,
            "mlm_labels": hidden,
            "mim_labels": regions,
            "itm_labels": torch.tensor([int(fit) for fit in fits]),
        }

    def loss(self, model: Any, batch: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Return the sum of the losses."""
        found = self._forward(model, batch)
        return found.loss, None, None

    def measure(self, model: Any, rows: Sequence[PairRow]) -> Report:
        """Return how much of what was hidden is told right."""
        right = {"masked words": 0, "masked regions": 0, "image-text matching": 0}
        asked = dict.fromkeys(right, 0)
        for batch in self.batches(model, rows):
            found = self._forward(model, batch)
            own = batch["itm_labels"] == 1
            own = own | ~own.any()
            words = batch["mlm_labels"][own]
            regions = batch["mim_labels"].masked_fill(~batch["bool_masked_pos"], _IGNORED)[own]
            for name, logits, truth in (
                ("masked words", found.mmm_text_logits, words[words != _IGNORED]),
                ("masked regions", found.mmm_image_logits, regions[regions != _IGNORED]),
                ("image-text matching", found.itm_logits, batch["itm_labels"]),
            ):
                right[name] += int((logits.argmax(-1) == truth).sum())
                asked[name] += int(truth.numel())
        return Report({name: right[name] / max(1, asked[name]) for name in right})

    def _forward(self, model: Any, batch: dict[str, Any]) -> Any:
        # The class writes into the labels of regions.
        return model(
            **{**batch, "mim_labels": batch["mim_labels"].clone()},
            skip_unmasked_multimodal_encoder=True,
            return_loss=True,
        )

    def _matched(self, texts: list[str], rng: random.Random) -> tuple[list[str], list[bool]]:
        """Give some rows the text of another."""
        found, fits = [], []
        for text in texts:
            others = [other for other in texts if other != text]
            swap = bool(others) and rng.random() < self.settings.mismatched
            found.append(rng.choice(others) if swap else text)
            fits.append(not swap)
        return found, fits

    def _mask_words(self, ids: Any, mask: Any, rng: random.Random) -> tuple[Any, Any]:
        """Hide words behind [MASK]; return (masked ids, labels), both [rows, tokens]."""
        masked, labels = ids.clone(), ids.new_full(ids.shape, _IGNORED)
        special = set(self.feeder.tokenizer.all_special_ids)
        for row in range(ids.shape[0]):
            places = [
                place
                for place in range(ids.shape[1])
                if mask[row, place] and int(ids[row, place]) not in special
            ]
            chosen = [place for place in places if rng.random() < self.settings.masked_words]
            if places and not chosen:
                chosen = [rng.choice(places)]
            for place in chosen:
                labels[row, place] = ids[row, place]
                masked[row, place] = self.feeder.tokenizer.mask_token_id
        return masked, labels

    def _regions(self, pixels: Any) -> Any:
        """Return the class of each patch: its mean colour in bins, [rows, patches]."""
        import torch

        images = self.feeder.images
        mean, std = (
            torch.tensor(v).view(1, 3, 1, 1) for v in (images.image_mean, images.image_std)
        )
        colours = torch.nn.functional.avg_pool2d(pixels * std + mean, self._patch)
        bins = (colours.clamp(0, 0.9999) * _BINS).long()  # [rows, 3, down, across]
        return (bins[:, 0] * _BINS**2 + bins[:, 1] * _BINS + bins[:, 2]).flatten(1)


PRETRAIN = Objective(
    "pretrain", "text", None, PretrainTask, "FlavaForPreTraining", needs_label=False
)
