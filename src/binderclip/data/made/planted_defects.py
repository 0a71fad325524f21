"""Defects planted on sound pictures, with their exact pixels: truth for anomaly maps where nobody drew any."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.data.synthetic_scenes.details import defect
from binderclip.errors import UsageError
from binderclip.numeric import check_number


@dataclass(frozen=True)
class Planted:
    """Pictures with defects.

    Attributes:
        images: (N, 3, S, S) in [0, 1].
        masks: (N, S, S) pixels that a defect covers by at least half.
        kinds: for each picture, `scratch` or `spot` of each of its defects.
    """

    images: Float[Tensor, "N 3 S S"]
    masks: Bool[Tensor, "N S S"]
    kinds: list[list[str]]


def plant_defects(
    images: Float[Tensor, "N 3 S S"], seed: int, *, defects: tuple[int, int] | int = 1, strength: float = 1.0
) -> Planted:
    """Scratch or blot pictures, lighter or darker than what is under the defect; picture i depends on (seed, i) only.

    Args:
        images: square, in [0, 1]; they are not changed.
        seed: any integer >= 0.
        defects: number of defects a picture, or (least, most).
        strength: opacity of the defects, in (0, 1].

    Raises:
        UsageError: other shapes or values, no defect, or a strength out of range.
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3] or images.shape[3] < 16:
        raise UsageError(f"images must be (N, 3, S, S) with S at least 16, not {tuple(images.shape)}")
    if not images.is_floating_point() or (len(images) and not 0 <= float(images.min()) <= float(images.max()) <= 1):
        raise UsageError("images must be floats in [0, 1]")
    low, high = (defects, defects) if isinstance(defects, int) else defects
    if not 1 <= low <= high or seed < 0:
        raise UsageError(f"defects must be at least 1 and seed at least 0, not {defects!r} and {seed}")
    check_number("strength", strength, above=0, most=1)
    side = images.shape[-1]
    nothing = np.zeros((0, side, side), dtype=bool)
    out, masks, kinds = [], [], []
    for index, image in enumerate(images):
        rng = np.random.default_rng([seed, index, 94])
        picture = image.permute(1, 2, 0).double().cpu().numpy().copy()
        mask, own = np.zeros((side, side), dtype=bool), []
        for _ in range(int(rng.integers(low, high + 1))):
            one = defect(rng, picture, nothing)
            assert one.colour is not None
            picture += strength * one.alpha[..., None] * (one.colour - picture)
            mask |= one.alpha >= 0.5
            own.append(one.kind)
        out.append(torch.from_numpy(picture.clip(0, 1)).permute(2, 0, 1))
        masks.append(torch.from_numpy(mask))
        kinds.append(own)
    if not out:
        return Planted(images.clone(), torch.zeros(0, side, side, dtype=torch.bool), [])
    return Planted(torch.stack(out).to(images), torch.stack(masks), kinds)
