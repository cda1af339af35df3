"""Concepts, scenes and the tower's labels: what is drawn is what is said to be drawn."""

from __future__ import annotations

import numpy as np
import pytest

from mmagent.finetune.bundled.concepts import CONCEPTS, EVERYDAY, concept_named
from mmagent.finetune.bundled.pictograms import HELD_OUT, SIDE, Pictogram, Sheet, _base_name
from mmagent.finetune.bundled.scenes import SHADES, SceneMaker


@pytest.fixture(scope="module")
def sheet() -> Sheet:
    """Two drawings of every concept: a white square in a training style, a red one held out."""
    pixels, items = [], []
    for label, concept in enumerate(CONCEPTS):
        for style, plain, colour in (("mdi", True, 255), ("openmoji", False, 90)):
            art = np.zeros((SIDE, SIDE, 4), np.uint8)
            art[16:112, 16:112] = (255, colour, colour, 255)
            pixels.append(art)
            items.append(Pictogram(style, concept.name, label, concept.name, plain))
    return Sheet(np.stack(pixels), tuple(items))


def test_the_everyday_are_a_hundred_and_every_icon_name_means_one_concept() -> None:
    assert len(EVERYDAY) == 100
    icons = [icon for concept in CONCEPTS for icon in concept.icons]
    assert len(icons) == len(set(icons))
    assert concept_named("apple").phrase == "an apple"
    assert concept_named("grapes").phrase == "grapes"
    with pytest.raises(KeyError):
        concept_named("nonsense")


def test_icon_names_lose_their_variant() -> None:
    assert _base_name("cat-fill") == "cat"
    assert _base_name("animal-cat-24-filled") == "cat"
    assert _base_name("food-pizza-20-regular") == "pizza"


def test_the_background_has_the_colour_that_is_named(sheet: Sheet) -> None:
    maker = SceneMaker(sheet, 64)
    rng = np.random.default_rng(0)
    for _ in range(60):
        scene = maker.single(rng, clean=True)
        assert scene.background is not None
        corners = np.asarray(scene.image)[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
        near = min(
            int(np.abs(corner - np.array(shade)).sum())
            for corner in corners
            for shade in SHADES[scene.background]
        )
        assert near < 120, scene.background


def test_splits_keep_styles_apart(sheet: Sheet) -> None:
    maker = SceneMaker(sheet, 64)
    rng = np.random.default_rng(1)
    for split, held in (("train", False), ("test", True)):
        for make in (maker.single, maker.pair, maker.count):
            scene = make(rng, split)
            assert all((p.item.style in HELD_OUT) is held for p in scene.objects)


def test_the_same_seed_draws_the_same_scene(sheet: Sheet) -> None:
    maker = SceneMaker(sheet, 64)
    one = maker.pair(np.random.default_rng(5))
    two = maker.pair(np.random.default_rng(5))
    assert one.image.tobytes() == two.image.tobytes()
    assert one.objects == two.objects


def test_pairs_and_counts_are_what_they_say(sheet: Sheet) -> None:
    maker = SceneMaker(sheet, 96)
    rng = np.random.default_rng(2)
    for _ in range(20):
        pair = maker.pair(rng)
        first, second = pair.objects
        assert first.concept != second.concept
        overlap_x = min(first.box[2], second.box[2]) - max(first.box[0], second.box[0])
        overlap_y = min(first.box[3], second.box[3]) - max(first.box[1], second.box[1])
        assert overlap_x <= 1e-6 or overlap_y <= 1e-6
        count = maker.count(rng)
        assert 1 <= len(count.objects) <= 6
        assert len({p.item.label for p in count.objects}) == 1


def test_several_things_lie_each_in_its_quarter(sheet: Sheet) -> None:
    maker = SceneMaker(sheet, 96)
    rng = np.random.default_rng(3)
    for _ in range(20):
        things = maker.several(rng).objects
        assert len(things) in (3, 4)
        assert len({p.item.label for p in things}) == len(things)
        quarters = {(p.box[0] >= 0.5, p.box[1] >= 0.5) for p in things}
        assert len(quarters) == len(things)
        for left, top, right, bottom in (p.box for p in things):
            assert right <= (1 if left >= 0.5 else 0.5)
            assert bottom <= (1 if top >= 0.5 else 0.5)


def test_nothing_is_drawn_alike_from_a_seed_and_measuring_has_its_own_kinds() -> None:
    from mmagent.finetune.bundled.emptiness import KINDS, nothing

    assert not set(KINDS["train"]) & set(KINDS["test"])
    for split in ("train", "test"):
        drawn = [nothing(np.random.default_rng(seed), 48, split) for seed in range(60)]
        assert {image.size for image in drawn} == {(48, 48)}
        assert {image.mode for image in drawn} == {"RGB"}
        again = nothing(np.random.default_rng(7), 48, split)
        assert again.tobytes() == drawn[7].tobytes()
        assert len({image.tobytes() for image in drawn}) == 60


def test_a_scene_of_nothing_has_no_objects(sheet: Sheet) -> None:
    scene = SceneMaker(sheet, 64).nothing(np.random.default_rng(0))
    assert scene.objects == ()
    assert scene.background is None


def test_things_beyond_the_concepts_are_split_by_what_they_are(sheet: Sheet) -> None:
    words = ["abacus", "bagpipe", "catapult", "dynamo", "eyelet"]
    items = [Pictogram("noto", word, -1, word, False) for word in words]
    beyond = Sheet(np.repeat(sheet.pixels[:1], len(items), axis=0), tuple(items))
    maker = SceneMaker(beyond, 64)
    rng = np.random.default_rng(0)
    seen = {
        split: {maker.other(rng, split).objects[0].item.text for _ in range(40)}
        for split in ("train", "test")
    }
    assert seen == {"train": set(words[:4]), "test": {"eyelet"}}
