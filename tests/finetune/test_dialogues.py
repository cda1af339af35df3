"""The dialogue program: what is drawn, and that a row teaches exactly the assistant's words."""

import json
import random
import re
from collections import Counter

import numpy as np
import pytest
import torch
from tiny_models import build_fastvlm

from mmagent.finetune.bundled.chat_data import mixture
from mmagent.finetune.bundled.concepts import concept_named
from mmagent.finetune.bundled.dialogues import Dialogue, Talk, between, phrases, say, user
from mmagent.finetune.bundled.dialogues_album import (
    absent_dialogue,
    album_dialogue,
    doubt_dialogue,
)
from mmagent.finetune.bundled.dialogues_calls import offered_dialogue, tool_dialogue
from mmagent.finetune.bundled.dialogues_chinese import chinese_dialogue
from mmagent.finetune.bundled.dialogues_encode import Encoder, collate, supervised_text
from mmagent.finetune.bundled.dialogues_kept import kept_dialogue
from mmagent.finetune.bundled.dialogues_memory import memory_dialogue, told_dialogue
from mmagent.finetune.bundled.dialogues_persona import persona_dialogue, small_talk
from mmagent.finetune.bundled.dialogues_picture import (
    Gallery,
    Shown,
    picture_dialogue,
    remembered_picture,
)
from mmagent.finetune.bundled.dialogues_read import read_dialogue
from mmagent.finetune.bundled.dialogues_screen import screen_dialogue
from mmagent.finetune.bundled.dialogues_text import distil, prompts, read_answers
from mmagent.finetune.bundled.dialogues_tools import form_dialogue
from mmagent.finetune.bundled.dialogues_user import order_dialogue, user_dialogue
from mmagent.finetune.bundled.evaluate import is_right

BOX = (0.1, 0.1, 0.9, 0.9)
LEFT, RIGHT = (0.0, 0.3, 0.4, 0.7), (0.6, 0.3, 1.0, 0.7)
GALLERY = Gallery(
    [
        Shown("single", ("apple",), ("red",), (BOX,), "blue"),
        Shown("single", ("grapes",), (None,), (BOX,), None),
        Shown("pair", ("cat", "dog"), (None, None), (RIGHT, LEFT), "white"),
        Shown("count", ("mouse",) * 3, (None,) * 3, (LEFT, RIGHT, BOX), "green"),
        Shown("nothing", (), (), (), None),
        Shown("other", ("juggling person",), (None,), (BOX,), "red"),
        Shown("screen", ("KXER7Q",), ("error code",), (BOX,), None),
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
    first = draw.chunk(3, 0, 400)
    assert first == mixture(GALLERY, TEXTS).chunk(3, 0, 400)
    assert first != draw.chunk(3, 1, 400)
    kinds = {d.kind for d in [*first, *draw.chunk(3, 2, 1200)]}  # some are rare
    assert kinds == {"picture-single", "picture-pair", "picture-count", "recalled", "memory",
                     "told", "read", "persona", "kept", "talk", "text", "tool", "offered", "form",
                     "user", "order", "album", "doubt", "absent", "screen", "chinese"}  # fmt: skip


def test_every_talk_of_a_dialogue_begins_with_the_same_system_message_and_ends_with_an_answer():
    for dialogue in mixture(GALLERY, TEXTS).chunk(5, 0, 150):
        firsts = [t.messages[0] for t in dialogue.talks if t.messages[0]["role"] == "system"]
        assert len(firsts) in (0, len(dialogue.talks))
        assert all(first == firsts[0] for first in firsts)
        for talk in dialogue.talks:
            assert talk.messages[-1]["role"] == "assistant"
            assert talk.answer
            if dialogue.kind not in ("tool", "offered", "form"):
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
            kept_dialogue(rng, split),
            remembered_picture(rng, GALLERY, split),
            picture_dialogue(rng, GALLERY, rng.choice(["single", "pair", "count"]), split),
            user_dialogue(rng, split),
            order_dialogue(rng, split),
            album_dialogue(rng, GALLERY, split),
            absent_dialogue(rng, GALLERY, split),
            doubt_dialogue(rng, GALLERY, split),
            tool_dialogue(rng, split),
            form_dialogue(rng, split),
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
        if dialogue.kind in ("told", "talk", "album", "user", "order", "tool"):
            # also the answers before the last one
            assert set(said) <= set(taught)
        elif not any(len(t.messages) > 3 for t in dialogue.talks):
            assert sorted(taught) == sorted(said)
        assert encoder.image_token not in row.target
        assert row.ids.count(encoder.image_token) == 25 * len(dialogue.pictures)


def test_a_code_is_said_letter_by_letter(tiny):
    _, _, encoder = tiny
    dialogue = screen_dialogue(random.Random(2), GALLERY)
    row = encoder.row(dialogue)
    said = [encoder.tokenizer.decode([t]) for t in row.target]
    assert not [s for s in said if len(s.strip()) > 1 and s.strip().isupper()]
    assert "".join(said).count("KXER7Q") == len(dialogue.talks)


def test_letters_of_codes_are_said_one_by_one_and_their_space_by_itself():
    class Pairs:
        words = (" ER", "K", " ", "E", "R", "Er", " 77", " I", "77", " 7")

        def decode(self, ids):
            return self.words[ids[0]]

        def __call__(self, text, add_special_tokens):
            return {"input_ids": [self.words.index(text)]}

    encoder = Encoder(Pairs(), 9, 1)
    said = [encoder._spelt(token) for token in range(6)]
    assert said == [[2, 3, 4], [1], [2], [3], [4], [5]]
    assert encoder._spelt(7) == [7]  # no letter of codes: the word "I"


def test_chinese_is_answered_in_chinese_and_measured_in_its_own_words():
    rng = random.Random(3)
    tasks = set()
    for split in ("train", "test"):
        for _ in range(60):
            for talk in chinese_dialogue(rng, GALLERY, split).talks:
                tasks.add(talk.task)
                assert is_right(talk.answer, talk.accept)
                assert not talk.answer.isascii()
    assert tasks == {"zh_name", "zh_background", "zh_count", "zh_persona", "zh_talk"}
    book = phrases("chinese")
    for key in ("name", "background", "count", "persona"):
        assert not {q for q, _ in book[key]["train"]} & {q for q, _ in book[key]["test"]}


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


def _words(talk):
    return talk.messages[-2]["content"][-1]["text"]


def test_calls_are_those_of_an_offered_function_with_arguments_of_its_schema():
    import jsonschema

    rng = random.Random(10)
    called = 0
    for split in ("train", "test"):
        for _ in range(120):
            talks = [*tool_dialogue(rng, split).talks]
            talks += offered_dialogue(rng, memory_dialogue(rng)).talks
            for talk in talks:
                system = talk.messages[0]["content"][-1]["text"]
                assert "<tool_call>" in system
                offered = {f["name"]: f for f in talk.functions}
                assert all(f'"name": "{name}"' in system for name in offered)
                if talk.task != "tool":
                    continue
                for call in re.findall(r"<tool_call>\n(.+)\n</tool_call>", talk.answer):
                    made = json.loads(call)
                    jsonschema.validate(made["arguments"], offered[made["name"]]["parameters"])
                    called += 1
    assert called > 200


def test_functions_are_called_beside_words_that_need_none_and_their_neighbours():
    rng = random.Random(15)
    lines = [("What is jazz?", "A kind of music.")]
    tasks = Counter()
    words = neighbours = forgotten = 0
    for _ in range(200):
        dialogue = tool_dialogue(rng, lines=lines)
        tasks.update(t.task for t in dialogue.talks)
        calls = [t for t in dialogue.talks if t.task == "tool"]
        assert "<tool_call>" in str([t.messages[-3:] for t in dialogue.talks])
        words += any("<tool_call>" not in t.answer and len(t.messages) == 3 for t in dialogue.talks)
        names = {re.search(r'"name": "(\w+)"', t.answer)[1] for t in calls}
        neighbours += len(names) > 1
        for talk in dialogue.talks:
            offered = {f["name"] for f in talk.functions}
            if talk.task == "tool_list":
                assert all(name in talk.answer for name in offered)
        for talk in calls:
            for call in re.findall(r"<tool_call>\n(.+)\n</tool_call>", talk.answer):
                made = json.loads(call)
                f = next(f for f in talk.functions if f["name"] == made["name"])
                known = f["parameters"]["properties"]
                forgotten += set(known) > set(made["arguments"])
                for value in made["arguments"].values():
                    if isinstance(value, str):  # copied out of the user's words
                        assert value.lower() in str(talk.messages[-2]["content"]).lower()
    assert words == 200
    assert neighbours > 50
    assert forgotten > 5  # arguments that nobody named and that may be left out
    assert {"tool", "tool_answer", "tool_error", "tool_missing", "tool_list", "tool_plain"} <= set(
        tasks
    )


def test_a_dialogue_with_functions_on_offer_says_what_it_said_without_them():
    rng = random.Random(16)
    inner = picture_dialogue(rng, GALLERY, "single", row=0)
    offered = offered_dialogue(rng, inner)
    assert offered.pictures == inner.pictures
    for before, after in zip(inner.talks[:4], offered.talks, strict=False):
        assert before.answer == after.answer
        assert "You may call functions" in after.messages[0]["content"][-1]["text"]
    assert "<tool_call>" in offered.talks[-1].answer


def test_both_things_of_a_pair_are_asked_for():
    rng = random.Random(17)
    for _ in range(20):
        dialogue = picture_dialogue(rng, GALLERY, "pair", row=2)
        said = " ".join(str(t.messages) for t in dialogue.talks)
        for name, side in (("cat", "right"), ("dog", "left")):
            assert f"he {name} is on the {side}." in said or f"a {name} on the {side}." in said


def test_values_of_forms_stand_in_the_text_and_fit_the_schema():
    import jsonschema

    rng = random.Random(11)
    for split in ("train", "test"):
        for _ in range(150):
            for talk in form_dialogue(rng, split).talks:
                if talk.task != "json":
                    continue
                data = json.loads(talk.answer)
                jsonschema.validate(data, talk.schema)
                for value in data.values():
                    if isinstance(value, str) and "mood" not in data:
                        assert value.lower() in _words(talk).lower()


def test_the_grammar_of_the_engine_accepts_what_is_taught(tiny):
    from llguidance import LLMatcher

    from mmagent.engine.base import Form
    from mmagent.engine.guide import GuideMaker
    from mmagent.engine.toolformat import ToolFormat

    model, processor, _ = tiny
    end = processor.tokenizer.eos_token_id
    width = model.get_input_embeddings().weight.shape[0]
    maker = GuideMaker(processor.tokenizer, ends=frozenset({end}), width=width)
    rng = random.Random(12)
    talks = [t for _ in range(6) for t in (*tool_dialogue(rng).talks, *form_dialogue(rng).talks)]
    for talk in talks:
        form = Form(talk.functions) if talk.functions else Form(schema=talk.schema)
        guide = maker.guide(form, ToolFormat(), 1 << 20)
        matcher = guide._matcher
        assert isinstance(matcher, LLMatcher)
        ids = processor.tokenizer(talk.answer, add_special_tokens=False)["input_ids"]
        assert matcher.try_consume_tokens(ids) == len(ids), talk.answer
        assert matcher.is_accepting()


def test_the_users_name_is_known_only_where_something_tells_it():
    rng = random.Random(13)
    for known in (True, False):
        for _ in range(60):
            for talk in user_dialogue(rng, known=known).talks:
                before = str(talk.messages[:-1])
                if talk.task == "user_name":
                    assert talk.accept[0] in before
                elif talk.task == "user_unknown":
                    assert talk.answer == "You haven't told me your name yet."
                    assert not known


def test_two_pictures_are_told_apart_and_pictures_come_in_the_order_of_their_rows():
    rng = random.Random(14)
    seen = set()
    for _ in range(40):
        for talk in album_dialogue(rng, GALLERY, rows=(0, 1)).talks:
            seen.add(talk.task)
            if talk.task == "ordinal_picture":
                assert ("first" in talk.answer) == ("an apple" in talk.answer)
            if talk.task == "same":
                assert talk.answer.endswith(", so no.")
    assert {"ordinal_picture", "where_picture", "same"} <= seen
    same = [t for t in album_dialogue(rng, GALLERY, rows=(0, 0)).talks if t.task == "same"]
    assert same[0].answer.endswith(", so yes, it is the same.")


def test_two_pictures_of_one_thing_are_met_often_enough_to_learn_from():
    rng = random.Random(16)
    box = (0.2, 0.2, 0.8, 0.8)
    things = ("apple", "dog", "car", "house", "apple", "tree", "fish", "dog", "sun", "moon")
    gallery = Gallery([Shown("single", (name,), (None,), (box,), "blue") for name in things])
    gallery.by_kind["count"] = []
    yes = rows = 0
    for _ in range(300):
        try:
            dialogue = album_dialogue(rng, gallery)
        except IndexError:  # a comparison of numbers: none here
            continue
        same = next(t for t in dialogue.talks if t.task == "same")
        alike = len({things[row] for row in dialogue.pictures}) == 1
        assert is_right(same.answer, ("yes",)) == alike
        assert is_right(same.answer, ("no",)) != alike
        yes += alike
        rows += alike and dialogue.pictures[0] != dialogue.pictures[1]
    assert yes > 75
    assert rows > 25  # and not only a picture beside itself


def test_things_have_the_article_that_is_said():
    said = [concept_named(name).phrase for name in ("umbrella", "unicorn", "grapes", "cat")]
    assert said == ["an umbrella", "a unicorn", "grapes", "a cat"]
    unicorn = Gallery([Shown("single", ("unicorn",), (None,), (BOX,), "blue")])
    rng = random.Random(19)
    talks = [t for _ in range(60) for t in picture_dialogue(rng, unicorn, row=0).talks]
    assert any(t.task == "describe" for t in talks)
    assert not any("an unicorn" in t.answer for t in talks)


def test_only_what_is_not_there_is_denied():
    rng = random.Random(18)
    seen = set()
    for _ in range(60):
        talks = absent_dialogue(rng, GALLERY, row=0).talks
        talks += picture_dialogue(rng, GALLERY, "pair").talks
        for talk in talks:
            question = talk.messages[-2]["content"][-1]["text"]
            seen.add(talk.task)
            if talk.task == "absent":
                denied = talk.accept[0].removeprefix("no ")
                assert denied in question
                there, ending = talk.answer.split(", but ")
                assert ending == f"no {denied}."
                assert denied not in there
            elif talk.task == "present":
                assert "apple" in question
                assert talk.answer.startswith("I see an apple")
                assert " no " not in talk.answer
            assert "{" not in question + talk.answer
    assert {"absent", "present"} <= seen


def test_what_cannot_be_told_is_not_named():
    rng = random.Random(15)
    for row in (4, 5):
        for talk in doubt_dialogue(rng, GALLERY, row=row).talks:
            assert "juggling" not in talk.answer
            assert talk.task == "absent" or "cannot tell" in talk.answer


def test_measuring_has_its_own_functions_forms_and_words():
    book = phrases("tools")
    for tool in book["tools"]:
        assert tool.get("only_test") or not set(tool["ask"]) & set(tool["ask_test"])
    for form in book["forms"]:
        assert not set(form.get("text", ())) & set(form.get("text_test", ()))
    assert not set(book["form_asks"]) & set(book["form_asks_test"])
    plain = {ask for ask, _ in book["plain"]}
    assert not plain & {ask for ask, _ in book["plain_test"]}
    doubt = phrases("doubt")
    for part in (doubt["absent"], *(v for v in doubt["album"].values() if isinstance(v, dict))):
        assert not set(part["train"]) & set(part["test"])
    user = phrases("personas")["user"]
    assert not set(user["ask"]) & set(user["ask_test"])
    rng = random.Random(16)
    kept = {n for t in book["tools"] if t.get("only_test") for n in t["names"]}
    for _ in range(300):
        for talk in tool_dialogue(rng).talks:
            assert not kept & {f["name"] for f in talk.functions}


def test_the_standard_suites_own_tools_and_prompts_are_not_trained_on():
    rng = random.Random(17)
    drawn = [d for _ in range(300) for d in (tool_dialogue(rng), form_dialogue(rng))]
    text = json.dumps([[m["content"] for t in d.talks for m in t.messages] for d in drawn])
    for word in ("magic_function", "San Francisco", "punchline", "unicode_customer", "get_weather"):
        assert word not in text


def test_the_base_answers_the_prompts_and_resumes(tiny, tmp_path, capsys):
    model, processor, _ = tiny
    path = tmp_path / "deep" / "answers.jsonl"
    distil(model, processor.tokenizer, path, max_new_tokens=3, batch_size=2, limit=2)
    first = path.read_text()
    assert len(first.splitlines()) == 2
    distil(model, processor.tokenizer, path, max_new_tokens=3, batch_size=2, limit=3)
    assert path.read_text().startswith(first)
    asked = [json.loads(line)["prompt"] for line in path.read_text().splitlines()]
    assert sorted(asked) == sorted(prompts()[:3])


def test_what_is_told_in_words_is_answered_from_them_and_no_picture_is_spoken_of():
    rng = random.Random(23)
    unseen = 0
    for _ in range(60):
        dialogue = read_dialogue(rng)
        assert dialogue.pictures == ()
        for talk in dialogue.talks:
            asked = " ".join(str(m["content"]) for m in talk.messages if m["role"] == "user")
            assert "image" not in asked
            if talk.task == "unseen":
                unseen += 1
                assert talk.answer == "You have not shown me a picture yet."
                continue
            if " make " in talk.answer:
                one, two, total = (int(n) for n in re.findall(r"\d+", talk.answer))
                assert one + two == total
                continue
            names = [w.strip(".,;") for w in talk.answer.split() if w[0].isupper()][-1:]
            assert "picture" not in talk.answer
            assert all(name in asked or name in ("The", "Your", "You") for name in names)
    assert 10 < unseen < 50
