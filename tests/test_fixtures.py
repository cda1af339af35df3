"""The small models are complete checkpoints: they load by the Auto classes and see pictures."""

from __future__ import annotations

import io

import pytest


@pytest.mark.parametrize(("fixture", "tokens"), [("tiny_llava", 16), ("tiny_fastvlm", 25)])
def test_random_models_load_and_answer(fixture, tokens, request, picture):
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = request.getfixturevalue(fixture)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    image = Image.open(io.BytesIO(picture()))
    turns = [
        {
            "role": "user",
            "content": [{"type": "image", "image": image}, {"type": "text", "text": "Hello"}],
        }
    ]
    inputs = processor.apply_chat_template(
        turns, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == tokens
    answer = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert answer.shape[1] > inputs["input_ids"].shape[1]
