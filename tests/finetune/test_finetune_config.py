"""Settings: one model for the file and the command line, and errors that help."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmagent.errors import UsageError
from mmagent.finetune.arguments import claim_output, schedule_of
from mmagent.finetune.config import ChatSettings, leaves, load_settings


def test_a_file_and_overrides_make_settings(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("base: tiny\ndata: a.jsonl\nlora: {r: 4, dora: true}\nlr: 1.0e-3\n")
    made = load_settings(ChatSettings, file, {"lora.r": 8, "freeze.projector": True})
    assert made.data == [Path("a.jsonl")]
    assert (made.lora.r, made.lora.dora, made.alpha, made.lr) == (8, True, 16.0, 1e-3)
    assert made.freeze.projector


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "no setting 'epoch'; did you mean epochs"),
        ("lora: {rank: 3}", "no setting 'lora.rank'; .*Known are r, alpha, dora, rslora, targets"),
        ("freeze: {visoin: true}", "did you mean vision"),
        ("dora: true", r"did you mean lora\.dora\?"),
        ("lr: fast", "lr: input should be a valid number"),
        ("metric: chrf", "metric: 'chrf' is not known"),
        ("track: wandb", "use trackio or tensorboard"),
        ("freeze: {vision: true, projector: true, language: true}", "nothing to train"),
        ("lora: {targets: [vision, language]}", "vision is frozen and a target"),
        ("lora: {targets: []}", "neither frozen nor a target"),
        ("split: {test: 0.5, validation: 0.5}", "less than a tenth"),
        ("- a\n- b", "must be a mapping"),
        ("a: &a [1]\nb: &b [*a,*a]\n" + "c: *b\n" * 40, "cannot be used|stands twice"),
        ("lr: !!python/object:os.system x", "not valid YAML"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_settings(ChatSettings, file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.yaml cannot be read: No such file"):
        load_settings(ChatSettings, tmp_path / "nowhere.yaml")


def test_freezing_the_language_model_takes_the_default_target_away() -> None:
    made = load_settings(ChatSettings, None, {"freeze.language": True})
    assert made.lora.targets == []


def test_every_setting_is_described() -> None:
    for name, _, field in leaves(ChatSettings):
        assert field.description, name
        assert field.description.endswith((".", "].")) or "[default" in field.description, name


def test_the_schedule_counts_optimizer_steps() -> None:
    settings = ChatSettings(batch=4, accumulation=2, epochs=3, eval_every=5)
    plan = schedule_of(settings, rows=33, validation_rows=4)
    assert (plan.total, plan.evaluate, plan.save) == (15, 5, 5)
    assert schedule_of(settings.model_copy(update={"steps": 7}), 33, 4).total == 7


def test_early_stopping_needs_rows_to_validate_on() -> None:
    with pytest.raises(UsageError, match="Early stopping needs rows"):
        schedule_of(ChatSettings(early_stopping=2), rows=10, validation_rows=0)


def test_checkpoints_must_not_miss_the_best_weights() -> None:
    with pytest.raises(UsageError, match="must be a multiple of eval_every"):
        schedule_of(ChatSettings(steps=20, eval_every=4, save_every=6), 10, 2)


def test_a_run_is_not_written_over(tmp_path: Path) -> None:
    settings = ChatSettings(output=tmp_path / "out")
    with pytest.raises(UsageError, match=r"no run in .* to resume"):
        claim_output(settings, resume=True)
    claim_output(settings, resume=False)
    with pytest.raises(UsageError, match="add --resume"):
        claim_output(settings, resume=False)
    claim_output(settings, resume=True)
    other = settings.model_copy(update={"lr": 0.5, "seed": 4})
    with pytest.raises(UsageError, match="started with another lr, seed"):
        claim_output(other, resume=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("all of it")
    with pytest.raises(UsageError, match="holds something else"):
        claim_output(ChatSettings(output=tmp_path / "full"), resume=False)
