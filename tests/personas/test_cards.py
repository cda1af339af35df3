import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from card_files import chunk, packed, png_with
from hypothesis import given
from hypothesis import strategies as st

from mmagent.errors import PersonaError
from mmagent.personas.cards import CARD_FIELDS
from mmagent.personas.containers import MAX_JSON_DEPTH
from mmagent.personas.persona import Persona
from mmagent.personas.png import MAX_TEXT, read_text_chunks, write_text_chunks

REAL_CARDS = Path(__file__).parents[3] / "shared" / "data" / "cards"
needs_real_cards = pytest.mark.skipif(
    not REAL_CARDS.is_dir(), reason="../shared/data/cards is not here"
)

V1 = {
    "name": "Rex",
    "description": "A dog",
    "personality": "loyal",
    "scenario": "park",
    "first_mes": "Woof {{user}}",
    "mes_example": "<START>\n{{char}}: Woof",
}
V2_DATA = V1 | {
    "creator_notes": "n",
    "system_prompt": "s {{original}}",
    "post_history_instructions": "p",
    "alternate_greetings": ["Wuff"],
    "character_book": {"entries": [{"keys": ["ball"], "content": "red", "odd": 1}], "x": {}},
    "tags": ["dog"],
    "creator": "me",
    "character_version": "1.2",
    "extensions": {"depth_prompt": {"prompt": "d", "depth": 4}, "zz/unknown": [1, None]},
}
V3_DATA = V2_DATA | {
    "assets": [{"type": "icon", "uri": "ccdefault:", "name": "main", "ext": "png"}],
    "nickname": "Rexy",
    "creator_notes_multilingual": {"zh": "备注"},
    "source": ["https://example.org"],
    "group_only_greetings": ["g"],
    "creation_date": 1700000000,
    "modification_date": 1700000001,
}
V2 = {"spec": "chara_card_v2", "spec_version": "2.0", "data": V2_DATA, "top": {"kept": True}}
V3 = {"spec": "chara_card_v3", "spec_version": "3.0", "data": V3_DATA | {"future": [1.5, "x"]}}
ALL = pytest.mark.parametrize("card", [V1, V2, V3], ids=["v1", "v2", "v3"])


@ALL
def test_a_card_is_read_whole(card: dict[str, Any]) -> None:
    persona = Persona.from_card(card)
    assert persona.name == "Rex"
    assert persona.greeting == "Woof {{user}}"
    assert persona.key == "rex"
    if card is not V1:
        assert persona.instructions == "s {{original}}"
        assert persona.lorebook == V2_DATA["character_book"]
        assert persona.extensions == V2_DATA["extensions"]
    if card is V3:
        assert persona.nickname == "Rexy"
        assert persona.assets == V3_DATA["assets"]
        assert persona.creation_date == 1700000000


@ALL
def test_an_unchanged_card_comes_back_equal_and_its_json_byte_for_byte(
    card: dict[str, Any],
) -> None:
    raw = json.dumps(card, indent=3, ensure_ascii=False).encode()
    persona = Persona.from_bytes(raw)
    assert persona.to_card() == card
    assert list(persona.to_card()) == list(card)
    assert persona.to_json() == raw
    assert Persona.from_card(persona.to_card()) == persona


@ALL
@pytest.mark.parametrize("spec", ["v1", "v2", "v3"])
def test_no_version_loses_a_field(card: dict[str, Any], spec: Any) -> None:
    persona = Persona.from_card(card)
    other = persona.to_card(spec)
    assert other.get("spec") == (None if spec == "v1" else f"chara_card_{spec}")
    again = Persona.from_card(other)
    assert again.model_dump() == persona.model_dump()
    if card is V3:
        assert (other if spec == "v1" else other["data"])["future"] == [1.5, "x"]
    if card is V2:
        assert other["top"] == {"kept": True}


def test_a_changed_persona_changes_its_fields_alone() -> None:
    persona = Persona.from_card(V3).model_copy(update={"greeting": "Hello", "tags": []})
    expected = json.loads(json.dumps(V3))
    expected["data"] |= {"first_mes": "Hello", "tags": []}
    assert persona.to_card() == expected
    assert json.loads(persona.to_json()) == expected


def test_our_yaml_becomes_a_card_that_the_specification_accepts() -> None:
    document = Persona.load("mia").to_card()
    assert document["spec"] == "chara_card_v3"
    required = set(V2_DATA) - {"character_book"} | {"group_only_greetings"}
    assert set(document["data"]) == required
    v1 = Persona.load("mia").to_card("v1")
    assert set(V1) <= set(v1)


# The traps of real cards


def test_a_card_that_claims_v2_and_holds_v1() -> None:
    card = {"spec": "chara_card_v2", "spec_version": "2.0", **V1, "creator": "me"}
    persona = Persona.from_card(card)
    assert (persona.name, persona.creator) == ("Rex", "me")
    assert persona.to_card() == card


def test_old_fields_beside_data_do_not_win() -> None:
    card = {**V1, "name": "Old", **V2}
    persona = Persona.from_card(card)
    assert persona.name == "Rex"
    assert persona.to_card() == card


def test_slips_of_other_programs_are_mended_and_kept() -> None:
    card = {
        "spec": "chara_card_v2",
        "data": {
            "name": 7,
            "description": None,
            "tags": "dog",
            "alternate_greetings": None,
            "character_version": 1.0,
            "extensions": [],
            "source": ["a", None],
            "creation_date": 1700000000.0,
            "character_book": {"entries": []},
        },
    }
    persona = Persona.from_card(card)
    assert persona.name == "7"
    assert persona.tags == ["dog"]
    assert persona.character_version == "1.0"
    assert persona.extensions == {}
    assert persona.source == ["a"]
    assert persona.to_card() == card
    assert json.loads(persona.to_json()) == card


def test_crlf_is_read_as_line_ends_and_kept() -> None:
    card = V1 | {"first_mes": "a\r\nb", "mes_example": "<START>\r\n{{user}}: x\r\n{{char}}: y\r\n"}
    persona = Persona.from_card(card)
    assert persona.first_message(user="sam") == "a\nb"
    assert persona.example_dialogues(user="sam") == [[("user", "x"), ("char", "y")]]
    assert persona.to_card() == card


@pytest.mark.parametrize("name", ["", "  ", None, "\n"])
@pytest.mark.parametrize("spec", [None, "chara_card_v2", "chara_card_v3"])
def test_an_empty_name_is_an_error(name: str | None, spec: str | None) -> None:
    card = V1 | {"name": name} if spec is None else {"spec": spec, "data": V1 | {"name": name}}
    with pytest.raises(PersonaError, match="'name'"):
        Persona.from_card(card)


@pytest.mark.parametrize(
    ("card", "says"),
    [
        ({}, "'name' is missing"),
        ({"spec": "chara_card_v3", "data": {"nickname": "x"}}, "'name' is missing"),
        (V1 | {"description": ["x"]}, "'description' cannot be used"),
        (V1 | {"character_book": "x"}, "'lorebook' cannot be used"),
        (V1 | {"tags": {"a": 1}}, "'tags' cannot be used"),
    ],
)
def test_cards_that_cannot_be_used(card: dict[str, Any], says: str) -> None:
    with pytest.raises(PersonaError, match=says):
        Persona.from_card(card)


def test_lone_surrogates_survive_and_do_not_reach_a_prompt() -> None:
    raw = b'{"name": "Rex", "description": "x\\ud83dy"}'
    persona = Persona.from_bytes(raw)
    assert persona.to_json() == raw
    changed = persona.model_copy(update={"greeting": "hi"})
    assert json.loads(changed.to_json())["description"] == "x\ud83dy"
    persona.system_prompt(user="sam").encode("utf-8")


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b'{"name": "Rex",}',
        b'{"name": "\xff"}',
        b'{"a":' * 100_000,
        b'{"name": "Rex", "x": ' + b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH + b"}",
    ],
)
def test_damaged_or_deep_json(raw: bytes) -> None:
    with pytest.raises(PersonaError, match="JSON"):
        Persona.from_bytes(raw)


# PNG


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda text: chunk(b"tEXt", b"chara\0" + text), id="tEXt"),
        pytest.param(lambda text: chunk(b"tEXt", b"Chara\0" + text), id="capital"),
        pytest.param(lambda text: chunk(b"zTXt", b"chara\0\0" + zlib.compress(text)), id="zTXt"),
        pytest.param(lambda text: chunk(b"iTXt", b"chara\0\0\0en\0x\0" + text), id="iTXt"),
        pytest.param(
            lambda text: chunk(b"iTXt", b"chara\0\1\0\0\0" + zlib.compress(text)), id="iTXt packed"
        ),
        pytest.param(
            lambda text: chunk(b"tEXt", b"chara\0" + text.rstrip(b"=")), id="without padding"
        ),
        pytest.param(
            lambda text: chunk(b"tEXt", b"chara\0" + text[:40] + b"\r\n" + text[40:]), id="wrapped"
        ),
        pytest.param(
            lambda text: chunk(b"iTXt", b"chara\0\0\0\0\0" + base64.b64decode(text)), id="plain"
        ),
    ],
)
def test_every_form_of_text_chunk(make: Any, picture: Callable[..., bytes]) -> None:
    persona = Persona.from_bytes(png_with(picture(), make(packed(V2))))
    assert persona.to_card() == V2


def test_v3_before_v2_whatever_the_order(picture: Callable[..., bytes]) -> None:
    old = chunk(b"tEXt", b"chara\0" + packed(V1 | {"name": "Old"}))
    new = chunk(b"tEXt", b"ccv3\0" + packed(V3))
    for order in ((old, new), (new, old)):
        assert Persona.from_bytes(png_with(picture(), *order)).to_card() == V3


def test_a_damaged_v3_does_not_hide_a_good_v2(picture: Callable[..., bytes]) -> None:
    bad = chunk(b"tEXt", b"ccv3\0" + b"%%%")
    good = chunk(b"tEXt", b"chara\0" + packed(V2))
    assert Persona.from_bytes(png_with(picture(), bad, good)).to_card() == V2
    with pytest.raises(PersonaError, match="not base64"):
        Persona.from_bytes(png_with(picture(), bad))


def test_png_export_keeps_the_picture(picture: Callable[..., bytes], tmp_path: Path) -> None:
    other = chunk(b"tEXt", b"Comment\0hello")
    data = png_with(picture(), other, chunk(b"tEXt", b"ccv3\0" + packed(V3)))
    persona = Persona.from_bytes(data)
    persona.export(tmp_path / "out.png")
    written = (tmp_path / "out.png").read_bytes()
    assert other in written
    assert written.count(b"ccv3") == 1
    again = Persona.load(tmp_path / "out.png")
    assert again == persona
    assert again.to_json() == json.dumps(V3).encode()
    from PIL import Image

    with Image.open(tmp_path / "out.png") as image:
        image.load()
        assert image.size == (64, 48)
    Persona.load("mia").export(tmp_path / "mia.png", picture=picture("blue"))
    assert Persona.load(tmp_path / "mia.png").greeting == Persona.load("mia").greeting


def texts_in(data: bytes) -> dict[str, Any]:
    found = read_text_chunks(data, ("chara", "ccv3"))
    return {keyword: json.loads(base64.b64decode(text)) for keyword, text in found}


def test_no_older_card_stays_in_a_picture(picture: Callable[..., bytes]) -> None:
    v2 = chunk(b"tEXt", b"chara\0" + packed(V2))
    v3 = chunk(b"tEXt", b"ccv3\0" + packed(V3))
    both = png_with(picture(), v2, v3)
    assert Persona.from_bytes(both).to_png() == both  # unchanged, byte for byte
    changed = Persona.from_bytes(both).model_copy(update={"greeting": "New"})
    written = texts_in(changed.to_png())
    assert {name: card["data"]["first_mes"] for name, card in written.items()} == {
        "chara": "New",
        "ccv3": "New",
    }
    assert written["chara"]["spec"] == "chara_card_v2"
    # V3 is read before V2: left there, it would undo the change.
    old = changed.to_png(spec="v2")
    assert list(texts_in(old)) == ["chara"]
    assert Persona.from_bytes(old).greeting == "New"
    # Nor does another character's card in the picture that a persona is put into.
    assert Persona.from_bytes(Persona.load("mia").to_png(both)).name == "Mia"
    alone = Persona.from_bytes(png_with(picture(), v3)).model_copy(update={"greeting": "New"})
    assert list(texts_in(alone.to_png())) == ["ccv3"]


def test_fields_repeated_beside_data_change_with_it() -> None:
    card = {**V1, "fav": True, "tags": ["dog"], "personality": "own"} | V2
    changed = Persona.from_card(card).model_copy(update={"greeting": "New", "personality": "p"})
    written = changed.to_card()
    assert (written["first_mes"], written["data"]["first_mes"]) == ("New", "New")
    assert (written["personality"], written["data"]["personality"]) == ("own", "p")
    assert list(written) == list(card)


@pytest.mark.parametrize("spec", ["v1", "v2", "v3"])
def test_what_is_empty_is_not_what_is_absent(spec: Any) -> None:
    empty = {"creation_date": 0, "nickname": "", "assets": []}
    persona = Persona.from_card(V3 | {"data": V1 | empty})
    assert Persona.from_card(persona.to_card(spec)).model_dump() == persona.model_dump()
    assert Persona.from_yaml(persona.to_yaml()).model_dump() == persona.model_dump()
    assert "nickname" not in Persona.load("mia").to_card()["data"]


def test_a_card_by_any_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rex.jpeg").write_bytes(json.dumps(V1).encode())
    assert Persona.load("rex.jpeg").name == "Rex"


def test_a_picture_without_a_card(picture: Callable[..., bytes]) -> None:
    with pytest.raises(PersonaError, match="without a character card"):
        Persona.from_bytes(picture())


def test_text_that_unpacks_too_large(picture: Callable[..., bytes]) -> None:
    bomb = chunk(b"zTXt", b"chara\0\0" + zlib.compress(b" " * (MAX_TEXT + 1)))
    assert len(bomb) < 20_000
    with pytest.raises(PersonaError, match="unpacks to more than"):
        Persona.from_bytes(png_with(picture(), bomb))


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_damaged_compression(kind: bytes, picture: Callable[..., bytes]) -> None:
    body = b"chara\0\0xx" if kind == b"zTXt" else b"chara\0\1\0\0\0xx"
    with pytest.raises(PersonaError, match="damaged"):
        Persona.from_bytes(png_with(picture(), chunk(kind, body)))


def test_every_truncation_is_a_clear_error(picture: Callable[..., bytes]) -> None:
    whole = png_with(picture(size=(8, 8)), chunk(b"tEXt", b"chara\0" + packed(V1)))
    end_of_card = whole.index(b"chara") + 6 + len(packed(V1)) + 4
    for length in range(8, end_of_card):
        with pytest.raises(PersonaError):
            Persona.from_bytes(whole[:length])
    with pytest.raises(PersonaError, match="truncated"):
        write_text_chunks(whole[:end_of_card], {"chara": b"x"})


@given(st.binary(max_size=300))
def test_noise_never_ends_in_another_error(noise: bytes) -> None:
    for data in (noise, b"\x89PNG\r\n\x1a\n" + noise, b"{" + noise):
        try:
            Persona.from_bytes(data)
        except PersonaError:
            continue


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    extra=st.dictionaries(st.text(max_size=6), _json, max_size=4),
    top=st.dictionaries(st.text(max_size=6), _json, max_size=4),
    name=st.text(min_size=1).filter(str.strip),
)
def test_import_export_import_is_equal_for_any_unknown_fields(
    extra: dict[str, Any], top: dict[str, Any], name: str
) -> None:
    card = top | {"spec": "chara_card_v2", "data": extra | {"name": name, "extensions": extra}}
    try:
        persona = Persona.from_card(card)
    except PersonaError:
        return  # A known field happened to be made, of a wrong kind.
    assert persona.to_card() == card
    again = Persona.from_bytes(persona.to_json())
    assert again == persona
    other = Persona.from_bytes(again.to_json("v3")).to_card("v2")["data"]
    for key in extra.keys() - CARD_FIELDS.keys():
        assert other[key] == extra[key]


# Cards that others made


@needs_real_cards
def test_a_real_v1_card_whose_name_says_v2() -> None:
    persona = Persona.load(REAL_CARDS / "Skynet_v2.png")
    assert persona.name == "Skynet"
    assert persona.first_message(user="sam") == "How can I help you today User."
    document = persona.to_card()
    assert "spec" not in document
    assert document["metadata"]["tool"]["name"] == "AI Character Editor"
    assert Persona.from_bytes(persona.to_png()) == persona


@needs_real_cards
def test_a_real_v3_card() -> None:
    persona = Persona.load(REAL_CARDS / "test-character-v3.png")
    assert persona.name == "Default-chan"
    assert len(persona.first_messages(user="sam")) == 3
    assert len(persona.example_dialogues(user="sam")) >= 3
    assert Persona.from_bytes(persona.to_json()) == persona
    assert Persona.from_bytes(persona.to_png()).to_card() == persona.to_card()


@needs_real_cards
def test_a_real_picture_without_a_card() -> None:
    with pytest.raises(PersonaError, match="without a character card"):
        Persona.load(REAL_CARDS / "invalid-character.png")
