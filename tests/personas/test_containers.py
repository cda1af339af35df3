import base64
import json
import stat
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from card_files import chunk, packed, png_with

from mmagent.errors import PersonaError
from mmagent.personas import charx
from mmagent.personas.lorebook import read_lorebook
from mmagent.personas.persona import Persona
from mmagent.personas.report import DECORATORS

ICON = {"type": "icon", "uri": "embeded://assets/icon/main.png", "name": "main", "ext": "png"}
CARD = {
    "spec": "chara_card_v3",
    "spec_version": "3.0",
    "data": {"name": "Rex", "first_mes": "Woof", "assets": [ICON], "group_only_greetings": []},
}


def archive_of(*members: tuple[str, bytes], card: Any = CARD) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        if card is not None:
            target.writestr("card.json", json.dumps(card))
        for name, data in members:
            target.writestr(name, data)
    return out.getvalue()


# CHARX


def test_a_charx_card_with_its_assets(picture: Callable[..., bytes], tmp_path: Path) -> None:
    data = archive_of(("assets/icon/main.png", picture("red")), ("module.risum", b"\0\1"))
    path = tmp_path / "rex.charx"
    path.write_bytes(data)
    persona = Persona.load(path)
    assert persona.name == "Rex"
    assert persona.picture == picture("red")
    for uri in ("embeded://assets/icon/main.png", "embedded://assets/icon/main.png"):
        assert persona.asset(uri) == picture("red")
    assert persona.to_charx() == data
    assert persona.import_report is not None
    assert persona.import_report.container == "charx"


def test_bytes_before_the_archive_are_kept(picture: Callable[..., bytes]) -> None:
    front = picture("blue", format="JPEG")
    data = front + archive_of(("assets/icon/main.png", picture("red")))
    persona = Persona.from_bytes(data)
    assert persona.picture == picture("red")
    changed = persona.model_copy(update={"greeting": "Wuff"}).to_charx()
    assert changed.startswith(front)
    again = Persona.from_bytes(changed)
    assert (again.greeting, again.picture) == ("Wuff", picture("red"))


def test_our_own_persona_as_charx(tmp_path: Path) -> None:
    mia = Persona.load("mia")
    mia.export(tmp_path / "mia.charx")
    again = Persona.load(tmp_path / "mia.charx")
    assert again.greeting == mia.greeting
    assert mia.to_charx() == mia.to_charx()


@pytest.mark.parametrize(
    "name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "..\\evil.png", "C:evil.png"]
)
def test_members_that_point_outside_are_never_read(name: str) -> None:
    persona = Persona.from_bytes(archive_of((name, b"x")))
    with pytest.raises(PersonaError, match="holds no asset"):
        persona.asset(f"embeded://{name}")
    assert persona.import_report is not None
    assert any("points outside" in note for note in persona.import_report.guessed)


def test_a_link_in_the_archive_is_not_followed() -> None:
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        target.writestr("card.json", json.dumps(CARD))
        link = zipfile.ZipInfo("passwd")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        target.writestr(link, "/etc/passwd")
    with pytest.raises(PersonaError, match="holds no asset"):
        Persona.from_bytes(out.getvalue()).asset("embeded://passwd")


def test_bombs_and_crowds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charx, "MAX_MEMBER", 1000)
    monkeypatch.setattr(charx, "MAX_CARD_JSON", 1000)
    monkeypatch.setattr(charx, "MAX_MEMBERS", 5)
    bomb = Persona.from_bytes(archive_of(("x.png", b"\0" * 1001)))
    with pytest.raises(PersonaError, match="unpacks to over 1,000 bytes"):
        bomb.asset("embeded://x.png")
    with pytest.raises(PersonaError, match="unpacks to over"):
        Persona.from_bytes(archive_of(card=CARD | {"x": "y" * 1000}))
    with pytest.raises(PersonaError, match="more than 5 files"):
        Persona.from_bytes(archive_of(*((f"{n}", b"") for n in range(5))))


def test_archives_that_are_no_cards() -> None:
    with pytest.raises(PersonaError, match=r"without a card\.json"):
        Persona.from_bytes(archive_of(("a/card.json", b"{}"), card=None))
    with pytest.raises(PersonaError, match="not an object"):
        Persona.from_bytes(archive_of(card=[]))
    whole = archive_of(("assets/icon/main.png", b"x" * 50))
    for spoiled in range(30, len(whole), 7):
        data = whole[:spoiled] + bytes([whole[spoiled] ^ 0xFF]) + whole[spoiled + 1 :]
        try:
            Persona.from_bytes(data).asset("embeded://assets/icon/main.png")
        except PersonaError:
            continue


# Assets elsewhere


def test_assets_on_the_web_are_not_fetched() -> None:
    uris = ["http://10.0.0.1/x.png", "HTTPS://example.org/x", "file:///etc/passwd", "//host/x"]
    data = CARD["data"] | {"assets": [ICON | {"uri": uri} for uri in uris]}  # type: ignore[operator]
    persona = Persona.from_card(CARD | {"data": data})
    for uri in uris:
        with pytest.raises(PersonaError, match="not fetched"):
            persona.asset(uri)
    assert persona.picture is None
    assert persona.import_report is not None
    assert "4 assets on the web, not fetched." in persona.import_report.ignored


def test_assets_inside_the_json_and_the_png(picture: Callable[..., bytes]) -> None:
    packed_picture = base64.b64encode(picture("red"))
    uri = f"data:image/png;base64,{packed_picture.decode()}"
    inside = chunk(b"tEXt", b"chara-ext-asset_:3\0" + packed_picture)
    card = chunk(b"tEXt", b"ccv3\0" + packed(CARD))
    data = png_with(picture("blue"), inside, card)
    persona = Persona.from_bytes(data)
    assert persona.asset(uri) == picture("red")
    assert persona.asset("__asset:3") == picture("red")
    assert persona.asset("ccdefault:") == data
    assert persona.picture == data
    for absent in ("__asset:4", "embeded://x", "data:;base64,%%", "nonsense"):
        with pytest.raises(PersonaError):
            persona.asset(absent)
    with pytest.raises(PersonaError, match="not read from a card"):
        Persona.load("mia").asset("ccdefault:")


# Older forms


def test_pygmalion_and_ooba() -> None:
    pygmalion = {
        "char_name": "Rex",
        "char_persona": "A dog",
        "world_scenario": "park",
        "char_greeting": "Woof",
        "example_dialogue": "{{char}}: Woof",
        "odd": 1,
    }
    persona = Persona.from_card(pygmalion)
    assert (persona.name, persona.description, persona.greeting) == ("Rex", "A dog", "Woof")
    assert persona.to_card() == pygmalion
    assert persona.to_card("v2")["data"]["odd"] == 1
    changed = persona.model_copy(update={"greeting": "Wuff"}).to_card()
    assert changed == pygmalion | {"char_greeting": "Wuff"}
    text = "name: Rex\ngreeting: Woof\ncontext: |-\n  A dog named Rex.\nodd: 1\n"
    ooba = Persona.from_yaml(text)
    assert (ooba.description, ooba.greeting) == ("A dog named Rex.", "Woof")
    assert ooba.import_report is not None
    assert ooba.import_report.spec == "ooba"
    assert ooba.to_card()["odd"] == 1
    assert Persona.from_card(ooba.to_card("v3")).model_dump() == ooba.model_dump()


# The report


def test_the_report_tells_what_was_guessed_and_what_has_no_effect() -> None:
    entries = [
        {"keys": ["ball"], "content": "red", "use_regex": True},
        {"keys": ["/ba+ll/i"], "content": "x", "use_regex": True, "extensions": {}},
    ]
    card = {
        "spec": "chara_card_v3",
        "name": 5,
        "tags": "dog",
        "character_book": {"entries": entries},
        "strange": 1,
    }
    report = Persona.from_card(card).import_report
    assert report is not None
    assert (report.spec, report.claimed, report.dialect) == ("v1", "chara_card_v3", "spec")
    assert report.guessed == (
        "It claims 'chara_card_v3' and holds the fields of V1.",
        "`name` is a number; read as text.",
        "`tags` is a text; read as a list of one.",
        "1 book entries claim regular expressions and hold plain words.",
        "Book entries without `extensions`; read as if it were empty.",
    )
    assert report.ignored == ("Unknown fields, kept: strange.",)
    assert json.loads(json.dumps(report.as_dict()))["read"] == ["name", "character_book", "tags"]
    assert Persona.load("mia").import_report is None


def test_the_report_tells_what_other_programs_keep_in_a_card(picture: Callable[..., bytes]) -> None:
    content = "@@depth 2\n@@is_greeting 1\nx"
    book = {"entries": [{"keys": ["a"], "content": content, "extensions": {}}]}
    data = CARD["data"] | {  # type: ignore[operator]
        "extensions": {"depth_prompt": {}, "chub": {"id": 1}, "agnai": {}},
        "character_book": book,
    }
    card = CARD | {"spec_version": "3.1", "data": data}
    members = [("assets/icon/main.png", picture("red")), ("module.risum", b"x"), ("../evil", b"x")]
    members += [(f"x_meta/{number}.json", b"{}") for number in range(6)]
    report = Persona.from_bytes(archive_of(*members, card=card)).import_report
    assert report is not None
    assert "It is of version 3.1 of the specification; read as 3.0." in report.guessed
    assert report.ignored == (
        "Extensions of other programs, kept: agnai, chub.",
        "Decorators of the book, kept: is_greeting.",
        "Files in the archive that no asset names, kept: module.risum, x_meta/0.json, "
        "x_meta/1.json, x_meta/2.json, x_meta/3.json and 2 more.",
    )


def test_the_report_knows_which_decorators_have_an_effect() -> None:
    values = {"role": "user", "position": "before_desc", "additional_keys": "a"}
    plain = read_lorebook({"entries": [{"keys": ["k"], "content": "x"}]}).entries[0]
    for name in DECORATORS:
        content = f"@@{name} {values.get(name, '3')}\nx"
        changed = read_lorebook({"entries": [{"keys": ["k"], "content": content}]}).entries[0]
        assert changed != plain, name
        assert changed.content == "x"


@pytest.mark.parametrize(
    ("marks", "dialect"),
    [
        ({}, "spec"),
        ({"extensions": {"other": 1}}, "spec"),
        ({"extensions": {"talkativeness": "0.5"}}, "sillytavern"),
        (
            {"character_book": {"entries": {"0": {"extensions": {"selectiveLogic": 0}}}}},
            "sillytavern",
        ),
        ({"extensions": {"risuai": {}, "depth_prompt": {}}}, "risu"),
        ({"assets": [{"type": "x-risu-asset", "uri": "embeded://a"}]}, "risu"),
    ],
)
def test_dialects(marks: dict[str, Any], dialect: str) -> None:
    card = {"spec": "chara_card_v2", "data": {"name": "Rex"} | marks}
    report = Persona.from_card(card).import_report
    assert report is not None
    assert report.dialect == dialect
