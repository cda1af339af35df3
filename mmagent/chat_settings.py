"""What a `ChatMMAgent` is set to: its parameters, and what LangChain asks about them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from langchain_core.language_models import BaseChatModel, LangSmithParams, ModelProfile
from langchain_core.utils import from_env
from pydantic import ConfigDict, Field, field_validator, model_validator

from mmagent.engine.base import Engine, Sampling
from mmagent.engine.profiles import describe, profile_of
from mmagent.errors import UsageError
from mmagent.media import MediaPolicy

__all__ = ["ChatSettings", "profile_from"]

_SAMPLING = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "num_beams",
    "repetition_penalty",
    "seed",
)
_REPORTED = ("logprobs", "top_logprobs")
# Settings of hosted models that LangChain passes to every chat model; they mean nothing here.
_HOSTED = ("api_key", "base_url", "max_retries")


class ChatSettings(BaseChatModel):
    """The parameters; `ChatMMAgent` is what answers with them."""

    model: str = Field(default_factory=from_env("MMAGENT_MODEL", default="tiny"))
    """"tiny" (the bundled model), a folder, a name on the model hub, or "echo" (no model)."""
    adapter: str | None = None
    """Folder of a PEFT adapter; several chat models with different ones share one base."""
    max_tokens: int | None = 512
    """Most tokens of an answer; None lets it fill the context window."""
    temperature: float | None = None
    """0 always takes the likeliest token; None is what the checkpoint recommends."""
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    num_beams: int = 1
    repetition_penalty: float | None = None
    seed: int | None = None
    """Makes sampled answers repeatable."""
    stop: list[str] | None = Field(default=None, alias="stop_sequences")
    """Texts that end an answer; they are not part of it."""
    timeout: float | None = None
    """Most seconds that an answer may take, waiting for its turn included."""
    logprobs: bool | None = None
    """Report how likely the answer's tokens were, in `response_metadata["logprobs"]`."""
    top_logprobs: int | None = None
    """Report as many of the likeliest tokens at each place too; 20 at most."""
    streaming: bool = False
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps, or "balanced" (spread over all GPUs)."""
    dtype: str = "auto"
    quantization: str | None = None
    """"int8" (torchao), "8bit" or "4bit" (bitsandbytes): pip install 'mmagent[quantization]'."""
    compile: bool = False
    """Compile the forward pass with torch.compile; the first answer waits for it."""
    context_length: int | None = None
    """A smaller window than the checkpoint's."""
    cache_bytes: int = 512 * 1024 * 1024
    """Budget for what is remembered of prompts between turns; 0 remembers nothing."""
    max_batch: int = Field(default=16, ge=1)
    """Most answers of the model that are written at once; further requests wait."""
    max_queue: int = Field(default=256, ge=0)
    """Most requests that wait; one more is a `ModelBusyError`."""
    sanitize_control_tokens: bool = True
    """Keep control tokens that are typed in messages from taking effect."""
    media_policy: MediaPolicy = Field(default_factory=MediaPolicy, exclude=True)
    """Where pictures may come from."""
    transcriber: Any = Field(default=None, exclude=True, repr=False)
    """What turns speech into text, for models that take no sound: the folder or name of a speech
    recognition checkpoint (Whisper, Moonshine), or a function from sound to its words."""
    engine: Engine | None = Field(default=None, exclude=True, repr=False)
    """An engine of your own, instead of one that is loaded by `model`."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_hosted(cls, values: Any) -> Any:
        if isinstance(values, dict):
            values = {name: value for name, value in values.items() if name not in _HOSTED}
            if "model_name" in values:
                values.setdefault("model", values.pop("model_name"))
        return values

    @field_validator("model", "adapter", mode="before")
    @classmethod
    def _path_to_str(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        self._sampling(None, {})
        return self

    # ---- what LangChain asks about it ------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "mmagent"

    @property
    def model_name(self) -> str:
        """The model, by the name that hosted models use for it."""
        return self.model

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Everything that an answer depends on: the key of LangChain's answer cache."""
        names = (
            "model",
            "adapter",
            *_SAMPLING,
            *_REPORTED,
            "dtype",
            "quantization",
            "context_length",
        )
        found = {name: getattr(self, name) for name in names}
        found["stop_sequences"] = self.stop  # LangChain puts the call's own under "stop"
        found["sanitize_control_tokens"] = self.sanitize_control_tokens
        if self.transcriber is not None:
            name = getattr(self.transcriber, "__qualname__", None)
            found["transcriber"] = name or str(getattr(self.transcriber, "model", self.transcriber))
        if self.engine is not None:
            found["engine"] = self.engine.name
        return found

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = LangSmithParams(
            ls_provider="mmagent",
            ls_model_type="chat",
            ls_model_name=self._name_of(kwargs),
        )
        temperature = kwargs.get("temperature", self.temperature)
        if temperature is not None:
            params["ls_temperature"] = temperature
        max_tokens = kwargs.get("max_tokens", self.max_tokens)
        if max_tokens is not None:
            params["ls_max_tokens"] = max_tokens
        if ends := stop or self.stop:
            params["ls_stop"] = list(ends)
        return params

    def _resolve_model_profile(self) -> ModelProfile | None:
        if self.engine is not None:
            return profile_from(self.engine, self.max_tokens, hears=self.transcriber is not None)
        return profile_of(
            self.model,
            context_length=self.context_length,
            max_tokens=self.max_tokens,
            hears=self.transcriber is not None,
        )

    def _name_of(self, kwargs: Mapping[str, Any]) -> str:
        return str(kwargs.get("model") or self.model)

    def _sampling(self, stop: list[str] | None, kwargs: dict[str, Any]) -> Sampling:
        """The settings of one call: its own where given, else the model's."""
        known = {*_SAMPLING, *_REPORTED, "stream", "strict"}
        unknown = [name for name in kwargs if name not in known and not name.startswith("ls_")]
        if unknown:
            raise UsageError(
                f"ChatMMAgent knows no parameter {', '.join(sorted(unknown))}; "
                f"a call may set {', '.join((*_SAMPLING, *_REPORTED))}, stop, adapter, model, "
                "tools, tool_choice, parallel_tool_calls and response_format."
            )
        values = {name: kwargs.get(name, getattr(self, name)) for name in _SAMPLING}
        ends = stop if stop is not None else self.stop
        asks, most = (kwargs.get(name, getattr(self, name)) for name in _REPORTED)
        if most is not None and asks is False:
            raise UsageError("top_logprobs needs logprobs=True; leave one of them out.")
        return Sampling(
            **values,
            stop=tuple([ends] if isinstance(ends, str) else ends or ()),
            logprobs=most if most is not None else 0 if asks else None,
            timeout=self.timeout,
        )


def profile_from(engine: Engine, max_tokens: int | None, *, hears: bool = False) -> ModelProfile:
    """The profile of a model that is loaded."""
    return describe(
        sees="image" in engine.modalities,
        window=engine.context_length,
        max_tokens=max_tokens,
        reasons=bool(getattr(engine, "reasons", False)),
        hears=hears or "audio" in engine.modalities,
    )
