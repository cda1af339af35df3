"""The default embedder: texts and pictures in one space of 384 dimensions.

Texts go through all-MiniLM-L6-v2 (mean over the tokens, then length 1; the method is that of
Reimers and Gurevych, 2019). Pictures go through the eye of the bundled model and a linear head
that was trained to put them where MiniLM puts their descriptions. Both lie in the folder that
`mmagent pull tiny` makes; the first use fetches it.

`MMAGENT_EMBEDDER=hash` chooses an embedder without a model, for machines without a network and
for tests.
"""

from __future__ import annotations

import hashlib
import os
import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.embeddings import Embeddings

from mmagent.errors import ModelNotFoundError, UsageError
from mmagent.media import load_image
from mmagent.models.quiet import quiet_transformers
from mmagent.models.sources import TEXT_EMBEDDER

if TYPE_CHECKING:
    import torch

    from mmagent_memory import HashEmbedder

__all__ = ["BundledEmbedder", "default_embedder"]

_HEAD = "embedding_head.safetensors"
_TEXT = "text-embedder"
_MAX_TOKENS = 256  # what the text model was trained with; more makes its vectors worse
_BATCH = 32
_PICTURES = 16
_SHIPPED = Path(__file__).parent / "models" / "tiny"


class BundledEmbedder(Embeddings):
    """Embeds texts and pictures; loads nothing before its first use. Safe to share by threads.

    Attributes:
        dims: Numbers in a vector.
    """

    dims = 384

    def __init__(self, folder: str | Path | None = None, *, progress: bool = True) -> None:
        """Choose the model folder.

        Args:
            folder: An assembled bundled model; None for the one of this package, which is
                fetched at the first use if it is not there.
            progress: Whether to show the progress of a download.
        """
        self._own_folder = None if folder is None else Path(folder)
        self._progress = progress
        self._lock = threading.RLock()

    # ---- what stores ask -------------------------------------------------------------------

    @cached_property
    def fingerprint(self) -> str:
        """Names both models: vectors of different fingerprints must not be compared."""
        if self._own_folder is None:
            files = [_SHIPPED / "vision.safetensors", _SHIPPED / _HEAD]
        else:
            files = [self._own_folder / "model.safetensors", self._own_folder / _HEAD]
        eye = hashlib.sha256()
        for path in files:
            if path.is_file():
                with path.open("rb") as file:
                    eye.update(hashlib.file_digest(file, "sha256").digest())
        text = TEXT_EMBEDDER.members[0].sha256[:12]
        return f"all-MiniLM-L6-v2@{text}+tiny-eye@{eye.hexdigest()[:12]}"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector of length 1 for each text.

        Raises:
            DownloadError: The model is not there and cannot be fetched.
        """
        import torch

        # Texts of like length together: padding is work for nothing.
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        vectors: list[list[float]] = [[]] * len(texts)
        for start in range(0, len(texts), _BATCH):
            places = order[start : start + _BATCH]
            with self._lock, torch.inference_mode():  # the tokenizer's padding is shared state
                rows = self._embed([_encodable(texts[at]) for at in places])
            for at, row in zip(places, rows.tolist(), strict=True):
                vectors[at] = row
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question."""
        return self.embed_documents([text])[0]

    def embed_images(self, images: list[bytes]) -> list[list[float]]:
        """Return one vector of length 1 for each encoded picture.

        Raises:
            MediaError: Something is not a picture that we can read.
            ModelNotFoundError: The model folder has no head for pictures.
        """
        import torch

        vectors: list[list[float]] = []
        for start in range(0, len(images), _PICTURES):
            pictures = [load_image(data).pil() for data in images[start : start + _PICTURES]]
            with self._lock, torch.inference_mode():
                vectors += self._see(pictures).tolist()
        return vectors

    # ---- texts -----------------------------------------------------------------------------

    def _embed(self, texts: list[str]) -> torch.Tensor:
        import torch

        tokenizer, model = self._text_model
        batch = tokenizer(
            texts, padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt"
        )
        states = model(**batch).last_hidden_state  # (texts, tokens, 384)
        mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)  # (texts, tokens, 1)
        mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)  # (texts, 384)
        return torch.nn.functional.normalize(mean, dim=-1)

    @cached_property
    def _text_model(self) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        folder = self._folder / _TEXT
        if not (folder / "config.json").is_file():
            raise ModelNotFoundError(
                f"The model folder {self._folder} has no {_TEXT}: make it anew with "
                "`mmagent pull tiny --force`."
            )
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, add_pooling_layer=False
            )
        return tokenizer, model.eval()

    # ---- pictures --------------------------------------------------------------------------

    def _see(self, pictures: list[Any]) -> torch.Tensor:
        import torch

        prepare, eye, weight, bias = self._eye
        pixels = prepare(pictures, return_tensors="pt")["pixel_values"]
        states = eye(pixels).last_hidden_state  # (pictures, channels, height, width)
        mean = states.flatten(2).mean(2)  # (pictures, channels)
        return torch.nn.functional.normalize(mean @ weight.T + bias, dim=-1)  # (pictures, 384)

    @cached_property
    def _eye(self) -> tuple[Any, Any, torch.Tensor, torch.Tensor]:
        """How pictures are prepared, the vision tower alone, and the head."""
        from safetensors import safe_open
        from safetensors.torch import load_file
        from transformers import AutoConfig, AutoModel, AutoProcessor

        processors: Any = AutoProcessor  # without annotations, like the next
        models: Any = AutoModel
        folder = self._folder
        if not (folder / _HEAD).is_file():
            raise ModelNotFoundError(
                f"The model folder {folder} has no {_HEAD}, so pictures cannot be embedded: "
                "make it anew with `mmagent pull tiny --force`, or pass another embedder."
            )
        head = load_file(folder / _HEAD)
        with quiet_transformers():
            processor = processors.from_pretrained(folder, local_files_only=True)
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            eye = models.from_config(config.vision_config)
        state: dict[str, torch.Tensor] = {}
        with safe_open(folder / "model.safetensors", framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no mapping
                _, found, rest = name.partition("vision_tower.")
                if found:
                    state[rest] = weights.get_tensor(name).float()
        missing = eye.load_state_dict(state, strict=False).missing_keys
        if any(not name.endswith("num_batches_tracked") for name in missing):
            raise ModelNotFoundError(
                f"The model folder {folder} lacks weights of its vision tower: make it anew "
                "with `mmagent pull tiny --force`."
            )
        return processor.image_processor, eye.eval(), head["weight"].float(), head["bias"].float()

    # ---- where they are --------------------------------------------------------------------

    @cached_property
    def _folder(self) -> Path:
        if self._own_folder is not None:
            return self._own_folder
        from mmagent.models.pull import pull

        return pull("tiny", progress=self._progress)


def _encodable(text: str) -> str:
    """The text without lone surrogates, which the tokenizer refuses."""
    return text.encode("utf-8", "replace").decode("utf-8")


def default_embedder() -> BundledEmbedder | HashEmbedder:
    """The embedder that stores use when they are given none.

    Raises:
        UsageError: MMAGENT_EMBEDDER names none that we know.
    """
    wanted = os.environ.get("MMAGENT_EMBEDDER", "bundled")
    if wanted == "bundled":
        return BundledEmbedder()
    if wanted == "hash":
        from mmagent_memory import HashEmbedder

        return HashEmbedder()
    raise UsageError(f"MMAGENT_EMBEDDER is {wanted!r}; it may be bundled or hash.")
