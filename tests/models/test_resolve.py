"""From names to models."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmagent.errors import ModelNotFoundError
from mmagent.models import resolve_model


def test_a_folder_with_a_model_is_itself(tiny_llava: Path) -> None:
    assert resolve_model(str(tiny_llava)) == str(tiny_llava)
    assert resolve_model(tiny_llava) == str(tiny_llava)


def test_echo_is_itself() -> None:
    assert resolve_model("echo") == "echo"


def test_own_folder_called_tiny_wins(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").symlink_to(tiny_llava)
    monkeypatch.chdir(tmp_path)
    assert resolve_model("tiny") == "tiny"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("/no/such/folder", "is not there"),
        ("~/no-such-model", "is not there"),
        ("tinny", "There is no model 'tinny': give `tiny`"),
        ("a/b/c", "There is no model"),
        ("org/model", "HF_HUB_OFFLINE"),
        ("", "There is no model"),
    ],
)
def test_what_is_not_there(name: str, says: str) -> None:
    with pytest.raises(ModelNotFoundError, match=says):
        resolve_model(name)


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        resolve_model(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="It holds an adapter"):
        resolve_model(tmp_path)
    with pytest.raises(ModelNotFoundError, match="a file, not a folder"):
        resolve_model(tmp_path / "adapter_config.json")
