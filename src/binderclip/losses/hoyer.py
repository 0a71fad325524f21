"""The Hoyer-square measure: how spread a tensor's magnitudes are."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError

__all__ = ["hoyer_square"]


def hoyer_square(x: Float[Tensor, "*shape"], *, normalize: bool = False) -> Float[Tensor, ""]:
    """(sum |x|)^2 / sum x^2: from 1 for one non-zero value to the number of values where all magnitudes are equal.

    It does not change with the scale of `x`, and its derivative is zero at magnitudes equal to sum x^2 / sum |x|.

    Args:
        x: of any shape, such as membrane potentials clamped to [0, 1].
        normalize: divide by the number of values, so that one weight of the loss fits layers of any size.

    Returns:
        0 where all values are 0.

    Raises:
        UsageError: no values.

    Examples:
        >>> float(hoyer_square(torch.tensor([1.0, 0.0, -1.0, 0.0])))
        2.0

    Paper: Hoyer regularizer is all you need for ultra low-latency spiking neural networks, arXiv 2212.10170.
    """
    if x.numel() == 0:
        raise UsageError(f"there are no values to measure: shape {tuple(x.shape)}")
    total, squares = x.abs().sum(), x.square().sum()
    measure = total.square() / torch.where(squares > 0, squares, 1.0)
    # x^2 may underflow to 0 beside a sum that does not; NaN has to show, and is neither above 0 nor equal to it.
    measure = torch.where(squares == 0, 0.0, measure) + 0 * squares
    return measure / x.numel() if normalize else measure
