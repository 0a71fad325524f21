"""Regions of scenes with their names, the whole picture in view: what an alpha channel is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.data.synthetic_scenes.batch import Scenes
from binderclip.data.synthetic_scenes.captions import article
from binderclip.errors import UsageError
from binderclip.numeric import check_number

__all__ = ["RGBAPairs", "rgba_pairs"]


@dataclass(frozen=True)
class RGBAPairs:
    """Pictures, where to look, and what is there.

    Attributes:
        images: in [0, 1].
        alpha: 1 on the region, 0 elsewhere; all ones where the whole picture is meant.
        captions: of the region, or of the whole picture.
        objects: index of the object in its scene, -1 for the whole picture.
    """

    images: Float[Tensor, "N 3 S S"]
    alpha: Float[Tensor, "N 1 S S"]
    captions: list[str]
    objects: Int[np.ndarray, "N"]


def rgba_pairs(scenes: Scenes, *, full: float = 0.1, seed: int = 0) -> RGBAPairs:
    """One region a scene, drawn at random, with its name; some scenes as they are, with their own caption.

    Args:
        scenes: with at least one visible object each.
        full: probability of the whole picture, which keeps what the model knew (paper: 0.1).
        seed: of the draw; another one draws other regions.

    Raises:
        UsageError: a probability outside [0, 1], or a scene without a visible object.

    Paper: Alpha-CLIP: A CLIP Model Focusing on Wherever You Want, arXiv 2312.03818.
    """
    check_number("full", full, least=0, most=1)
    rng = np.random.default_rng([seed, 75])
    seen: Bool[Tensor, "N K"] = scenes.visible.flatten(2).any(2)
    if not bool(seen.any(1).all()):
        raise UsageError(f"scene {int((~seen.any(1)).nonzero()[0])} shows no object")
    alpha, captions, objects = [], [], []
    for row, names in enumerate(scenes.names):
        whole, chosen = rng.random() < full, int(rng.choice(seen[row].nonzero().flatten().numpy()))
        mask = scenes.visible[row, chosen][None].float()
        alpha.append(torch.ones_like(mask) if whole else mask)
        captions.append(scenes.captions[row] if whole else article(names[chosen]))
        objects.append(-1 if whole else chosen)
    return RGBAPairs(scenes.images, torch.stack(alpha), captions, np.array(objects))
