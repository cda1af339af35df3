import importlib.resources

import pytest

from mmagent_prompts import CatalogueError, entry_names, load_yaml, read_entry
from mmagent_prompts.safe_yaml import MAX_BYTES, MAX_DEPTH


def test_names_are_the_files() -> None:
    names = entry_names("personas")
    assert names == sorted(names)
    assert {"mia", "ada", "theo", "wren", "xiaolan"} <= set(names)
    folder = importlib.resources.files("mmagent_prompts").joinpath("personas")
    assert len(names) == sum(entry.name.endswith(".yaml") for entry in folder.iterdir())


def test_read_entry_gives_the_mapping() -> None:
    assert read_entry("personas", "mia")["name"] == "Mia"


@pytest.mark.parametrize("name", ["../safe_yaml", "mia.yaml", "/etc/passwd", "", "Mia\n"])
def test_only_names_of_the_catalogue_are_read(name: str) -> None:
    with pytest.raises(CatalogueError, match="not in the catalogue of personas, which holds ada"):
        read_entry("personas", name)


def test_a_near_miss_is_offered() -> None:
    with pytest.raises(CatalogueError, match="Did you mean 'mia'"):
        read_entry("personas", "mya")


@pytest.mark.parametrize("kind", ["poems", "..", "personas/..", "personas/mia.yaml"])
def test_unknown_kind(kind: str) -> None:
    with pytest.raises(CatalogueError, match="no entries of the kind"):
        entry_names(kind)


def test_plain_values_are_read() -> None:
    assert load_yaml("a: [1, x]\nb: {c: 中文}\n") == {"a": [1, "x"], "b": {"c": "中文"}}
    assert load_yaml(b"\xef\xbb\xbfa: 1\r\n") == {"a": 1}
    assert load_yaml("a: &x [1]\nb: *x\n") == {"a": [1], "b": [1]}


def _bomb() -> str:
    lines = ["a0: &a0 [" + "x, " * 40 + "]"]
    for level in range(1, 6):
        before = f"*a{level - 1}, "
        lines.append(f"a{level}: &a{level} [{before * 5}y]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("a: !!python/object/apply:os.system [id]", "not valid YAML", id="code"),
        pytest.param("a: [1", "not valid YAML.*line 1", id="syntax"),
        pytest.param("a: 1\n---\nb: 2", "not valid YAML", id="two documents"),
        pytest.param("a: 1\nb: 2\na: 3", r"'a' stands twice \(line 3\)", id="duplicate key"),
        pytest.param("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested deeper", id="depth"),
        pytest.param("[" * 100_000, "nested deeper", id="great depth"),
        pytest.param("a: &x 1\nb: [" + "*x, " * 40 + "]", "more than 32 YAML aliases", id="many"),
        pytest.param(_bomb(), "unfolds into more than", id="alias bomb"),
        pytest.param("a: &a [*a]", "unfolds into more than", id="alias to itself"),
        pytest.param("a: " + "x" * MAX_BYTES, "larger than", id="size"),
        pytest.param(b"a: \xff\xfe", "not UTF-8", id="encoding"),
        pytest.param("a: \x00", "not valid YAML", id="NUL"),
        pytest.param("a: 2026-99-99", "not valid YAML", id="impossible date"),
        pytest.param("{[1]: 2}", "not valid YAML", id="a list as key"),
    ],
)
def test_what_is_refused(text: str | bytes, says: str) -> None:
    with pytest.raises(CatalogueError, match=says) as caught:
        load_yaml(text, source="x.yaml")
    assert str(caught.value).startswith("x.yaml")
    assert "\n" not in str(caught.value)
