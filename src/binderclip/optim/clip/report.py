"""What a clip says about one call."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["ClipReport", "empty_report"]


class ClipReport(NamedTuple):
    """What one call did; all tensors, so that reading it later costs no synchronisation now.

    Args:
        norm: the statistic of the whole gradient before clipping.
        stat: the statistic of each block: one for "global", one per group, tensor or unit. For "coordinate", the
            largest absolute value of each tensor.
        limit: what the threshold allowed.
        scale: the factor of each block, 1 where nothing was done. After a clamp, what the largest coordinate shrank by.
        clipped: which blocks exceeded their limit.
        skipped: whether the step was given up because the gradient was not finite.
        tensor_norms: the statistic per tensor, in the order of `names`.
        names: the tensors' keys (their names, else their positions).
    """

    norm: Float[Tensor, ""]
    stat: Float[Tensor, "blocks"]
    limit: Float[Tensor, "blocks"]
    scale: Float[Tensor, "blocks"]
    clipped: Bool[Tensor, "blocks"]
    skipped: Bool[Tensor, ""]
    tensor_norms: Float[Tensor, "tensors"]
    names: tuple[str, ...]


def empty_report() -> ClipReport:
    """The report where nothing had a gradient."""
    zero, none = torch.zeros(()), torch.zeros(0)
    return ClipReport(zero, none, none, none, none.bool(), torch.tensor(False), none, ())
