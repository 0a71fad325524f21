"""What is hidden of a picture, and what a generator has to say of it: diffusion, rectified flow, masked tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate.denoisers.schedule import NoiseSchedule
from binderclip.numeric import check_number
from binderclip.settings import check_choice

__all__ = ["Corrupted", "Corruption", "DiffusionCorruption", "RectifiedFlow", "TokenMasking"]

DiffusionTarget = Literal["epsilon", "sample", "v_prediction"]


@dataclass(frozen=True)
class Corrupted:
    """A corrupted batch and what is to be predicted of it.

    Attributes:
        x: what the generator is given: noisy values, or token ids.
        t: the time of each row, as the generator takes it.
        target: what it has to predict: values like x, or the clean ids.
        hidden: the tokens that count in the loss; None where everything does.
    """

    x: Float[Tensor, "B *shape"] | Int[Tensor, "B L"]
    t: Float[Tensor, " B"] | Int[Tensor, " B"]
    target: Float[Tensor, "B *shape"] | Int[Tensor, "B L"]
    hidden: Bool[Tensor, "B L"] | None = None


class Corruption(ABC):
    """A way to corrupt clean targets at a random time, with the loss of a generator that sees the result."""

    @abstractmethod
    def time_at(self, quantile: Float[Tensor, " B"]) -> Tensor:
        """The times at quantiles of their distribution, shape (B,); uniform quantiles give a random draw.

        Args:
            quantile: in [0, 1).
        """

    @abstractmethod
    def draw_noise(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Random numbers of the corruption, of the shape of `clean`, on its device."""

    @abstractmethod
    def corrupt(self, clean: Tensor, t: Tensor, noise: Tensor) -> Corrupted:
        """Clean targets corrupted at given times by given random numbers."""

    @abstractmethod
    def clean_of(self, prediction: Tensor, corrupted: Corrupted) -> Tensor:
        """The clean target that a prediction speaks of."""

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Corrupted:
        """Clean targets at random times with random noise.

        Args:
            clean: (B, C, H, W) or (B, D) values, or (B, L) ids.
            generator: of the draw, on the CPU or the targets' device; default torch's.
        """
        where = clean.device if generator is None else generator.device
        quantile = torch.rand(len(clean), generator=generator, device=where).to(clean.device)
        return self.corrupt(clean, self.time_at(quantile), self.draw_noise(clean, generator))

    def losses(self, prediction: Tensor, corrupted: Corrupted) -> Float[Tensor, " B"]:
        """The loss of each row, the mean over its elements: squared error, unless a corruption says otherwise."""
        return F.mse_loss(prediction, corrupted.target, reduction="none").flatten(1).mean(1)


class DiffusionCorruption(Corruption):
    """Variance-preserving diffusion: `x_t = a_t x + s_t eps`, t uniform over the schedule's whole times.

    Args:
        schedule: default DDPM's, `NoiseSchedule.linear()`, which suits pixels; latents have `scaled_linear()`.
        target: what the generator predicts: `epsilon`; `sample`, x; or `v_prediction`, a eps - s x, whose loss is that
            of epsilon over abar_t.

    Raises:
        UsageError: no such target.
    """

    def __init__(self, schedule: NoiseSchedule | None = None, target: DiffusionTarget = "epsilon") -> None:
        check_choice("target", target, ("epsilon", "sample", "v_prediction"))
        self.schedule = NoiseSchedule.linear() if schedule is None else schedule
        self.target: DiffusionTarget = target

    def time_at(self, quantile: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
        """`floor(T q)`."""
        return (quantile * len(self.schedule)).long().clamp(0, len(self.schedule) - 1)

    def draw_noise(
        self, clean: Float[Tensor, "B *shape"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B *shape"]:
        """Standard normal."""
        return _normal_like(clean, generator)

    def corrupt(
        self, clean: Float[Tensor, "B *shape"], t: Int[Tensor, " B"], noise: Float[Tensor, "B *shape"]
    ) -> Corrupted:
        """Clean targets with noise on."""
        x = self.schedule.add_noise(clean, noise, t)
        if self.target == "v_prediction":  # not from x_t: at the last times that divides by a ~ 0
            a, s = self.schedule.coefficients(t, clean)
            return Corrupted(x, t, a * noise - s * clean)
        return Corrupted(x, t, noise if self.target == "epsilon" else clean)

    def clean_of(self, prediction: Float[Tensor, "B *shape"], corrupted: Corrupted) -> Float[Tensor, "B *shape"]:
        """The clean target that a prediction speaks of."""
        if self.target == "sample":
            return prediction
        a, s = self.schedule.coefficients(corrupted.t, prediction)
        if self.target == "v_prediction":
            return a * corrupted.x - s * prediction
        return (corrupted.x - s * prediction) / a


class RectifiedFlow(Corruption):
    """A straight line from data at 0 to noise at 1: `x_t = (1 - t) x + t eps`; the target is its velocity `eps - x`.

    Times are logit-normal: `t = sigmoid(scale * n)` with n standard normal.

    Args:
        scale: of n; larger ones move times towards both ends.

    Raises:
        UsageError: a scale that is not above 0.

    Paper: GenHancer (arXiv 2503.19480); Scaling Rectified Flow Transformers (arXiv 2403.03206).
    """

    def __init__(self, scale: float = 1.0) -> None:
        check_number("scale", scale, above=0, most=100)
        self.scale = float(scale)

    def time_at(self, quantile: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """`sigmoid(scale * Phi^-1(q))`; 0 at q = 0."""
        return torch.sigmoid(self.scale * torch.special.ndtri(quantile))

    def draw_noise(
        self, clean: Float[Tensor, "B *shape"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "B *shape"]:
        """Standard normal."""
        return _normal_like(clean, generator)

    def corrupt(
        self, clean: Float[Tensor, "B *shape"], t: Float[Tensor, " B"], noise: Float[Tensor, "B *shape"]
    ) -> Corrupted:
        """Points of the lines from clean targets to noise."""
        along = t.to(clean.dtype).reshape(-1, *[1] * (clean.ndim - 1))
        return Corrupted((1 - along) * clean + along * noise, t, noise - clean)

    def clean_of(self, prediction: Float[Tensor, "B *shape"], corrupted: Corrupted) -> Float[Tensor, "B *shape"]:
        """`x_t - t v`: the start of the line with the predicted velocity."""
        along = corrupted.t.to(prediction.dtype).reshape(-1, *[1] * (prediction.ndim - 1))
        return corrupted.x - along * prediction


class TokenMasking(Corruption):
    """A random part of a picture's tokens replaced by one that says nothing; their ids are to be predicted.

    The time is the ratio of masked tokens, uniform; `ceil(t L)` of L tokens are masked, at least one. The loss is the
    cross-entropy on them.

    Args:
        codes: K, ids of the codebook; the mask's id is K.
        ratio: (least, most) ratio, in (0, 1].

    Raises:
        UsageError: no codes, or ratios out of range; at the call, ids outside the codebook.

    Paper: the discrete form of GenHancer (arXiv 2503.19480); the ratios are ours, the paper gives none.
    """

    def __init__(self, codes: int, ratio: tuple[float, float] = (0.5, 0.9)) -> None:
        check_number("codes", codes, least=2)
        low, high = ratio
        check_number("the least ratio", low, above=0, most=1)
        check_number("the largest ratio", high, least=low, most=1)
        self.codes, self.ratio = int(codes), (float(low), float(high))

    def time_at(self, quantile: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """`least + q (most - least)`."""
        return self.ratio[0] + quantile * (self.ratio[1] - self.ratio[0])

    def draw_noise(self, clean: Int[Tensor, "B L"], generator: torch.Generator | None = None) -> Float[Tensor, "B L"]:
        """Uniform numbers, whose order is that in which tokens are masked."""
        where = clean.device if generator is None else generator.device
        return torch.rand(clean.shape, generator=generator, device=where).to(clean.device)

    def corrupt(self, clean: Int[Tensor, "B L"], t: Float[Tensor, " B"], noise: Float[Tensor, "B L"]) -> Corrupted:
        """Ids of which `ceil(t L)` are the mask's."""
        if clean.is_floating_point() or clean.ndim != 2:
            raise UsageError(f"token ids are whole numbers (B, L), got {clean.dtype} of shape {tuple(clean.shape)}")
        count = (t * clean.shape[1]).ceil().clamp(1, clean.shape[1])  # (B,)
        hidden = noise.argsort(1).argsort(1) < count[:, None]  # the rank of each token's number
        return Corrupted(torch.where(hidden, self.codes, clean), t, clean, hidden)

    def losses(self, prediction: Float[Tensor, "B L K"], corrupted: Corrupted) -> Float[Tensor, " B"]:
        """Cross-entropy of each row, the mean over its masked tokens.

        Args:
            prediction: logits over the codes.
            corrupted: what they were predicted from.
        """
        assert corrupted.hidden is not None
        each = F.cross_entropy(prediction.flatten(0, 1), corrupted.target.flatten(), reduction="none")
        return (each.view_as(corrupted.hidden) * corrupted.hidden).sum(1) / corrupted.hidden.sum(1)

    def clean_of(self, prediction: Float[Tensor, "B L K"], corrupted: Corrupted) -> Int[Tensor, "B L"]:
        """The likeliest ids where tokens were masked, and the others as they were."""
        assert corrupted.hidden is not None
        return torch.where(corrupted.hidden, prediction.argmax(2), corrupted.x)


def _normal_like(clean: Tensor, generator: torch.Generator | None) -> Tensor:
    if not clean.is_floating_point():
        raise UsageError(f"noise is added to floating-point values, not to {clean.dtype}: mask token ids")
    where = clean.device if generator is None else generator.device
    return torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=where).to(clean.device)
