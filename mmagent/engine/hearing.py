"""What a checkpoint's processor makes of sound: tensors for the model, and placeholders.

Shapes: sound is [samples]; the tensors are whatever the processor makes of several recordings,
padded to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmagent.errors import GenerationError, MediaError
from mmagent.sounds import SAMPLE_RATE, LoadedSound

__all__ = ["Ear", "hearing_part"]

_WINDOW = 25.0
"""Seconds that every processor hears whole; recordings are cut at 30 by those that cut."""


def hearing_part(processor: Any) -> Any:
    """The part of a processor that reads sound, or None."""
    part = getattr(processor, "audio_processor", None)
    return part if part is not None else getattr(processor, "feature_extractor", None)


class Ear:
    """Reads sound by the processor of a checkpoint that takes some."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._part = hearing_part(processor)
        self.rate = int(getattr(self._part, "sampling_rate", None) or SAMPLE_RATE)

    @property
    def marks(self) -> list[str]:
        """Tokens that may stand for a recording in the text of a prompt."""
        names = ("audio_token", "boa_token", "audio_bos_token", "audio_eos_token", "eoa_token")
        marks = [getattr(self._processor, name, None) for name in names]
        return [mark for mark in marks if isinstance(mark, str) and mark]

    def read(self, sounds: Sequence[LoadedSound]) -> tuple[dict[str, Any], list[str]]:
        """Tensors of these recordings together, and the text that stands for each of them.

        Raises:
            GenerationError: The processor fails.
        """
        return self._read([sound.samples(self.rate) for sound in sounds])

    def _read(self, samples: list[Any]) -> tuple[dict[str, Any], list[str]]:
        processor = self._processor
        try:
            options = processor._merge_kwargs(
                tokenizer_init_kwargs=processor.tokenizer.init_kwargs,
                return_tensors="pt",
                sampling_rate=self.rate,
            )["audio_kwargs"]
            made, texts = processor._process_audio(samples, **options)
        except Exception as error:
            raise GenerationError(
                f"The model's processor cannot read the sound ({type(error).__name__}: {error})."
            ) from error
        unused = set(processor.unused_input_names)
        return {name: made[name] for name in made if name not in unused}, [str(t) for t in texts]

    def text(self, sound: LoadedSound) -> str:
        """What the processor writes in the place of a recording.

        Raises:
            MediaError: It would hear only the beginning, and say nothing about that.
            GenerationError: The processor fails.
        """
        samples = sound.samples(self.rate)
        made, texts = self._read([samples])
        limit = self._limit()
        if sound.seconds > (limit or _WINDOW):
            other, other_texts = self._read([_ending_otherwise(samples, self.rate)])
            if texts == other_texts and _same(made, other):
                heard = f"its first {limit:g} seconds" if limit else "its beginning"
                raise MediaError(
                    f"The recording is {sound.seconds:.0f} seconds long and the model would hear "
                    f"{heard} alone; cut it into shorter ones and send each in a block of its own."
                )
        return texts[0]

    def _limit(self) -> float | None:
        samples = getattr(self._part, "n_samples", None)
        return samples / self.rate if isinstance(samples, int) else None


def _ending_otherwise(samples: Any, rate: int) -> Any:
    """The sound with noise in the place of its last 0.2 seconds."""
    import numpy as np

    changed = samples.copy()
    end = changed[-rate // 5 :]
    end[:] = np.random.default_rng(0).uniform(-0.5, 0.5, end.size)
    return changed


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    import torch

    if one.keys() != other.keys():
        return False
    return all(
        bool(torch.equal(value, other[name]))
        for name, value in one.items()
        if isinstance(value, torch.Tensor) and isinstance(other[name], torch.Tensor)
    )
