"""Steps to the border of a ball around the weights, in units of each weight's own scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.settings import check_choice

__all__ = [
    "SCALES",
    "BallNorm",
    "SharpnessGradient",
    "WeightScale",
    "ascent_direction",
    "common_norm",
    "sharpness_gradient",
    "weight_scales",
]

BallNorm = Literal["l2", "linf"]
WeightScale = Literal["none", "weight", "box", "filter", "layer"]
SCALES: tuple[WeightScale, ...] = ("none", "weight", "box", "filter", "layer")

_TINY = 1e-12
"""Added to norms that divide, as in the released code of SAM."""


@torch.no_grad()
def weight_scales(params: Sequence[Tensor], scale: WeightScale = "none", eta: float = 0.0) -> list[Tensor]:
    """The unit c in which each weight's perturbation is measured; a perturbation is c * u with u in a unit ball.

    Args:
        params: the weights.
        scale: `none`, 1; `weight`, |w| (ASAM, adaptive sharpness); `box`, |w| + 1 (Keskar et al.); `filter`, the L2
            norm of the output row that the weight lies in, and 0 for tensors of fewer than two dimensions (Li et al.:
            biases and norms stay where they are); `layer`, the L2 norm of its tensor.
        eta: added, so that weights of 0 can move.

    Returns:
        A tensor for each parameter that broadcasts with it.

    Raises:
        UsageError: an unknown scale, or a negative eta.
    """
    check_choice("scale", scale, SCALES)
    check_number("eta", eta, least=0)
    return [_scale_of(p, scale) + eta if eta else _scale_of(p, scale) for p in params]


def _scale_of(p: Tensor, scale: WeightScale) -> Tensor:
    if scale == "weight":
        return p.abs()
    if scale == "box":
        return p.abs() + 1
    if scale == "layer":
        return torch.linalg.vector_norm(p)
    if scale == "filter":
        if p.ndim < 2:
            return p.new_zeros(())
        return torch.linalg.vector_norm(p, dim=tuple(range(1, p.ndim)), keepdim=True)  # (rows, 1, ...)
    return p.new_ones(())


def common_norm(tensors: Sequence[Tensor]) -> Float[Tensor, ""]:
    """The L2 norm over all entries of all tensors, on the device of the first."""
    parts = [torch.linalg.vector_norm(t) for t in tensors]
    return torch.linalg.vector_norm(torch.stack([part.to(parts[0]) for part in parts]))


@torch.no_grad()
def ascent_direction(
    gradient: Sequence[Tensor],
    scales: Sequence[Tensor],
    norm: BallNorm = "l2",
    radii: Sequence[float] | None = None,
) -> list[Tensor]:
    """The point of the ball {c u : ||u|| <= 1} at which a linear function with this gradient is largest.

    Args:
        gradient: a tensor each parameter.
        scales: c, as `weight_scales` gives it.
        norm: `l2`, over all parameters together: c^2 g / ||c g||_2; `linf`: c sign(g).
        radii: by which each parameter's part is multiplied; default 1.

    Returns:
        A tensor each parameter; zeros where the gradient is 0.

    Raises:
        UsageError: an unknown norm.
    """
    check_choice("norm", norm, ("l2", "linf"))
    radii = [1.0] * len(gradient) if radii is None else radii
    if norm == "linf":
        return [r * c * g.sign() for g, c, r in zip(gradient, scales, radii, strict=True)]
    if not gradient:
        return []
    # ||c g|| part by part, and c^2 r / ||c g|| before g: a unit that is one number takes one pass over g in either
    parts = [
        torch.linalg.vector_norm(c * g) if c.ndim else c.abs() * torch.linalg.vector_norm(g)
        for g, c in zip(gradient, scales, strict=True)
    ]
    length = common_norm(parts) + _TINY
    return [c * c * (r / length).to(g) * g for g, c, r in zip(gradient, scales, radii, strict=True)]


class SharpnessGradient(NamedTuple):
    """What `sharpness_gradient` found.

    Attributes:
        loss: at the weights.
        near_loss: at the worst near point.
        gradient: at the weights; zeros for a parameter that the loss does not use.
        near_gradient: at the worst near point; SAM descends by it.
    """

    loss: Float[Tensor, ""]
    near_loss: Float[Tensor, ""]
    gradient: list[Tensor]
    near_gradient: list[Tensor]


def sharpness_gradient(
    closure: Callable[[], Float[Tensor, ""]],
    params: Sequence[Tensor],
    rho: float = 0.05,
    *,
    norm: BallNorm = "l2",
    scale: WeightScale = "none",
    eta: float = 0.0,
) -> SharpnessGradient:
    """The gradient at the worst near point `w + rho c^2 g / ||c g||` of one batch; `.grad` is not touched.

    Two forward and backward passes. The derivative goes through the loss there, not through the point itself, as in
    the paper. The weights are put back from a copy, bit for bit, also after an error.

    Args:
        closure: computes the scalar loss, with its graph. It is called twice: batch and randomness should be the same.
        params: tensors with `requires_grad`.
        rho: radius, in units of `scale`.
        norm: of the ball: `l2` (SAM), or `linf`, where the step is `rho c sign(g)`.
        scale, eta: c; see `weight_scales`.

    Raises:
        UsageError: no parameter, a frozen one, a negative radius, an unknown norm or scale, or a loss that is no scalar
            with a graph.

    Examples:
        >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> sharpness_gradient(lambda: w.square().sum() / 2, [w], rho=1.0).near_gradient
        [tensor([3.6000, 4.8000])]

    Paper: Sharpness-Aware Minimization for Efficiently Improving Generalization (arXiv 2010.01412), equations 2 and 3.
    """
    check_number("rho", rho, least=0)
    params = list(params)
    if not params:
        raise UsageError("sharpness_gradient needs at least one parameter")
    scales = weight_scales(params, scale, eta)
    loss, gradient = loss_and_gradient(closure, params)
    before = [p.detach().clone() for p in params]
    try:
        with torch.no_grad():
            for p, direction in zip(params, ascent_direction(gradient, scales, norm), strict=True):
                p.add_(direction, alpha=rho)
        near_loss, near_gradient = loss_and_gradient(closure, params)
    finally:
        with torch.no_grad():
            for p, value in zip(params, before, strict=True):
                p.copy_(value)
    return SharpnessGradient(loss, near_loss, gradient, near_gradient)


def loss_and_gradient(
    closure: Callable[[], Float[Tensor, ""]], params: Sequence[Tensor]
) -> tuple[Float[Tensor, ""], list[Tensor]]:
    """The loss, detached, and its gradient, zeros where a parameter is not used.

    Raises:
        UsageError: a frozen parameter, or a loss that is no scalar with a graph.
    """
    for index, p in enumerate(params):
        if not p.requires_grad:
            raise UsageError(f"parameter {index} does not require a gradient: leave it out of params")
    with torch.enable_grad():
        loss = closure()
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        kind = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise UsageError(f"the loss must be a scalar with a graph, got {kind}")
    grads = torch.autograd.grad(loss.reshape(()), params, allow_unused=True)
    return loss.detach().reshape(()), [
        torch.zeros_like(p) if g is None else g for p, g in zip(params, grads, strict=True)
    ]
