"""What each place of a layer adds to the gradient of a (virtual) layer's weights, as one number.

An identity layer put behind a feature map x changes nothing, but its weights have a gradient: a sum over places u of a
local term of x around u and the gradient g at u. The terms are outer products of up to 9 C x C numbers; every aggregate
here comes from the two factors, so none of them is ever formed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.settings import check_choice

Extract = Literal["bias", "scaling", "conv1x1", "conv3x3", "depthwise3x3"]
Aggregate = Literal["sum", "norm", "filter-norm", "max", "max-abs"]


def extract_aggregate(
    values: Float[Tensor, "B h w C"], gradients: Float[Tensor, "B h w C"], extract: Extract, aggregate: Aggregate
) -> Float[Tensor, "B h w"]:
    """The aggregate of each place's term in the gradient of a virtual layer's weights.

    Args:
        values: the feature map x.
        gradients: the score's gradient g there.
        extract: the virtual layer: `bias` (term g), `scaling` (x g), `conv1x1` (x g^T), `conv3x3` (the 3 x 3 patch of
            x, zeros outside, times g^T) or `depthwise3x3` (the patch of each channel times its own g).
        aggregate: `sum`, `norm` (l2), `filter-norm` (l2 of the positive entries), `max` or `max-abs` of the entries.

    Raises:
        UsageError: an unknown extract or aggregate.

    Paper: There and Back Again: Revisiting Backpropagation Saliency Methods (arXiv 2004.02866).
    """
    check_choice("extract", extract, get_args(Extract))
    check_choice("aggregate", aggregate, get_args(Aggregate))
    x = torch.ones_like(gradients) if extract == "bias" else values.to(gradients)
    outer = extract in ("conv1x1", "conv3x3")
    patch = extract in ("conv3x3", "depthwise3x3")
    if aggregate in ("max", "max-abs"):
        return _largest(x, gradients, outer, patch, absolute=aggregate == "max-abs")

    def total(left: Tensor, right: Tensor) -> Tensor:
        """The sum over all entries of a term with these factors."""
        if outer:
            left, right = left.sum(-1, keepdim=True), right.sum(-1, keepdim=True)
        return ((_pooled(left, _sum) if patch else left) * right).sum(-1)

    if aggregate == "sum":
        return total(x, gradients)
    if aggregate == "norm":
        return total(x.square(), gradients.square()).sqrt()
    # An entry is positive where both factors are, or neither.
    signs = [total((s * x).clamp(min=0).square(), (s * gradients).clamp(min=0).square()) for s in (1, -1)]
    return (signs[0] + signs[1]).sqrt()


def _largest(x: Tensor, g: Tensor, outer: bool, patch: bool, *, absolute: bool) -> Tensor:
    """The largest entry: with one factor fixed it is where the other one is extreme."""
    if absolute:
        x, g = x.abs(), g.abs()
    highs, lows = (x.amax(-1, keepdim=True), x.amin(-1, keepdim=True)) if outer else (x, x)
    if patch:
        highs, lows = _pooled(highs, _max), -_pooled(-lows, _max)
    rights = (g.amax(-1, keepdim=True), g.amin(-1, keepdim=True)) if outer else (g,)
    products = [left * right for left in (highs, lows) for right in rights]
    return torch.stack(products).amax(dim=0).amax(dim=-1)


def _pooled(x: Float[Tensor, "B h w C"], pool: Callable[[Tensor], Tensor]) -> Float[Tensor, "B h w C"]:
    return pool(F.pad(x.permute(0, 3, 1, 2), (1, 1, 1, 1))).permute(0, 2, 3, 1)


def _sum(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, divisor_override=1)


def _max(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1)
