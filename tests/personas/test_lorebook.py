import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmagent.personas.lore_engine import Activation, activate
from mmagent.personas.lore_keys import found_in, read_keys
from mmagent.personas.lorebook import Lorebook, read_lorebook
from mmagent.personas.macros import chance


def entry(content: str, *keys: str, **fields: Any) -> dict[str, Any]:
    return {"content": content, "keys": list(keys), "enabled": True, "insertion_order": 10} | fields


def book_of(*entries: dict[str, Any], dialect: Any = "spec", **fields: Any) -> Lorebook:
    return read_lorebook({"entries": list(entries)} | fields, dialect)


def said(book: Lorebook, *messages: str, **options: Any) -> list[str]:
    return [e.content for e in activate(book, messages, **options).entries]


# Keys


@pytest.mark.parametrize(
    ("key", "text", "found"),
    [
        ("cat", "My Cat sleeps", True),
        ("cat", "a category", False),
        ("cat", "cat.", True),
        ("猫", "我的猫很可爱", True),
        ("花生", "我对花生过敏", True),
        (":)", "hi:)there", True),
        ("a.c", "abc", False),
        ("New York", "in new york city", True),
        ("/ba+ll/", "baaall", True),
        ("/ba+ll/", "BAALL", False),
        ("/ba+ll/i", "BAALL", True),
        ("/broken(/", "x /broken(/ y", True),
        ("/", "a / b", True),
    ],
)
def test_how_a_key_is_searched(key: str, text: str, found: bool) -> None:
    (read,) = read_keys([key], case_sensitive=False, whole_words=None, all_regex=False)
    assert found_in(read, text) is found


def test_options_of_keys() -> None:
    (loose,) = read_keys(["cat"], case_sensitive=True, whole_words=False, all_regex=False)
    assert found_in(loose, "category")
    assert not found_in(loose, "CATEGORY")
    (expression,) = read_keys(["c.t"], case_sensitive=False, whole_words=None, all_regex=True)
    assert found_in(expression, "CUT")


def test_an_expression_that_never_ends_counts_as_not_found() -> None:
    (evil,) = read_keys(
        ["/(a|a|b?)*(a|aa)+$/"], case_sensitive=False, whole_words=None, all_regex=False
    )
    started = time.monotonic()
    assert not found_in(evil, "a" * 200 + "!")
    assert time.monotonic() - started < 2


# Which entries speak


def test_keys_wake_entries_in_their_order() -> None:
    book = book_of(
        entry("second", "ball", insertion_order=2),
        entry("first", "dog", "ball", insertion_order=1),
        entry("other", "cat"),
        entry("off", "ball", enabled=False),
        entry("always", constant=True, insertion_order=0),
    )
    assert said(book, "a ball!") == ["always", "first", "second"]
    assert said(book) == ["always"]


def test_scan_depth() -> None:
    messages = ["ball", "x", "x", "x"]
    assert said(book_of(entry("e", "ball"), scan_depth=4), *messages) == ["e"]
    assert said(book_of(entry("e", "ball"), scan_depth=3), *messages) == []
    assert said(book_of(entry("e", "x"), scan_depth=0), *messages) == []
    own = entry("e", "ball", extensions={"scan_depth": 4})
    assert said(book_of(own, scan_depth=1), *messages) == ["e"]


@pytest.mark.parametrize(
    ("logic", "spoken"),
    [(0, ["a", "ab"]), (1, ["", "a", "b"]), (2, [""]), (3, ["ab"])],
)
def test_secondary_keys(logic: int, spoken: list[str]) -> None:
    secondary = {
        "secondary_keys": ["alpha", "beta"],
        "selective": True,
        "extensions": {"selectiveLogic": logic},
    }
    book = book_of(entry("e", "ball", **secondary))
    words = {"": "", "a": "alpha", "b": "beta", "ab": "alpha beta"}
    if logic == 0:
        spoken = [*spoken, "b"]
    for name, text in words.items():
        assert bool(said(book, f"ball {text}")) is (name in spoken), name
    assert said(book, "alpha beta") == []
    assert said(book_of(entry("e", "ball", secondary_keys=["x"], selective=False)), "ball") == ["e"]


def test_sillytavern_claims_regular_expressions_everywhere() -> None:
    claims = {"use_regex": True, "constant": True, "selective": True, "secondary_keys": ["zzz"]}
    tavern = book_of(entry("e", "a.c", **claims), dialect="sillytavern")
    assert said(tavern, "zzz") == ["e"]
    plain = book_of(entry("e", "a.c", use_regex=True), dialect="sillytavern")
    assert said(plain, "abc") == []
    assert said(plain, "a.c") == ["e"]
    # The specification: expressions they are, and the other two fields do not count.
    strict = book_of(entry("e", "a.c", **claims))
    assert said(strict, "zzz") == []
    assert said(strict, "abc") == ["e"]


def test_recursion() -> None:
    chain = [
        entry("the ball is red", "dog"),
        entry("red like fire", "ball"),
        entry("fire burns", "fire"),
        entry("never", "fire", extensions={"exclude_recursion": True}),
        entry("only so", "red", extensions={"delay_until_recursion": True}),
    ]
    assert said(book_of(*chain), "dog") == ["the ball is red"]
    recursive = book_of(*chain, recursive_scanning=True)
    assert said(recursive, "dog") == ["the ball is red", "red like fire", "fire burns", "only so"]
    assert said(recursive, "red") == []
    silent = [entry("ball", "dog", extensions={"prevent_recursion": True}), entry("x", "ball")]
    assert said(book_of(*silent, recursive_scanning=True), "dog") == ["ball"]


def test_recursion_in_circles_ends() -> None:
    circle = [entry(f"word{n + 1}", f"word{n}") for n in range(100)] + [entry("word0", "word100")]
    assert 1 < len(said(book_of(*circle, recursive_scanning=True), "word0")) <= 10


def test_probability_is_drawn_once_a_turn() -> None:
    def spoken(probability: int, **more: Any) -> int:
        rules = {"probability": probability} | more
        book = book_of(entry("e", "ball", extensions=rules))
        messages = ["ball"] * 200
        return sum(bool(said(book, *messages[:n], seed="t")) for n in range(1, 201))

    assert spoken(0) == 0
    assert spoken(100) == 200
    assert 40 < spoken(30) < 80
    assert spoken(0, useProbability=False) == 200
    book = book_of(entry("e", "ball", extensions={"probability": 50}))
    assert len({tuple(said(book, "ball", seed="t")) for _ in range(5)}) == 1
    assert len({tuple(said(book, "ball", seed=str(n))) for n in range(20)}) == 2


def run(book: Lorebook, messages: list[str]) -> list[bool]:
    """Whether anything was said after each message, with the clock kept between."""
    clock: Any = None
    spoken = []
    for number in range(1, len(messages) + 1):
        result: Activation = activate(book, messages[:number], clock=clock)
        again = activate(book, messages[:number], clock=result.clock)
        assert [e.content for e in again.entries] == [e.content for e in result.entries]
        clock = result.clock
        spoken.append(bool(result.entries))
    return spoken


@pytest.mark.parametrize(
    ("rules", "messages", "expected"),
    [
        ({"sticky": 3}, "b----", "11100"),
        ({"sticky": 3}, "b-b--", "11100"),
        ({"cooldown": 2}, "bbbbb", "10101"),
        ({"sticky": 2, "cooldown": 2}, "b-bbb", "11001"),
        ({"delay": 3}, "bbbb", "0011"),
        ({}, "b-b-", "1010"),
    ],
)
def test_time(rules: dict[str, int], messages: str, expected: str) -> None:
    book = book_of(entry("e", "ball", extensions=rules), scan_depth=1)
    words = ["ball" if letter == "b" else "x" for letter in messages]
    assert "".join(str(int(spoken)) for spoken in run(book, words)) == expected


def test_a_branch_of_the_conversation_forgets_what_came_later() -> None:
    book = book_of(entry("e", "ball", extensions={"sticky": 9}), scan_depth=1)
    later = activate(book, ["x", "x", "ball"])
    assert later.clock == {"#0": 3}
    assert activate(book, ["x", "x"], clock=later.clock).entries == ()
    assert activate(book, ["x", "x"], clock=later.clock).clock == {}


def test_groups() -> None:
    def member(name: str, **rules: Any) -> dict[str, Any]:
        return entry(name, "ball", extensions={"group": "g, h"} | rules)

    pair = book_of(member("a"), member("b"), entry("free", "ball"))
    results = {tuple(said(pair, "ball", seed=str(n))) for n in range(20)}
    assert results == {("a", "free"), ("b", "free")}
    weighted = book_of(member("a", group_weight=1), member("b", group_weight=10_000))
    assert said(weighted, "ball") == ["b"]
    first = book_of(member("a", group_override=True, group_weight=1), member("b"))
    assert all(said(first, "ball", seed=str(n)) == ["a"] for n in range(10))


def test_the_budget_drops_the_least_important() -> None:
    book = book_of(
        entry("aaaa", "ball", priority=1, insertion_order=1),
        entry("bbbb", "ball", priority=3, insertion_order=2),
        entry("cc", "ball", priority=2, insertion_order=3),
        entry("dddd", constant=True, insertion_order=4),
        entry("eeee", "ball", insertion_order=5, extensions={"ignore_budget": True}, priority=0),
        token_budget=10,
    )
    result = activate(book, ["ball"], count_tokens=len)
    assert [e.content for e in result.entries] == ["bbbb", "cc", "dddd", "eeee"]
    assert [(e.content, why) for e, why in result.dropped] == [("aaaa", "budget")]
    tighter = activate(book, ["ball"], budget=4, count_tokens=len)
    assert [e.content for e in tighter.entries] == ["dddd", "eeee"]


def test_decorators() -> None:
    text = (
        "@@depth 2\n@@role assistant\n@@scan_depth 1\n@@probability 50\n@@unknown 1\n"
        "@@@activate_only_after 5\n@@@dont_activate\n@@exclude_keys quiet\nReal @@text\n@@depth 9"
    )
    (read,) = book_of(entry(text, "ball")).entries
    assert read.content == "Real @@text\n@@depth 9"
    assert (read.place, read.depth, read.role, read.scan_depth) == ("depth", 2, "assistant", 1)
    assert (read.probability, read.after_answers, read.enabled) == (50.0, 5, True)
    quiet = book_of(entry("@@exclude_keys quiet, hush\nx", "ball"))
    assert said(quiet, "ball") == ["x"]
    assert said(quiet, "ball, hush") == []
    both = book_of(entry("@@additional_keys red, blue\nx", "ball"))
    assert said(both, "ball") == []
    assert said(both, "blue ball") == ["x"]
    assert said(book_of(entry("@@dont_activate\nx", "ball")), "ball") == []
    assert said(book_of(entry("@@activate\nx")), "nothing") == ["x"]
    every = book_of(entry("@@activate_only_every 2\nx", constant=True))
    assert [bool(said(every, "a", answers=n)) for n in range(5)] == [True, False] * 2 + [True]
    after = book_of(entry("@@activate_only_after 2\nx", constant=True))
    assert [bool(said(after, *["a"] * n)) for n in range(2, 7)] == [False, False, True, True, True]
    once = book_of(entry("@@dont_activate_after_match\nx", "ball"), scan_depth=1)
    assert run(once, ["ball", "ball", "ball"]) == [True, False, False]
    stays = book_of(entry("@@keep_activate_after_match\nx", "ball"), scan_depth=1)
    assert run(stays, ["x", "ball", "x", "x"]) == [False, True, True, True]


def test_decorators_as_the_specification_has_them() -> None:
    def read(text: str, **fields: Any) -> Any:
        (found,) = book_of(entry(text, "ball", **fields)).entries
        return found

    # Blank lines around them go, and carriage returns.
    assert read("\r\n@@depth 2\r\n\r\nWords\r\n").content == "Words\n"
    assert read("Words\r\n@@depth 2").content == "Words\r\n@@depth 2"
    # Of several with one name the first counts; a place beats a depth in any order.
    assert read("@@depth 1\n@@depth 7\nx").depth == 1
    assert read("@@position before_desc\n@@depth 1\nx").place == "before"
    assert read("@@depth 1\n@@position before_desc\nx").place == "before"
    for text in ("@@activate\n@@dont_activate\nx", "@@dont_activate\n@@activate\nx"):
        assert said(book_of(entry(text)), "nothing") == ["x"]
        assert said(book_of(entry(text, enabled=False)), "nothing") == []
    # Additional keys are asked besides the secondary ones, whatever the logic of these.
    rules = {"secondary_keys": ["night"], "selective": True, "extensions": {"selectiveLogic": 2}}
    both = book_of(entry("@@additional_keys red, blue\nx", "ball", **rules))
    assert [bool(said(both, text)) for text in ("ball", "red ball", "red ball at night")] == [
        False, True, False,
    ]  # fmt: skip


def test_a_broken_expression_is_never_found_where_all_are_said_to_be_expressions() -> None:
    assert said(book_of(entry("x", "ball(", use_regex=True)), "a ball( here") == []
    assert said(book_of(entry("x", "ball(", use_regex=True), dialect="sillytavern"), "ball(") == [
        "x"
    ]


def test_comments_wake_nobody_and_hidden_keys_do() -> None:
    chain = [
        entry("one {{// cat}} {{comment: cow}} {{hidden_key:dog}}", "ball"),
        entry("two", "cat", "cow"),
        entry("three", "dog"),
    ]
    found = said(book_of(*chain, recursive_scanning=True), "ball")
    assert [text[:5] for text in found] == ["one {", "three"]


def test_keys_of_cards_from_the_wild() -> None:
    names = {"char": "Rex", "user": "Sam"}
    book = {"entries": [entry("x", "{{user}}", "{{char}}'s ball")]}
    assert said(read_lorebook(book, names=names), "hi sam") == ["x"]
    assert said(read_lorebook(book, names=names), "Rex's ball") == ["x"]
    assert said(read_lorebook(book), "hi sam") == []
    # chub leaves empty keys and nulls, and writes camel case.
    (read,) = book_of({"content": "x", "keys": ["sword", "", None],
                       "extensions": {"excludeRecursion": True}}).entries  # fmt: skip
    assert ([key.text for key in read.keys], read.from_recursion) == (["sword"], False)
    # Risu looks inside of words, unless the book says otherwise.
    assert said(book_of(entry("x", "cat"), dialect="risu"), "concatenate") == ["x"]
    whole = {"risu_fullWordMatching": True}
    assert said(book_of(entry("x", "cat"), dialect="risu", extensions=whole), "concatenate") == []


def test_places() -> None:
    places = [
        entry("0", "k", position="before_char"),
        entry("1", "k", position="after_char"),
        entry("2", "k", extensions={"position": 4, "depth": 3, "role": 2}),
        entry("3", "k", extensions={"position": 0}),
    ]
    found = [(e.place, e.depth, e.role) for e in book_of(*places).entries]
    assert found == [
        ("before", 4, "system"),
        ("after", 4, "system"),
        ("depth", 3, "assistant"),
        ("before", 4, "system"),
    ]


def test_odd_books() -> None:
    assert read_lorebook(None) == Lorebook()
    assert read_lorebook({"entries": None}) == Lorebook()
    assert read_lorebook({"entries": [1, None, "x"]}) == Lorebook()
    twins = book_of(entry("a", "k", id=1), entry("b", "k", id=1))
    assert len({e.id for e in twins.entries}) == 2
    assert said(twins, "k") == ["a", "b"]
    mapping = read_lorebook({"entries": {"0": entry("a", "k")}})
    assert said(mapping, "k") == ["a"]


_junk = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.lists(st.text(max_size=4), max_size=3)
)
_names = st.sampled_from(
    [
        "keys",
        "content",
        "secondary_keys",
        "selective",
        "constant",
        "insertion_order",
        "priority",
        "id",
        "use_regex",
        "enabled",
        "position",
        "extensions",
        "case_sensitive",
    ]
)
_rules = st.dictionaries(
    st.sampled_from(
        [
            "sticky",
            "cooldown",
            "delay",
            "probability",
            "group",
            "group_weight",
            "depth",
            "position",
            "role",
            "selectiveLogic",
            "scan_depth",
            "exclude_recursion",
        ]
    ),
    _junk,
    max_size=4,
)


@given(
    st.lists(st.dictionaries(_names, _junk | _rules, max_size=6), max_size=5),
    st.lists(st.text(max_size=12), max_size=5),
    st.dictionaries(st.sampled_from(["scan_depth", "token_budget", "recursive_scanning"]), _junk),
)
def test_no_book_breaks_a_turn(
    entries: list[dict[str, Any]], messages: list[str], fields: dict[str, Any]
) -> None:
    for dialect in ("spec", "sillytavern"):
        book = read_lorebook({"entries": entries} | fields, dialect)  # type: ignore[arg-type]
        first = activate(book, messages, budget=20, count_tokens=len)
        again = activate(book, messages, budget=20, count_tokens=len)
        assert first == again
        spent = sum(len(e.content) for e in first.entries if not e.over_budget)
        assert spent <= 20


def test_chance_is_even() -> None:
    drawn = [chance("seed", n) for n in range(1000)]
    assert all(0 <= value < 1 for value in drawn)
    assert 0.45 < sum(drawn) / 1000 < 0.55
