"""The shape of the bundled model: EfficientNet-Lite0 as the eye of SmolLM2.

The trunk is laid into transformers' own `EfficientNetModel`, the whole into its
`FastVlmForConditionalGeneration` (the class for convolutional towers), so that
`AutoModelForImageTextToText` loads the result without custom modelling code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import EfficientNetConfig, EfficientNetModel

__all__ = ["FEATURES", "SIDE", "image_processor", "new_trunk", "trunk_config"]

FEATURES = 1280
# Pixels of what is trained; weights say themselves what they take (`assemble.picture_side`). The
# tower divides by 32, so a picture is 7 × 7 = 49 tokens.
SIDE = 224


def trunk_config(side: int = SIDE) -> EfficientNetConfig:
    """The configuration of EfficientNet-Lite0 for pictures of `side` pixels."""
    from transformers import EfficientNetConfig

    config = EfficientNetConfig(
        image_size=side,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=FEATURES,
        hidden_act="relu6",
        drop_connect_rate=0.0,
        batch_norm_momentum=0.01,
    )
    config.hidden_size = FEATURES  # the name under which a vision-language model looks for it
    return config


def new_trunk(side: int = SIDE) -> EfficientNetModel:
    """An untrained trunk whose squeeze-excite gates are neutral (Lite0 has none)."""
    from transformers import EfficientNetModel

    trunk = EfficientNetModel(trunk_config(side))
    neutral_gates(trunk)
    return trunk


def neutral_gates(trunk: Any) -> None:
    """Set every squeeze-excite gate of an `EfficientNetModel` to exactly 1."""
    import torch

    with torch.no_grad():
        for block in trunk.encoder.blocks:
            gate = block.squeeze_excite
            gate.reduce.weight.zero_()
            gate.reduce.bias.zero_()
            gate.expand.weight.zero_()
            gate.expand.bias.fill_(30.0)  # sigmoid(30) is 1 in single precision


def image_processor(side: int = SIDE) -> Any:
    """Resizes to `side` × `side` and scales to -1 … 1."""
    from transformers import SiglipImageProcessorPil

    return SiglipImageProcessorPil(
        size={"height": side, "width": side},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        resample=3,
        do_convert_rgb=True,
    )
