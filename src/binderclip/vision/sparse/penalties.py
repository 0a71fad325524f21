"""Penalties of sparse coding and their proximal maps: from the absolute value towards the count of what is not zero."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.numeric import check_number
from binderclip.optim import soft_threshold
from binderclip.settings import check_choice

__all__ = ["PENALTIES", "Convention", "Penalty", "penalty_value", "prox"]

Penalty: TypeAlias = Literal["l1", "l0", "lhalf", "cel0"]
Convention: TypeAlias = Literal["canonical", "paper_code"]
PENALTIES: tuple[Penalty, ...] = ("l1", "l0", "lhalf", "cel0")
HALF = 54 ** (1 / 3) / 4
"""Of the threshold of the half penalty, Xu et al. 2012."""


def prox(
    penalty: Penalty,
    values: Float[Tensor, "*shape"],
    step: float,
    lam: float,
    *,
    convention: Convention = "canonical",
) -> Float[Tensor, "*shape"]:
    """The proximal map argmin_x (x - z)^2 / 2 + step lam pen(x), entry by entry.

    With t = step lam: `l1` shrinks by t; `l0` keeps what is at least sqrt(2 t); `lhalf` (pen = sqrt|x|) cuts below
    (54^(1/3) / 4) (2 t)^(2/3) and shrinks what is left less, the larger it is; `cel0`, the continuous exact relaxation
    of l0 for columns of length 1, is sign(z) min(|z|, max(|z| - sqrt(2 lam) step, 0) / (1 - step)).

    Args:
        penalty: `l1`, `l0`, `lhalf` or `cel0`.
        values: z.
        step: of the gradient step before it, above 0; `cel0` needs it below 1.
        lam: weight of the penalty, at least 0.
        convention: `paper_code` halves the weight of l0 and lhalf, as the authors' code does: its lam is twice ours.

    Raises:
        UsageError: an unknown penalty or convention, or a number out of range.

    Examples:
        >>> z = torch.tensor([0.5, -2.0])
        >>> [[round(x, 2) for x in prox(name, z, 0.5, 1.0).tolist()] for name in ("l1", "l0", "cel0")]
        [[0.0, -1.5], [0.0, -2.0], [0.0, -2.0]]

    Paper: Beyond l1 sparse coding in V1 (arXiv 2301.10002).
    """
    check_choice("penalty", penalty, PENALTIES)
    check_choice("convention", convention, ("canonical", "paper_code"))
    check_number("step", step, above=0, below=1 if penalty == "cel0" else None)
    check_number("lam", lam, least=0)
    size, t = values.abs(), step * lam
    if convention == "paper_code" and penalty in ("l0", "lhalf"):
        t = t / 2
    if penalty == "l1":
        return soft_threshold(values, t)
    if penalty == "l0":
        return torch.where(size >= math.sqrt(2 * t), values, torch.zeros_like(values))
    if penalty == "cel0":
        return values.sign() * torch.minimum(size, (size - math.sqrt(2 * lam) * step).clamp(min=0) / (1 - step))
    weight = 2 * t  # the published map is of (x - z)^2 + L sqrt|x|
    kept = size > HALF * weight ** (2 / 3)
    # The argument of arccos exceeds 1 just below the threshold, so what is cut gets a harmless size first.
    safe = torch.where(kept, size, torch.full_like(size, max(1.0, weight)))
    angle = (weight / 8 * (safe / 3) ** -1.5).clamp(max=1).arccos()
    shrunk = 2 / 3 * values * (1 + torch.cos(2 * math.pi / 3 - 2 / 3 * angle))
    return torch.where(kept, shrunk, torch.zeros_like(values))


def penalty_value(penalty: Penalty, values: Float[Tensor, "*shape"], lam: float) -> Float[Tensor, "*shape"]:
    """lam pen(x) of every entry; of `cel0`, for columns of length 1, lam - (|x| - sqrt(2 lam))^2 / 2 below sqrt(2 lam).

    Args:
        penalty: see `prox`.
        values: x.
        lam: weight, at least 0.

    Raises:
        UsageError: an unknown penalty, or a weight out of range.
    """
    check_choice("penalty", penalty, PENALTIES)
    check_number("lam", lam, least=0)
    size = values.abs()
    if penalty == "l1":
        return lam * size
    if penalty == "l0":
        return lam * (size > 0).to(values)
    if penalty == "lhalf":
        return lam * size.sqrt()
    return lam - 0.5 * (math.sqrt(2 * lam) - size).clamp(min=0).square()
