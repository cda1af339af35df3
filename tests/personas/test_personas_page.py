import re
import subprocess
import sys
from pathlib import Path

from mmagent.personas.persona import Persona

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "personas.md").read_text("utf-8")


def test_the_python_blocks_run(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    path = ":".join(str(ROOT / folder) for folder in ("", "memory", "prompts"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        cwd=tmp_path,
        env={"PYTHONPATH": path, "MMAGENT_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "You are Mia, a warm and curious companion of Sam." in done.stdout
    assert "('Unknown fields, kept: odd.',)" in done.stdout
    assert "User) I am allergic to nuts." not in done.stdout
    assert "Sam) I am allergic to nuts.\n" in done.stdout
    assert "[/Memories]\nWhat about nuts?" in done.stdout


def test_the_yaml_block_is_a_persona() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    rex = Persona.from_yaml(block)
    assert rex.adapter == "my-adapter"
    assert rex.first_messages(user="sam") == ["Woof, Sam!", "Wuff!"]


def test_the_table_is_the_catalogue() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == [
        "mia",
        "ada",
        "theo",
        "wren",
        "xiaolan",
    ]
    assert len(Persona.catalogue()) == 5
