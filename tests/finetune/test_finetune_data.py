"""Rows from files: every format, every hostile file named by row, and splits that do not leak."""

from __future__ import annotations

import base64
import io
import itertools
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from finetune_rows import own, picture, write_rows
from PIL import Image

from mmagent.errors import UsageError
from mmagent.finetune.config import AugmentSettings, ChatSettings, SplitSettings
from mmagent.finetune.data.augment import augmented, changed
from mmagent.finetune.data.checking import (
    DataReport,
    check_dialogues,
    mark_duplicates,
    refuse_bad,
)
from mmagent.finetune.data.formats import RowError, parse_row
from mmagent.finetune.data.pictures import Gallery, alike, look_of
from mmagent.finetune.data.redact import Redactor
from mmagent.finetune.data.rows import Dialogue
from mmagent.finetune.data.splits import groups_of, split_dialogues, split_groups
from mmagent.finetune.prepare import gather


def read(file: Path, **settings: Any) -> tuple[list[Dialogue], DataReport]:
    report = DataReport()
    rows, _ = gather(ChatSettings(data=[file], **settings), report)
    return check_dialogues(rows, report, Gallery(), ["<image>", "<|im_start|>"]), report


def shown(row: Dialogue) -> list[tuple[str, tuple[str | int, ...]]]:
    return [(turn.role, turn.parts) for turn in row.turns]


# ---- formats ---------------------------------------------------------------------------------


def test_openai_messages_with_pictures(tmp_path: Path) -> None:
    picture(tmp_path, "a.png", "red")
    url = "data:image/png;base64," + base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    content = [
        {"type": "text", "text": "One "},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": " two "},
        {"type": "image_url", "image_url": {"url": "a.png"}},
    ]
    row = {
        "messages": [
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": content},
            {"role": "assistant", "content": "Wrong.", "weight": 0},
            {"role": "user", "content": "Again?"},
            {"role": "assistant", "content": "Red."},
        ]
    }
    (found,), report = read(write_rows(tmp_path / "rows.jsonl", [row]))
    assert not report.problems
    assert shown(found)[:2] == [("system", ("Be kind.",)), ("user", ("One ", 0, " two ", 1))]
    assert found.answers == [4]
    assert found.pictures[0].sha256 == found.pictures[1].sha256


def test_llava_and_sharegpt_put_pictures_where_the_text_says(tmp_path: Path) -> None:
    picture(tmp_path / "img", "a.png", "red")
    picture(tmp_path / "img", "b.png", "blue")
    turns = [
        {"from": "human", "value": "<image>\nWhat?"},
        {"from": "gpt", "value": "Red."},
        {"from": "human", "value": "And <image>?"},
        {"from": "gpt", "value": "Blue."},
    ]
    rows = [
        {"id": "1", "image": ["a.png", "b.png"], "conversations": turns},
        {"system": "Hi.", "conversations": turns[:2], "images": ["img/a.png"]},
    ]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows[:1]))
    (llava,), _ = read(file, images=tmp_path / "img")
    assert [parts for _, parts in shown(llava)] == [(0, "What?"), ("Red.",), ("And ", 1, "?"),
                                                    ("Blue.",)]  # fmt: skip
    (sharegpt,), _ = read(write_rows(tmp_path / "s.jsonl", rows[1:]))
    assert shown(sharegpt)[0] == ("system", ("Hi.",))


def test_our_own_rows_show_pictures_before_the_words(tmp_path: Path) -> None:
    picture(tmp_path, "a.png", "red")
    row = own(("user", "What is it?", "a.png"), ("assistant", "Red."), conversation="t1")
    (found,), _ = read(write_rows(tmp_path / "rows.jsonl", [row]))
    assert shown(found)[0] == ("user", (0, "What is it?"))
    assert found.conversation == "t1"


def test_tool_calls_are_kept(tmp_path: Path) -> None:
    call = {"function": {"name": "look_up", "arguments": '{"id": "A-17"}'}}
    row = {
        "messages": [
            {"role": "user", "content": "Where is A-17?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "on its way"},
            {"role": "assistant", "content": "On its way."},
        ],
        "tools": [{"type": "function", "function": {"name": "look_up"}}],
    }
    found = parse_row(row, "row", tmp_path)
    assert found.turns[1].tool_calls[0]["function"]["arguments"] == {"id": "A-17"}
    assert found.answers == [1, 3]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": []}, "no list of turns"),
        ({"text": "hello"}, "no list of turns"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "turn 1 is from 'narrator'"),
        ({"conversations": [{"from": "human", "value": 3}]}, "value of turn 1 is no text"),
        ({"conversations": [{"from": "human", "value": "<image> a"}]}, "more <image> places"),
        ({"image": "a.png", "conversations": [{"from": "human", "value": "a"}]}, "no place"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "of type 'audio'"),
        ({"messages": [{"role": "user", "content": "x"}], "split": "dev"}, "split is 'dev'"),
    ],
)
def test_rows_of_the_wrong_shape_say_why(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(RowError, match=message):
        parse_row(row, "row", tmp_path)


# ---- hostile files ---------------------------------------------------------------------------


def bomb() -> bytes:
    """A small PNG that says that it has 30,000 × 30,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


def test_every_bad_row_is_named_and_nothing_of_it_is_used(tmp_path: Path) -> None:
    data = tmp_path / "data"
    picture(data, "good.png", "red")
    (tmp_path / "secret.png").write_bytes((data / "good.png").read_bytes())
    (data / "link.png").symlink_to(tmp_path / "secret.png")
    (data / "bomb.png").write_bytes(bomb())
    (data / "cut.png").write_bytes((data / "good.png").read_bytes()[:60])
    (data / "text.png").write_text("I am no picture")
    bad = {
        "missing picture": own(("user", "a", "none.png"), ("assistant", "b")),
        "traversal": own(("user", "a", "../secret.png"), ("assistant", "b")),
        "absolute": own(("user", "a", "/etc/passwd"), ("assistant", "b")),
        "link": own(("user", "a", "link.png"), ("assistant", "b")),
        "bomb": own(("user", "a", "bomb.png"), ("assistant", "b")),
        "cut": own(("user", "a", "cut.png"), ("assistant", "b")),
        "text": own(("user", "a", "text.png"), ("assistant", "b")),
        "network": own(("user", "a", "http://127.0.0.1/a.png"), ("assistant", "b")),
        "scheme": own(("user", "a", "file:///etc/passwd"), ("assistant", "b")),
        "empty answer": own(("user", "a"), ("assistant", "  ")),
        "nobody answers": own(("user", "a")),
        "typed placeholder": {"messages": [{"role": "user", "content": "an <image> here"},
                                           {"role": "assistant", "content": "b"}]},
        "control": own(("user", "<|im_start|>system"), ("assistant", "b")),
        "surrogate": own(("user", "\ud800"), ("assistant", "b")),
        "nul": own(("user", "a\0b"), ("assistant", "b")),
        "picture in an answer": own(("user", "a"), ("assistant", "b", "good.png")),
    }  # fmt: skip
    good = own(("user", "a", "good.png"), ("assistant", "b"))
    lines = [json.dumps(good)]
    lines += ["[" * 100_000, '{"messages": ' + "[" * 60 + "]" * 60 + "}", "{not json", '"text"']
    lines += [json.dumps(own(("user", "x" * 1_100_000), ("assistant", "b")))]
    lines += [json.dumps(row) for row in bad.values()]
    file = data / "rows.jsonl"
    file.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe{}\n")
    kept, report = read(file)
    assert [row.where for row in kept] == ["rows.jsonl, row 1"]
    named = [problem.where for problem in report.fatal]
    assert sorted(named, key=lambda w: int(w.split()[-1])) == [
        f"rows.jsonl, row {n}" for n in range(2, len(lines) + 2)
    ]
    said = " ".join(map(str, report.fatal))
    for words in (
        "nested deeper than 32", "not JSON", "longer than 1,000,000 bytes", "no picture file",
        "outside the folders", "more than 50,000,000 pixels", "damaged or cut off",
        "empty answer", "UTF-8", "reads as a command",
    ):  # fmt: skip
        assert words in said, words
    with pytest.raises(UsageError, match=r"22 of 23 rows .* leave them out with --bad-rows skip"):
        refuse_bad(report, "refuse")
    refuse_bad(report, "skip")


def test_a_json_list_is_read_row_by_row(tmp_path: Path) -> None:
    rows = [own(("user", f'a "]" {n}'), ("assistant", "b\\")) for n in range(3)]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([rows[0], {"x": "y" * 2_000}, rows[1], rows[2]], indent=1))
    kept, report = read(file, max_row_bytes=1_000)
    assert [row.where[-1] for row in kept] == ["1", "3", "4"]
    assert "longer than 1,000 bytes" in str(report.problems[0])
    file.write_text(file.read_text()[:-5])
    with pytest.raises(UsageError, match="ends in the middle"):
        read(file)


@pytest.mark.parametrize(("content", "message"), [(b"", "is empty"), (b"[]", "has no rows")])
def test_a_file_without_rows_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "rows.json"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read(file)
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read(tmp_path / "none.jsonl")


def test_a_picture_that_changes_after_the_check_is_noticed(tmp_path: Path) -> None:
    picture(tmp_path, "a.png", "red")
    row = own(("user", "a", "a.png"), ("assistant", "b"))
    (found,), _ = read(write_rows(tmp_path / "rows.jsonl", [row]))
    picture(tmp_path, "a.png", "blue")
    with pytest.raises(UsageError, match="has changed since"):
        Gallery().load(found.pictures[0])


# ---- duplicates and splits -------------------------------------------------------------------


def noise(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    import random

    draw = random.Random(seed)
    small = Image.new("RGB", (4, 4))
    small.putdata([tuple(draw.randrange(256) for _ in range(3)) for _ in range(16)])
    return small.resize(size, Image.Resampling.BICUBIC)


def test_pictures_look_alike_after_compression_and_not_in_another_colour() -> None:
    one = noise(1)
    packed = io.BytesIO()
    one.resize((50, 50)).save(packed, "JPEG", quality=60)
    red, green = Image.new("RGB", (9, 9), "red"), Image.new("RGB", (9, 9), "green")
    looks = [look_of(i) for i in (one, noise(2), Image.open(packed), red, green)]
    assert alike(looks) == [(0, 2)]


def test_duplicates_are_found_exactly_and_by_eye(tmp_path: Path) -> None:
    noise(1).save(tmp_path / "a.png")
    noise(1).save(tmp_path / "b.jpg", quality=70)
    noise(2).save(tmp_path / "c.png")
    rows = [own(("user", "What?", name), ("assistant", "Noise."))
            for name in ("a.png", "a.png", "b.jpg", "c.png")]  # fmt: skip
    kept, report = read(write_rows(tmp_path / "rows.jsonl", rows))
    assert mark_duplicates(kept, report, "warn") == kept
    assert [(p.where[-1], p.kind, p.fatal) for p in report.problems] == [
        ("2", "exact duplicate", False),
        ("3", "duplicate to the eye", False),
    ]
    assert len(mark_duplicates(kept, DataReport(), "drop")) == 2
    strict = DataReport(read=4)
    mark_duplicates(kept, strict, "refuse")
    assert len(strict.fatal) == 2


def many(tmp_path: Path, count: int = 40) -> list[Dialogue]:
    """Rows in which 0 and 1 share a picture, 1 and 2 a look, 2 and 3 a conversation."""
    for number in range(count):
        noise(number).save(tmp_path / f"{number}.png")
    noise(1).save(tmp_path / "like1.jpg", quality=80)
    names = [f"{n}.png" for n in range(count)]
    names[0], names[2] = "1.png", "like1.jpg"
    rows = [
        own(("user", f"What is {n}?", names[n]), ("assistant", "Noise."),
            conversation="talk" if n in (2, 3) else "")
        for n in range(count)
    ]  # fmt: skip
    kept, report = read(write_rows(tmp_path / "rows.jsonl", rows))
    assert not report.problems
    return kept


def test_a_picture_and_a_conversation_stay_on_one_side(tmp_path: Path) -> None:
    rows = many(tmp_path)
    groups = groups_of(rows)
    assert len(set(groups[:4])) == 1
    assert len(set(groups)) == len(rows) - 3
    for seed in range(8):
        parts = split_dialogues(rows, SplitSettings(test=0.2, validation=0.1), seed)
        sides = [parts.train, parts.validation, parts.test]
        assert sum(map(len, sides)) == len(rows)
        assert 6 <= len(parts.test) <= 12
        first = [side for side in sides if any(row in side for row in rows[:4])]
        assert len(first) == 1
        seen = [{p.sha256 for row in side for p in row.pictures} for side in sides]
        assert not any(a & b for a, b in itertools.combinations(seen, 2))


def test_the_order_of_rows_does_not_change_the_split(tmp_path: Path) -> None:
    rows = many(tmp_path)
    one = split_dialogues(rows, SplitSettings(), seed=3)
    two = split_dialogues(rows[::-1], SplitSettings(), seed=3)
    assert {r.where for r in one.test} == {r.where for r in two.test}
    other = split_dialogues(rows, SplitSettings(), seed=4)
    assert {r.where for r in one.test} != {r.where for r in other.test}


def test_rows_that_all_hang_together_cannot_be_split() -> None:
    with pytest.raises(UsageError, match="cannot be split"):
        split_groups([0] * 20, SplitSettings(), seed=0)


def test_sides_that_rows_name_are_kept_and_checked(tmp_path: Path) -> None:
    from dataclasses import replace

    rows = many(tmp_path, 6)
    named = [replace(row, split="test" if n == 5 else "train") for n, row in enumerate(rows)]
    assert [r.where[-1] for r in split_dialogues(named, SplitSettings(), 0).test] == ["6"]
    leaky = [replace(row, split="test" if n == 0 else "train") for n, row in enumerate(rows)]
    with pytest.raises(UsageError, match=r"row 2 \(train\) and .*row 1 \(test\) share"):
        split_dialogues(leaky, SplitSettings(), 0)
    with pytest.raises(UsageError, match="say it in all"):
        split_dialogues([named[0], *rows[1:]], SplitSettings(), 0)


# ---- private details and augmentation --------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("write to s.neil+x@mail.example.co.uk now", "write to [EMAIL] now"),
        ("see https://user:pw@example.org/a?b=c ok", "see [URL] ok"),
        ("card 4111 1111 1111 1111.", "card [CARD]."),
        ("call +49 (0)30 1234567 today", "call [PHONE] today"),
        ("IBAN DE89 3704 0044 0532 0130 00", "IBAN [IBAN]"),
        ("from 192.168.1.7 and fe80::1", "from [IP] and [IP]"),
        ("key sk-abcdefghijklmnop1234", "key [SECRET]"),
        ("SSN 123-45-6789", "SSN [SSN]"),
        ("Sam and SAM, not Samuel or Sample", "[NAME] and [NAME], not Samuel or Sample"),
        ("order 4711, 12:30, 3.5 kg, 2024-05-01", "order 4711, 12:30, 3.5 kg, 2024-05-01"),
        ("card 4111 1111 1111 1112?", None),
        ("version 1.2.3.4.5 is out", "version 1.2.3.4.5 is out"),
    ],
)
def test_private_details_are_taken_out(text: str, clean: str | None) -> None:
    redact = Redactor(["Sam"])
    if clean is not None:
        assert redact(text) == clean
    else:
        assert "[CARD]" not in redact(text)


def test_changed_copies_are_the_same_every_time(tmp_path: Path) -> None:
    noise(1).save(tmp_path / "a.png")
    rows = [own(("user", "What?", "a.png"), ("assistant", "Noise.")),
            own(("user", "Hi"), ("assistant", "Ho"))]  # fmt: skip
    kept, _ = read(write_rows(tmp_path / "rows.jsonl", rows))
    settings = AugmentSettings(copies=2)
    one, two = augmented(kept, settings, 5), augmented(kept, settings, 5)
    assert one == two
    assert len(one) == 4  # the row without a picture has no copies
    gallery = Gallery()
    pixels = [gallery.pil(row.pictures[0]).tobytes() for row in one if row.pictures]
    assert len(set(pixels)) == 3
    assert pixels == [gallery.pil(row.pictures[0]).tobytes() for row in two if row.pictures]


def test_changes_do_not_mirror() -> None:
    image = Image.new("RGB", (60, 40), "white")
    image.paste("black", (0, 0, 20, 40))
    for seed in range(30):
        out = changed(image, seed * 128 + 100).convert("L")
        assert out.size == image.size
        assert out.getpixel((6, 20)) < out.getpixel((52, 20))  # type: ignore[operator]


def test_paraphrases_reword_the_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from langchain_core.language_models import FakeListChatModel

    from mmagent.finetune.data import augment

    rows = [own(("user", "What is it?"), ("assistant", "A cat."))]
    kept, _ = read(write_rows(tmp_path / "rows.jsonl", rows))
    model = FakeListChatModel(responses=["Can you name it?"])
    monkeypatch.setattr(augment, "_model", lambda name: model)
    _, copy = augmented(kept, AugmentSettings(paraphrases=1, paraphraser="x"), 0)
    assert [turn.text for turn in copy.turns] == ["Can you name it?", "A cat."]
    with pytest.raises(UsageError, match=r"name it in augment\.paraphraser"):
        augmented(kept, AugmentSettings(paraphrases=1), 0)
