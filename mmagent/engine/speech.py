"""Speech to text by a recognition checkpoint: for models that take no sound themselves."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmagent.attachments import SAMPLE_RATE
from mmagent.errors import GenerationError, ModelNotFoundError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Transcriber"]

_CHUNK_SECONDS = 30


class Transcriber:
    """Turns mono sound at 16 kHz into its words; loaded when first called, shared by threads.

    Args:
        model: A folder or a name on the hub: Whisper, Moonshine or any other that transformers'
            "automatic-speech-recognition" pipeline takes.
        language: What is spoken, for checkpoints of many languages ("en", "zh"); None lets them
            tell by themselves.
        device: As torch names it.
    """

    def __init__(
        self, model: str | Path, *, language: str | None = None, device: str = "cpu"
    ) -> None:
        self.model = str(model)
        self.language = language
        self.device = device
        self._pipeline: Any = None
        self._lock = threading.Lock()

    def __call__(self, sound: NDArray[np.float32]) -> str:
        """Return the words of a recording, [samples] at 16 kHz.

        Raises:
            ModelNotFoundError: There is no such checkpoint.
            GenerationError: It failed.
        """
        with self._lock:
            recognise = self._load()
            options: dict[str, Any] = {}
            if recognise.model.config.model_type == "whisper":
                # The others take a recording whole.
                options["chunk_length_s"] = _CHUNK_SECONDS
                if self.language is not None:
                    options["generate_kwargs"] = {"language": self.language, "task": "transcribe"}
            try:
                answer = recognise({"raw": sound, "sampling_rate": SAMPLE_RATE}, **options)
            except Exception as error:
                raise GenerationError(
                    f"The speech recognition model {self.model!r} failed: {error}"
                ) from error
        return str(answer["text"])

    def _load(self) -> Any:
        if self._pipeline is None:
            from transformers import pipeline

            from mmagent.models.quiet import quiet_transformers

            try:
                with quiet_transformers():
                    self._pipeline = pipeline(
                        "automatic-speech-recognition", model=self.model, device=self.device
                    )
            except (OSError, ValueError, KeyError) as error:
                raise ModelNotFoundError(
                    f"The speech recognition model {self.model!r} could not be loaded; name a "
                    f"folder or a model of the hub, such as openai/whisper-tiny ({error})"
                ) from error
        return self._pipeline
