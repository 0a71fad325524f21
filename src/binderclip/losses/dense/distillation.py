"""What a dense map learns from other models: which of its cells are alike, and what a crop of it shows (DeCLIP)."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_number

__all__ = ["ContextRule", "content_distillation", "context_distillation", "region_correlation"]

ContextRule: TypeAlias = Literal["rows", "divergence"]
_SMALL = 1e-12


def context_distillation(
    student: Float[Tensor, "B N N"],
    teacher: Float[Tensor, "B N N"],
    *,
    rule: ContextRule = "divergence",
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """How far the likeness of a map's cells is from the teacher's, mean over rows.

    Args:
        student: cosines of the cells' context features.
        teacher: cosines of a vision model's patches on the same grid, or such ones completed.
        rule: `rows` is the Euclidean distance of two rows, not squared; `divergence` is KL(teacher || student) of rows
            through a softmax.
        temperature: of the softmax.

    Raises:
        UsageError: another rule, matrices of two shapes, or a temperature that is not positive.

    Paper: Generalized Decoupled Learning for Enhancing Open-Vocabulary Dense Perception (DeCLIP, arXiv 2508.11256).
    """
    if rule not in get_args(ContextRule):
        raise UsageError(f"rule must be {' or '.join(get_args(ContextRule))}, not {rule!r}")
    if student.shape != teacher.shape:
        raise UsageError(f"likeness of {tuple(student.shape)} and of the teacher {tuple(teacher.shape)}: two grids")
    check_number("temperature", temperature, above=0)
    if rule == "rows":
        # The root's slope has no end at 0.
        return ((student - teacher).square().sum(-1) + _SMALL).sqrt().mean()
    return _divergence(teacher / temperature, student / temperature).mean()


def content_distillation(
    regions: Float[Tensor, "R E n m"], crops: Float[Tensor, "R E"]
) -> Float[Tensor, ""]:  # fmt: skip
    """One minus the cosine of a region's pooled cells with the embedding of its crop, mean over regions.

    Cells count by the softmax of their cosine with the crop; with one cell that is the cell.

    Args:
        regions: cells of each region, out of the dense map.
        crops: what the teacher says of each region, cut out and seen by itself.

    Paper: Generalized Decoupled Learning for Enhancing Open-Vocabulary Dense Perception (DeCLIP, arXiv 2508.11256).
    """
    cells = regions.flatten(2)  # (R, E, n m)
    weights = F.cosine_similarity(cells, crops[:, :, None], dim=1).softmax(-1)  # (R, n m)
    pooled = (cells * weights[:, None]).sum(-1)
    return (1 - F.cosine_similarity(pooled, crops, dim=1)).mean()


def region_correlation(
    student: Float[Tensor, "R E n m"], teacher: Float[Tensor, "R C n m"]
) -> Float[Tensor, ""]:  # fmt: skip
    """KL(teacher || student) of how alike the cells of a region are, rows through a softmax, mean over all rows.

    Args:
        student: cells of each region, out of the dense map.
        teacher: the same cells out of a vision model's map.

    Raises:
        UsageError: other regions, or other cells.

    Paper: Generalized Decoupled Learning for Enhancing Open-Vocabulary Dense Perception (DeCLIP, arXiv 2508.11256).
    """
    if student.shape[0] != teacher.shape[0] or student.shape[2:] != teacher.shape[2:]:
        raise UsageError(f"regions of {tuple(student.shape)} and of the teacher {tuple(teacher.shape)}")
    if not len(student):
        raise UsageError("there is no region to compare")
    return _divergence(_cosines(teacher), _cosines(student)).mean()


def _cosines(regions: Float[Tensor, "R E n m"]) -> Float[Tensor, "R N N"]:
    unit = F.normalize(regions.flatten(2), dim=1)
    return torch.einsum("rei,rej->rij", unit, unit)


def _divergence(target: Float[Tensor, "*B N"], logits: Float[Tensor, "*B N"]) -> Float[Tensor, "*B"]:
    """KL of softmax(target) from softmax(logits), along the last axis."""
    first, second = target.log_softmax(-1), logits.log_softmax(-1)
    return (first.exp() * (first - second)).sum(-1)
