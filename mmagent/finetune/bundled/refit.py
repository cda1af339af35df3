r"""Put the projector's words back on the language model's word vectors, in closed form.

Stage A makes words easy to tell apart, and for that it bends the image tokens away from the words'
own vectors: what is read off them with a pseudo-inverse is right, and yet the language model, which
looks at them as they are, finds little. Here the first hidden units become detectors, one for each
word (a ridge regression of how much of it a cell shows, less a threshold, through GELU); the second
layer is the regression from all units to the mixes of vectors that cells should say. New pictures
are drawn for it, and the tower stays as it is.

    python -m mmagent.finetune.bundled.refit --weights FOLDER --gguf FILE --pictograms FILE
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmagent.finetune.bundled.eyesight import eyesight
from mmagent.finetune.bundled.lexicon import Lexicon, weights_of
from mmagent.finetune.bundled.pictograms import Sheet
from mmagent.finetune.bundled.screens import fetch_fonts
from mmagent.finetune.bundled.sight import Draw, facts_of, pixels_of
from mmagent.finetune.bundled.tower import Projector, cells_of, load_eye
from mmagent.models.vision import SIDE

__all__ = ["distance", "lay", "seen"]

_KINDS = {"single": 0.5, "pair": 0.2, "count": 0.18, "screen": 0.04, "nothing": 0.04, "other": 0.04}
_GAIN, _THRESHOLD = 8.0, 0.15


def seen(trunk: Any, draw: Draw, number: int, seed: int = 77) -> tuple[Tensor, Tensor]:
    """Features of new pictures and how much of each word their cells should say.

    Args:
        trunk: gives features [B, F, h, w].
        draw: draws the pictures.
        number: how many.
        seed: of the pictures.

    Returns:
        [N * T, F] and [N * T, W].
    """
    rng = np.random.default_rng(seed)
    features, words = [], []
    for _ in range(0, number, 24):
        kinds = [str(k) for k in rng.choice(list(_KINDS), 24, p=list(_KINDS.values()))]
        drawn = [draw.one(rng, k, "train", clean=bool(rng.random() < 0.3)) for k in kinds]
        with torch.inference_mode():
            cells = cells_of(trunk, torch.stack([pixels_of(p.image) for p in drawn]))  # [B, T, F]
        features.append(cells.flatten(0, 1))
        for kind, picture in zip(kinds, drawn, strict=True):
            shown, letters = facts_of(kind, picture)
            words.append(weights_of(shown, round(cells.shape[1] ** 0.5), letters))
    return torch.cat(features).clone(), torch.cat(words)


def lay(projector: Projector, features: Tensor, words: Tensor, lexicon: Lexicon) -> None:
    """Lay the regressions into the projector, in place.

    The units that say most beside the detectors keep what stage A taught them.

    Args:
        projector: with at least as many hidden units as words.
        features: [N, F].
        words: how much of each word should be said, [N, W].
        lexicon: the words.
    """
    number = words.shape[1]
    first, second = projector.linear_1, projector.linear_2
    with torch.no_grad():
        weight, bias = _ridge(features, words, 1e-3)
        loud = second.weight.norm(dim=0).argsort(descending=True)[: len(first.weight) - number]
        first.weight.copy_(torch.cat([_GAIN * weight.T, first.weight[loud]]))
        first.bias.copy_(torch.cat([_GAIN * (bias - _THRESHOLD), first.bias[loud]]))
        weight, bias = _ridge(projector.act(first(features)), words @ lexicon.vectors, 1e-4)
        second.weight.copy_(weight.T)
        second.bias.copy_(bias + lexicon.mean)


def distance(projector: Projector, features: Tensor, words: Tensor, lexicon: Lexicon) -> float:
    """Mean square of what is said amiss, as a share of the variance of what should be said."""
    with torch.no_grad():
        want = words @ lexicon.vectors
        amiss = (projector(features) - lexicon.mean - want).pow(2).mean()
        return float(amiss / (want - want.mean(0)).pow(2).mean())


def _ridge(x: Tensor, y: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Weights [F, W] and constants [W] of a linear regression from [N, F] to [N, W]."""
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)  # [N, F + 1]
    gram = (x.T @ x).double()
    penalty = (gram.diagonal()[:-1].mean() * ridge).repeat(len(gram))
    penalty[-1] = 1e-6
    solved = torch.linalg.solve(gram + penalty.diag(), (x.T @ y).double()).float()
    return solved[:-1], solved[-1]


def main() -> None:
    """Refit the projector of a weights folder, in place."""
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(description="Put the projector's words on word vectors.")
    parser.add_argument("--weights", type=Path, required=True, help="of stage A; changed")
    parser.add_argument("--gguf", type=Path, required=True, help="SmolLM2-135M-Instruct")
    parser.add_argument("--pictograms", type=Path, default=Path(".build/pictograms.npy"))
    parser.add_argument("--fonts", type=Path, default=Path(".build/fonts"))
    parser.add_argument("--pictures", type=int, default=2400)
    args = parser.parse_args()
    fetch_fonts(args.fonts)
    lexicon = Lexicon.from_gguf(args.gguf)
    trunk, projector = load_eye(args.weights, lexicon.vectors.shape[1])
    path = args.weights / "projector.safetensors"
    draw = Draw(Sheet.load(args.pictograms), args.fonts, SIDE)
    features, words = seen(trunk, draw, args.pictures)
    before = distance(projector, features, words, lexicon)
    lay(projector, features, words, lexicon)
    after = distance(projector, features, words, lexicon)
    print(f"said amiss: {before:.2f} of the variance before, {after:.2f} after", flush=True)
    print(eyesight(trunk, projector, draw, lexicon), flush=True)
    state = {key: value.half().contiguous() for key, value in projector.state_dict().items()}
    part = path.with_name(f".{path.name}.part")
    save_file(state, part, {"side": str(SIDE)})
    part.replace(path)


if __name__ == "__main__":
    main()
