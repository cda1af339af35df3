"""The tower's shape: gates that change nothing, features of the promised size."""

from __future__ import annotations

import pytest
import torch

from mmagent.finetune.bundled.tower import (
    Heads,
    Projector,
    load_imagenet,
    load_trunk,
    save_trunk,
    without_gates,
)
from mmagent.models.vision import FEATURES, SIDE, image_processor, new_trunk


def test_neutral_gates_change_nothing() -> None:
    torch.manual_seed(0)
    trunk = new_trunk().eval()
    pixels = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        gated = trunk(pixels).last_hidden_state
        assert gated.shape == (2, FEATURES, SIDE // 32, SIDE // 32)
        assert torch.equal(gated, without_gates(trunk)(pixels).last_hidden_state)


def test_only_lite0_weights_are_taken(tmp_path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"conv.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="not EfficientNet-Lite0"):
        load_imagenet(new_trunk(), path)


def test_saved_tower_reloads_within_half_precision(tmp_path) -> None:
    from safetensors.torch import load_file

    torch.manual_seed(1)
    trunk = without_gates(new_trunk()).eval()
    heads = Heads()
    save_trunk(trunk, heads, Projector(64), tmp_path, {"pictures": 1})
    again = new_trunk().eval()
    load_trunk(again, tmp_path / "vision.safetensors")
    with pytest.raises(ValueError, match="not the tower"):
        load_trunk(again, tmp_path / "projector.safetensors")
    head = load_file(tmp_path / "embedding_head.safetensors")
    assert head["weight"].shape == (384, FEATURES)
    pixels = torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        before, after = trunk(pixels).last_hidden_state, again(pixels).last_hidden_state
    assert torch.allclose(before, after, atol=2e-2)


def test_pictures_become_squares_between_minus_one_and_one() -> None:
    from PIL import Image

    out = image_processor()(images=[Image.new("RGB", (300, 120), "white")], return_tensors="pt")
    assert out["pixel_values"].shape == (1, 3, SIDE, SIDE)
    assert torch.allclose(out["pixel_values"], torch.ones(()))
