"""Hermetic by default: no hub, a temporary home, fixed seeds (sockets: see pyproject.toml)."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable
from pathlib import Path

# Before anything imports transformers or huggingface_hub, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
for _name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2", "LANGSMITH_API_KEY"):
    os.environ.pop(_name, None)

import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def _hermetic(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of its own for every test, and the same random numbers every time."""
    monkeypatch.setenv("MMAGENT_HOME", str(tmp_path_factory.mktemp("home")))
    random.seed(0)


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random-weight LLaVA: 16 image tokens a picture, 2,048 tokens of context."""
    from tiny_models import build_llava

    return build_llava(tmp_path_factory.mktemp("models") / "tiny-llava")


@pytest.fixture(scope="session")
def tiny_fastvlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random-weight model of the bundled model's architecture (25 image tokens)."""
    from tiny_models import build_fastvlm

    return build_fastvlm(tmp_path_factory.mktemp("models") / "tiny-fastvlm")


@pytest.fixture(scope="session")
def tiny_text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random-weight causal language model without pictures."""
    from tiny_models import build_text_only

    return build_text_only(tmp_path_factory.mktemp("models") / "tiny-text")


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """Make an encoded picture: `picture("red", size=(64, 48), format="PNG")`."""
    from PIL import Image

    def make(
        color: str = "red", *, size: tuple[int, int] = (64, 48), format: str = "PNG", **save: object
    ) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", size, color).save(buffer, format=format, **save)
        return buffer.getvalue()

    return make
