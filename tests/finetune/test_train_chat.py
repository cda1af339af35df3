"""Stage B on a random-weight model: loss falls, resuming is exact, the base is stayed close to."""

import argparse
import json
import random
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import build_fastvlm

from mmagent.finetune.bundled import train_chat
from mmagent.finetune.bundled.chat_data import Teacher, make_teacher, mixture, teacher_dialogues
from mmagent.finetune.bundled.chat_stage import Settings, StageB, batches, train
from mmagent.finetune.bundled.concepts import CONCEPTS
from mmagent.finetune.bundled.dialogues_encode import Encoder, collate
from mmagent.finetune.bundled.dialogues_picture import Gallery, Shown, picture_dialogue
from mmagent.finetune.bundled.evaluate import Score, is_right, judged, scores, table, wilson
from mmagent.finetune.bundled.evaluate_questions import IN_WORDS, Question, text_questions
from mmagent.finetune.bundled.lexicon import weights_of
from mmagent.finetune.bundled.sight import mixed

FEATURES = 320
COLOURS = ("red", "blue", "green", "yellow")
SETTINGS = Settings(lr=2e-2, projector_lr=2e-3, rank=8, tokens=1200, chunk=8, drop=0.1, mix=0.0)


def _gallery(number):
    rng = random.Random(0)
    shown = []
    for index in range(number):
        side = (0.0, 0.25, 0.5, 0.75), (0.5, 0.25, 1.0, 0.75)
        name, other = rng.sample(CONCEPTS[:8], 2)
        back = rng.choice(COLOURS)
        if index % 4 == 1:
            shown.append(Shown("pair", (name.name, other.name), (None, None), side, back))
        elif index % 4 == 2:
            shown.append(Shown("count", (name.name,) * 2, (None, None), side, back))
        else:
            shown.append(Shown("single", (name.name,), (None,), ((0.2, 0.2, 0.8, 0.8),), back))
    return Gallery(shown)


def _features(gallery, seed=1):
    """Pictures whose features tell what they show: a fixed mix of the words of every cell."""
    cells = torch.stack([weights_of(s, 5) for s in gallery.pictures])  # [N, 25, W]
    mix = torch.randn(cells.shape[-1], FEATURES, generator=torch.Generator().manual_seed(seed))
    return (cells @ mix).numpy().astype(np.float16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_fastvlm(tmp_path_factory.mktemp("fastvlm"))


@pytest.fixture
def start(folder, tmp_path):
    """A function that begins a run anew: (run, course, encoder)."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    def begin(settings=SETTINGS):
        model = AutoModelForImageTextToText.from_pretrained(folder).eval()
        processor = AutoProcessor.from_pretrained(folder)
        encoder = Encoder(processor.tokenizer, model.config.image_token_id, 25)
        answers = tmp_path / "answers.jsonl"
        lines = [{"prompt": "What is jazz?", "answer": "A drink.", "finished": True},
                 {"prompt": "What is yeast?", "answer": "It is", "finished": False}]  # fmt: skip
        answers.write_text("\n".join(map(json.dumps, lines)))
        teacher = tmp_path / "teacher.safetensors"
        if not teacher.exists():
            make_teacher(model, encoder, answers, teacher)
        gallery = _gallery(40)
        run = StageB(model, Teacher.read(teacher), settings)
        course = mixture(gallery, teacher_dialogues(answers)), _features(gallery)
        run.features = course[1]
        return run, lambda chunk: course, encoder

    return begin


def test_loss_falls_and_only_adapters_and_projector_learn(start, tmp_path):
    run, draw, encoder = start()
    before = {k: v.clone() for k, v in run.peft.state_dict().items()}
    said = [r["said"] for r in train(run, draw, encoder, tmp_path, steps=40) if "said" in r]
    assert np.mean(said[-5:]) < 0.8 * np.mean(said[:3])
    changed = {k for k, v in run.peft.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all("lora_" in k or "multi_modal_projector" in k for k in changed)
    assert any("multi_modal_projector" in k for k in changed)
    assert not any("vision_tower" in k for k in run.adapters)


def test_training_blurs_pictures_with_others_and_answers_do_not(start):
    run, _, encoder = start(replace(SETTINGS, drop=0.0, mix=0.3))
    others = torch.full((3, 4, FEATURES), 2.0, dtype=torch.float16)
    blurred = mixed(torch.zeros(5, 4, FEATURES), others, run.settings.mix)
    assert blurred.shape == (5, 4, FEATURES)
    assert 0.0 < float(blurred.min()) < float(blurred.max()) <= 0.6
    assert torch.equal(blurred.amin((1, 2)), blurred.amax((1, 2)))  # one share for a picture
    gallery = _gallery(8)
    run.features = _features(gallery)
    batch = collate([encoder.row(picture_dialogue(random.Random(1), gallery, row=3))], pad=0)
    for training in (True, False):
        run.peft.train(training)
        with torch.no_grad():
            assert torch.equal(run.hidden(batch), run.hidden(batch)) is not training


def test_resuming_is_exact(start, tmp_path):
    whole, draw, encoder = start()
    losses = list(train(whole, draw, encoder, tmp_path / "whole", steps=6))
    first, draw, encoder = start()
    for number, _ in enumerate(train(first, draw, encoder, tmp_path / "parts", steps=6), start=1):
        if number == 3:
            first.save(tmp_path / "parts" / "stage-b.pt")
            break
    torch.rand(5)  # another program's random numbers in between
    second, draw, encoder = start()
    second.load(tmp_path / "parts" / "stage-b.pt")
    assert list(train(second, draw, encoder, tmp_path / "parts", steps=6)) == losses[3:]
    for name, parameter in second.adapters.items():
        assert torch.equal(parameter, whole.adapters[name])
    assert not list(tmp_path.glob("**/*.part"))


def test_the_untouched_model_is_at_no_distance_from_the_base(start):
    run, course, encoder = start()
    draw, _ = course(0)
    dialogue = draw.parts["text"][1](random.Random(0))
    run.peft.eval()
    _, away = run.losses(collate([encoder.row(dialogue)], pad=0))
    assert abs(float(away.detach())) < 1e-3
    for name, parameter in run.adapters.items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    _, away = run.losses(collate([encoder.row(dialogue)], pad=0))
    assert float(away.detach()) > 0.01


def test_the_wrong_picture_changes_the_answers(start):
    run, course, encoder = start()
    draw, _ = course(0)
    run.dropout.p = 0.0
    row = encoder.row(draw.parts["single"][1](random.Random(1)))
    batch = collate([row], pad=0)
    right = run.hidden(batch)
    batch.pictures[0] = (batch.pictures[0] + 4) % 40
    assert not torch.allclose(right, run.hidden(batch))


def test_batches_keep_to_their_size_and_lose_no_row(start):
    _, course, encoder = start()
    draw, _ = course(0)
    made = batches(draw, encoder, SETTINGS, 0)
    assert sum(map(len, made)) == SETTINGS.chunk
    for rows in made:
        assert len(rows) == 1 or len(rows) * max(map(len, rows)) <= SETTINGS.tokens
    assert made == batches(draw, encoder, SETTINGS, 0)


def test_a_run_begins_from_an_earlier_version(start, tmp_path):
    run, draw, encoder = start()
    list(train(run, draw, encoder, tmp_path, steps=2))
    run.export(tmp_path / "out")
    fresh, _, _ = start()
    fresh.begin_from(tmp_path / "out")
    for name, parameter in fresh.adapters.items():
        torch.testing.assert_close(parameter, run.adapters[name], atol=1e-3, rtol=1e-2)
    other, _, _ = start(replace(SETTINGS, rank=4))
    with pytest.raises(ValueError, match="does not fit"):
        other.begin_from(tmp_path / "out")


def test_the_command_line_says_how_to_train():
    parser = argparse.ArgumentParser()
    train_chat._options(parser.add_subparsers())
    needed = ["train", "--gguf", "a", "--vision", "b"]
    usual = train_chat._settings(parser.parse_args(needed))
    assert usual == Settings()
    for option in ("lr", "projector-lr", "tokens", "still", "drop", "mix", "stay", "seed"):
        given = train_chat._settings(parser.parse_args([*needed, f"--{option}", "7"]))
        assert given == replace(usual, **{option.replace("-", "_"): 7})


def test_still_layers_learn_from_pictures_only(start):
    run, course, encoder = start(replace(SETTINGS, still=1))
    draw, _ = course(0)
    assert run.low
    before = [p.detach().clone() for p in run.low]
    run.step([encoder.row(draw.parts["memory"][1](random.Random(1)))], 0.0)
    assert all(torch.equal(p, b) for p, b in zip(run.low, before, strict=True))
    run.step([encoder.row(draw.parts["single"][1](random.Random(1)))], 0.0)
    assert not all(torch.equal(p, b) for p, b in zip(run.low, before, strict=True))


def test_export_is_half_precision_and_names_no_place(start, tmp_path):
    from safetensors.torch import load_file

    run, _, _ = start()
    run.export(tmp_path / "out")
    projector = load_file(tmp_path / "out" / "projector.safetensors")
    assert {t.dtype for t in projector.values()} == {torch.float16}
    config = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None
    adapter = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert {t.dtype for t in adapter.values()} == {torch.float16}
    assert len(adapter) == len(run.adapters)


def test_the_exported_adapter_gives_the_trained_model(start, folder, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    run, draw, encoder = start()
    list(train(run, draw, encoder, tmp_path, steps=2))
    run.export(tmp_path / "out")
    fresh = AutoModelForImageTextToText.from_pretrained(folder)
    with warnings.catch_warnings():  # PEFT asks transformers by an old name
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        adapted = PeftModel.from_pretrained(fresh, tmp_path / "out" / "adapter")
    merged = adapted.merge_and_unload().eval()
    run.peft.eval()
    ids = torch.tensor([[1, 5, 9, 40, 80]])
    with torch.no_grad():
        torch.testing.assert_close(
            merged(input_ids=ids).logits, run.peft(input_ids=ids).logits, atol=0.05, rtol=0.02
        )


def test_wilson_and_right_answers():
    low, high = wilson(Score(60, 100))
    assert (round(low, 3), round(high, 3)) == (0.502, 0.691)
    assert is_right("It is a Cat.", ("cat", "kitten"))
    assert is_right("I see three clocks.", ("clock",))
    assert not is_right("It is a caterpillar.", ("cat",))
    assert not is_right("A-171", ("A-17",))
    row = {"right": 1, "total": 2, "share": 0.5, "interval": (0.1, 0.9)}
    mine = {"tasks": {"name": row, "memory": row}, "perplexity": 9.0, "photographs": {"cat": "A."}}
    other = {"tasks": {"memory": row}, "perplexity": 8.0, "photographs": {}}
    text = table({"model": mine, "previous": other})
    assert "| 50.0% | 10.0% to 90.0% | 2 | 85% | not asked |" in text
    assert "| 50.0% | 10.0% to 90.0% | 2 | 85% | 50.0% |" in text
    assert "this version 9.00, previous version 8.00" in text
    assert "| cat | A. |  |" in text
    other = {"tasks": {}, "perplexity": 8.0, "photographs": {}}
    rows = table({"model": mine, "base": other}).splitlines()
    assert [row.split("|")[-2] for row in rows[2:4]] == [" cannot see ", " not asked "]
    asked = {task for q in text_questions(quick=True) for task in judged(q, q.talk.answer)}
    assert asked == IN_WORDS


def test_a_call_is_right_with_every_argument_and_its_name_counts_alone():
    questions = {q.task: q for q in text_questions(quick=True)}
    tool = questions["tool"]
    assert judged(tool, tool.talk.answer) == {"tool-name": True, "tool": True}
    wrong = tool.talk.answer.replace('"arguments": {', '"arguments": {"more": 1, ')
    assert judged(tool, wrong) == {"tool-name": True, "tool": False}
    assert judged(tool, "It is sunny.") == {"tool-name": False, "tool": False}
    plain = questions["tool_plain"]
    assert judged(plain, "You are welcome!")["tool_plain"]
    assert not judged(plain, tool.talk.answer)["tool_plain"]
    said = [q.talk.answer for q in questions.values()]
    assert all(s.share == 1.0 for s in scores(list(questions.values()), said).values())


def test_answers_are_held_to_their_form_where_the_product_holds_them(folder):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from mmagent.finetune.bundled.evaluate_answers import answers

    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    every = text_questions(quick=True)
    chosen: list[Question] = []
    for task in ("json", "form_call", "memory"):
        chosen += [q for q in every if q.task == task][:2]
    said = answers(model, processor, chosen, batch_size=2)
    assert len(said) == len(chosen)
    for question, answer in zip(chosen, said, strict=True):
        if question.task == "form_call":
            assert answer.startswith('<tool_call>\n{"name": "')
        if question.task == "json":
            assert answer.startswith("{")
