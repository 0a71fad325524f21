"""The small networks that self-supervised losses put on top of a tower."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import nn

from binderclip.errors import UsageError

__all__ = ["projection_head"]


def projection_head(*widths: int, end: Literal["linear", "norm", "plain-norm"] = "linear") -> nn.Sequential:
    """Linear layers with batch normalisation and ReLU between them (SimCLR, BYOL, Barlow Twins, SimSiam).

    Args:
        widths: of the input, of each hidden layer and of the output: at least two.
        end: what follows the last layer: nothing, a batch normalisation, or one without gain and offset.

    Raises:
        UsageError: fewer than two widths, or one that is not positive.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise UsageError(f"a projection head needs at least two widths of at least 1, got {widths}")
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
    if end == "linear":
        return nn.Sequential(*layers[:-2])
    return nn.Sequential(*layers[:-2], nn.BatchNorm1d(widths[-1], affine=end == "norm"))
