"""Tiles of photographs at several levels of distortion, embedded at their own size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from binderclip.data import load_data
from binderclip.data.distortions.library import distort
from binderclip.data.images import to_tensor

if TYPE_CHECKING:
    from binderclip.quality import PromptQuality

SIDE, TILES = 96, 2
"""Side of a tile in pixels, and tiles of a photograph to learn from."""
KINDS = {"gaussian_blur": "sharpness", "gaussian_noise": "noisiness", "darken": "brightness", "contrast": "contrast"}
"""Distortion -> the pair of words that says it."""


@lru_cache(maxsize=1)
def _photographs() -> list[Float[Tensor, "3 H W"]]:
    return [to_tensor(sample.image.convert("RGB")) for sample in load_data("photographs")]


def tiles(seed: int) -> tuple[Float[Tensor, "n 3 s s"], Float[Tensor, "m 3 s s"]]:
    """Square tiles reduced to `SIDE`: two of each photograph of one half to learn from, one of the others to test."""
    rng = np.random.default_rng([seed, 12])
    images = _photographs()
    order = rng.permutation(len(images)).tolist()
    half = len(order) // 2

    def cut(row: int) -> Float[Tensor, "3 s s"]:
        image = images[row]
        side = int(min(*image.shape[1:], rng.integers(192, 385)))
        top, left = (int(rng.integers(0, size - side + 1)) for size in image.shape[1:])
        tile = image[None, :, top : top + side, left : left + side]
        return F.interpolate(tile, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)[0]

    return torch.stack([cut(row) for row in order[:half] * TILES]), torch.stack([cut(row) for row in order[half:]])


@torch.no_grad()
def series(
    score: PromptQuality, images: Float[Tensor, "n 3 s s"], seed: int, levels: Sequence[int]
) -> Float[Tensor, "K L n E"]:
    """Features of every kind: of the picture itself, and of it at these levels."""
    whole = score.embed(images)
    return torch.stack(
        [torch.stack([whole] + [score.embed(distort(images, kind, n, seed)) for n in levels]) for kind in KINDS]
    )


def tracked(scores: Float[Tensor, "L n"]) -> float:
    """Spearman's correlation of a falling score with the level, mean over pictures; 0 where a score never moves."""
    levels = np.arange(len(scores))
    found = [0.0 if np.ptp(one) == 0 else -spearmanr(levels, one).statistic for one in scores.T.numpy()]
    return float(np.mean(found))
