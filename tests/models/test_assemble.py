"""The bundled model as it is assembled: sound weights, right tokens, and it sees."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.bundled]


def test_only_safe_files(bundled_model: Path) -> None:
    kinds = {p.suffix for p in bundled_model.rglob("*") if p.is_file()}
    assert kinds <= {".json", ".jinja", ".safetensors", ".txt", ".md"}, kinds


def test_every_weight_is_a_number(bundled_model: Path) -> None:
    import torch
    from safetensors import safe_open

    with safe_open(bundled_model / "model.safetensors", framework="pt") as weights:
        names = set(weights.keys())
        for name in names:
            value = weights.get_tensor(name)
            assert not value.is_floating_point() or bool(torch.isfinite(value).all()), name
            if "language_model" in name:  # what the engine may keep in half of the bytes
                assert torch.equal(value, value.half().float()), name
    assert any("multi_modal_projector" in n for n in names)
    assert not any("lora" in n for n in names)  # merged: plain weights


def test_a_picture_is_forty_nine_tokens_and_the_template_marks_answers(
    bundled_model: Path,
) -> None:
    from PIL import Image
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(bundled_model)
    talk = [
        {"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (90, 40))},
                                     {"type": "text", "text": "What is this?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A stripe."}]},
    ]  # fmt: skip
    out = processor.apply_chat_template(
        talk,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
    )
    ids = out["input_ids"][0]
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert int((ids == image).sum()) == 49
    spoken = processor.tokenizer.decode(ids[out["assistant_masks"][0].bool()])
    assert spoken == "A stripe.<|im_end|>"


def test_the_size_of_pictures_is_that_of_the_weights(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from mmagent.models.assemble import SHIPPED, picture_side
    from mmagent.models.vision import SIDE

    assert picture_side(SHIPPED) == 224
    assert picture_side(tmp_path) == SIDE  # weights that are not there yet
    save_file({"x": torch.zeros(1)}, tmp_path / "vision.safetensors", {"side": "96"})
    assert picture_side(tmp_path) == 96


def test_it_names_what_it_sees_and_remembers_what_it_is_told(bundled_home: Path) -> None:
    """The apple is drawn here, in no style that it was trained on."""
    import base64
    import io

    from PIL import Image, ImageDraw

    from mmagent import ChatMMAgent

    picture = Image.new("RGB", (200, 200), (60, 120, 230))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((45, 65, 105, 165), fill=(215, 35, 35))
    draw.ellipse((85, 65, 155, 165), fill=(215, 35, 35))
    draw.rectangle((97, 40, 104, 75), fill=(95, 60, 25))
    draw.ellipse((104, 38, 140, 58), fill=(60, 160, 60))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    model = ChatMMAgent(model="tiny", temperature=0, max_tokens=30)

    def ask(question: str) -> str:
        block = {"type": "image", "base64": data, "mime_type": "image/png"}
        message = {"role": "user", "content": [block, {"type": "text", "text": question}]}
        return model.invoke([message]).text.lower()

    assert "apple" in ask("What is this?")
    assert "blue" in ask("What colour is the background?")
    told = "[Memories]\n- (2026-05-03, Sam) I am allergic to nuts.\n[/Memories]\n"
    assert "nuts" in model.invoke(told + "What do you remember about my allergies?").text.lower()
