"""The objectives beside dialogue: small models, real classes, a few steps each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mmagent.errors import ModelNotFoundError, UsageError
from mmagent.finetune.objectives import OBJECTIVES, objective_of
from mmagent.finetune.objectives.classify import load_classifier
from mmagent.finetune.objectives.embed import TrainedEmbedder
from mmagent.finetune.objectives.robustness import attack, load_subject, measure
from mmagent.finetune.objectives.rows import part_rows, read_rows
from mmagent.finetune.objectives.running import hold_still, run_objective
from mmagent.finetune.objectives.settings import (
    ClassifySettings,
    EmbedSettings,
    MatchSettings,
    ObjectiveSettings,
    PretrainSettings,
    VqaSettings,
)
from mmagent.finetune.objectives.shapes import draw_rows

KINDS = {
    "vqa": VqaSettings,
    "match": MatchSettings,
    "embed": EmbedSettings,
    "classify": ClassifySettings,
    "pretrain": PretrainSettings,
}
FUSIONS = ("early", "late", "attention")
EVERY = [(name, {}) for name in OBJECTIVES if name != "classify"] + [
    ("classify", {"fusion": fusion}) for fusion in FUSIONS
]
IDS = [f"{name}-{more.get('fusion', '')}".rstrip("-") for name, more in EVERY]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("drawn")
    return {name: draw_rows(name, 60, folder / name, seed=3) for name in OBJECTIVES}


def settings_for(name, drawn, output, **more):
    given = {
        "data": [drawn[name]],
        "output": output,
        "steps": 6,
        "batch": 16,
        "lr": 2e-3,
        "eval_every": 3,
        "device": "cpu",
        **more,
    }
    return KINDS[name](**given)


def task_of(name, drawn, output, **more):
    settings = settings_for(name, drawn, output, **more)
    objective = objective_of(name)
    rows, _ = read_rows(
        settings, objective.words, objective.label, needs_label=objective.needs_label
    )
    torch.manual_seed(0)
    return objective.make(settings, rows), rows, settings


@pytest.mark.parametrize(("name", "more"), EVERY, ids=IDS)
def test_the_loss_falls(name, more, drawn, tmp_path):
    task, rows, _ = task_of(name, drawn, tmp_path / "x", **more)
    batch = task.collate(rows[:24], training=False)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-3)
    task.model.train()
    losses = []
    for _ in range(12):
        loss, _, _ = task.loss(task.model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # A contrastive loss starts slowly: all vectors are alike at first.
    assert losses[-1] < (0.99 if name == "embed" else 0.9) * losses[0]


@pytest.mark.parametrize(("name", "more"), EVERY, ids=IDS)
def test_what_was_saved_answers_the_same(name, more, drawn, tmp_path):
    task, rows, _ = task_of(name, drawn, tmp_path / "x", **more)
    folder = tmp_path / "model"
    folder.mkdir()
    task.save(task.model.eval(), folder)
    if name == "classify":
        again, feeder, fusion, labels = load_classifier(folder)
        assert (fusion, labels) == (more["fusion"], task.labels)
        found = type(task).loss(task, again, task.collate(rows[:8], training=False))
        assert feeder.text(["a red star"])["input_ids"].tolist() == (
            task.feeder.text(["a red star"])["input_ids"].tolist()
        )
    else:
        again = type(task.model).from_pretrained(folder).eval()
        found = task.loss(again, task.collate(rows[:8], training=False))
    expected = task.loss(task.model, task.collate(rows[:8], training=False))
    # Every weight to the bit; sums may round otherwise where tensors begin elsewhere in memory.
    kept, read = task.model.state_dict(), again.state_dict()
    assert kept.keys() == read.keys()
    assert all(torch.equal(read[key], value) for key, value in kept.items())
    assert torch.allclose(found[0], expected[0], rtol=1e-5, atol=0)


def test_a_run_measures_before_and_after_and_says_so(drawn, tmp_path):
    report = run_objective(objective_of("vqa"), settings_for("vqa", drawn, tmp_path / "run"))
    folder = tmp_path / "run"
    assert report["steps"] == 6
    assert set(report["before"]) == set(report["after"]) == {"accuracy", "macro F1"}
    assert "precision" in report["table"]
    assert json.loads((folder / "report.json").read_text("utf-8")) == report
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert "| accuracy |" in (folder / "README.md").read_text("utf-8")
    rows = report["rows"]
    assert rows["train"] + rows["validation"] + rows["test"] == 120
    with pytest.raises(UsageError, match="--resume"):
        run_objective(objective_of("vqa"), settings_for("vqa", drawn, folder))


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not(drawn, tmp_path):
    whole = settings_for("match", drawn, tmp_path / "whole", keep_best=False)
    expected = run_objective(objective_of("match"), whole)
    # The same run, cut after its first checkpoint: steps count in the settings of the schedule.
    cut = settings_for("match", drawn, tmp_path / "cut", keep_best=False)
    run_objective(objective_of("match"), cut)
    folder = tmp_path / "cut"
    for newest in sorted((folder / "checkpoints").glob("checkpoint-6*")):
        import shutil

        shutil.rmtree(newest)
    found = run_objective(objective_of("match"), cut, resume=True)
    assert found["steps"] == expected["steps"] == 6
    one, two = (
        torch.load(
            tmp_path / name / "checkpoints" / "checkpoint-6" / "scheduler.pt", weights_only=True
        )
        for name in ("whole", "cut")
    )
    assert one["last_epoch"] == two["last_epoch"]
    assert found["before"] == expected["before"]


def test_no_picture_is_on_two_sides(drawn):
    settings = ObjectiveSettings(data=[drawn["vqa"]])
    rows, _ = read_rows(settings, "question", "answer")
    sides = part_rows(rows, settings)
    of = [
        {row.image.sha256 for row in side} for side in (sides.train, sides.validation, sides.test)
    ]
    assert all(of)
    assert len(set.union(*of)) == sum(len(side) for side in of)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("[]", "is not a JSON object"),
        ('{"image": "a.png"}', "no 'question'"),
        ('{"image": "a.png", "question": "x"}', "no 'answer'"),
        ('{"question": "x", "answer": "y"}', "no 'image'"),
        ('{"image": "none.png", "question": "x", "answer": "y"}', "no picture file"),
        ('{"image": "../secret.png", "question": "x", "answer": "y"}', "outside the folders"),
        ('{"image": "rows.jsonl", "question": "x", "answer": "y"}', "not a picture"),
    ],
)
def test_rows_that_cannot_be_used_are_named(row, message, tmp_path):
    folder = draw_rows("vqa", 12, tmp_path / "d").parent
    with (folder / "rows.jsonl").open("a") as file:
        file.write(row + "\n")
    settings = ObjectiveSettings(data=[folder / "rows.jsonl"])
    with pytest.raises(UsageError, match="row 25") as error:
        read_rows(settings, "question", "answer")
    assert message in str(error.value)
    rows, problems = read_rows(
        settings.model_copy(update={"bad_rows": "skip"}), "question", "answer"
    )
    assert (len(rows), len(problems)) == (24, 1)


def test_frozen_parts_stay_as_they_are(drawn, tmp_path):
    task, _, settings = task_of(
        "embed", drawn, tmp_path / "x", freeze={"vision": True, "projector": False}
    )
    hold_still(task, settings)
    trained = {name for name, weight in task.model.named_parameters() if weight.requires_grad}
    assert not any(name.startswith("vision_model") for name in trained)
    assert any(name.startswith("text_model") for name in trained)


def test_hidden_words_and_regions_are_what_is_asked_for(drawn, tmp_path):
    task, rows, _ = task_of("pretrain", drawn, tmp_path / "x")
    batch = task.collate(rows[:16], training=False)
    hidden = batch["mlm_labels"] != -100
    mask = task.feeder.tokenizer.mask_token_id
    assert hidden.any(1).all()
    assert (batch["input_ids_masked"][hidden] == mask).all()
    assert (batch["input_ids"][hidden] == batch["mlm_labels"][hidden]).all()
    assert (batch["input_ids_masked"] == batch["input_ids"])[~hidden].all()
    assert (batch["attention_mask"][hidden] == 1).all()
    assert set(batch["itm_labels"].tolist()) == {0, 1}
    # A white patch is the last of the 64 colours.
    paper = task._regions(task.feeder.images(images=[np.full((96, 96, 3), 255, np.uint8)],
                                             return_tensors="pt")["pixel_values"])  # fmt: skip
    assert (paper == 63).all()


def test_the_embedder_finds_pictures_in_a_memory(drawn, tmp_path):
    from mmagent_memory import FaissStore, LongTermMemory

    task, rows, _ = task_of("embed", drawn, tmp_path / "x")
    folder = tmp_path / "model"
    folder.mkdir()
    task.save(task.model.eval(), folder)
    embedder = TrainedEmbedder(folder)
    vectors = np.array(embedder.embed_images([row.image.data for row in rows[:3]]))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    with FaissStore(tmp_path / "store", embeddings=embedder) as store:
        memory = LongTermMemory(store, user="sam", persona="mia")
        for row in rows[:5]:
            memory.remember("", images=[row.image.data])
        (hit,) = memory.recall("", images=[rows[2].image.data], k=1)
        assert hit.images[0].data() == rows[2].image.data
    assert TrainedEmbedder(folder).fingerprint == embedder.fingerprint


def test_attacks_stay_within_their_reach_and_mislead(drawn, tmp_path):
    task, rows, _ = task_of("classify", drawn, tmp_path / "x", fusion="late")
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=2e-3)
    rows = rows[:32]
    batch = task.collate(rows, training=False)
    for _ in range(35):
        loss, _, _ = task.loss(task.model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path / "model"
    folder.mkdir()
    task.save(task.model.eval(), folder)
    subject = load_subject(folder)
    for steps in (1, 4):
        changed, clean = attack(subject, rows[:8], 4, steps)
        assert (changed - clean).abs().max() <= 4 / 255 + 1e-6
        assert changed.min() >= 0
        assert changed.max() <= 1
        assert (changed != clean).float().mean() > 0.5
    found = measure(subject, rows, epsilons=(16,), steps=3, severities=(3,))
    assert found["clean"] > 0.7  # it was trained on these very rows
    assert found["pgd"]["16"] <= found["fgsm"]["16"] <= found["clean"]
    assert found["pgd"]["16"] < found["clean"] - 0.2
    assert set(found["corruptions"]) == {
        "noise", "blur", "jpeg", "brightness", "contrast", "pixelate",
    }  # fmt: skip


def test_what_is_no_classifier_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no classifier"):
        load_subject(tmp_path)


def test_a_base_that_is_not_there_is_named(drawn, tmp_path):
    with pytest.raises(ModelNotFoundError, match="could not be loaded for this objective"):
        task_of("vqa", drawn, tmp_path / "x", base=str(tmp_path / "none"))


def test_labels_that_do_not_say_true_or_false_are_refused(tmp_path):
    file = draw_rows("match", 12, tmp_path / "d")
    file.write_text(file.read_text("utf-8").replace('"label": true', '"label": "maybe"'), "utf-8")
    with pytest.raises(UsageError, match="'maybe'; write true or false"):
        task_of("match", {"match": file}, tmp_path / "x")


def test_the_same_seed_draws_the_same_pictures(tmp_path):
    one, two = (draw_rows("vqa", 3, tmp_path / name, seed=5).parent for name in "ab")
    for file in sorted(one.rglob("*.*")):
        assert file.read_bytes() == (two / file.relative_to(one)).read_bytes()
