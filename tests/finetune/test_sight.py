"""Stage A: labels are true to the pictures, the loss falls, reloading is exact, two work as one."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ImageFont

from mmagent.finetune.bundled import together
from mmagent.finetune.bundled.concepts import CONCEPTS
from mmagent.finetune.bundled.dialogues_picture import Shown
from mmagent.finetune.bundled.dialogues_screen import screen_dialogue, shown_on
from mmagent.finetune.bundled.eyesight import eyesight, spelt
from mmagent.finetune.bundled.lexicon import GROUPS, IGNORE, Lexicon, labels_of, weights_of
from mmagent.finetune.bundled.pictograms import SIDE, Pictogram, Sheet
from mmagent.finetune.bundled.refit import (
    Seen,
    doubtful,
    polish,
    product_losses,
    see,
)
from mmagent.finetune.bundled.screens import FONTS, LETTERS, Screen, ScreenMaker
from mmagent.finetune.bundled.sight import Draw, batch_of, look, losses, signs_of, strips_of
from mmagent.finetune.bundled.tower import Projector, save_trunk, without_gates
from mmagent.finetune.bundled.train_tower import TowerRun
from mmagent.models.vision import new_trunk

WORDS = sum(map(len, GROUPS.values()))


class Eye:
    """A tower that sees the same in every picture."""

    def __call__(self, pixels: torch.Tensor) -> object:
        return type("Out", (), {"last_hidden_state": torch.ones(len(pixels), 8, 7, 7)})


@pytest.fixture(scope="module")
def sheet() -> Sheet:
    """Every concept as a disc of its own colour, in a training style and in one held out."""
    pixels, items = [], []
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    for label, concept in enumerate(CONCEPTS):
        for style in ("noto", "openmoji"):
            art = np.zeros((SIDE, SIDE, 4), np.uint8)
            colour = (label * 37 % 256, label * 91 % 256, label * 53 % 256, 255)
            art[np.hypot(x, y) < SIDE * 0.45] = colour
            pixels.append(art)
            items.append(Pictogram(style, concept.name, label, concept.name, False))
    for word in ("abacus", "bagpipe", "catapult", "dynamo", "eyelet"):
        pixels.append(pixels[0])
        items.append(Pictogram("noto", word, -1, word, False))
    return Sheet(np.stack(pixels), tuple(items))


def _texts(sheet: Sheet) -> dict[str, int]:
    return {text: k for k, text in enumerate(sorted({item.text for item in sheet.items}))}


@pytest.fixture(scope="module")
def fonts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pillow's own font in the place of every font."""
    folder = tmp_path_factory.mktemp("fonts")
    font = ImageFont.load_default(20)
    assert isinstance(font, ImageFont.FreeTypeFont)
    for name in (*FONTS["train"], *FONTS["test"]):
        (folder / name).mkdir()
        (folder / name / "one.woff").write_bytes(font.font_bytes)
    return folder


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    vectors = torch.randn(WORDS, 320, generator=torch.Generator().manual_seed(0))
    return Lexicon(vectors, torch.zeros(320), torch.linalg.pinv(vectors))


@pytest.fixture(scope="module")
def draw(sheet: Sheet, fonts: Path) -> Draw:
    return Draw(sheet, fonts, 224)


def test_what_cells_say_is_read_back(draw: Draw, lexicon: Lexicon) -> None:
    shown = Shown("pair", ("cat", "dog"), ("red", None),
                  ((0.0, 0.3, 0.43, 0.7), (0.57, 0.3, 1.0, 0.7)), "blue")  # fmt: skip
    weights = weights_of(shown, 7)
    read = lexicon.read(weights @ lexicon.vectors + lexicon.mean)
    assert torch.allclose(read, weights, atol=1e-4)
    left, right = 3 * 7 + 1, 3 * 7 + 5
    assert read[left, Lexicon.place("cat", "concept")] > 0.9
    assert read[left, Lexicon.place("left", "side")] > 0.5
    assert read[right, Lexicon.place("dog", "concept")] > 0.9
    assert read[right, Lexicon.place("right", "side")] > 0.5
    assert read[0, Lexicon.place("blue", "colour")] > 0.5
    assert read[0, Lexicon.place("two", "number")] > 0.3
    alone = weights_of(Shown("single", ("cat",), (None,), ((0.2, 0.2, 0.8, 0.8),), None), 7)
    assert float(alone[:, slice(*Lexicon.span("number"))].max()) == 0.0  # it would drown the cat
    labels = labels_of(shown, 7)
    assert labels["concept"][left] == GROUPS["concept"].index("cat")
    assert labels["concept"][0] == len(GROUPS["concept"])
    assert labels["colour"][left] == GROUPS["colour"].index("red")
    assert labels["colour"][right] == IGNORE
    assert set(labels["doubt"].tolist()) == {2}


def test_words_of_one_spelling_have_places_of_their_own() -> None:
    assert Lexicon.place("orange", "concept") != Lexicon.place("orange", "colour")
    assert len({(group, word) for group, words in GROUPS.items() for word in words}) == WORDS
    with pytest.raises(KeyError):
        Lexicon.span("verbs")


@pytest.mark.parametrize("split", ["train", "test"])
def test_codes_stand_where_it_is_said_and_can_be_read(
    draw: Draw, lexicon: Lexicon, split: str
) -> None:
    rng = np.random.default_rng(4)
    first, last = Lexicon.span("letter")
    spelt_out = 0
    for _ in range(40):
        screen = draw.screens.draw(rng, split, clean=True)
        assert set(screen.code) <= set(LETTERS)
        assert "".join(letter.sign for letter in screen.letters) == screen.code
        assert split == "train" or len(screen.code) == 6
        grey = np.asarray(screen.image.convert("L")).astype(int)
        for letter in screen.letters:  # there is ink where a letter is said to be
            x0, x1 = ((letter.across + d * letter.wide / 2) * 224 for d in (-1, 1))
            y0, y1 = ((letter.down + d * letter.high / 2) * 224 for d in (-1, 1))
            part = grey[max(0, int(y0)) : int(y1) + 1, max(0, int(x0)) : int(x1) + 1]
            assert part.max() - part.min() > 40
        weights = weights_of(shown_on(screen), 7)
        assert spelt(weights) == screen.code
        assert spelt(lexicon.read(weights @ lexicon.vectors + lexicon.mean)) == screen.code
        assert spelt(weights * 8, loud=True) == screen.code
        rows = weights.view(7, 7, WORDS)[..., first:last]  # rows of tokens spell the code
        middle = (shown_on(screen).boxes[0][1] + shown_on(screen).boxes[0][3]) / 2
        line = min(6, int(middle * 7))
        rows = rows[max(0, line - 1) : line + 2]
        assert len(rows) >= 2
        assert float(rows.sum()) == float(weights.sum()) == len(rows) * len(screen.code)
        for place, sign in enumerate(screen.code):
            assert (rows[:, place].argmax(-1) == LETTERS.index(sign)).all()
        assert float(rows[:, len(screen.code) :].sum()) == 0.0
        label = labels_of(shown_on(screen), 7)["letter"].view(7, 7)
        assert (label[line, len(screen.code) :] == len(LETTERS)).all()
        assert label[line, 0] == LETTERS.index(screen.code[0])
        assert all((label[r] == len(LETTERS)).all() for r in range(7) if abs(r - line) > 2)
        signs, places = (t.view(14, 14) for t in signs_of(screen, 14))
        line = signs[min(13, int(screen.letters[0].down * 14))]
        there = "".join(LETTERS[k] for k in line.tolist() if 0 <= k < len(LETTERS))
        spelt_out += there == screen.code
        order = places[(signs >= 0) & (signs < len(LETTERS))]
        assert sorted(order.tolist()) == sorted(set(order.tolist()))
        assert int(order.max()) == len(screen.code) - 1
        assert split == "train" or (signs == IGNORE).any()  # where other things are written
    assert spelt_out > 30  # two thin letters can share a cell


def test_a_wall_of_letters_is_no_code(draw: Draw) -> None:
    for seed in range(10):
        wall = draw.screens.wall(np.random.default_rng(seed), clean=True)
        assert len({round(letter.down * 224) for letter in wall.letters}) >= 3
        assert not weights_of(shown_on(wall), 7).any()
        assert (labels_of(shown_on(wall), 7)["letter"] == IGNORE).all()
        signs, places = signs_of(wall, 14)
        assert int((signs < len(LETTERS)).sum()) > 12
        assert (signs != IGNORE).all()
        assert (places == IGNORE).all()


def test_fonts_and_layouts_of_the_splits_differ(fonts: Path) -> None:
    assert not set(FONTS["train"]) & set(FONTS["test"])
    maker = ScreenMaker(fonts, 64)
    one = maker.draw(np.random.default_rng(1), clean=True)
    again = maker.draw(np.random.default_rng(1), clean=True)
    assert one.image.tobytes() == again.image.tobytes()
    assert one.code == again.code


def test_codes_to_learn_from_have_twins_when_that_is_asked_for(fonts: Path) -> None:
    usual, twins = ScreenMaker(fonts, 64), ScreenMaker(fonts, 64, doubled=1.0)

    def codes(maker: ScreenMaker, split: str) -> list[str]:
        rng = np.random.default_rng(4)
        return [maker.draw(rng, split, clean=True).code for _ in range(40)]

    def doubled(code: str) -> bool:
        return any(one == two for one, two in pairwise(code))

    assert all(map(doubled, codes(twins, "train")))
    assert sum(map(doubled, codes(usual, "train"))) < 20
    assert codes(twins, "test") == codes(usual, "test")  # measuring stays as it was


def test_questions_about_a_screen_are_answered_with_its_code(draw: Draw) -> None:
    import random

    from mmagent.finetune.bundled.dialogues_picture import Gallery

    screen = draw.screens.draw(np.random.default_rng(2))
    for split in ("train", "test"):
        dialogue = screen_dialogue(random.Random(1), Gallery([shown_on(screen)]), split)
        assert dialogue.pictures == (0,)
        assert all(screen.code in talk.answer for talk in dialogue.talks)


def test_labels_of_a_batch_match_its_pictures(draw: Draw) -> None:
    rng = np.random.default_rng(3)
    kinds = ("single", "pair", "count", "other", "nothing", "screen")
    drawn = [(kind, draw.one(rng, kind, "train", clean=True)) for kind in kinds]
    texts = _texts(draw.scenes.sheet)
    batch = batch_of(drawn, texts)
    assert batch["pixels"].shape == (6, 3, 224, 224)
    assert float(batch["pixels"].abs().max()) <= 1.0
    assert batch["words"].shape == (6, 49, WORDS)
    things = batch["thing"].tolist()
    assert things[0] == drawn[0][1].objects[0].item.label  # type: ignore[union-attr]
    assert things[1] == things[3] == things[4] == things[5] == IGNORE
    assert things[2] >= 0
    assert batch["doubt"][:, 0].tolist() == [2, 2, 2, 1, 0, 2]
    assert set(batch["number"][2].tolist()) == {len(drawn[2][1].objects)}  # type: ignore[union-attr]
    assert int(((batch["letter"][5] >= 0) & (batch["letter"][5] < len(LETTERS))).sum()) >= 2 * 4
    assert (batch["code"][:5] == len(LETTERS)).all()
    code = drawn[5][1].code  # type: ignore[union-attr]
    assert "".join(LETTERS[k] for k in batch["code"][5] if k < len(LETTERS)) == code
    assert (batch["letter"][:5] == len(LETTERS)).all()
    assert batch["sign"].shape == (6, 4 * 49)
    assert (batch["sign"][:5] == IGNORE).all()
    assert (batch["place"][:5] == IGNORE).all()
    assert int(batch["place"][5].max()) >= 3
    assert int(((batch["sign"][5] >= 0) & (batch["sign"][5] < len(LETTERS))).sum()) >= 4


def test_a_strip_keeps_the_line_of_the_code_and_its_labels(draw: Draw) -> None:
    drawn = draw.some(np.random.default_rng(6), 30, kind="screen")
    whole = batch_of(drawn, {})
    strips = strips_of(whole)
    assert strips["pixels"].shape == (30, 3, 96, 224)
    assert strips["words"].shape == (30, 21, WORDS)
    assert strips["sign"].shape == strips["place"].shape == (30, 84)
    firsts = set()
    for index, (_, screen) in enumerate(drawn):
        assert isinstance(screen, Screen)
        rows = strips["words"][index].view(3, 7, WORDS)[..., slice(*Lexicon.span("letter"))]
        said = [row.argmax(-1)[row.amax(-1) > 0].tolist() for row in rows]
        spelt_out = [LETTERS.index(sign) for sign in screen.code]
        assert said.count(spelt_out) >= 2  # a line at an edge is said in two rows
        pixels, strip = whole["pixels"][index], strips["pixels"][index]
        at = [k for k in range(5) if torch.equal(pixels[:, 32 * k : 32 * k + 96], strip)]
        assert at
        first = at[0]
        firsts.add(first)
        assert 32 * first <= screen.letters[0].down * 224 <= 32 * first + 96
        fine = whole["sign"][index].view(14, 14)[2 * first : 2 * first + 6]
        assert torch.equal(strips["sign"][index].view(6, 14), fine)
    assert len(firsts) > 2


def test_a_pictures_norms_can_be_kept_and_batches_are_added(
    sheet: Sheet, fonts: Path, lexicon: Lexicon
) -> None:
    small = Draw(sheet, fonts, 96)
    texts = _texts(sheet)
    rng = np.random.default_rng(0)
    batch = batch_of(small.some(rng, 6), texts)
    strips = strips_of(batch_of(small.some(rng, 6, kind="screen"), texts))
    run = _run(lexicon, len(texts))
    run.still_norms = True
    before = {k: v.clone() for k, v in run.trunk.state_dict().items()}
    together_lost = run.step(batch, strips)
    for key, value in run.trunk.state_dict().items():
        if "running" in key:
            assert torch.equal(value, before[key]), key
    assert any(not torch.equal(v, before[k]) for k, v in run.trunk.state_dict().items())
    assert run.seen == 12
    alone = [_run(lexicon, len(texts)) for _ in range(2)]
    for one in alone:
        one.still_norms = True
    first, second = (one.step(b) for one, b in zip(alone, (batch, strips), strict=True))
    for key, value in together_lost.items():
        assert value == pytest.approx(first.get(key, 0) + second.get(key, 0), rel=1e-4), key


def test_saying_what_is_there_costs_little(draw: Draw, lexicon: Lexicon) -> None:
    rng = np.random.default_rng(5)
    drawn = draw.some(rng, 12)
    texts = _texts(draw.scenes.sheet)
    batch = batch_of(drawn, texts)
    out = {"thing": torch.zeros(12, len(CONCEPTS)), "text": torch.zeros(12, len(texts)),
           "background": torch.zeros(12, 11), "tint": torch.zeros(12, 11)}  # fmt: skip
    right = losses(out, batch["words"] @ lexicon.vectors + lexicon.mean, batch, lexicon)
    wrong = losses(out, batch["words"].flip(0) @ lexicon.vectors + lexicon.mean, batch, lexicon)
    assert right["near"] < 1e-6
    for key in ("word concept", "word doubt", "whole"):
        assert right[key] < 0.7 * wrong[key], key


def _run(lexicon: Lexicon, texts: int) -> TowerRun:
    torch.manual_seed(0)
    units = torch.nn.functional.normalize(torch.randn(texts, 384), dim=-1)
    return TowerRun(without_gates(new_trunk(64)), units, lexicon, minutes=10, lr=2e-3)


def test_the_loss_falls_and_a_checkpoint_is_exact(
    sheet: Sheet, fonts: Path, lexicon: Lexicon, tmp_path: Path
) -> None:
    small = Draw(sheet, fonts, 64)
    texts = _texts(sheet)
    batch = batch_of(small.some(np.random.default_rng(0), 12), texts)
    run = _run(lexicon, len(texts))
    run.seen = 4000  # past the slow start
    totals = [sum(run.step(batch).values()) for _ in range(14)]
    assert totals[-1] < 0.8 * totals[0]
    run.save(tmp_path / "run.pt")
    again = _run(lexicon, len(texts))
    again.load(tmp_path / "run.pt")
    again.spent = run.spent
    assert run.step(batch) == again.step(batch)
    save_trunk(run.mean_trunk.module, run.mean_heads.module, run.mean_projector.module,
               tmp_path / "out", {"side": 64})  # fmt: skip
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "vision.safetensors", "projector.safetensors", "embedding_head.safetensors"
    }  # fmt: skip
    sight = eyesight(run.trunk.eval(), run.projector.eval(), small, lexicon, number=4)
    assert {
        "name",
        "side",
        "count",
        "code",
        "code-by-products",
        "pair-name-by-products",
        "letters",
        "nothing",
        "unknown",
        "doubted",
    } <= set(sight)
    assert all(0 <= value <= 1 for value in sight.values())
    after = _run(lexicon, len(texts))
    after.begin_from(tmp_path / "out")
    for part, wanted in ((after.projector, run.mean_projector), (after.mean_heads, run.mean_heads)):
        found = part.state_dict()
        for key, value in wanted.module.state_dict().items():
            if "embed" in key or "linear" in key:
                there = next(v for k, v in found.items() if k.endswith(key))
                assert torch.allclose(there, value, atol=2e-3)
    tower, heads, says = (group["peak"] for group in after.optimizer.param_groups)
    assert says < tower < heads
    before = [p.detach().clone() for p in after.learning]
    after.step(batch)  # the tower waits for the new heads
    learned = [not torch.equal(p, b) for p, b in zip(after.learning, before, strict=True)]
    assert not any(learned[: after.of_trunk])
    assert any(learned[after.of_trunk :])
    after.seen = after.wait
    after.step(batch)
    assert not all(map(torch.equal, after.learning[: after.of_trunk], before))


def test_some_single_things_are_shown_twice(draw: Draw) -> None:
    kinds = ["single"] * 20
    found = []
    for twins in (0.0, 0.5):
        shown, features = look(Eye(), draw, np.random.default_rng(1), kinds, clean=1, twins=twins)
        assert features.shape == (20, 49, 8)
        found.append(len({one.names[0] for one in shown}))
    assert found[0] > 17
    assert found[1] < 15


def test_other_shares_of_pictures_can_be_drawn(sheet: Sheet, fonts: Path) -> None:
    none = dict.fromkeys(("single", "other", "pair", "several", "count", "wall", "nothing"), 0.0)
    draw = Draw(sheet, fonts, 64, none)
    assert {kind for kind, _ in draw.some(np.random.default_rng(2), 12)} == {"screen"}


def _half(out: Path) -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    other, idle = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    loss = (weight * torch.tensor([2.0, 4.0])).sum() * (together.rank_of() + 1)
    if together.rank_of() == 1:
        loss = loss + 6 * other.sum()
    torch.autograd.backward(loss)
    together.share_gradients([weight, other, idle])
    assert weight.grad is not None
    assert other.grad is not None
    first = together.first_says(together.rank_of() + 5.0)
    found = {"weight": weight.grad.tolist(), "other": other.grad.tolist(),
             "idle": idle.grad is None, "first": first}  # fmt: skip
    (out / f"{together.rank_of()}.json").write_text(json.dumps(found))
    together.wait()


def test_two_processes_take_the_mean_of_their_gradients(tmp_path: Path) -> None:
    together.launch(_half, 2, tmp_path)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1]
    assert found[0] == {"weight": [3.0, 6.0], "other": [3.0], "idle": True, "first": 5.0}


def test_one_process_needs_nobody(tmp_path: Path) -> None:
    calls: list[int] = []
    together.launch(calls.append, 1, 7)
    assert calls == [7]
    assert together.number_of() == 1
    assert together.first_says(2.5) == 2.5
    weight = torch.nn.Parameter(torch.ones(1))
    together.share_gradients([weight])
    together.wait()
    assert weight.grad is None


def test_pictures_to_refit_on_come_with_their_words(draw: Draw) -> None:
    pictures = see(Eye(), draw, 48)
    assert pictures.features.shape == (48, 49, 8)
    assert pictures.words.shape == (48, 49, WORDS)
    assert float(pictures.words.max()) <= 1.0
    for thing, number, concepts in zip(
        pictures.things.tolist(), pictures.numbers.tolist(), pictures.labels["concept"], strict=True
    ):
        if thing >= 0:
            assert set(concepts.tolist()) <= {thing, len(CONCEPTS), IGNORE}
            assert 1 <= number <= 6
    assert -100 in pictures.things.tolist()


def test_what_is_polished_on_is_doubtful_but_codes_stay_as_they_are() -> None:
    torch.manual_seed(5)
    things = Shown("single", ("cat",), (None,), ((0.2, 0.2, 0.8, 0.8),), "red")
    screen = Shown("screen", ("ABC234",), ("reference",), ((0.1, 0.4, 0.9, 0.6),), None)
    shown = [things, screen] * 4
    labels = [labels_of(s, 7) for s in shown]
    seen = Seen(
        torch.randn(8, 49, 1280).half(), torch.stack([weights_of(s, 7) for s in shown]),
        {g: torch.stack([row[g] for row in labels]) for g in GROUPS},
        torch.full((8,), IGNORE), torch.full((8,), IGNORE),
    )  # fmt: skip
    rows = torch.tensor([5, 0, 2, 3])  # screen, thing, thing, screen
    plain = seen.features[rows].float()
    shares = torch.stack(
        [(doubtful(seen, rows) - plain).abs().amax((1, 2)) for _ in range(9)]
    ).amax(0)
    assert (shares > 0).tolist() == [False, True, True, False]
    assert float(shares.max()) < 0.4 * float((2 * seen.features.abs().max()).float())


def test_polishing_makes_the_right_word_the_loudest(lexicon: Lexicon) -> None:
    torch.manual_seed(4)
    shown = [
        Shown("single", (c.name,), (None,), ((0.2, 0.2, 0.8, 0.8),), shade)
        for c in CONCEPTS[:12]
        for shade in ("red", "blue", "green", "white")
    ]
    # One word that is much like all others, and louder, as in real vocabularies.
    vectors = lexicon.vectors + 0.6
    vectors[40] = vectors.mean(0) * 3
    like = Lexicon(vectors, torch.zeros(320), torch.linalg.pinv(vectors))
    words = torch.stack([weights_of(s, 7) for s in shown])
    labels = [labels_of(s, 7) for s in shown]
    features = words @ torch.randn(WORDS, 1280) + 0.5 * torch.randn(len(shown), 49, 1280)
    things = torch.tensor([GROUPS["concept"].index(s.names[0]) for s in shown])
    seen = Seen(
        features.half(), words, {g: torch.stack([row[g] for row in labels]) for g in GROUPS},
        things, torch.ones_like(things),
    )  # fmt: skip
    rows = torch.arange(len(shown))
    told = words @ vectors
    right = product_losses(told, seen, rows, like)
    drowned = product_losses(told + vectors[40], seen, rows, like)
    assert float(right["near"]) < 1e-6
    assert float(right["thing"]) < float(drowned["thing"])
    letters = slice(*Lexicon.span("letter"))
    screen = Shown("screen", ("ABC234",), ("reference",), ((0.1, 0.4, 0.9, 0.6),), None)
    code = weights_of(screen, 7)
    spelling = Seen(
        features[:1].half(), code[None], {g: t[None] for g, t in labels_of(screen, 7).items()},
        torch.tensor([IGNORE]), torch.tensor([IGNORE]),
    )  # fmt: skip
    babble = code.clone()
    babble.view(7, 7, WORDS)[2:5, 6, letters.start] = 1.0  # a seventh letter that is not there
    silent, heard = (
        float(product_losses(w[None] @ vectors, spelling, torch.tensor([0]), like)["letter"])
        for w in (code, babble)
    )
    assert silent < heard
    projector = Projector(320)

    def named() -> float:
        with torch.no_grad():
            loud = like.products(projector(features)).mean(1)[:, : len(CONCEPTS)]
        return float((loud.argmax(1) == things).float().mean())

    assert named() < 0.1
    losses = list(polish(projector, seen, like, rounds=48))
    assert losses[-1] < losses[0]
    assert named() > 0.2  # of 216 names, after 48 steps from nothing
