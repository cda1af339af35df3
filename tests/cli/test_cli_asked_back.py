from collections.abc import Callable
from pathlib import Path

from cli_runner import Cli


def test_a_question_back_is_shown(cli: Cli, tmp_path: Path, picture: Callable[..., bytes]) -> None:
    """It does not come from the model, so that there is nothing to stream."""
    path = tmp_path / "cat.png"
    path.write_bytes(picture("red"))
    result = cli(
        "chat", "--model", "echo", "--memory", tmp_path / "memory", "--image", path,
        "--message", "Look at my cat", "--message", "What was in the fifth picture?",
    )  # fmt: skip
    assert result.code == 0
    assert "There is no fifth picture; there is one picture so far." in result.out
