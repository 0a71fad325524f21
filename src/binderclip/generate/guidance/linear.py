"""Classifier-free guidance of best linear denoisers, in the three parts that it consists of."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate.denoisers.context import GuidanceTerm, StepContext
from binderclip.generate.denoisers.exact import GaussianDenoiser
from binderclip.numeric import check_number
from binderclip.settings import check_choice

__all__ = ["CFGComponents", "LinearGuidance", "cfg_components"]


@dataclass(frozen=True)
class CFGComponents:
    """The parts of `D_c(x) - D_u(x)`, which add up to it.

    Attributes:
        mean_shift: towards the mean of the class, the same for every x.
        positive: along directions with more variance in the class than in all data (CPC+), which it amplifies.
        negative: along directions with less (CPC-), which it suppresses.
    """

    mean_shift: Float[Tensor, "B *shape"]
    positive: Float[Tensor, "B *shape"]
    negative: Float[Tensor, "B *shape"]


PARTS = tuple(field.name for field in fields(CFGComponents))


def cfg_components(
    conditional: GaussianDenoiser, unconditional: GaussianDenoiser, x: Float[Tensor, "B *shape"], sigma: float
) -> CFGComponents:
    """The direction of classifier-free guidance, taken apart into mean shift and contrastive principal components.

    `D_c(x) - D_u(x) = (I - A_u)(mu_c - mu_u) + (A_c - A_u)(x - mu_c)`, with the filters A of both denoisers at sigma;
    the second term falls apart by the sign of the eigenvalues of the symmetric `A_c - A_u`, whose eigenvectors change
    with sigma.

    Args:
        conditional: the best linear denoiser of the class, c.
        unconditional: that of all data, u.
        x: noisy pictures x_0 + sigma eps, in variance-exploding coordinates.
        sigma: their noise level.

    Raises:
        UsageError: denoisers or pictures of different shapes, or a sigma that is not above 0.

    Paper: Towards Understanding the Mechanisms of Classifier-Free Guidance (arXiv 2505.19210), section 3.
    """
    check_number("sigma", sigma, above=0)
    shape = conditional.mean.shape
    if unconditional.mean.shape != shape or x.shape[1:] != shape:
        raise UsageError(
            f"denoisers and pictures must share a shape: {tuple(shape)}, {tuple(unconditional.mean.shape)} and "
            f"{tuple(x.shape[1:])}"
        )
    filter_u = unconditional.filter(sigma)  # [D, D]
    gap = (conditional.mean - unconditional.mean).flatten()
    shift = (gap - filter_u @ gap).reshape(shape).expand_as(x)
    difference = conditional.filter(sigma) - filter_u
    values, vectors = torch.linalg.eigh((difference + difference.T) / 2)
    along = (x - conditional.mean).flatten(1) @ vectors  # [B, D]
    positive = ((along * values.clamp(min=0)) @ vectors.T).reshape(x.shape)
    negative = ((along * values.clamp(max=0)) @ vectors.T).reshape(x.shape)
    return CFGComponents(shift, positive, negative)


@dataclass(frozen=True)
class LinearGuidance(GuidanceTerm):
    """Guides any denoiser by the direction of two linear ones, or by parts of it.

    With `D_g = D + gamma * delta` for the parts' sum delta, the predicted noise gets `-gamma * delta / sigma`. On the
    linear denoiser of the class itself all three parts are classifier-free guidance with
    `guidance_scale = 1 + gamma`; on a network they come close to it at large noise.

    Args:
        conditional, unconditional: as of `cfg_components`.
        gamma: the weight; diffusers' `guidance_scale` less 1.
        parts: of `mean_shift`, `positive` and `negative`; default all.
        sigma_low, sigma_high: it guides at noise levels s_t / a_t in (sigma_low, sigma_high].

    Raises:
        UsageError: a weight that is not finite, no such part, or bounds that do not rise.

    Paper: Towards Understanding the Mechanisms of Classifier-Free Guidance (arXiv 2505.19210).

    Examples:
        >>> import torch
        >>> from binderclip.generate import NoiseSchedule, sample
        >>> schedule = NoiseSchedule.karras()
        >>> cat = GaussianDenoiser(torch.ones(1, 2, 2), torch.ones(4), schedule)
        >>> every = GaussianDenoiser(torch.zeros(1, 2, 2), 2 * torch.ones(4), schedule)
        >>> guidance = LinearGuidance(cat, every, gamma=4.0, parts=["mean_shift"])
        >>> x = sample(cat, torch.zeros(1, 1, 2, 2), terms=[guidance], num_inference_steps=18)
        >>> bool((x > 1).all())
        True
    """

    conditional: GaussianDenoiser
    unconditional: GaussianDenoiser
    gamma: float = 4.0
    parts: Collection[str] = PARTS
    sigma_low: float = 0.0
    sigma_high: float = math.inf

    def __post_init__(self) -> None:
        check_number("gamma", self.gamma)
        check_number("sigma_low", self.sigma_low, least=0)
        check_number("sigma_high", self.sigma_high, above=self.sigma_low, infinite=True)
        if isinstance(self.parts, str) or not self.parts or len(set(self.parts)) < len(self.parts):
            raise UsageError(f"parts must be different ones of {', '.join(PARTS)}, got {self.parts!r}")
        for part in self.parts:
            check_choice("parts", part, PARTS)

    def __call__(self, step: StepContext) -> Tensor:
        """The increment of eps; 0 at noise levels at which it does not guide."""
        x, sigma = step.schedule.to_variance_exploding(step.x, step.t)
        assert isinstance(sigma, float)
        if not self.sigma_low < sigma <= self.sigma_high:
            return torch.zeros_like(x)
        components = cfg_components(self.conditional, self.unconditional, x, sigma)
        delta = torch.stack([getattr(components, part) for part in self.parts]).sum(0)
        return -self.gamma / sigma * delta
