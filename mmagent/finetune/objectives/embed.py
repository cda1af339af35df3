"""`mmagent finetune embed`: pictures and texts in one space (CLIP, SigLIP).

The loss is sentence-transformers' `MultipleNegativesRankingLoss` in both directions: within a
batch each text's own picture must be nearer than all others, and the other way round (van den
Oord et al. 2018; Radford et al., "CLIP", 2021). `TrainedEmbedder` is the result as an embedder of
the memory.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmagent.errors import UsageError
from mmagent.finetune.objectives.models import feeder_of, load_model, small_config
from mmagent.finetune.objectives.rows import PairRow
from mmagent.finetune.objectives.settings import SMALL, EmbedSettings
from mmagent.finetune.objectives.task import Objective, Report, Task, in_batches

__all__ = ["EMBED", "TrainedEmbedder"]

_FACTS = "embedder.json"
_PARTS = {
    "vision": ("vision_model",),
    "projector": ("visual_projection", "text_projection"),
    "language": ("text_model",),
}


class EmbedTask(Task):
    """CLIPModel (or another dual tower) on rows of image, text."""

    parts = _PARTS

    def __init__(self, settings: EmbedSettings, rows: Sequence[PairRow]) -> None:
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
        from transformers import AutoModel, CLIPModel

        self.feeder = feeder_of(settings.base, rows, settings.max_tokens)
        config = small_config(
            "clip", len(self.feeder.tokenizer), settings.dropout, dims=settings.dims
        )
        kind = CLIPModel if settings.base == SMALL else AutoModel
        self.model = load_model(kind, settings.base, config)
        if not hasattr(self.model, "get_image_features"):
            raise UsageError(
                f"The base {settings.base!r} has no towers for texts and pictures; name a CLIP or "
                "SigLIP checkpoint."
            )
        self._loss: Any = MultipleNegativesRankingLoss(
            model=None,  # type: ignore[arg-type]  # vectors are handed in
            scale=1 / settings.temperature,
            directions=("query_to_doc", "doc_to_query"),
            partition_mode="per_direction",
        )

    def collate(self, rows: Sequence[PairRow], *, training: bool) -> dict[str, Any]:
        """Return texts and pixels; the n-th of one belongs to the n-th of the other."""
        return {**self.feeder.text([row.text for row in rows]), **_pixels(self.feeder, rows)}

    def loss(self, model: Any, batch: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Return the contrastive loss."""
        texts, pictures = _vectors(model, batch), _vectors(model, batch, pictures=True)
        return self._loss.compute_loss_from_embeddings([texts, pictures], None), None, None

    def measure(self, model: Any, rows: Sequence[PairRow]) -> Report:
        """Return recall of each text's picture among all, and of each picture's text."""
        import torch

        # A picture with several texts counts once; several pictures may share a text.
        once = list({row.image.sha256: row for row in rows}.values())
        texts, pictures = [], []
        for batch in self.batches(model, once):
            texts.append(_vectors(model, batch))
            pictures.append(_vectors(model, batch, pictures=True))
        scores = torch.cat(texts) @ torch.cat(pictures).T  # [texts, pictures]
        said = [row.text for row in once]
        same = torch.tensor([[one == two for two in said] for one in said])
        figures = {}
        for name, table in (("text to picture", scores), ("picture to text", scores.T)):
            for cut in (1, 5):
                top = table.topk(min(cut, len(once)), dim=1).indices
                figures[f"{name} recall@{cut}"] = float(same.gather(1, top).any(1).float().mean())
        figures["chance recall@5"] = float(min(1.0, 5 / len(once)))
        return Report(figures, f"among {len(once)} pictures held out")

    def save(self, model: Any, folder: Path) -> None:
        """Write a checkpoint that transformers and `TrainedEmbedder` load."""
        super().save(model, folder)
        facts = {"max_tokens": self.feeder.max_tokens}
        (folder / _FACTS).write_text(json.dumps(facts) + "\n", "utf-8")


class TrainedEmbedder:
    """What `finetune embed` wrote, as an embedder of texts and pictures.

    ```python
    store = FaissStore("memory", embeddings=TrainedEmbedder("finetuned/model"))
    ```

    Args:
        folder: The `model` folder of a run, or any CLIP or SigLIP checkpoint.

    Raises:
        ModelNotFoundError: There is no such checkpoint.
    """

    def __init__(self, folder: str | Path) -> None:
        from transformers import AutoModel

        path = Path(folder)
        facts = path / _FACTS
        tokens = json.loads(facts.read_text("utf-8"))["max_tokens"] if facts.exists() else 64
        self._feeder = feeder_of(str(folder), [], tokens)
        self._model = load_model(AutoModel, str(folder), None).eval()
        weights = path / "model.safetensors"
        held = weights.read_bytes() if weights.exists() else str(folder).encode()
        self.fingerprint = f"trained-{hashlib.sha256(held).hexdigest()[:16]}"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a unit vector for each text."""
        import torch

        found: list[list[float]] = []
        for part in in_batches(texts):
            with torch.inference_mode():
                found += _vectors(self._model, self._feeder.text(part)).tolist()
        return found

    def embed_query(self, text: str) -> list[float]:
        """Return the unit vector of a question."""
        return self.embed_documents([text])[0]

    def embed_images(self, images: Sequence[bytes]) -> list[list[float]]:
        """Return a unit vector for each encoded picture."""
        import torch
        from PIL import Image

        found: list[list[float]] = []
        for part in in_batches(images):
            opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in part]
            pixels = self._feeder.images(images=opened, return_tensors="pt")["pixel_values"]
            with torch.inference_mode():
                found += _vectors(self._model, {"pixel_values": pixels}, pictures=True).tolist()
        return found


def _pixels(feeder: Any, rows: Sequence[PairRow]) -> dict[str, Any]:
    return {"pixel_values": feeder.pixels(rows)["pixel_values"]}


def _vectors(model: Any, batch: dict[str, Any], *, pictures: bool = False) -> Any:
    """Return unit vectors, [rows, dims]."""
    import torch

    if pictures:
        found = model.get_image_features(pixel_values=batch["pixel_values"])
    else:
        texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
        found = model.get_text_features(**texts)
    # Newer versions wrap the vectors together with the tower's other outputs.
    vectors = found if isinstance(found, torch.Tensor) else found.pooler_output
    return torch.nn.functional.normalize(vectors, dim=-1)


EMBED = Objective("embed", "text", None, EmbedTask, "CLIPModel", needs_label=False)
