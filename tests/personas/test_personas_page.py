import re
from collections.abc import Callable
from pathlib import Path

from mmagent.personas.persona import Persona

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "personas.md").read_text("utf-8")


def test_the_python_blocks_run(run_page: Callable[[str], str]) -> None:
    assert PAGE.count("```python\n") == 3
    said = run_page(PAGE)
    assert "You are Mia, a warm and curious companion of Sam." in said
    assert "('Unknown fields, kept: odd.',)" in said
    assert "User) I am allergic to nuts." not in said
    assert "Sam) I am allergic to nuts.\n" in said
    assert "[/Memories]\nWhat about nuts?" in said


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
