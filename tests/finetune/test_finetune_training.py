"""Runs of a few steps on small models: loss falls, only the chosen parts move, nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from finetune_rows import colours_data
from PIL import Image

from mmagent.errors import MissingDependencyError, UsageError
from mmagent.finetune.arguments import checkpoint_to_resume, precision_of, trainer_arguments
from mmagent.finetune.base import load_reader, quiet_training
from mmagent.finetune.config import ChatSettings, load_settings
from mmagent.finetune.prepare import prepare
from mmagent.finetune.results import evaluate_run, load_result
from mmagent.finetune.towers import Plan, plan_of, towers_of
from mmagent.finetune.training import Run, build_trainer, encoder_of, finetune_chat, load_base


def settings_of(base: Path, folder: Path, **changes: Any) -> ChatSettings:
    """A quick run: eight steps, validated every fourth."""
    values = {
        "base": str(base),
        "data": str(folder / "data" / "rows.jsonl"),
        "output": str(folder / "out"),
        "steps": 8,
        "batch": 2,
        "lr": 1e-2,
        "warmup": 0,
        "eval_every": 4,
        "lora.r": 4,
        "dropout": 0.1,
        "split.test": 0.2,
        "split.validation": 0.2,
        "evaluate.answers": 3,
        "evaluate.max_tokens": 6,
        "device": "cpu",
    }
    return load_settings(ChatSettings, None, values | changes)


def losses(output: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def trained(
    tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ChatSettings, Run, list[str]]:
    """One run from beginning to end, and what it said."""
    folder = tmp_path_factory.mktemp("run")
    colours_data(folder / "data")
    settings = settings_of(tiny_llava, folder)
    said: list[str] = []
    return settings, finetune_chat(settings, note=said.append), said


def test_the_loss_falls_and_the_report_says_so(
    trained: tuple[ChatSettings, Run, list[str]],
) -> None:
    settings, run, said = trained
    noted = losses(settings.output)
    assert noted[-1][1] < noted[0][1] - 0.2
    before, after = (run.report[when]["figures"] for when in ("before", "after"))
    assert after["perplexity"]["value"] < before["perplexity"]["value"]
    assert set(after) >= {"exact_match", "token_f1", "chrf", "rouge_l", "picture_matters",
                          "answer_changes", "general_perplexity"}  # fmt: skip
    assert run.report["data"]["rows"] == {"train": 8, "validation": 3, "test": 3}
    assert any("8 to train" in text for text in said)
    left = {path.name for path in settings.output.iterdir()}
    assert left >= {"adapter", "README.md", "curves.png", "report.json", "data.json", "log.jsonl"}
    with Image.open(settings.output / "curves.png") as image:
        assert image.size[0] > 400
    names = {path.name for path in run.weights.iterdir()}
    assert "training_args.bin" not in names
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= names


def test_the_card_is_written_from_the_run(trained: tuple[ChatSettings, Run, list[str]]) -> None:
    settings, _, _ = trained
    words = (settings.output / "README.md").read_text("utf-8")
    for text in ("8 steps of 2 × 1 rows", "LoRA rank 4 on language; frozen: vision",
                 "| Perplexity of the right answers |", "On 3 rows that were held out",
                 "seed 0", "## Samples", "## Limits", "library_name: peft"):  # fmt: skip
        assert text in words, text


def test_only_the_chosen_parts_have_moved(
    trained: tuple[ChatSettings, Run, list[str]], tiny_llava: Path
) -> None:
    from safetensors.torch import load_file

    _, run, _ = trained
    names = set(load_file(run.weights / "adapter_model.safetensors"))
    assert all("language_model" in n or "multi_modal_projector" in n for n in names), names
    assert any("lora_A" in name for name in names)
    tuned = load_result(str(tiny_llava), run.weights)
    base = load_result(str(tiny_llava), tiny_llava)
    eye = dict(base.model.vision_tower.named_parameters())
    for name, weight in tuned.model.vision_tower.named_parameters():
        assert torch.equal(weight, eye[name]), name


def test_what_was_saved_is_what_was_trained(
    trained: tuple[ChatSettings, Run, list[str]], tiny_llava: Path, tmp_path: Path
) -> None:
    """Reload is exact: the trained model in memory, the adapter, and the merged export agree."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from mmagent.finetune.export import export

    settings, run, _ = trained
    reader = load_reader(settings.base)
    encoder = encoder_of(reader)
    prepared = prepare(settings, encoder, reader.context_length)
    from mmagent.finetune.arguments import schedule_of
    from mmagent.finetune.encoding import ChatCollator

    again = settings.model_copy(update={"output": tmp_path / "again"})
    again.output.mkdir()
    with quiet_training():
        plan = schedule_of(again, len(prepared.splits.train), len(prepared.splits.validation))
        trainer, _ = build_trainer(again, load_base(again, reader), encoder, prepared, plan)
        trainer.train()
        trainer.save_model(str(tmp_path / "adapter"))
        trainer.model.eval()
    batch = ChatCollator(encoder, []).collate(prepared.splits.test)
    batch.pop("labels")
    loaded = load_result(reader.path, tmp_path / "adapter")
    out = export(run.output, tmp_path / "merged", dtype="float32")
    merged = AutoModelForImageTextToText.from_pretrained(out).eval()
    saved = load_result(reader.path, run.weights)
    with torch.no_grad():
        here = trainer.model(**batch).logits
        assert torch.equal(loaded(**batch).logits, here)
        # The same seed is the same run.
        assert torch.equal(saved(**batch).logits, here)
        assert torch.allclose(merged(**batch).logits, here, atol=1e-4)
    assert AutoProcessor.from_pretrained(out).chat_template == encoder.processor.chat_template
    assert {p.suffix for p in out.iterdir()} <= {".json", ".safetensors", ".jinja", ".md"}
    assert 'model="merged"' in (out / "README.md").read_text("utf-8")
    with pytest.raises(UsageError, match="exists already"):
        export(run.output, out)


def test_the_chat_model_takes_the_adapter_at_once(
    trained: tuple[ChatSettings, Run, list[str]], tiny_llava: Path
) -> None:
    from mmagent import ChatMMAgent

    _, run, _ = trained
    sample = next(s for s in run.report["after"]["samples"] if not s["pictures"])
    options: dict[str, Any] = {"model": str(tiny_llava), "temperature": 0, "max_tokens": 6}
    tuned = ChatMMAgent(**options, adapter=str(run.weights))
    plain = ChatMMAgent(**options)
    assert tuned.invoke(sample["question"]).text.strip() == sample["answer"]
    assert plain.invoke(sample["question"]).text.strip() != sample["answer"]


def test_a_resumed_run_is_the_run_that_was_never_stopped(
    trained: tuple[ChatSettings, Run, list[str]], tiny_llava: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file
    from transformers import TrainerCallback

    settings, whole, _ = trained
    mine = settings.model_copy(update={"output": tmp_path / "out"})

    class Stop(TrainerCallback):  # type: ignore[misc,unused-ignore]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 6:
                raise KeyboardInterrupt

    from mmagent.finetune import training

    build = training.build_trainer

    def stopping(*args: Any, **kwargs: Any) -> Any:
        trainer, progress = build(*args, **kwargs)
        trainer.add_callback(Stop())
        return trainer, progress

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "build_trainer", stopping)
        with pytest.raises(KeyboardInterrupt):
            finetune_chat(mine)
    half = tmp_path / "out" / "checkpoints" / "checkpoint-9"
    half.mkdir()  # a checkpoint that was being written when the power went
    assert checkpoint_to_resume(mine.output) == half.with_name("checkpoint-4")
    run = finetune_chat(mine, resume=True)
    first = dict(losses(settings.output))
    assert dict(losses(mine.output)[-4:]) == {step: first[step] for step in (5, 6, 7, 8)}
    one = load_file(whole.weights / "adapter_model.safetensors")
    two = load_file(run.weights / "adapter_model.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert run.report["before"] == whole.report["before"]


def test_data_that_changed_is_not_resumed_on(
    trained: tuple[ChatSettings, Run, list[str]], tmp_path: Path
) -> None:
    settings, _, _ = trained
    colours_data(tmp_path / "data", texts=5)
    other = settings.model_copy(update={"data": [tmp_path / "data" / "rows.jsonl"]})
    with pytest.raises(UsageError, match="data has changed since"):
        finetune_chat(other, resume=True)
    with pytest.raises(UsageError, match="add --resume"):
        finetune_chat(settings)


def test_a_run_can_be_measured_again(trained: tuple[ChatSettings, Run, list[str]]) -> None:
    settings, run, _ = trained
    report = evaluate_run(settings.output)
    assert report["after"] == run.report["after"]
    with pytest.raises(UsageError, match="neither an adapter nor a model"):
        evaluate_run(settings.output / "checkpoints")


# ---- what is trained -------------------------------------------------------------------------


def plan(base: Path, **changes: Any) -> tuple[Any, Plan]:
    settings = load_settings(ChatSettings, None, {"base": str(base)} | changes)
    model = load_base(settings, load_reader(str(base)))
    return model, plan_of(model, settings)


def test_layers_are_chosen_by_the_part_that_they_are_in(tiny_llava: Path) -> None:
    import re

    model, found = plan(tiny_llava)
    assert towers_of(model) == {
        "vision": "model.vision_tower",
        "projector": "model.multi_modal_projector",
        "language": "model.language_model",
    }
    names = [n for n, _ in model.named_modules() if re.fullmatch(found.target or "", n)]
    assert len(names) == 14  # seven in each of two layers: not the eye's, nor the head
    assert all(name.startswith("model.language_model.layers.") for name in names)
    assert found.modules == ("multi_modal_projector",)


def test_adapters_in_the_eye_and_a_frozen_language_model(tiny_llava: Path) -> None:
    import re

    changes = {"lora.targets": ["vision"], "freeze.vision": False, "freeze.language": True,
               "freeze.projector": True}  # fmt: skip
    model, found = plan(tiny_llava, **changes)
    names = [n for n, _ in model.named_modules() if re.fullmatch(found.target or "", n)]
    assert names
    assert all(name.startswith("model.vision_tower.") for name in names)
    assert found.whole == ()


def test_a_convolutional_eye_takes_no_adapters(tiny_fastvlm: Path, tiny_text_model: Path) -> None:
    with pytest.raises(UsageError, match="vision part has no linear layers"):
        plan(tiny_fastvlm, **{"lora.targets": ["vision", "language"], "freeze.vision": False})
    with pytest.raises(UsageError, match="no projector part of its own"):
        plan(tiny_text_model, **{"lora.targets": ["projector", "language"]})


@pytest.mark.parametrize(
    "changes",
    [
        {"lora.dora": True, "lora.rslora": True, "early_stopping": 1, "metric": "token_accuracy"},
        {"full": True, "freeze.language": True, "scheduler": "cosine", "augment.copies": 1},
        {"full": True, "freeze.vision": False, "accumulation": 2, "precision": "bf16"},
        {"precision": "bf16", "steps": 2},
    ],
    ids=["dora", "projector alone", "everything", "narrow"],
)
def test_other_ways_to_train_the_bundled_architecture(
    tiny_fastvlm: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    colours_data(tmp_path / "data")
    quick = {"steps": 4, "lr": 2e-3, "evaluate.answers": 0, "evaluate.forgetting": False}
    settings = settings_of(tiny_fastvlm, tmp_path, **(quick | changes))
    run = finetune_chat(settings)
    assert run.weights.name == ("model" if settings.full else "adapter")
    tuned = load_result(str(tiny_fastvlm), run.weights)
    base = load_result(str(tiny_fastvlm), tiny_fastvlm)
    before, after = base.state_dict(), tuned.state_dict()
    # Statistics of batch norms never move, whether their tower is trained or not.
    for name, value in before.items():
        if "running_" in name:
            assert torch.equal(after[name], value), name
    eye, tongue = "model.vision_tower", "model.language_model"
    if settings.full:
        moved = {n for n in before if not torch.equal(before[n].float(), after[n].float())}
        assert any(name.startswith(eye) for name in moved) is not settings.freeze.vision
        assert any(name.startswith(tongue) for name in moved) is not settings.freeze.language
        assert any("multi_modal_projector" in name for name in moved)
    elif settings.lora.dora:
        assert any("magnitude" in name for name in after)
    else:
        from safetensors.torch import load_file

        kinds = {w.dtype for w in load_file(run.weights / "adapter_model.safetensors").values()}
        assert kinds == {torch.float32}


def test_a_model_of_text_alone_learns_from_text(tiny_text_model: Path, tmp_path: Path) -> None:
    from finetune_rows import own, write_rows

    rows = [own(("user", f"Say {n}"), ("assistant", f"It is {n}.")) for n in range(12)]
    write_rows(tmp_path / "data" / "rows.jsonl", rows)
    run = finetune_chat(settings_of(tiny_text_model, tmp_path, steps=2, eval_every=2))
    assert "picture_matters" not in run.report["after"]["figures"]
    load_result(str(tiny_text_model), run.weights)


# ---- devices and what may be absent ----------------------------------------------------------


def test_a_cpu_trains_in_single_precision(tmp_path: Path) -> None:
    from mmagent.finetune.arguments import Schedule

    settings = ChatSettings(output=tmp_path, device="cpu")
    assert precision_of(settings) == "fp32"
    made = trainer_arguments(settings, Schedule(10, 5, 5, 1), "eval_loss")
    assert (made["bf16"], made["fp16"], made["use_cpu"]) == (False, False, True)
    assert made["gradient_checkpointing"] is False
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        precision_of(settings.model_copy(update={"precision": "fp16"}))


def test_a_tracked_run_is_called_as_its_folder(tmp_path: Path) -> None:
    from mmagent.finetune.arguments import Schedule

    settings = ChatSettings(output=tmp_path / "shapes", device="cpu")
    made = trainer_arguments(settings, Schedule(10, 5, 5, 1), "eval_loss")
    assert (made["report_to"], made["project"], made["run_name"]) == (
        "none", "mmagent", "shapes",
    )  # fmt: skip


def test_missing_packages_are_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec",
        lambda name, *a: None if name in ("trl", "trackio") else real(name, *a),
    )  # fmt: skip
    with pytest.raises(
        MissingDependencyError, match=r"needs trl, .*pip install 'mmagent\[train\]'"
    ):
        finetune_chat(ChatSettings(output=tmp_path))
    from mmagent.finetune.extras import require_tracker

    with pytest.raises(MissingDependencyError, match="pip install trackio"):
        require_tracker("trackio")
