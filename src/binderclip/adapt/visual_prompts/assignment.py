"""Which region belongs to which text: by the best score, or one-to-one."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.settings import check_choice

How = Literal["argmax", "hungarian", "sinkhorn"]


def sinkhorn_plan(scores: Float[Tensor, "R T"], *, eps: float = 0.05, iterations: int = 100) -> Float[Tensor, "R T"]:
    """The transport plan between regions and texts that favours high scores, softened by entropy.

    `exp(scores / eps)` with its rows and columns scaled in turn until rows sum to 1/R and columns to 1/T. A small eps
    gives the one-to-one assignment, a large one the uniform plan. In logarithms and float64: no scale overflows.

    Args:
        scores: scaled cosines, or any scores.
        eps: weight of the entropy, in the unit of the scores.
        iterations: pairs of scalings.

    Returns:
        Non-negative, sums to 1; float64.

    Raises:
        UsageError: scores of another shape or not finite, eps not above 0, iterations below 1.

    Paper: What does CLIP know about a red circle? Visual prompt engineering for VLMs (arXiv 2304.06712).
    """
    _check(scores)
    if not eps > 0 or iterations < 1:
        raise UsageError(f"eps {eps} must be above 0 and iterations {iterations} at least 1")
    log = scores.double() / eps
    rows, columns = -torch.log(torch.tensor(scores.shape, dtype=torch.float64)).to(log.device)
    for _ in range(iterations):
        log = log - log.logsumexp(1, keepdim=True) + rows
        log = log - log.logsumexp(0, keepdim=True) + columns
    return log.exp()


def assign(
    scores: Float[Tensor, "R T"], how: How = "argmax", *, eps: float = 0.05, iterations: int = 100
) -> Int[Tensor, "T"]:
    """The region of each text.

    Args:
        scores: of each region with each text.
        how: "argmax", each text by itself; "hungarian", one-to-one with the largest sum; "sinkhorn", the largest
            entry of the softened one-to-one plan.
        eps: of "sinkhorn".
        iterations: of "sinkhorn".

    Returns:
        Indices of regions; -1 for a text that "hungarian" leaves without one because there are fewer regions.

    Raises:
        UsageError: an unknown `how`, scores of another shape or not finite.
    """
    check_choice("how", how, get_args(How))
    _check(scores)
    if how == "argmax":
        return scores.argmax(dim=0)
    if how == "sinkhorn":
        return sinkhorn_plan(scores, eps=eps, iterations=iterations).argmax(dim=0)
    regions, texts = linear_sum_assignment(scores.detach().double().cpu().numpy(), maximize=True)
    assignment = torch.full((scores.shape[1],), -1, dtype=torch.long, device=scores.device)
    assignment[torch.from_numpy(texts).to(scores.device)] = torch.from_numpy(regions).to(scores.device)
    return assignment


def match_keypoints(
    scores: Float[Tensor, "K T"], *, how: How = "sinkhorn", eps: float = 0.05, iterations: int = 100
) -> Int[Tensor, "K"]:
    """The name of each marked point, where each name belongs to one point.

    Args:
        scores: of the picture with point k marked (rows) with each name (columns), as `score_regions` gives them.
        how: "sinkhorn" (the paper's), "hungarian", or "argmax" for each point by itself.
        eps: of "sinkhorn".
        iterations: of "sinkhorn".

    Returns:
        Indices of names; -1 for a point that "hungarian" leaves without one.

    Raises:
        UsageError: as `assign`.

    Paper: What does CLIP know about a red circle? Visual prompt engineering for VLMs (arXiv 2304.06712).
    """
    return assign(scores.T, how, eps=eps, iterations=iterations)


def _check(scores: Tensor) -> None:
    if scores.ndim != 2 or 0 in scores.shape:
        raise UsageError(f"scores must be (regions, texts), both at least 1, not {tuple(scores.shape)}")
    if not bool(torch.isfinite(scores).all()):
        raise UsageError("scores hold NaN or infinity")
