"""Hermetic by default: no hub, a temporary home, fixed seeds (sockets: see pyproject.toml)."""

from __future__ import annotations

import io
import os
import random
import re
import subprocess
import sys
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

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# The same examples every time, and no stopwatch: a busy machine is not a failure.
hypothesis.settings.register_profile("house", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("house")


def _real_models() -> Path:
    from mmagent.home import models_folder

    return models_folder()


_MODELS = _real_models()  # before every test gets a home of its own


@pytest.fixture(scope="session")
def bundled_model() -> Path:
    """Folder of the assembled bundled model (`make test` sees to that)."""
    from mmagent.models.pull import assembled_folder

    folder = _MODELS / assembled_folder().name
    if not (folder / "config.json").exists():
        pytest.skip("the bundled model is not assembled here: run `mmagent pull tiny`")
    return folder


@pytest.fixture
def bundled_home(
    bundled_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A home in which the bundled model is assembled."""
    home = tmp_path_factory.mktemp("bundled-home")
    (home / "models").symlink_to(_MODELS, target_is_directory=True)
    monkeypatch.setenv("MMAGENT_HOME", str(home))
    return home


@pytest.fixture(autouse=True)
def _hermetic(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home of its own for every test, and the same random numbers every time."""
    monkeypatch.setenv("MMAGENT_HOME", str(tmp_path_factory.mktemp("home")))
    random.seed(0)


@pytest.fixture
def run_page(_hermetic: None, tmp_path: Path) -> Callable[[str], str]:
    """Run the Python blocks of a page as one program; return what it prints."""
    root = Path(__file__).parents[1]

    def run(page: str) -> str:
        blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        path = os.pathsep.join(str(root / folder) for folder in ("", "memory", "prompts"))
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


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
def tiny_hearing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random-weight Qwen2-Audio: 25 tokens a second, at most two a recording."""
    from tiny_models import build_qwen2_audio

    return build_qwen2_audio(tmp_path_factory.mktemp("models") / "tiny-hearing")


@pytest.fixture(scope="session")
def moonshine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random-weight speech recogniser that knows five words."""
    from tiny_models import build_moonshine

    return build_moonshine(tmp_path_factory.mktemp("models") / "tiny-moonshine")


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


@pytest.fixture(scope="session")
def llava_engine(tiny_llava: Path):
    """One engine on `tiny_llava` for the tests that leave it as it was."""
    from mmagent.engine.transformers_engine import TransformersEngine

    return TransformersEngine(str(tiny_llava))
