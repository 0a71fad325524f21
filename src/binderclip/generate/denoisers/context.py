"""One step of sampling as guidance sees it: predictions made when they are asked for, all conditions in one forward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate.denoisers.denoiser import Denoiser

__all__ = ["GuidanceTerm", "SamplingHook", "StepContext"]


class GuidanceTerm(ABC):
    """What is added to the predicted noise in every step."""

    @property
    def needs(self) -> Sequence[Hashable]:
        """Conditions whose predictions it asks the step for, beside the sampled one; none unless a term says so."""
        return ()

    @property
    def needs_grad(self) -> bool:
        """Whether it differentiates through the denoiser; it does not unless a term says so."""
        return False

    @abstractmethod
    def __call__(self, step: StepContext) -> Tensor:
        """The increment of eps, of x's shape."""


class SamplingHook:
    """Changes sampling at six places of a step; every method may be left as it is."""

    def condition(self, step: StepContext) -> Hashable:
        """What is sampled in the step, in the place of `step.condition`."""
        return step.condition

    def before(self, step: StepContext) -> Tensor:
        """The state that the step starts from, in the place of `step.x`."""
        return step.x

    def on_x0(self, step: StepContext, x0: Tensor) -> Tensor:
        """The predicted clean picture, in the place of `x0`."""
        return x0

    def eta(self, step: StepContext, eta: float | Tensor) -> float | Tensor:
        """The step's noise in units of DDPM's, a number or a tensor that broadcasts with x."""
        return eta

    def noise(self, step: StepContext, noise: Tensor) -> Tensor:
        """The standard normal noise that the step adds, in the place of `noise`; asked where eta is not 0."""
        return noise

    def after(self, step: StepContext, x: Tensor) -> Tensor:
        """The state that the step ends with, in the place of `x`."""
        return x


class StepContext:
    """A state, its time, and what the denoiser predicts there.

    Attributes:
        x: the state x_t.
        t: its time.
        target: the time that the step leads to; None for the end.
        i, n: number of the step, and of how many; `i / n` is the progress.
        condition: what is sampled.

    Args:
        denoiser: predicts the noise.
        x, t, target, i, n, condition: as above.
        terms: the guidance.
        needs_grad: whether predictions keep a graph to x; default where a term asks for it.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        x: Float[Tensor, "B *shape"],
        *,
        t: int,
        target: int | None,
        i: int,
        n: int,
        condition: Hashable,
        terms: Sequence[GuidanceTerm] = (),
        needs_grad: bool = False,
    ) -> None:
        self.denoiser, self.schedule, self.terms = denoiser, denoiser.schedule, tuple(terms)
        self.t, self.target, self.i, self.n, self.condition = t, target, i, n, condition
        self.needs_grad = needs_grad or any(term.needs_grad for term in self.terms)
        self.x = x.detach().requires_grad_() if self.needs_grad else x.detach()
        self._predictions: dict[Hashable, Tensor] = {}

    def at(self, x: Float[Tensor, "B *shape"], *, needs_grad: bool = False) -> StepContext:
        """The same step from another state."""
        return StepContext(
            self.denoiser,
            x,
            t=self.t,
            target=self.target,
            i=self.i,
            n=self.n,
            condition=self.condition,
            terms=self.terms,
            needs_grad=needs_grad,
        )

    def epsilon(self, condition: Hashable) -> Float[Tensor, "B *shape"]:
        """The noise predicted under a condition, by one forward for all that the terms need.

        Raises:
            UsageError: a condition that no term has declared.
        """
        if not self._predictions:
            needed = [self.condition, *(need for term in self.terms for need in term.needs)]
            conditions = list(dict.fromkeys(needed))  # each once, in order
            with torch.set_grad_enabled(self.needs_grad):
                predictions = self.denoiser.predict(self.x, self.t, conditions)
            self._predictions = dict(zip(conditions, predictions, strict=True))
        if condition not in self._predictions:
            raise UsageError(f"no term has {condition!r} among its `needs`, so the step did not predict it")
        return self._predictions[condition]

    def guided(self) -> Float[Tensor, "B *shape"]:
        """The noise predicted under the sampled condition, plus every term."""
        with torch.set_grad_enabled(self.needs_grad):
            epsilon = self.epsilon(self.condition)
            for term in self.terms:
                epsilon = epsilon + term(self)
        return epsilon

    def x0(self, epsilon: Float[Tensor, "B *shape"] | None = None) -> Float[Tensor, "B *shape"]:
        """The clean picture that predicted noise speaks of.

        Args:
            epsilon: the noise; default that of the sampled condition without guidance.
        """
        with torch.set_grad_enabled(self.needs_grad):
            epsilon = self.epsilon(self.condition) if epsilon is None else epsilon
            return self.schedule.from_epsilon(epsilon, self.x, self.t, "sample")

    def gradient(self, loss: Float[Tensor, ""]) -> Float[Tensor, "B *shape"]:
        """d loss / d x through the denoiser, whose graph is kept for further terms.

        Raises:
            UsageError: the step keeps no graph: no term has `needs_grad`.
        """
        if not self.needs_grad:
            raise UsageError("the step keeps no graph: a term that calls gradient() needs needs_grad = True")
        return torch.autograd.grad(loss, self.x, retain_graph=True)[0]
