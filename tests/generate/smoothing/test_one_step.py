"""One-step denoising (p035): the time of a noise level, exact posterior means, and certificates that rise by it."""

from __future__ import annotations

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.generate import GaussianDenoiser, MixtureDenoiser, NoiseSchedule, OneStepDenoising, matching_time
from binderclip.robust import RandomizedSmoothing


@pytest.mark.parametrize("sigma", [0.01, 0.25, 0.5, 1.0])
def test_the_time_is_the_first_with_twice_the_noise(sigma: float) -> None:
    schedule = NoiseSchedule.linear()
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    t = matching_time(schedule, sigma)
    ratio = ((1 - abar) / abar).sqrt()
    assert float(ratio[t]) >= 2 * sigma
    assert t == 1 or float(ratio[t - 1]) < 2 * sigma


def test_noise_beyond_the_schedule_is_refused() -> None:
    with pytest.raises(UsageError, match="more noise than the schedule's 1000 times"):
        matching_time(NoiseSchedule.linear(), 200)
    with pytest.raises(UsageError, match="sigma"):
        matching_time(NoiseSchedule.linear(), float("nan"))


def test_it_is_the_posterior_mean_of_a_normal_distribution_in_units_of_pixels() -> None:
    # x ~ N(0.6, 0.1^2) in [0, 1] with noise sigma: E[x | y] = m + v / (v + sigma^2) (y - m)
    denoiser = GaussianDenoiser(
        torch.full((3, 2, 2), 0.2), torch.full((12,), 0.04), NoiseSchedule.linear(20_000, 5e-6, 1e-3)
    )
    y = torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    out = OneStepDenoising(denoiser, 0.25)(y)
    torch.testing.assert_close(out, 0.6 + 0.01 / (0.01 + 0.0625) * (y - 0.6), rtol=1e-2, atol=1e-3)


def test_pictures_are_cut_to_the_range_unless_they_are_not() -> None:
    denoiser = GaussianDenoiser(torch.zeros(3, 2, 2), torch.full((12,), 100.0), NoiseSchedule.linear())
    y = torch.full((1, 3, 2, 2), 2.0)
    assert float(OneStepDenoising(denoiser, 0.25)(y).max()) == 1.0
    assert float(OneStepDenoising(denoiser, 0.25, clip=False)(y).max()) > 1.5


def test_the_condition_is_what_the_denoiser_is_asked_for() -> None:
    pictures = torch.stack([torch.full((3, 4, 4), -1.0), torch.full((3, 4, 4), 1.0)])
    denoiser = MixtureDenoiser(pictures, {"dark": torch.tensor([1.0, 0.0]), "light": torch.tensor([0.0, 1.0])})
    y = torch.full((1, 3, 4, 4), 0.5)
    assert float(OneStepDenoising(denoiser, 0.5, condition="dark")(y).max()) < 1e-6
    assert float(OneStepDenoising(denoiser, 0.5, condition="light")(y).min()) > 1 - 1e-6


def test_a_classifier_that_noise_blinds_is_certified_behind_the_denoiser() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(2, 3, 8, 8, generator=generator).round()

    def fragile(x: torch.Tensor) -> torch.Tensor:  # right on clean pictures, and on nothing else
        near = torch.stack([(x - picture).abs().amax((1, 2, 3)) < 0.1 for picture in pictures], 1).float()
        return torch.cat([near, 0.5 * torch.ones(len(x), 1)], 1)

    labels = torch.tensor([0, 1])
    plain = RandomizedSmoothing(fragile, 0.25).certify(pictures, n0=20, n=200, alpha=0.01)
    denoise = OneStepDenoising(MixtureDenoiser(2 * pictures - 1), 0.25)
    behind = RandomizedSmoothing(fragile, 0.25, denoise=denoise).certify(pictures, n0=20, n=200, alpha=0.01)
    assert plain.accuracy(labels, 0.1) == 0
    assert behind.accuracy(labels, 0.1) == 1
