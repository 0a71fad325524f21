"""Losses of labels that experts made: classes, depth up to scale and shift, normals; and their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses.dense.label_maps import DenseLoss

__all__ = ["ExpertLosses", "expert_losses", "normal_distance", "scale_shift_invariant_l1"]


def scale_shift_invariant_l1(
    predicted: Float[Tensor, "B H W"], depth: Float[Tensor, "B H W"], *, eps: float = 1e-6
) -> Float[Tensor, ""]:
    """Mean distance of two depth maps after each was centred by its median and divided by its mean deviation from it.

    Both are so put on one scale, picture by picture, and the distance is measured there; a prediction a d + b with
    a > 0 is as good as d. Of an even number of pixels the median is the lower of the middle two, as torch takes it.

    Args:
        predicted: of any scale and shift.
        depth: the labels; pixels that are NaN are in neither term.
        eps: least deviation, for a map that is flat.

    Raises:
        UsageError: maps of different shapes.

    Paper: Ranftl et al., "Towards Robust Monocular Depth Estimation", arXiv 1907.01341, eq. 5 to 7; as a task of Salehi
    et al., "CLIP meets Model Zoo Experts", arXiv 2310.14108.
    """
    if predicted.shape != depth.shape or predicted.ndim != 3:
        raise UsageError(f"depth maps (B, H, W) of one shape, got {tuple(predicted.shape)} and {tuple(depth.shape)}")
    flat, label = predicted.float().flatten(1), depth.float().flatten(1)
    known = label.isfinite()
    one, other = (_normalised(values, known, eps) for values in (flat, label.nan_to_num(0, 0, 0)))
    return ((one - other).abs() * known).sum() / known.sum().clamp_min(1)


def _normalised(values: Float[Tensor, "B P"], known: Tensor, eps: float) -> Float[Tensor, "B P"]:
    """(d - t) / s with t the median and s the mean of |d - t| over the known pixels of each row; 0 elsewhere."""
    median = torch.where(known, values, torch.nan).nanmedian(1, keepdim=True).values.nan_to_num(0)
    away = (values - median) * known
    spread = away.abs().sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp_min(1)
    return away / spread.clamp_min(eps)


def normal_distance(predicted: Float[Tensor, "B 3 H W"], normals: Float[Tensor, "B 3 H W"]) -> Float[Tensor, ""]:
    """Mean of 1 - cosine between predicted and labelled normals of any length, where the label is not zero.

    Raises:
        UsageError: maps of different shapes.
    """
    if predicted.shape != normals.shape or predicted.ndim != 4 or predicted.shape[1] != 3:
        raise UsageError(f"normals (B, 3, H, W) of one shape, got {tuple(predicted.shape)} and {tuple(normals.shape)}")
    known = normals.abs().amax(1) > 0
    distance = 1 - F.cosine_similarity(predicted.float(), normals.float(), dim=1)
    return (distance * known).sum() / known.sum().clamp_min(1)


@dataclass(frozen=True)
class ExpertLosses:
    """What `expert_losses` found.

    Attributes:
        total: the weighted sum, with its graph.
        terms: each task's loss, unweighted, with its graph.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


def expert_losses(
    outputs: Mapping[str, Tensor], labels: Mapping[str, Tensor], weights: Mapping[str, float] | None = None
) -> ExpertLosses:
    """The losses of several tasks, told apart by the shape of what is predicted.

    Args:
        outputs: task -> prediction (B, C, H, W): logits of C classes, (B, 1, H, W) depth, or (B, 3, H, W) normals.
        labels: task -> labels as `data.decode_labels` gives them: integers (B, H, W) for classes, numbers (B, H, W) for
            depth, (B, 3, H, W) for normals.
        weights: task -> weight; 1 where it says nothing.

    Raises:
        UsageError: a task without labels, a weight of no task, or a shape that is none of these.
    """
    weights = dict(weights or {})
    if missing := sorted(set(outputs) - set(labels)):
        raise UsageError(f"task {missing[0]!r} has no labels")
    if unknown := sorted(set(weights) - set(outputs)):
        raise UsageError(f"weight of {unknown[0]!r}, and the tasks are {', '.join(outputs) or 'none'}")
    terms = {}
    for name, output in outputs.items():
        label = labels[name]
        if not label.is_floating_point():
            terms[name] = DenseLoss()(output, label)
        elif label.ndim == 4:
            terms[name] = normal_distance(output, label)
        elif output.ndim == 4 and output.shape[1] == 1:
            terms[name] = scale_shift_invariant_l1(output[:, 0], label)
        else:
            raise UsageError(f"task {name!r}: predictions {tuple(output.shape)} for labels {tuple(label.shape)}")
    if not terms:
        return ExpertLosses(torch.zeros(()), {})
    return ExpertLosses(torch.stack([weights.get(name, 1.0) * loss for name, loss in terms.items()]).sum(), terms)
