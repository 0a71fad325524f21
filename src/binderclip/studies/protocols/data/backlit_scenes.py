"""Scenes whose objects got little light in front of a bright ground, with the same scenes before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import Vocabulary

SIDE, DRAWN, GAMMA = 32, 64, 2.2
"""Side of a picture in pixels, side at which it is drawn, and exponent of display values."""
LIGHT = (0.05, 0.15)
"""Share of the light that reaches the objects of a backlit scene."""
DARK, BRIGHT, TEST = 60, 60, 24
"""Backlit pictures, others as they are, and pictures to test on."""


@dataclass(frozen=True)
class BacklitScenes:
    """Pictures of scenes, every scene in one set.

    Attributes:
        dark: (N, 3, s, s) backlit. bright: (M, 3, s, s) as they are.
        test: (T, 3, s, s) backlit. original: the same before. shaded: (T, s, s) where light is missing.
    """

    dark: Float[Tensor, "N 3 s s"]
    bright: Float[Tensor, "M 3 s s"]
    test: Float[Tensor, "T 3 s s"]
    original: Float[Tensor, "T 3 s s"]
    shaded: Bool[Tensor, "T s s"]


def backlit_scenes(seed: int) -> BacklitScenes:
    """Draw them: (x^2.2 * light)^(1/2.2) on the objects, in 8 bits, one light for a scene.

    Args:
        seed: of scenes and light.
    """
    small, dark = lit_and_backlit(seed, DARK + BRIGHT + TEST)
    original = small[DARK + BRIGHT :]
    test = dark[DARK + BRIGHT :]
    shaded = (original - test).abs().amax(1) > 0.05
    return BacklitScenes(dark[:DARK], small[DARK : DARK + BRIGHT], test, original, shaded)


def lit_and_backlit(
    seed: int, count: int, vocabulary: str | Vocabulary = "scenes15"
) -> tuple[Float[Tensor, "N 3 s s"], Float[Tensor, "N 3 s s"]]:
    """Scenes as they are, and with little light on their objects.

    Args:
        seed: of scenes and light.
        count: N.
        vocabulary: what occurs.
    """
    rng = np.random.default_rng([seed, 24])
    made = scenes(seed, count, DRAWN, objects=(1, 3), background="plain", vocabulary=vocabulary)
    share = torch.from_numpy(rng.uniform(*LIGHT, (count, 1, 1, 1))).float() ** (1 / GAMMA)
    light = torch.where(made.semantic[:, None] > 0, share, torch.ones(()))
    small, dark = (F.avg_pool2d(x, DRAWN // SIDE) for x in (made.images, (255 * made.images * light).round() / 255))
    return small, dark


def psnr(made: Float[Tensor, "T 3 s s"], data: BacklitScenes, *, shaded: bool = False) -> float:
    """Mean signal-to-noise ratio to the originals in dB, of whole pictures or of their shaded parts."""
    error = (made - data.original).square().mean(1)  # (T, s, s)
    weight = data.shaded.float() if shaded else torch.ones_like(error)
    kept = weight.sum((1, 2)) > 0
    return float(-10 * ((error * weight).sum((1, 2))[kept] / weight.sum((1, 2))[kept]).log10().mean())


def equalised(images: Float[Tensor, "T 3 s s"]) -> Float[Tensor, "T 3 s s"]:
    """Adaptive histogram equalisation (CLAHE)."""
    from skimage.exposure import equalize_adapthist

    spread = [torch.from_numpy(equalize_adapthist(image.permute(1, 2, 0).numpy())).float() for image in images]
    return torch.stack(spread).permute(0, 3, 1, 2)
