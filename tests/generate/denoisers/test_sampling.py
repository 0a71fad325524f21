"""Sampling and inversion on denoisers whose trajectory is known, and what holds for every sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate import (
    ClassifierFreeGuidance,
    ConditionalDenoiser,
    GaussianDenoiser,
    GuidanceTerm,
    NoiseSchedule,
    SamplingHook,
    StepContext,
    invert,
    sample,
)

SHAPE = (1, 2, 2)
LINEAR = NoiseSchedule.linear()


def noise(count: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(seed: int, schedule: NoiseSchedule = LINEAR) -> GaussianDenoiser:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    return GaussianDenoiser(torch.randn(SHAPE, generator=generator, dtype=torch.float64), root @ root.T / 4, schedule)


class Counted(ConditionalDenoiser):
    """Counts its calls, and keeps the conditions of each."""

    def __init__(self) -> None:
        super().__init__({"cat": gaussian(1), "dog": gaussian(2), None: gaussian(3)}, LINEAR)
        self.calls: list[list[Any]] = []

    def forward(self, x: Tensor, t: Tensor, conditions: Sequence[Any] = (None,)) -> Tensor:
        self.calls.append(list(conditions))
        return super().forward(x, t, conditions)


@dataclass(frozen=True)
class Towards(GuidanceTerm):
    """An increment by the prediction of another condition, or by a gradient through the denoiser."""

    other: str
    weight: float = 0.3
    needs_grad: bool = False

    @property
    def needs(self) -> Sequence[str]:
        return (self.other,)

    def __call__(self, step: StepContext) -> Tensor:
        delta = step.epsilon(self.other) - step.epsilon(step.condition)
        return self.weight * (step.gradient(0.01 * delta.square().sum()) if self.needs_grad else delta)


@dataclass(frozen=True)
class Sum(GuidanceTerm):
    """Two terms as one."""

    terms: tuple[Towards, ...]

    @property
    def needs(self) -> Sequence[str]:
        return [need for term in self.terms for need in term.needs]

    @property
    def needs_grad(self) -> bool:
        return any(term.needs_grad for term in self.terms)

    def __call__(self, step: StepContext) -> Tensor:
        return sum((term(step) for term in self.terms), torch.zeros(()))


@pytest.mark.parametrize("steps", [1, 7, 50])
def test_a_gaussian_is_sampled_along_its_closed_form(steps: int) -> None:
    denoiser = gaussian(0)
    times = LINEAR.timesteps(steps)
    abar = LINEAR.alphas_cumprod[times]
    sigma = [*((1 - abar) / abar).sqrt(), torch.tensor(0.0)]
    # Euler's step of dx / d sigma = sigma (x - mu) / (S + sigma^2), by eigenvectors of the covariance.
    factor = torch.ones(4, dtype=torch.float64)
    for high, low in pairwise(sigma):
        factor = factor * (1 + (low - high) * high / (denoiser.variances + high**2))
    start = noise() / abar[0].sqrt()
    along = ((start - denoiser.mean).flatten(1) @ denoiser.basis) * factor
    expected = denoiser.mean + (along @ denoiser.basis.T).reshape(start.shape)
    torch.testing.assert_close(sample(denoiser, noise(), num_inference_steps=steps), expected)


def test_many_steps_lead_where_the_flow_leads() -> None:
    schedule = NoiseSchedule.karras(1000, 1e-3, 80.0)
    denoiser = gaussian(0, schedule)
    x = sample(denoiser, noise(), num_inference_steps=1000)
    start = noise() / schedule.alphas_cumprod[-1].sqrt() - denoiser.mean
    # The flow scales x - mu by sqrt((S + sigma'^2) / (S + sigma^2)) along every eigenvector.
    along = (start.flatten(1) @ denoiser.basis) * (denoiser.variances / (denoiser.variances + 80**2)).sqrt()
    torch.testing.assert_close(x - denoiser.mean, (along @ denoiser.basis.T).reshape(x.shape), rtol=0.02, atol=0.02)


def test_ancestral_sampling_ends_with_the_moments_of_the_data() -> None:
    denoiser = gaussian(0)
    generator = torch.Generator().manual_seed(1)
    x = sample(denoiser, noise(10_000), num_inference_steps=200, eta=1.0, generator=generator).flatten(1)
    covariance = (denoiser.basis * denoiser.variances) @ denoiser.basis.T
    assert (x.mean(0) - denoiser.mean.flatten()).abs().max() < 0.05
    assert (x.T.cov() - covariance).abs().max() < 0.07


def test_inversion_and_sampling_undo_each_other() -> None:
    denoiser = ConditionalDenoiser({"cat": gaussian(1), None: gaussian(3)}, LINEAR)
    # Guidance takes more refinements: they contract less.
    for terms, steps, refinements in (([], 200, 8), ([ClassifierFreeGuidance(2.0)], 40, 40)):
        states = invert(denoiser, noise(), "cat", terms=terms, num_inference_steps=steps, refinements=refinements)
        assert len(states) == steps + 1
        assert torch.equal(states[0], noise())
        again = sample(denoiser, states[-1], "cat", terms=terms, num_inference_steps=steps)
        assert (again - noise()).abs().max() < 1e-4


def test_plain_inversion_is_off_by_the_order_of_a_step() -> None:
    denoiser, errors = gaussian(0), []
    for steps in (50, 100, 200):
        latent = invert(denoiser, noise(), num_inference_steps=steps)[-1]
        errors.append(float((sample(denoiser, latent, num_inference_steps=steps) - noise()).abs().max()))
    assert errors[0] > 1.5 * errors[1] > 2.25 * errors[2]


def test_scale_1_is_the_conditional_sampler_to_the_bit_and_asks_for_nothing_else() -> None:
    denoiser = Counted()
    guided = sample(denoiser, noise(), "cat", terms=[ClassifierFreeGuidance(1.0)], num_inference_steps=5)
    assert torch.equal(guided, sample(denoiser, noise(), "cat", num_inference_steps=5))
    assert denoiser.calls == [["cat"]] * 10
    unguided = sample(denoiser, noise(), "cat", terms=[ClassifierFreeGuidance(0.0)], num_inference_steps=5)
    torch.testing.assert_close(unguided, sample(denoiser, noise(), None, num_inference_steps=5))


def test_guidance_is_what_pipelines_compute() -> None:
    denoiser, x = Counted(), noise()
    guided = sample(denoiser, x, "cat", terms=[ClassifierFreeGuidance(4.0, start=0.2, stop=0.8)], num_inference_steps=5)
    times = LINEAR.timesteps(5).tolist()
    for i, (t, target) in enumerate(zip(times, [*times[1:], None], strict=True)):
        text, null = denoiser.predict(x, t, ["cat", None])
        x = LINEAR.step(null + 4.0 * (text - null) if 1 <= i < 4 else text, x, t, target)
    torch.testing.assert_close(guided, x)


@pytest.mark.parametrize("needs_grad", [False, True])
def test_two_terms_are_their_sum_and_all_conditions_one_forward(needs_grad: bool) -> None:
    denoiser = Counted()
    terms = (Towards("dog", needs_grad=needs_grad), Towards("dog", -0.1), ClassifierFreeGuidance(2.0))
    apart = sample(denoiser, noise(), "cat", terms=terms, num_inference_steps=4)
    assert denoiser.calls == [["cat", "dog", None]] * 4
    together = sample(denoiser, noise(), "cat", terms=[Sum(terms)], num_inference_steps=4)  # type: ignore[arg-type]
    torch.testing.assert_close(apart, together)
    assert not apart.requires_grad
    assert (apart - sample(denoiser, noise(), "cat", num_inference_steps=4)).abs().max() > 0.01


def test_a_gradient_goes_through_the_denoiser() -> None:
    denoiser = gaussian(0)
    step = StepContext(denoiser, noise(), t=300, target=200, i=0, n=1, condition=None, needs_grad=True)
    gradient = step.gradient(0.5 * step.x0().square().sum())
    # x0 = mu + A (x / a - mu), so that the gradient is A^T x0 / a.
    a = float(LINEAR.alphas_cumprod[300]) ** 0.5
    matrix = denoiser.filter((1 - a * a) ** 0.5 / a)
    torch.testing.assert_close(gradient.flatten(1), step.x0().detach().flatten(1) @ matrix / a)


class Marked(SamplingHook):
    """Moves the state, bounds x_0, and adds noise to half of the pixels."""

    def before(self, step: StepContext) -> Tensor:
        return step.x + 0.1

    def on_x0(self, step: StepContext, x0: Tensor) -> Tensor:
        return x0.clamp(-0.5, 0.5)

    def eta(self, step: StepContext, eta: float | Tensor) -> float | Tensor:
        return torch.tensor([[0.0, 1.0]], dtype=step.x.dtype)

    def after(self, step: StepContext, x: Tensor) -> Tensor:
        return x * 2


def test_hooks_act_before_on_x0_on_the_noise_and_after() -> None:
    denoiser = gaussian(0)
    x = sample(denoiser, noise(), hooks=[Marked()], num_inference_steps=2, generator=torch.Generator().manual_seed(3))
    generator, expected = torch.Generator().manual_seed(3), noise()
    for t, target in ((500, 0), (0, None)):
        expected = expected + 0.1
        epsilon = denoiser.predict(expected, t, [None])[0]
        x0 = LINEAR.from_epsilon(epsilon, expected, t, "sample").clamp(-0.5, 0.5)
        epsilon = LINEAR.to_epsilon(x0, expected, t, "sample")
        drawn = torch.randn(expected.shape, generator=generator, dtype=expected.dtype)
        plain = LINEAR.step(epsilon, expected, t, target)
        noisy = LINEAR.step(epsilon, expected, t, target, eta=1.0, noise=drawn)
        expected = 2 * torch.stack([plain[..., 0], noisy[..., 1]], -1)
    torch.testing.assert_close(x, expected)
    same = sample(denoiser, noise(), hooks=[SamplingHook()], num_inference_steps=3)
    assert torch.equal(same, sample(denoiser, noise(), num_inference_steps=3))


def test_what_cannot_be_sampled_is_refused() -> None:
    denoiser = gaussian(0)
    for x in (noise(0), torch.full((1, *SHAPE), float("nan")), torch.zeros(4)):
        with pytest.raises(UsageError, match="x "):
            sample(denoiser, x)
        with pytest.raises(UsageError, match="x "):
            invert(denoiser, x)
    with pytest.raises(UsageError, match="eta"):
        sample(denoiser, noise(), eta=-1.0)
    with pytest.raises(UsageError, match="refinements"):
        invert(denoiser, noise(), refinements=-1)
    with pytest.raises(UsageError, match="guidance_scale"):
        ClassifierFreeGuidance(float("inf"))
    with pytest.raises(UsageError, match="stop"):
        ClassifierFreeGuidance(start=0.5, stop=0.2)
    step = StepContext(denoiser, noise(), t=3, target=None, i=0, n=1, condition=None)
    with pytest.raises(UsageError, match="`needs`"):
        step.epsilon("cat")
    with pytest.raises(UsageError, match="needs_grad"):
        step.gradient(step.x.sum())


def test_the_first_steps_can_be_left_out() -> None:
    """SDEdit (arXiv 2108.01073): from the state at a time on it is the rest of the same path."""
    denoiser = GaussianDenoiser(torch.tensor([0.5, -1.0]), torch.tensor([1.0, 0.25]))
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    states: list[torch.Tensor] = []

    class Watch(SamplingHook):
        def before(self, step: StepContext) -> torch.Tensor:
            states.append(step.x)
            return step.x

    whole = sample(denoiser, x, num_inference_steps=10, hooks=[Watch()])
    assert torch.equal(sample(denoiser, states[4], num_inference_steps=10, first_step=4), whole)
    with pytest.raises(UsageError, match="first_step = 10 leaves none of 10"):
        sample(denoiser, x, num_inference_steps=10, first_step=10)
    with pytest.raises(UsageError, match="first_step"):
        sample(denoiser, x, num_inference_steps=10, first_step=-1)
