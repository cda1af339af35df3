"""The dialogue program: what is drawn, and that a row teaches exactly the assistant's words."""

import random

import numpy as np
import pytest
import torch
from tiny_models import build_fastvlm

from mmagent.finetune.bundled.chat_data import mixture
from mmagent.finetune.bundled.dialogues import Dialogue, Talk, between, phrases, say, user
from mmagent.finetune.bundled.dialogues_encode import Encoder, collate, supervised_text
from mmagent.finetune.bundled.dialogues_memory import memory_dialogue, told_dialogue
from mmagent.finetune.bundled.dialogues_persona import persona_dialogue, small_talk
from mmagent.finetune.bundled.dialogues_picture import (
    Gallery,
    Shown,
    picture_dialogue,
    remembered_picture,
)
from mmagent.finetune.bundled.dialogues_text import prompts, read_answers

BOX = (0.1, 0.1, 0.9, 0.9)
LEFT, RIGHT = (0.0, 0.3, 0.4, 0.7), (0.6, 0.3, 1.0, 0.7)
GALLERY = Gallery(
    [
        Shown("single", ("apple",), ("red",), (BOX,), "blue"),
        Shown("single", ("grapes",), (None,), (BOX,), None),
        Shown("pair", ("cat", "dog"), (None, None), (RIGHT, LEFT), "white"),
        Shown("count", ("mouse",) * 3, (None,) * 3, (LEFT, RIGHT, BOX), "green"),
    ]
)
TEXTS = [Dialogue("text", (Talk("text", (user("What is jazz?"), say("Music."))),), teacher=0)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = build_fastvlm(tmp_path_factory.mktemp("fastvlm"))
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    return model, processor, Encoder(processor.tokenizer, model.config.image_token_id, 25)


def test_same_seed_draws_the_same_dialogues_and_all_kinds_appear():
    draw = mixture(GALLERY, TEXTS)
    first = draw.chunk(3, 0, 200)
    assert first == mixture(GALLERY, TEXTS).chunk(3, 0, 200)
    assert first != draw.chunk(3, 1, 200)
    kinds = {d.kind for d in first}
    assert kinds == {"picture-single", "picture-pair", "picture-count", "recalled", "memory",
                     "told", "persona", "talk", "text"}  # fmt: skip


def test_every_talk_of_a_dialogue_begins_with_the_same_system_message_and_ends_with_an_answer():
    for dialogue in mixture(GALLERY, TEXTS).chunk(5, 0, 150):
        firsts = [t.messages[0] for t in dialogue.talks if t.messages[0]["role"] == "system"]
        assert len(firsts) in (0, len(dialogue.talks))
        assert all(first == firsts[0] for first in firsts)
        for talk in dialogue.talks:
            assert talk.messages[-1]["role"] == "assistant"
            assert talk.answer
            assert "{" not in str([m["content"][-1]["text"] for m in talk.messages])
            shown = sum(p["type"] == "image" for m in talk.messages for p in m["content"])
            assert shown == len(dialogue.pictures)


@pytest.mark.parametrize("split", ["train", "test"])
def test_answers_hold_what_is_accepted(split):
    rng = random.Random(1)
    for _ in range(60):
        for dialogue in (
            memory_dialogue(rng, split),
            told_dialogue(rng, split),
            persona_dialogue(rng, split),
            remembered_picture(rng, GALLERY, split),
            picture_dialogue(rng, GALLERY, rng.choice(["single", "pair", "count"]), split),
        ):
            for talk in dialogue.talks:
                if talk.accept and talk.task not in ("told",):
                    assert any(a.lower() in talk.answer.lower() for a in talk.accept), talk


def test_a_remembered_value_stands_in_the_memories_and_an_unknown_one_does_not():
    rng = random.Random(2)
    seen = set()
    for _ in range(80):
        for talk in memory_dialogue(rng).talks:
            asked = talk.messages[-2]["content"][-1]["text"]
            if talk.task == "memory":
                assert asked.startswith("[Memories]\n- (20")
                assert talk.accept[0].lower() in asked.split("[/Memories]")[0].lower()
            seen.add(talk.task)
    assert {"memory", "unknown", "talk", "summary"} <= seen


def test_picture_answers_are_true_to_the_picture():
    rng = random.Random(3)
    for _ in range(40):
        answers = {}
        for talk in picture_dialogue(rng, GALLERY, row=0, split="test").talks:
            answers[talk.task] = talk.answer
        assert "apple" in answers["name"]
        assert "blue" in answers["background"]
        assert "red" in answers["colour"]
    sides = [
        t for t in picture_dialogue(rng, GALLERY, row=2, split="test").talks if t.task == "side"
    ]
    for talk in sides:
        asked = talk.messages[-2]["content"][-1]["text"]
        assert ("left" in asked) == ("a dog" in talk.answer)
    count = picture_dialogue(rng, GALLERY, row=3, split="test").talks[0]
    assert count.answer == "I see three mice."
    mixed = [
        t for t in picture_dialogue(rng, GALLERY, row=1, split="test").talks if t.task == "mixed"
    ]
    assert "more than one colour" in mixed[0].answer


def test_measuring_uses_its_own_words():
    pools = phrases("facts")["pools"]
    for pool in pools.values():
        assert not set(between(pool, "train")) & set(between(pool, "test"))
        assert between(pool, "test")
    facts = phrases("facts")
    assert not set(facts["names_train"]) & set(facts["names_test"])
    for fact in facts["facts"]:
        if not fact.get("only_test"):
            assert not set(fact["ask"]) & set(fact["ask_test"])
    told = {t.task for _ in range(50) for t in small_talk(random.Random(4), "test").talks}
    assert told == {"talk"}


def test_prompts_are_distinct_and_a_torn_line_is_left_out(tmp_path):
    assert len(set(prompts())) == len(prompts()) > 200
    path = tmp_path / "answers.jsonl"
    path.write_text('{"prompt": "a", "answer": "b", "finished": true}\n{"prompt": "c", "ans')
    assert [r["prompt"] for r in read_answers(path)] == ["a"]


def test_only_the_assistant_is_supervised(tiny):
    _, processor, encoder = tiny
    for dialogue in mixture(GALLERY, TEXTS).chunk(6, 0, 60):
        row = encoder.row(dialogue)
        taught = supervised_text(row, processor.tokenizer)
        said = [f"{talk.answer}<|im_end|>" for talk in dialogue.talks]
        if dialogue.kind in ("told", "talk"):  # also the answers before the last one
            assert set(said) <= set(taught)
        elif not any(len(t.messages) > 3 for t in dialogue.talks):
            assert sorted(taught) == sorted(said)
        assert encoder.image_token not in row.target
        assert row.ids.count(encoder.image_token) == 25 * len(dialogue.pictures)


def test_a_branch_is_computed_as_if_it_stood_alone(tiny):
    model, _, encoder = tiny
    rng = random.Random(8)
    dialogues = [memory_dialogue(rng), persona_dialogue(rng)]
    rows = [encoder.row(d) for d in dialogues]
    batch = collate(rows, pad=0)
    with torch.no_grad():
        states = model.model.language_model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions
        ).last_hidden_state
        for index, dialogue in enumerate(dialogues):
            for number, talk in enumerate(dialogue.talks, start=1):
                ids, _ = encoder.tokens(talk.messages)
                alone = model.model.language_model(input_ids=torch.tensor([ids])).last_hidden_state
                branch = np.array(rows[index].branch)
                mine = states[index, : len(branch)][torch.from_numpy(np.isin(branch, (0, number)))]
                torch.testing.assert_close(mine, alone[0], atol=2e-4, rtol=1e-3)


def test_encoded_talk_equals_the_processors_tokens(tiny):
    _, processor, encoder = tiny
    from PIL import Image

    talk = picture_dialogue(random.Random(9), GALLERY, row=0).talks[0]
    text = processor.apply_chat_template(list(talk.messages), tokenize=False)
    image = Image.new("RGB", (160, 160))
    wanted = processor(text=[text], images=[[image]])["input_ids"][0]
    assert encoder.tokens(talk.messages)[0] == list(wanted)


def test_a_template_without_marks_is_refused(tiny):
    _, processor, encoder = tiny
    plain = Encoder(processor.tokenizer, encoder.image_token, 25)
    marked = processor.tokenizer.chat_template
    try:
        processor.tokenizer.chat_template = "{{ messages[0]['content'][0]['text'] }}"
        with pytest.raises(ValueError, match="generation"):
            plain.row(TEXTS[0])
    finally:
        processor.tokenizer.chat_template = marked
