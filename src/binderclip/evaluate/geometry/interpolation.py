"""Ways between two embeddings."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError

__all__ = ["slerp", "vslerp"]


def slerp(
    a: Float[Tensor, "*n d"], b: Float[Tensor, "*n d"], t: float | Float[Tensor, "*n"], *, full_circle: bool = False
) -> Float[Tensor, "*n d"]:
    """The arc from a to b at constant speed: (sin((1 - t) w) a + sin(t w) b) / sin(w), w the angle between them.

    Args:
        a, b: of any length, none of them 0.
        t: 0 gives a, 1 gives b. With `full_circle` the angle from a in units of a full turn: 1 is a again.
        full_circle: go on behind b around the circle that a and b lie on, which whitened embeddings allow.

    Raises:
        UsageError: a or b is 0, or they point in opposite directions, so that there is no one arc.

    Paper: Whitened CLIP as a Likelihood Surrogate of Images and Captions (arXiv 2505.06934).
    """
    x, y = a.double(), b.double()
    if bool((x.norm(dim=-1) == 0).any() | (y.norm(dim=-1) == 0).any()):
        raise UsageError("there is no direction to a vector of zeros")
    cosine = (F.normalize(x, dim=-1) * F.normalize(y, dim=-1)).sum(-1).clamp(-1, 1)
    angle = cosine.acos()
    if bool((angle > math.pi - 1e-6).any()):
        raise UsageError("the two vectors point in opposite directions: many arcs lead from one to the other")
    part = torch.as_tensor(t, dtype=torch.float64).expand_as(angle)
    if full_circle:
        part = part * 2 * math.pi / angle.clamp(min=1e-12)
    sine = angle.sin()
    straight = sine < 1e-9
    first = torch.where(straight, 1 - part, ((1 - part) * angle).sin() / sine.clamp(min=1e-12))
    second = torch.where(straight, part, (part * angle).sin() / sine.clamp(min=1e-12))
    return (first[..., None] * x + second[..., None] * y).to(a.dtype)


def vslerp(
    a: Float[Tensor, "*n d"],
    b: Float[Tensor, "*n d"],
    t: float | Float[Tensor, "*n"],
    mean: Float[Tensor, "d"],
    k: float = 1.0,
) -> Float[Tensor, "*n d"]:
    """`slerp` of what is left of the vectors without k times their modality's mean, which is added again.

    Embeddings lie on a shell about their mean, not about 0: with k = 1 the way stays on it; k = 0 is `slerp`.

    Paper: The Double-Ellipsoid Geometry of CLIP (arXiv 2411.14517), whose released code takes the angle of an
    element-wise product; here it is that of the dot product.
    """
    shift = (k * mean.double()).to(a.dtype)
    return slerp(a - shift, b - shift, t) + shift
