import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mmagent.cli import app, failures
from mmagent.personas.persona import Persona
from mmagent.personas.shelf import put_on_shelf

CARD: dict[str, Any] = {
    "spec": "chara_card_v2",
    "data": {"name": "Rex the Dog", "first_mes": "Woof\x1b[31m {{user}}", "odd": 1},
}


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, ["persona", *arguments], input=typed)


def good(*arguments: str, typed: str | None = None) -> str:
    result = run(*arguments, typed=typed)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def refused(*arguments: str) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, Exception)
    message, code = failures.explain(result.exception)
    assert code == 2
    assert "\n" not in message
    return message


def test_list() -> None:
    lines = good("list").splitlines()
    assert len(lines) == len(Persona.catalogue())
    assert any(line.split()[:2] == ["mia", "Mia:"] for line in lines)
    rows = [json.loads(line) for line in good("list", "--json").splitlines()]
    assert {row["name"] for row in rows} == set(Persona.catalogue())


def test_show() -> None:
    text = good("show", "mia", "--user", "sam")
    assert "You are Mia, a warm and curious companion of Sam." in text
    assert "Hi Sam!" in text
    shown = json.loads(good("show", "wren", "--json"))
    assert shown["system_prompt"].startswith("You are Wren")
    assert shown["persona"]["name"] == "Captain Wren"
    assert "not in the catalogue" in refused("show", "nobody")


def test_import_keeps_the_file_and_its_name_works() -> None:
    raw = json.dumps(CARD, indent=3)
    Path("rex.json").write_text(raw)
    text = good("import", "rex.json")
    assert "Rex the Dog is now 'rex-the-dog'" in text
    assert "Unknown fields, kept: odd." in text
    persona = Persona.load("rex-the-dog")
    assert persona.key == "rex-the-dog"
    assert persona.to_json().decode() == raw
    assert "rex-the-dog    Rex the Dog (own): -" in good("list")
    assert "\x1b" not in good("show", "rex-the-dog")
    assert "already" in refused("import", "rex.json")
    good("import", "rex.json", "--force")
    report = json.loads(good("import", "rex.json", "--name", "rex2", "--json"))
    assert report["name"] == "rex2"
    assert report["import_report"]["spec"] == "v2"


@pytest.mark.parametrize("name", ["mia", "../evil", "a/b", "Rex", "", ".", "a b"])
def test_names_that_cannot_be_given(name: str) -> None:
    Path("rex.json").write_text(json.dumps(CARD))
    message = refused("import", "rex.json", "--name", name) if name else "cannot be a name"
    assert "cannot be a name" in message or "persona of the catalogue" in message


def test_a_file_here_does_not_stand_in_for_a_name() -> None:
    Path("mia").write_text("name: Evil\n")
    assert Persona.load("mia").name == "Mia"
    put_on_shelf(b"name: Rex\n", "rex", ".yaml")
    Path("rex").write_text("name: Evil\n")
    assert Persona.load("rex").name == "Rex"


def test_a_broken_file_on_the_shelf_does_not_hide_the_others() -> None:
    put_on_shelf(b"colour: red\n", "broken", ".yaml")
    put_on_shelf(b"name: Rex\n", "rex", ".yaml")
    text = good("list")
    assert "broken         cannot be used: broken.yaml: unknown field 'colour'" in text or (
        "cannot be used" in text
    )
    assert "rex" in text


def test_export(picture: Callable[..., bytes]) -> None:
    for suffix in ("yaml", "json", "charx"):
        good("export", "wren", f"out.{suffix}")
        assert Persona.load(Path(f"out.{suffix}")).greeting == Persona.load("wren").greeting
    Path("face.png").write_bytes(picture("blue"))
    assert "needs a picture" in refused("export", "wren", "out.png")
    good("export", "wren", "out.png", "--picture", "face.png")
    assert Persona.load("out.png").name == "Captain Wren"
    assert "out.yaml exists" in refused("export", "wren", "out.yaml")
    good("export", "mia", "out.yaml", "--force")
    assert Persona.load("out.yaml").name == "Mia"


def test_validate() -> None:
    Path("bad.yaml").write_text("name: Rex\ncolour: red\n")
    Path("card.json").write_text(json.dumps(CARD))
    text = good("validate", "mia", "card.json")
    assert text == "mia: good\ncard.json: good\n  Unknown fields, kept: odd.\n"
    assert "1 of 2 cannot be used" in refused("validate", "bad.yaml", "mia")
    result = run("validate", "bad.yaml", "absent.png", "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["ok"] for row in rows] == [False, False]
    assert "unknown field 'colour'" in rows[0]["error"]


def test_new_asks_and_writes() -> None:
    text = good("new", typed="Rex\nBe a dog.\n\n\nloyal\n\n")
    assert "Wrote rex.yaml" in text
    persona = Persona.load("rex.yaml")
    assert persona.name == "Rex"
    assert persona.instructions == "Be a dog."
    assert persona.personality == "loyal"
    assert persona.first_message(user="sam") == "Hello Sam!"
    again = run("new", typed="Rex\nBe a cat.\n\n\n\n\n")
    assert "rex.yaml exists" in str(again.exception)
    good("new", "other.yaml", typed="小岚\n\nzh\n\n\n你好\n")
    assert Persona.load("other.yaml").greeting == "你好"
