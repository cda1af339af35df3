"""Where the user's folders are, and what is said when they cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmagent import home
from mmagent.errors import UsageError


def test_one_variable_moves_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MMAGENT_HOME", str(tmp_path / "家 home"))
    assert home.models_folder() == tmp_path / "家 home" / "models"
    assert home.default_memory_folder() == tmp_path / "家 home" / "memory"


def test_xdg_and_its_fallbacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MMAGENT_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    assert home.cache_folder() == tmp_path / "c" / "mmagent"
    assert home.data_folder() == tmp_path / ".local" / "share" / "mmagent"


def test_writable_makes_the_folder_and_leaves_nothing_in_it(tmp_path: Path) -> None:
    folder = home.writable(tmp_path / "a" / "b")
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"file/x cannot be written .* set MMAGENT_HOME"):
        home.writable(tmp_path / "file" / "x")
