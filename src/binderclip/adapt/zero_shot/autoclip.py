"""Weights over the descriptors of a class set, one set of weights an image, from cosines alone."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.errors import UsageError

Gradient = Literal["post", "pre"]

NEWTON_STEPS = 30
"""Steps of the search for the step size: Newton inside a bracket, so that 30 reach float precision from anywhere."""


def autoclip_scores(
    sims: Float[Tensor, "N C K"],
    entropy: float = 0.85,
    *,
    mask: Bool[Tensor, "C K"] | None = None,
    gradient: Gradient = "post",
    scale: float = 1.0,
) -> Float[Tensor, "N C"]:
    """Class scores under weights over the K descriptors that each image finds for itself.

    The weights start equal and take one step up the gradient of a smooth maximum of the class scores, of such a length
    that their entropy becomes `entropy * log2(K)` bits. Nothing is encoded, no label is read, and no image sees
    another. Paper: AutoCLIP: Auto-tuning Zero-Shot Classifiers for Vision-Language Models (arXiv 2309.16414).

    Args:
        sims: plain cosines of N images with K descriptors of C classes; descriptor k means the same for every class.
        entropy: of the weights, as a share of that of equal weights; 1 keeps them equal, 0 keeps one descriptor.
        mask: False where a class has no descriptor k, None where none is missing. The paper has as many for every
            class; here the weights of the missing ones are shared out inside the class.
        gradient: `post` weighs the classes by how likely they are, `pre` equally (the paper's appendix).
        scale: factor on the cosines inside the objective only; at 100 one class decides alone.

    Returns:
        Weighted means of the cosines, differentiable in `sims` at fixed weights.

    Raises:
        UsageError: entropy outside [0, 1], an unknown gradient, or shapes that do not fit.
    """
    weights = autoclip_weights(sims, entropy, mask=mask, gradient=gradient, scale=scale)
    # With the vector on the left the batched product reads the cosines at memory speed, ten times as fast on a CPU.
    row = weights.unsqueeze(1)
    if mask is None:
        return (row @ sims.mT).squeeze(1)
    inside = mask.to(sims.dtype)
    return (row @ (sims * inside).mT).squeeze(1) / (weights @ inside.T).clamp_min(torch.finfo(sims.dtype).tiny)


@torch.no_grad()
def autoclip_weights(
    sims: Float[Tensor, "N C K"],
    entropy: float = 0.85,
    *,
    mask: Bool[Tensor, "C K"] | None = None,
    gradient: Gradient = "post",
    scale: float = 1.0,
) -> Float[Tensor, "N K"]:
    """The weights of `autoclip_scores`, which sum to one for each image; its arguments and errors.

    The gradient at equal weights is g[k] = sum_c p[c] (cos[c, k] - mean_k cos[c, k]) / K with p the softmax of the mean
    cosines. A softmax ignores what all k share, and the entropy rule the length of g, so one product p @ cos is left.
    """
    if sims.ndim != 3 or (mask is not None and mask.shape != sims.shape[1:]):
        shape = None if mask is None else tuple(mask.shape)
        raise UsageError(f"sims must be (N, C, K) and mask (C, K), not {tuple(sims.shape)} and {shape}")
    if not 0 <= entropy <= 1:
        raise UsageError(f"entropy is a share of the largest, in [0, 1], not {entropy}")
    if gradient not in get_args(Gradient):
        raise UsageError(f"gradient {gradient!r} is unknown: 'post' or 'pre'")
    if mask is None:
        mean = sims.mean(dim=-1)
        trust = torch.softmax(scale * mean, dim=-1) if gradient == "post" else torch.ones_like(mean)
        slope = (trust.unsqueeze(1) @ sims).squeeze(1)
    else:
        inside = mask.to(sims.dtype)
        counts = inside.sum(dim=-1)
        mean = (sims * inside).sum(dim=-1) / counts
        if gradient == "post":
            trust = torch.softmax(scale * mean, dim=-1) / counts
            slope = (trust.unsqueeze(1) @ (sims * inside)).squeeze(1) - (trust * mean) @ inside
        else:
            slope = (sims * inside).sum(dim=1) / inside.sum(dim=0)
    return weights_of_entropy(slope, entropy)


@torch.no_grad()
def weights_of_entropy(slope: Float[Tensor, "N K"], entropy: float) -> Float[Tensor, "N K"]:
    """Softmax of a multiple of each row, the multiple such that the entropy is `entropy * log(K)`.

    The entropy falls as the multiple grows, so a bracket in its logarithm closes on the one root; Newton's step is
    taken where it stays inside. A row without differences, or with more ties at its maximum than the entropy allows,
    has no root: it keeps equal weights over the ties.

    Args:
        slope: any numbers; their common shift and length do not matter.
        entropy: share of log(K) in [0, 1].
    """
    k = slope.shape[-1]
    equal = torch.full_like(slope, 1 / k)
    if k == 1 or entropy == 1:
        return equal
    target = entropy * math.log(k)
    shifted = slope - slope.mean(dim=-1, keepdim=True)
    spread = shifted.square().mean(dim=-1, keepdim=True).sqrt()
    # Rounding of the cosines is no difference between descriptors.
    flat = spread <= 4 * torch.finfo(slope.dtype).eps * slope.abs().amax(dim=-1, keepdim=True)
    u = shifted / spread.where(~flat, 1.0)
    low, high = (torch.full_like(spread, math.log(edge)) for edge in (1e-6, 1e7))
    # For small multiples a the entropy is log(K) - a^2 / 2.
    z = torch.full_like(spread, 0.5 * math.log(2 * (1 - entropy) * math.log(k)))
    for _ in range(NEWTON_STEPS):
        a = z.exp()
        log_w = torch.log_softmax(a * u, dim=-1)
        w = log_w.exp()
        excess = -(w * log_w).sum(dim=-1, keepdim=True) - target
        variance = (w * u.square()).sum(dim=-1, keepdim=True) - (w * u).sum(dim=-1, keepdim=True).square()
        low, high = torch.where(excess > 0, z, low), torch.where(excess > 0, high, z)
        newton = z + excess / (a.square() * variance)
        # Not strictly inside: at the root Newton's step is no step, and must be kept.
        z = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
    return torch.where(flat, equal, torch.softmax(z.exp() * u, dim=-1))
