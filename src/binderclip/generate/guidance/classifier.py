"""Guidance by the gradient of a classifier that knows noisy pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate.denoisers.context import GuidanceTerm, SamplingHook, StepContext
from binderclip.numeric import check_number

__all__ = ["ClassifierGuidance", "ClippedSample", "log_probability_gradient"]

NoisyGradient = Callable[[Tensor, Tensor], Tensor]
"""From noisy pictures [B, ...] and their times [B] to the gradient of log p(y | x_t) at the pictures."""


def log_probability_gradient(
    classifier: Callable[[Tensor, Tensor], Tensor], labels: Int[Tensor, " B"]
) -> NoisyGradient:
    """The gradient of log p(label | x_t) at x_t, as guidance asks for it.

    Args:
        classifier: from noisy pictures and their times to logits [B, K]; log probabilities are logits as well.
        labels: the class of each picture.

    Raises:
        UsageError: no label, or a negative one; when it is called, logits that do not fit the labels.

    Paper: Diffusion Models Beat GANs on Image Synthesis (arXiv 2105.05233).
    """

    if labels.ndim != 1 or not len(labels) or int(labels.min()) < 0:
        raise UsageError(f"labels must be a class of at least 0 for each picture, got {labels}")
    rows, classes = len(labels), int(labels.max()) + 1  # known here, so that no step waits for the device

    def gradient(x: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = classifier(x, t)
            if logits.ndim != 2 or len(logits) != rows or logits.shape[1] < classes:
                raise UsageError(
                    f"labels of {rows} pictures and {classes} classes need logits of shape ({rows}, {classes} or "
                    f"more), not {tuple(logits.shape)}"
                )
            chosen = logits.log_softmax(1).gather(1, labels[:, None])
            # A sum: pictures do not depend on each other, and a mean would divide each gradient by B.
            return torch.autograd.grad(chosen.sum(), x)[0]

    return gradient


@dataclass(frozen=True)
class ClassifierGuidance(GuidanceTerm):
    """Adds `-scale * s_t * grad log p(y | x_t)` to the predicted noise: towards pictures that a classifier names so.

    At scale 1 and with the true p(y | x_t) it makes an unconditional denoiser the one of class y, by Bayes; larger
    scales sample p(x) p(y | x)^scale, less diverse and more typical. As a term of `sample` it is the paper's
    algorithm 2; algorithm 1, which shifts the mean of an ancestral step, is the hook `mean_shift()`.

    Args:
        gradient: of log p(y | x_t) at x_t, from noisy pictures and their times: `log_probability_gradient`, or
            the `cond_fn` of guided diffusion.
        scale: 1 to 10 with a denoiser that knows no classes; 0 leaves sampling as it is.

    Raises:
        UsageError: a scale that is not finite.

    Paper: Diffusion Models Beat GANs on Image Synthesis (arXiv 2105.05233), algorithms 1 and 2.
    """

    gradient: NoisyGradient
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_number("scale", self.scale)

    def __call__(self, step: StepContext) -> Tensor:
        """The increment of eps, algorithm 2; the classifier is not run at scale 0."""
        if self.scale == 0:
            return torch.zeros_like(step.x)
        _, s = step.schedule.coefficients(step.t, step.x)
        return -s * self._shift(step)

    def mean_shift(self) -> SamplingHook:
        """The hook that adds `Sigma_t * scale * grad log p(y | x_t)` to what a step ends with, algorithm 1.

        It is for ancestral sampling: Sigma_t is the variance of the noise that the step adds, for `eta=1` DDPM's.

        Raises:
            UsageError: when a step adds no noise, so that there is no variance to shift by.
        """
        return _MeanShift(self)

    def _shift(self, step: StepContext) -> Tensor:
        x = step.x.detach()
        return self.scale * self.gradient(x, torch.full((len(x),), step.t, device=x.device))


class _MeanShift(SamplingHook):
    def __init__(self, guidance: ClassifierGuidance) -> None:
        self.guidance = guidance
        self._eta: float | Tensor = 0.0

    def eta(self, step: StepContext, eta: float | Tensor) -> float | Tensor:
        if not isinstance(eta, Tensor) and eta == 0:
            raise UsageError("mean_shift() shifts by the variance of a step, and eta is 0: sample with eta=1")
        self._eta = eta
        return eta

    def after(self, step: StepContext, x: Tensor) -> Tensor:
        if self.guidance.scale == 0 or step.target is None:  # the last step adds no noise
            return x
        variance = (self._eta * step.schedule.deviation(step.t, step.target)) ** 2
        return x + variance * self.guidance._shift(step)


@dataclass(frozen=True)
class ClippedSample(GuidanceTerm):
    """Bounds the predicted clean picture before any guidance: the term to put first, for pixels in [-limit, limit].

    Args:
        limit: the largest pixel.

    Raises:
        UsageError: a limit that is not above 0.

    Paper: Diffusion Models Beat GANs on Image Synthesis (arXiv 2105.05233).
    """

    limit: float = 1.0

    def __post_init__(self) -> None:
        check_number("limit", self.limit, above=0)

    def __call__(self, step: StepContext) -> Tensor:
        """What takes the predicted noise to that of the bounded picture."""
        epsilon = step.epsilon(step.condition)
        bounded = step.schedule.from_epsilon(epsilon, step.x, step.t, "sample").clamp(-self.limit, self.limit)
        return step.schedule.to_epsilon(bounded, step.x, step.t, "sample") - epsilon
