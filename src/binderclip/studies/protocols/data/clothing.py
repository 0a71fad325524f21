"""Fashion-MNIST as pixels, for studies that train a small network from scratch."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

MEAN, DEVIATION = 0.286, 0.353
"""Of the pixels of the training part."""


def clothing(split: str, count: int, side: int = 28) -> tuple[Float[Tensor, "N 1 S S"], Int[Tensor, "N"]]:
    """The first pictures of a part, in [0, 1], and their classes.

    Args:
        split: `train` or `test`.
        count: how many.
        side: in pixels.

    Raises:
        DataError: the set is not on this machine.
    """
    from binderclip.data import load_data

    pixels, data = load_data("fashion-mnist", split).subset(np.arange(count)).pixels(side, mode="RGB")
    return pixels[:, :1].float() / 255, torch.as_tensor(np.asarray(data.labels)).long()


def standardised(images: Float[Tensor, "N 1 S S"]) -> Float[Tensor, "N 1 S S"]:
    """Pixels of mean 0 and deviation 1."""
    return (images - MEAN) / DEVIATION
