"""What a vision tower made of pictures, kept apart from the conversations they were in.

A conversation that was forgotten, edited at its beginning, or that another one quotes must be
read again, but its pictures need not be looked at again: their features do not depend on what is
around them.

Shapes: a picture's `pooler_output` is (parts, tokens, size) or a list of (tokens, size);
`deepstack_features`, where a model has some, are such lists, one for each layer that gets them.
"""

from __future__ import annotations

import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmagent.media import LoadedImage

__all__ = ["Eye", "FeatureCache"]


@dataclass
class FeatureCache:
    """Features of the pictures used last, within a budget of bytes; safe to share by threads."""

    max_bytes: int
    _kept: OrderedDict[tuple[str, str | None], dict[str, Any]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, key: tuple[str, str | None]) -> dict[str, Any] | None:
        """The features of a picture, if they are known."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: tuple[str, str | None], features: dict[str, Any]) -> None:
        """Keep the features, and let those go that were not used for longest."""
        if _bytes(features) > self.max_bytes:
            return
        with self._lock:
            self._kept[key] = features
            total = sum(_bytes(kept) for kept in self._kept.values())
            while total > self.max_bytes:
                _, dropped = self._kept.popitem(last=False)
                total -= _bytes(dropped)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._kept.clear()

    def state(self) -> dict[str, int]:
        """Pictures and bytes that are kept now."""
        with self._lock:
            return {
                "pictures": len(self._kept),
                "bytes": sum(_bytes(kept) for kept in self._kept.values()),
                "max_bytes": self.max_bytes,
            }


class Eye:
    """Looks at pictures one by one, and at none twice."""

    def __init__(
        self, model: Any, pixels: Callable[[Sequence[LoadedImage]], dict[str, Any]], max_bytes: int
    ) -> None:
        """Make one.

        Args:
            model: A transformers model.
            pixels: What the processor makes of pictures, as tensors on the model's device.
            max_bytes: Budget of what is kept; 0 keeps nothing.
        """
        self._model = model
        self._pixels = pixels
        self.kept = FeatureCache(max_bytes)
        # Whether the model takes features in the place of pixels.
        supports = getattr(model, "_supports_mm_encoder_outputs", None)
        look = getattr(getattr(model, "base_model", None), "get_image_features", None)
        self._look = look if supports is not None and supports() else None
        self.looked = 0  # how often the tower ran

    @property
    def separable(self) -> bool:
        """Whether pictures can be looked at apart from the prompt they are in."""
        return self._look is not None

    def features(self, images: Sequence[LoadedImage], adapter: str | None) -> Any:
        """Features of these pictures in order, as the model takes them for `mm_encoder_outputs`.

        Args:
            images: The pictures.
            adapter: The adapter that is active, if it changes how pictures are seen.
        """
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        found = [self._one(image, adapter) for image in images]
        output = BaseModelOutputWithPooling(
            pooler_output=_joined([features["pooler_output"] for features in found])
        )
        if "deepstack_features" in found[0]:
            layers = zip(*(features["deepstack_features"] for features in found), strict=True)
            # Not a field of the class, but all that models read is the attribute.
            object.__setattr__(output, "deepstack_features", [_joined(list(x)) for x in layers])
        return {"image": output}

    def _one(self, image: LoadedImage, adapter: str | None) -> dict[str, Any]:
        key = (image.sha256, adapter)
        features = self.kept.get(key)
        if features is None:
            assert self._look is not None
            made = self._pixels([image])
            takes = inspect.signature(self._look).parameters
            output = self._look(
                **{name: value for name, value in made.items() if name in takes}, return_dict=True
            )
            self.looked += 1
            features = {"pooler_output": output.pooler_output}
            if getattr(output, "deepstack_features", None) is not None:
                features["deepstack_features"] = output.deepstack_features
            self.kept.put(key, features)
        return features


def _joined(parts: list[Any]) -> Any:
    """Features of several pictures as one, in the container that the model uses."""
    import torch

    if isinstance(parts[0], torch.Tensor):
        return parts[0] if len(parts) == 1 else torch.cat(parts)
    return [tensor for part in parts for tensor in part]


def _bytes(value: Any) -> int:
    if isinstance(value, dict):
        return sum(_bytes(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(_bytes(item) for item in value)
    return int(getattr(value, "nbytes", 0))
