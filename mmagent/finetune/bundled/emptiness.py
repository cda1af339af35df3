"""Pictures in which nothing can be made out: noise, blank sheets, blurs, textures.

They teach the model to say that it cannot tell. Some kinds are kept for measuring.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["KINDS", "nothing"]

KINDS = {
    "train": ("blank", "noise", "coarse", "clouds", "ramp", "lines", "shapes", "fractal"),
    "test": ("grain", "rings", "blocks", "smear"),
}


def nothing(rng: np.random.Generator, side: int, split: str = "train") -> Image.Image:
    """A square RGB picture of a random kind of the split."""
    kinds = KINDS["test" if split == "test" else "train"]
    kind = kinds[int(rng.integers(len(kinds)))]
    pixels = _PAINT[kind](rng, side)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGB")


_Pixels = npt.NDArray[np.float32]


def _colour(rng: np.random.Generator) -> _Pixels:
    return rng.uniform(0, 255, 3).astype(np.float32)


def _blank(rng: np.random.Generator, side: int) -> _Pixels:
    return np.tile(_colour(rng), (side, side, 1)).astype(np.float32)


def _noise(rng: np.random.Generator, side: int) -> _Pixels:
    shape = (side, side, 3) if rng.random() < 0.6 else (side, side, 1)
    middle, width = rng.uniform(60, 200), rng.uniform(20, 110)
    return np.broadcast_to(rng.normal(middle, width, shape), (side, side, 3)).astype(np.float32)


def _scaled(small: _Pixels, side: int, smooth: bool) -> _Pixels:
    way = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    image = Image.fromarray(np.clip(small, 0, 255).astype(np.uint8), "RGB")
    return np.asarray(image.resize((side, side), way)).astype(np.float32)


def _coarse(rng: np.random.Generator, side: int) -> _Pixels:
    cells = int(rng.integers(10, 60))
    return _scaled(rng.uniform(0, 255, (cells, cells, 3)).astype(np.float32), side, False)


def _blocks(rng: np.random.Generator, side: int) -> _Pixels:
    cells = int(rng.integers(3, 9))
    return _scaled(rng.uniform(0, 255, (cells, cells, 3)).astype(np.float32), side, False)


def _clouds(rng: np.random.Generator, side: int) -> _Pixels:
    cells = int(rng.integers(3, 12))
    return _scaled(rng.uniform(0, 255, (cells, cells, 3)).astype(np.float32), side, True)


def _smear(rng: np.random.Generator, side: int) -> _Pixels:
    shape = (1, int(rng.integers(4, 40)), 3)
    strip = rng.uniform(0, 255, shape).astype(np.float32)
    return _scaled(strip if rng.random() < 0.5 else strip.transpose(1, 0, 2), side, True)


def _ramp(rng: np.random.Generator, side: int) -> _Pixels:
    first, last = _colour(rng), _colour(rng)
    share = np.linspace(0, 1, side, dtype=np.float32)
    plane: Any = share[None, :] if rng.random() < 0.5 else (share[:, None] + share[None, :]) / 2
    ramp: _Pixels = first + (last - first) * np.broadcast_to(plane, (side, side))[:, :, None]
    return ramp


def _lines(rng: np.random.Generator, side: int) -> _Pixels:
    angle, width = rng.uniform(0, np.pi), rng.uniform(4, 30)
    y, x = np.mgrid[:side, :side]
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / width) > 0
    return np.where(wave[:, :, None], _colour(rng), _colour(rng)).astype(np.float32)


def _rings(rng: np.random.Generator, side: int) -> _Pixels:
    centre = rng.uniform(0.2, 0.8, 2) * side
    y, x = np.mgrid[:side, :side]
    far = np.hypot(x - centre[0], y - centre[1])
    wave = np.sin(far * 2 * np.pi / rng.uniform(6, 30)) > 0
    return np.where(wave[:, :, None], _colour(rng), _colour(rng)).astype(np.float32)


def _shapes(rng: np.random.Generator, side: int) -> _Pixels:
    """Overlapping rectangles and discs of no meaning."""
    pixels = _blank(rng, side)
    y, x = np.mgrid[:side, :side]
    for _ in range(int(rng.integers(8, 40))):
        at, size = rng.uniform(0, side, 2), rng.uniform(5, side / 2, 2)
        if rng.random() < 0.5:
            inside = (abs(x - at[0]) < size[0] / 2) & (abs(y - at[1]) < size[1] / 2)
        else:
            inside = ((x - at[0]) / size[0]) ** 2 + ((y - at[1]) / size[1]) ** 2 < 0.25
        pixels[inside] = _colour(rng)
    return pixels


def _spectrum(rng: np.random.Generator, side: int, power: float) -> _Pixels:
    """Random phases with a falling spectrum, as in photographs; [side, side] of mean 0."""
    there = np.fft.fftfreq(side)
    far = np.hypot(there[:, None], there[None, :])
    far[0, 0] = 1.0
    waves = np.fft.fft2(rng.normal(size=(side, side))) / far**power
    plane = np.fft.ifft2(waves).real
    scaled: _Pixels = ((plane - plane.mean()) / (plane.std() + 1e-9)).astype(np.float32)
    return scaled


def _fractal(rng: np.random.Generator, side: int) -> _Pixels:
    power = rng.uniform(0.8, 1.8)
    light = _spectrum(rng, side, power)[:, :, None] * rng.uniform(30, 60)
    tint = np.stack([_spectrum(rng, side, power) for _ in range(3)], -1) * rng.uniform(0, 30)
    picture: _Pixels = _colour(rng) * 0.5 + 64 + light + tint
    return picture


def _grain(rng: np.random.Generator, side: int) -> _Pixels:
    """Pepper and salt on a plain sheet."""
    pixels = _blank(rng, side)
    draw = rng.random((side, side))
    share = rng.uniform(0.1, 0.4)
    pixels[draw < share / 2] = 0
    pixels[draw > 1 - share / 2] = 255
    return pixels


_PAINT = {"blank": _blank, "noise": _noise, "coarse": _coarse, "clouds": _clouds, "ramp": _ramp,
          "lines": _lines, "shapes": _shapes, "fractal": _fractal, "grain": _grain,
          "rings": _rings, "blocks": _blocks, "smear": _smear}  # fmt: skip
