"""Backgrounds of scenes: plain, gradient, noise, texture, photo, a colour, or the caller's own pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from binderclip.data.synthetic_scenes.cutouts import COLOURS
from binderclip.errors import UsageError, require

BACKGROUNDS = ("plain", "gradient", "noise", "texture", "photo")
_PHOTOS = ("coffee", "rocket", "stereo_motorcycle", "grass", "gravel", "brick")

Background = str | tuple | Sequence | np.ndarray | torch.Tensor
Painter = Callable[[np.random.Generator, int], np.ndarray]  # (rng, side) -> (side, side, 3) float32 in [0, 1]


def painter(kind: object) -> Painter:
    """The function that paints one kind of background.

    Args:
        kind: a name of `BACKGROUNDS`, a colour name, an (r, g, b) of integers in 0..255 or of floats in [0, 1], or
            pictures to cut from: (M, 3, h, w) or (3, h, w) float in [0, 1], or (M, h, w, 3) or (h, w, 3) uint8.

    Raises:
        UsageError: none of these.
    """
    if isinstance(kind, str):
        if kind in _PAINTERS:
            if kind == "photo":
                _photos()  # a missing package is reported before anything is drawn
            return _PAINTERS[kind]
        if kind in COLOURS:
            return _constant(np.asarray(COLOURS[kind], dtype=np.float32) / 255)
        raise UsageError(f"background {kind!r} is unknown; use {', '.join(BACKGROUNDS)} or {', '.join(COLOURS)}")
    if isinstance(kind, (np.ndarray, torch.Tensor)) and kind.ndim >= 3:
        return _cutting(_pictures(kind))
    if isinstance(kind, (tuple, list)) and len(kind) == 3 and all(isinstance(v, (int, float)) for v in kind):
        whole = all(isinstance(value, int) for value in kind)
        colour = np.asarray(kind, dtype=np.float32) / (255 if whole else 1)
        if colour.min() < 0 or colour.max() > 1:
            raise UsageError(f"background {kind!r}: a colour is three integers in 0..255 or three floats in [0, 1]")
        return _constant(colour)
    raise UsageError(f"background {kind!r} is neither a name, a colour, nor an array of pictures")


def painters(background: Background) -> list[Painter]:
    """One painter, or several to draw from when `background` is a sequence of kinds."""
    several = isinstance(background, (list, tuple)) and not (
        len(background) == 3 and all(isinstance(value, (int, float)) for value in background)
    )
    if several and not background:
        raise UsageError("background is an empty sequence")
    return [painter(kind) for kind in background] if several else [painter(background)]


def _constant(colour: np.ndarray) -> Painter:
    return lambda rng, side: np.broadcast_to(colour, (side, side, 3)).copy()


def _pale(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(0.72, 1.0, 3).astype(np.float32)


def _muted(rng: np.random.Generator) -> np.ndarray:
    return (
        (0.5 + 0.5 * (rng.uniform(0.1, 0.95, 3) - 0.5) + rng.uniform(-0.22, 0.22)).clip(0.05, 0.97).astype(np.float32)
    )


def _plain(rng: np.random.Generator, side: int) -> np.ndarray:
    return np.broadcast_to(_pale(rng), (side, side, 3)).copy()


def _grid(side: int) -> np.ndarray:
    return (np.arange(side, dtype=np.float32) + 0.5) / side


def _gradient(rng: np.random.Generator, side: int) -> np.ndarray:
    first, last = _pale(rng), _muted(rng)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * (_grid(side)[None] - 0.5) + np.sin(angle) * (_grid(side)[:, None] - 0.5)
    blend = (along - along.min()) / (along.max() - along.min())
    return first + blend.astype(np.float32)[..., None] * (last - first)


def _resized(values: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC))


def _cloudy(rng: np.random.Generator, side: int, base: int = 3, octaves: int = 4) -> np.ndarray:
    """Sum of smooth random fields, each twice as fine and 0.6 as strong; mean 0, about unit variance."""
    total = np.zeros((side, side), dtype=np.float32)
    power = 0.0
    for octave in range(octaves):
        strength = 0.6**octave
        total += strength * _resized(rng.standard_normal((base * 2**octave,) * 2, dtype=np.float32), side)
        power += strength**2
    return total / np.float32(power**0.5)


def _noise(rng: np.random.Generator, side: int) -> np.ndarray:
    first, second = _muted(rng), _muted(rng)
    blend = 1 / (1 + np.exp(-1.6 * _cloudy(rng, side)))
    return first + blend[..., None] * (second - first)


def _texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Stripes, checks, dots, weave or bricks of two close colours, slightly uneven."""
    first = _muted(rng)
    second = np.clip(first + rng.uniform(0.10, 0.22) * rng.choice([-1.0, 1.0]) + rng.uniform(-0.06, 0.06, 3), 0, 1)
    angle, count = rng.uniform(0, np.pi), rng.uniform(5, 14)
    x, y = _grid(side)[None] - 0.5, _grid(side)[:, None] - 0.5
    u = count * (np.cos(angle) * x + np.sin(angle) * y)
    v = count * (np.cos(angle) * y - np.sin(angle) * x)
    sharp = side / count / 4  # an edge of the pattern is about a pixel wide
    style = rng.integers(5)
    if style == 0:
        wave = np.cos(2 * np.pi * u) * sharp
    elif style == 1:
        wave = np.cos(2 * np.pi * u) * np.cos(2 * np.pi * v) * sharp
    elif style == 2:
        wave = (rng.uniform(0.2, 0.4) - np.hypot(u - np.round(u), v - np.round(v))) * 4 * sharp
    elif style == 3:
        wave = np.cos(2 * np.pi * u) + np.cos(2 * np.pi * v)
    else:
        shifted = u + 0.5 * (np.floor(2 * v) % 2)
        joint = np.minimum(np.abs(shifted - np.round(shifted)), np.abs(2 * v - np.round(2 * v)) / 2)
        wave = (joint - 0.05) * 8 * sharp
    blend = 1 / (1 + np.exp(-np.clip(wave, -20, 20)))
    uneven = 1 + 0.05 * _cloudy(rng, side, base=4, octaves=3)
    return np.clip((first + blend[..., None] * (second - first)) * uneven[..., None], 0, 1).astype(np.float32)


@lru_cache(maxsize=1)
def _photos() -> tuple[Image.Image, ...]:
    require("skimage", "photographs")
    from skimage import data as pictures
    from sklearn.datasets import load_sample_image

    photographs = [load_sample_image("china.jpg")]
    for name in _PHOTOS:
        got = getattr(pictures, name)()
        got = got[0] if isinstance(got, tuple) else got
        photographs.append(got if got.ndim == 3 else np.repeat(got[..., None], 3, 2))
    return tuple(Image.fromarray(np.ascontiguousarray(picture[..., :3])) for picture in photographs)


def _photo(rng: np.random.Generator, side: int) -> np.ndarray:
    return _crop(_photos(), rng, side)


def _crop(pictures: Sequence[Image.Image], rng: np.random.Generator, side: int) -> np.ndarray:
    picture = pictures[int(rng.integers(len(pictures)))]
    short = min(picture.size)
    extent = rng.uniform(0.5, 1.0) * short
    x, y = (rng.uniform(0, length - extent) for length in picture.size)
    cut = picture.resize((side, side), Image.Resampling.BILINEAR, box=(x, y, x + extent, y + extent))
    return np.asarray(cut).astype(np.float32) / 255


def _pictures(given: np.ndarray | torch.Tensor) -> tuple[Image.Image, ...]:
    array = given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else given
    array = array[None] if array.ndim == 3 else array
    if array.ndim == 4 and array.shape[1] == 3 and array.dtype.kind == "f":
        array = np.round(array.transpose(0, 2, 3, 1) * 255).clip(0, 255).astype(np.uint8)
    if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8:
        raise UsageError(
            f"background pictures must be float (M, 3, h, w) in [0, 1] or uint8 (M, h, w, 3), "
            f"got {array.dtype} {tuple(array.shape)}"
        )
    return tuple(Image.fromarray(np.ascontiguousarray(picture)) for picture in array)


def _cutting(pictures: tuple[Image.Image, ...]) -> Painter:
    return lambda rng, side: _crop(pictures, rng, side)


_PAINTERS: dict[str, Painter] = {
    "plain": _plain,
    "gradient": _gradient,
    "noise": _noise,
    "texture": _texture,
    "photo": _photo,
}
