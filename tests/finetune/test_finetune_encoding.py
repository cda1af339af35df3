"""What is learned and what is only read: masks, mixed batches, templates, and length."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from PIL import Image

from mmagent.errors import UsageError
from mmagent.finetune.base import load_reader
from mmagent.finetune.config import ChatSettings
from mmagent.finetune.data.rows import Dialogue, PictureRef, Turn
from mmagent.finetune.encoding import (
    IGNORED,
    ChatCollator,
    ChatEncoder,
    EncodingError,
    shortened,
)
from mmagent.finetune.prepare import prepare
from mmagent.finetune.training import encoder_of

RED = Image.new("RGB", (40, 30), "red")
BLUE = Image.new("RGB", (30, 50), "blue")
TALK = Dialogue(
    where="row 1",
    turns=(
        Turn("system", ("Be kind.",)),
        Turn("user", (0, "What do you see?")),
        Turn("assistant", ("I see a red apple.",)),
        Turn("user", ("And ", 1, " here?")),
        Turn("assistant", ("A blue car.",)),
    ),
    pictures=(PictureRef(b"red"), PictureRef(b"blue")),
)
PLAIN = Dialogue("row 2", (Turn("user", ("Hello!",)), Turn("assistant", ("Hello you.",))))


@pytest.fixture(scope="module")
def encoder(tiny_llava: Path) -> ChatEncoder:
    return encoder_of(load_reader(str(tiny_llava)))


def learned(encoder: ChatEncoder, labels: torch.Tensor) -> str:
    return str(encoder.tokenizer.decode(labels[labels != IGNORED]))


def test_only_the_assistants_words_and_their_ends_are_learned(encoder: ChatEncoder) -> None:
    row = encoder.encode(TALK, [RED, BLUE])
    assert encoder.method == "template"
    assert row.image_tokens == 32
    assert learned(encoder, torch.tensor(row.labels)) == (
        "I see a red apple.<|im_end|>A blue car.<|im_end|>"
    )
    assert encoder.stops(row)
    # The trap: the trainer's own default learns placeholders and the user's words too.
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    theirs = DataCollatorForVisionLanguageModeling(encoder.processor)(
        [{"messages": TALK.messages(), "images": [RED, BLUE]}]
    )["labels"]
    assert int((theirs == encoder.image_token_id).sum()) == 32
    assert row.supervised < int((theirs != IGNORED).sum()) / 2


def test_answers_of_weight_zero_are_read_and_not_learned(encoder: ChatEncoder) -> None:
    turns = list(TALK.turns)
    turns[2] = replace(turns[2], trained=False)
    row = encoder.encode(replace(TALK, turns=tuple(turns)), [RED, BLUE])
    assert learned(encoder, torch.tensor(row.labels)) == "A blue car.<|im_end|>"


def test_training_reads_exactly_what_the_engine_reads(encoder: ChatEncoder) -> None:
    from mmagent.engine.prompt import PromptBuilder
    from mmagent.media import load_image
    from mmagent.messages import Conversation

    def packed(image: Image.Image) -> bytes:
        import io

        out = io.BytesIO()
        image.save(out, "PNG")
        return out.getvalue()

    builder = PromptBuilder(encoder.processor, image_token_id=encoder.image_token_id)
    before = TALK.until(4)
    images = tuple(load_image(packed(image)) for image in (RED, BLUE))
    conversation = Conversation(turns=tuple(before.messages()), images=images)
    prompt = builder.build(conversation).ids
    assert encoder.encode(TALK, [RED, BLUE]).ids[: len(prompt)] == prompt
    assert encoder.prompt(before, [RED, BLUE])["input_ids"][0].tolist() == prompt


BUILDERS: list[Callable[[Path], Path]] = [
    tiny_models.build_llava,
    tiny_models.build_fastvlm,
    tiny_models.build_llava_next,
    tiny_models.build_idefics3,
    tiny_models.build_gemma3,
]


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_rows_with_and_without_pictures_share_a_batch(
    build: Callable[[Path], Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForImageTextToText

    path = build(tmp_path / "model")
    own = encoder_of(load_reader(str(path)))
    collator = ChatCollator(own, [PLAIN, TALK, replace(TALK, where="row 3")])
    collator.pictures = lambda refs: [RED, BLUE][: len(refs)]  # type: ignore[method-assign]
    batch = collator([{"row": 0}, {"row": 1}, {"row": 2}])
    texts = [learned(own, labels) for labels in batch["labels"]]
    assert texts[-1] == "Hello you.<|im_end|>"
    assert texts[0] == texts[1] == "I see a red apple.<|im_end|>A blue car.<|im_end|>"
    model = AutoModelForImageTextToText.from_pretrained(path).eval()
    # Gemma needs to be told by token types where pictures are while it trains.
    batch.pop("labels")
    with torch.no_grad():
        together = model(**batch).logits[-1]
        plain = collator([{"row": 0}])
        plain.pop("labels")
        alone = model(**plain).logits[0]
    assert torch.allclose(together[: len(alone)], alone, atol=1e-3)


def strip_marks(path: Path, template: str | None = None) -> Path:
    for file in path.glob("*.jinja"):
        text = file.read_text("utf-8")
        bare = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", text)
        file.write_text(template or bare, "utf-8")
    return path


def test_without_marks_answers_are_found_by_comparison(
    encoder: ChatEncoder, tmp_path: Path
) -> None:
    path = strip_marks(tiny_models.build_llava(tmp_path / "model"))
    bare = encoder_of(load_reader(str(path)))
    assert bare.method == "comparison"
    one, two = bare.encode(TALK, [RED, BLUE]), encoder.encode(TALK, [RED, BLUE])
    assert learned(bare, torch.tensor(one.labels)) == learned(encoder, torch.tensor(two.labels))
    batch = bare.batch([TALK, PLAIN], [[RED, BLUE], []])
    assert learned(bare, batch["labels"][1]) == "Hello you.<|im_end|>"


def test_a_known_template_without_marks_is_replaced_by_one_with_them(tmp_path: Path) -> None:
    from trl.chat_template_utils import llava_next_chat_template

    path = strip_marks(tiny_models.build_llava(tmp_path / "model"), llava_next_chat_template)
    own = encoder_of(load_reader(str(path)))
    assert own.method == "trl"
    row = own.encode(replace(TALK, turns=TALK.turns[1:]), [RED, BLUE])
    assert learned(own, torch.tensor(row.labels)) == " I see a red apple.</s> A blue car.</s>"
    assert not own.stops(row)  # </s> is not what ends this model's answers, and that is said


def test_a_template_that_writes_another_placeholder_is_refused(tmp_path: Path) -> None:
    from trl.chat_template_utils import gemma3_chat_template

    path = strip_marks(tiny_models.build_llava(tmp_path / "model"), gemma3_chat_template)
    with pytest.raises(EncodingError, match="the processor refuses it"):
        encoder_of(load_reader(str(path))).encode(TALK, [RED, BLUE])


def test_a_template_that_changes_earlier_turns_is_refused(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ loop.length }}<|im_start|>{{ m['role'] }}\n"
        "{% for p in m['content'] %}{{ p['text'] if p['type'] == 'text' else '<image>' }}"
        "{% endfor %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    path = strip_marks(tiny_models.build_llava(tmp_path / "model"), template)
    with pytest.raises(EncodingError, match=r"marks no answers .* put \{% generation %\}"):
        encoder_of(load_reader(str(path))).encode(TALK, [RED, BLUE])


def without_role(role: str) -> str:
    """A template that shows nothing of a role."""
    return (
        f"{{% for m in messages %}}{{% if m['role'] != '{role}' %}}"
        "<|im_start|>{{ m['role'] }}\n"
        "{% generation %}{% for p in m['content'] %}"
        "{{ p['text'] if p['type'] == 'text' else '<image>' }}{% endfor %}<|im_end|>"
        "{% endgeneration %}{% endif %}{% endfor %}"
    )


def test_a_template_without_a_place_for_system_turns_loses_nothing(tmp_path: Path) -> None:
    path = strip_marks(tiny_models.build_llava(tmp_path / "model"), without_role("system"))
    own = encoder_of(load_reader(str(path)))
    row = own.encode(TALK, [RED, BLUE])
    assert "Be kind.\n\n<image>" in own.tokenizer.decode(row.ids)


def test_a_template_that_leaves_something_out_is_refused(tmp_path: Path) -> None:
    path = strip_marks(tiny_models.build_llava(tmp_path / "model"), without_role("user"))
    with pytest.raises(EncodingError, match="leaves out '"):
        encoder_of(load_reader(str(path))).encode(TALK, [RED, BLUE])


def test_a_model_without_a_template_is_refused(tmp_path: Path) -> None:
    path = tiny_models.build_llava(tmp_path / "model")
    (path / "chat_template.jinja").unlink()
    with pytest.raises(UsageError, match="has no chat template"):
        encoder_of(load_reader(str(path)))


def test_text_models_learn_from_text(tmp_path: Path) -> None:
    own = encoder_of(load_reader(str(tiny_models.build_text_only(tmp_path / "model"))))
    batch = own.batch([PLAIN, replace(PLAIN, turns=PLAIN.turns * 2)], [[], []])
    assert learned(own, batch["labels"][0]) == "Hello you.<|im_end|>"
    assert int(batch["attention_mask"][0].sum()) < batch["input_ids"].shape[1]
    with pytest.raises(EncodingError, match="takes no pictures"):
        own.encode(TALK, [RED, BLUE])


# ---- length ----------------------------------------------------------------------------------


def long_rows(folder: Path) -> ChatSettings:
    from finetune_rows import own, picture, write_rows

    name = picture(folder, "a.png", "red")
    exchange = [("user", "What do you see in it?"), ("assistant", "I see a red apple.")]
    rows = [
        own(("user", f"Look {n}", name), ("assistant", "Yes."), *exchange * 6) for n in range(1, 3)
    ]
    rows += [own(("user", f"Hello {n}"), ("assistant", "Hello!")) for n in range(10)]
    return ChatSettings(
        data=[write_rows(folder / "rows.jsonl", rows)], max_length=120, split={"validation": 0}
    )


def test_rows_that_are_too_long_are_named_and_never_cut(
    encoder: ChatEncoder, tmp_path: Path
) -> None:
    settings = long_rows(tmp_path)
    with pytest.raises(UsageError, match=r"2 of 12 rows .* row 1: it has \d+ tokens of 120"):
        prepare(settings, encoder, 2048)
    skipped = prepare(settings.model_copy(update={"overlong": "skip"}), encoder, 2048)
    assert skipped.report.kept == 10
    assert skipped.report.counts() == {"too long": 2}


def test_shortening_drops_the_oldest_turns_with_their_pictures(
    encoder: ChatEncoder, tmp_path: Path
) -> None:
    settings = long_rows(tmp_path).model_copy(update={"overlong": "shorten"})
    found = prepare(settings, encoder, 2048)
    assert found.report.counts() == {"shortened": 2, "exact duplicate": 1}
    assert max(found.lengths) <= 120
    rows = [*found.splits.train, *found.splits.test]
    cut = next(row for row in rows if row.where.endswith("row 1"))
    assert not cut.pictures
    assert 1 < len(cut.answers) < 7
    assert shortened(PLAIN) is None


def test_a_row_of_which_nothing_would_be_learned_is_named(
    encoder: ChatEncoder, tmp_path: Path
) -> None:
    from finetune_rows import write_rows

    silent = {"messages": [{"role": "user", "content": "Hi"},
                           {"role": "assistant", "content": "Ho", "weight": 0}]}  # fmt: skip
    file = write_rows(tmp_path / "rows.jsonl", [silent] * 2)
    with pytest.raises(UsageError, match=r"row 1: nobody answers in it"):
        prepare(ChatSettings(data=[file]), encoder, 2048)


def test_what_is_learned_can_be_looked_at(encoder: ChatEncoder, tmp_path: Path) -> None:
    from finetune_rows import picture

    from mmagent.finetune.data.pictures import Gallery
    from mmagent.finetune.inspection import pieces_of

    refs = [PictureRef(str(tmp_path / picture(tmp_path, f"{n}.png", "red")), tmp_path)
            for n in range(2)]  # fmt: skip
    pieces: list[Any] = pieces_of(encoder, replace(TALK, pictures=tuple(refs)), Gallery())
    assert [p.text for p in pieces if p.kind == "learned"] == [
        "I see a red apple.<|im_end|>",
        "A blue car.<|im_end|>",
    ]
    assert [p.text for p in pieces if p.kind == "picture"] == ["[picture, 16 tokens]"] * 2
