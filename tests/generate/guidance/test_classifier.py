"""Classifier guidance (p027, arXiv 2105.05233): Bayes on Gaussians, where both sides are known exactly."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate import (
    ClassifierGuidance,
    ClippedSample,
    GaussianDenoiser,
    GaussianMixtureDenoiser,
    NoiseSchedule,
    StepContext,
    log_probability_gradient,
    sample,
)

LINEAR = NoiseSchedule.linear()
LABELS = torch.tensor([0, 1, 2, 2])


def gaussian(seed: int) -> GaussianDenoiser:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    mean = 2 * torch.randn(1, 2, 2, generator=generator, dtype=torch.float64)
    return GaussianDenoiser(mean, root @ root.T / 4 + 0.1 * torch.eye(4), LINEAR)


CLASSES = [gaussian(seed) for seed in range(3)]
DATA = GaussianMixtureDenoiser(CLASSES, torch.tensor([1.0, 2.0, 1.0]), LINEAR)


def guidance(scale: float = 1.0) -> ClassifierGuidance:
    return ClassifierGuidance(log_probability_gradient(DATA.log_probability, LABELS), scale)


def noise(seed: int = 0) -> Tensor:
    return torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def step_at(t: int, target: int | None = 0) -> StepContext:
    return StepContext(DATA, noise(), t=t, target=target, i=0, n=1, condition=None, terms=[guidance()])


@pytest.mark.parametrize("t", [0, 100, 500, 999])
def test_at_scale_1_the_guided_noise_is_that_of_the_class(t: int) -> None:
    step = step_at(t)
    times = torch.full((1,), t)
    expected = [CLASSES[label](step.x[[row]], times) for row, label in enumerate(LABELS.tolist())]
    torch.testing.assert_close(step.guided(), torch.cat(expected))
    assert (step.guided() - step.epsilon(None)).abs().max() > 1e-5


def test_guided_sampling_is_sampling_of_the_class() -> None:
    guided = sample(DATA, noise(), terms=[guidance()], num_inference_steps=20)
    for row, label in enumerate(LABELS.tolist()):
        torch.testing.assert_close(guided[[row]], sample(CLASSES[label], noise()[[row]], num_inference_steps=20))


def test_scale_0_is_unguided_sampling_to_the_bit() -> None:
    plain = sample(DATA, noise(), num_inference_steps=5)
    assert torch.equal(sample(DATA, noise(), terms=[guidance(0.0)], num_inference_steps=5), plain)
    ancestral = [
        sample(DATA, noise(), hooks=hooks, num_inference_steps=5, eta=1.0, generator=torch.Generator().manual_seed(1))
        for hooks in ([], [guidance(0.0).mean_shift()])
    ]
    assert torch.equal(*ancestral)


def test_the_mean_shift_is_the_variance_of_diffusers_times_the_gradient() -> None:
    peer = DDPMScheduler(beta_schedule="linear", clip_sample=False, variance_type="fixed_small")
    step, hook = step_at(400, 399), guidance(3.0).mean_shift()
    hook.eta(step, 1.0)
    gradient = log_probability_gradient(DATA.log_probability, LABELS)(step.x, torch.full((4,), 400))
    expected = noise(1) + float(peer._get_variance(400)) * 3.0 * gradient
    torch.testing.assert_close(hook.after(step, noise(1)), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("t", [50, 400, 900])
def test_both_forms_shift_a_short_step_alike(t: int) -> None:
    step = step_at(t, t - 1)
    plain = LINEAR.step(step.epsilon(None), step.x, t, t - 1, eta=1.0, noise=noise(1))
    score_form = LINEAR.step(step.guided(), step.x, t, t - 1, eta=1.0, noise=noise(1)) - plain
    hook = guidance().mean_shift()
    hook.eta(step, 1.0)
    mean_form = hook.after(step, plain) - plain
    assert (score_form - mean_form).norm() < 0.05 * mean_form.norm()


def test_the_expected_gradient_of_the_log_probability_is_0() -> None:
    x, t, total = noise(), torch.full((4,), 300), torch.zeros(4, 1, 2, 2, dtype=torch.float64)
    for label in range(3):
        gradient = log_probability_gradient(DATA.log_probability, torch.full((4,), label))(x, t)
        probability = DATA.log_probability(x, t).exp()[:, label]
        total = total + probability[:, None, None, None] * gradient
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-10)


def test_pictures_do_not_share_a_gradient() -> None:
    gradient = log_probability_gradient(DATA.log_probability, LABELS)(noise(), torch.full((4,), 300))
    alone = log_probability_gradient(DATA.log_probability, LABELS[:1])(noise()[:1], torch.full((1,), 300))
    torch.testing.assert_close(gradient[:1], alone)


def test_a_clipped_sample_is_bounded_before_the_guidance() -> None:
    clipped = StepContext(
        DATA, noise(), t=400, target=0, i=0, n=1, condition=None, terms=[ClippedSample(0.3), guidance()]
    )
    x0 = LINEAR.from_epsilon(DATA(noise(), torch.full((4,), 400)), noise(), 400, "sample").clamp(-0.3, 0.3)
    expected = LINEAR.to_epsilon(x0, noise(), 400, "sample") + guidance()(clipped)
    torch.testing.assert_close(clipped.guided(), expected)
    assert clipped.x0(clipped.guided()).abs().max() > 0.3


def test_what_cannot_guide_is_refused() -> None:
    with pytest.raises(UsageError, match="scale"):
        guidance(float("nan"))
    with pytest.raises(UsageError, match="limit"):
        ClippedSample(0.0)
    with pytest.raises(UsageError, match="eta=1"):
        sample(DATA, noise(), hooks=[guidance().mean_shift()], num_inference_steps=2)
    with pytest.raises(UsageError, match="labels"):
        sample(DATA, noise()[:2], terms=[guidance()], num_inference_steps=2)
    with pytest.raises(UsageError, match="labels"):
        log_probability_gradient(DATA.log_probability, LABELS - 1)
    wrong = ClassifierGuidance(log_probability_gradient(DATA.log_probability, LABELS + 1))
    with pytest.raises(UsageError, match="4 classes"):
        sample(DATA, noise(), terms=[wrong], num_inference_steps=2)
