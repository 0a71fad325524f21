"""Small labelled sets as pixels, for studies of methods that train through the image tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.studies.protocols.data.few_shot_sets import DIGITS

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel, TextBank

SENTENCE = "this is a photo of a {}"
"""The papers' only sentence, with the class in lower case."""


@dataclass(frozen=True)
class PictureSet:
    """Pictures (N, 3, S, S) in [0, 1] and class names, drawn by a seed, and the bank of all classes."""

    images: Float[Tensor, "N 3 S S"]
    labels: np.ndarray
    test_images: Float[Tensor, "M 3 S S"]
    test_labels: np.ndarray
    bank: TextBank


def picture_set(name: str, model: ImageTextModel, seed: int, *, train: int, test: int, side: int) -> PictureSet:
    """Training and test pictures of `digits` or `Fashion-MNIST`, without any in common.

    Args:
        name: which.
        model: whose preprocessing makes the pictures, and whose texts name the classes.
        seed: of the draw.
        train, test: how many pictures.
        side: in pixels.

    Raises:
        UsageError: an unknown name.
        DataError: the set is not on this machine.
    """
    from binderclip.data import load_data

    if name not in ("digits", "Fashion-MNIST"):
        raise UsageError(f"picture set {name!r} is unknown: digits or Fashion-MNIST")
    data = load_data("digits") if name == "digits" else load_data("fashion-mnist", split="test")
    names = list(DIGITS) if name == "digits" else list(data.classes)
    rows = np.random.default_rng([seed, 2]).permutation(len(data))[: train + test]
    steps = model.preprocess.at(side)
    pixels = torch.stack([torch.from_numpy(steps.pixels(data[row].image).copy()) for row in rows])
    images = pixels.permute(0, 3, 1, 2).float() / 255
    labels = np.array([names[data.labels[row]] for row in rows])
    bank = model.text_bank({word: [SENTENCE.format(word.lower())] for word in names})
    return PictureSet(images[:train], labels[:train], images[train:], labels[train:], bank)


@torch.no_grad()
def unit_features(model: ImageTextModel, images: Float[Tensor, "N 3 S S"]) -> np.ndarray:
    """Features (N, E) of length one of pictures of any size that the tower takes."""
    parts = [model.encode_pixels(model.preprocess.normalize(part)) for part in images.split(64)]
    return F.normalize(torch.cat(parts), dim=-1).double().numpy()
