"""Classifier-free guidance of linear denoisers (p055, arXiv 2505.19210): identities and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate import (
    CFGComponents,
    ClassifierFreeGuidance,
    ConditionalDenoiser,
    GaussianDenoiser,
    LinearGuidance,
    NoiseSchedule,
    cfg_components,
    sample,
)

SHAPE = (1, 2, 3)
EDM = NoiseSchedule.karras()


def gaussian(seed: int, schedule: NoiseSchedule = EDM) -> GaussianDenoiser:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    return GaussianDenoiser(torch.randn(SHAPE, generator=generator, dtype=torch.float64), root @ root.T / 6, schedule)


def states(seed: int = 7) -> Tensor:
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def levels(sigma: float) -> Tensor:
    return torch.full((4,), sigma, dtype=torch.float64)


@pytest.mark.parametrize("sigma", [0.05, 1.0, 40.0])
def test_the_parts_add_up_to_the_difference_of_both_denoisers(sigma: float) -> None:
    c, u, x = gaussian(0), gaussian(1), states()
    parts = cfg_components(c, u, x, sigma)
    total = c.denoise(x, levels(sigma)) - u.denoise(x, levels(sigma))
    torch.testing.assert_close(parts.mean_shift + parts.positive + parts.negative, total, rtol=0, atol=1e-12)


def test_each_part_is_what_its_name_says() -> None:
    c, u, x = gaussian(0), gaussian(1), states()
    parts = cfg_components(c, u, x, 0.8)
    # At the class's mean only the shift is left, and it is the same for every x.
    at_mean = cfg_components(c, u, c.mean.expand(4, *SHAPE), 0.8)
    assert at_mean.positive.abs().max() == at_mean.negative.abs().max() == 0
    torch.testing.assert_close(at_mean.mean_shift, parts.mean_shift)
    # CPC+ stretches along x - mu_c and CPC- shrinks; both are orthogonal to each other.
    centred = (x - c.mean).flatten(1)
    assert bool(((centred * parts.positive.flatten(1)).sum(1) > 0).all())
    assert bool(((centred * parts.negative.flatten(1)).sum(1) < 0).all())
    overlap = (parts.positive * parts.negative).flatten(1).sum(1)
    torch.testing.assert_close(overlap, torch.zeros_like(overlap), rtol=0, atol=1e-12)
    # A class whose variance is larger everywhere has no negative part.
    wide = GaussianDenoiser(c.mean, torch.full((6,), 4.0, dtype=torch.float64), EDM)
    narrow = GaussianDenoiser(c.mean, torch.full((6,), 1.0, dtype=torch.float64), EDM)
    assert cfg_components(wide, narrow, x, 0.8).negative.abs().max() == 0
    assert cfg_components(wide, narrow, x, 0.8).positive.abs().max() > 0


def test_all_parts_are_classifier_free_guidance() -> None:
    c, u = gaussian(0), gaussian(1)
    both = ConditionalDenoiser({"class": c, None: u}, EDM)
    linear = sample(c, states(), terms=[LinearGuidance(c, u, 3.0)], num_inference_steps=18)
    expected = sample(both, states(), "class", terms=[ClassifierFreeGuidance(4.0)], num_inference_steps=18)
    torch.testing.assert_close(linear, expected)
    parts = [LinearGuidance(c, u, 3.0, parts=[part]) for part in ("mean_shift", "positive", "negative")]
    torch.testing.assert_close(sample(c, states(), terms=parts, num_inference_steps=18), expected)


def test_with_shared_eigenvectors_contrast_is_amplified_as_the_closed_form_says() -> None:
    schedule = NoiseSchedule.karras(400, 1e-3, 80.0)
    variances_c = torch.tensor([4.0, 1.0, 0.3, 0.1, 2.0, 1.0], dtype=torch.float64)
    variances_u = torch.tensor([1.0, 1.0, 1.0, 0.5, 0.2, 3.0], dtype=torch.float64)
    mean, gamma, sigma_high = states()[0], 2.0, 80.0
    c, u = (GaussianDenoiser(mean, variances, schedule) for variances in (variances_c, variances_u))
    guidance = LinearGuidance(c, u, gamma, parts=["positive", "negative"])
    # From x - mu = 1 in every coordinate, in the coordinates that `sample` starts from.
    start = (mean + torch.ones(4, *SHAPE, dtype=torch.float64)) * schedule.alphas_cumprod[-1].sqrt()
    x = sample(c, start, terms=[guidance], num_inference_steps=400)[0] - mean
    plain = (variances_c / (variances_c + sigma_high**2)).sqrt()
    contrast = variances_c * (variances_u + sigma_high**2) / ((variances_c + sigma_high**2) * variances_u)
    torch.testing.assert_close(x.flatten(), plain * contrast ** (gamma / 2), rtol=0.05, atol=0)
    # Directions with more variance in the class grow, those with less shrink.
    unguided = sample(c, start, num_inference_steps=400)[0] - mean
    growth = (x / unguided).flatten()
    assert torch.equal(growth > 1 + 1e-3, variances_c > variances_u)
    assert torch.equal(growth < 1 - 1e-3, variances_c < variances_u)


def test_it_guides_above_sigma_low_and_up_to_sigma_high() -> None:
    c, u = gaussian(0), gaussian(1)
    times = EDM.timesteps(18).tolist()
    sigmas = ((1 - EDM.alphas_cumprod) / EDM.alphas_cumprod).sqrt()[times]
    low, high = float(sigmas[12]), float(sigmas[5])
    guided = sample(
        c, states(), terms=[LinearGuidance(c, u, 3.0, sigma_low=low, sigma_high=high)], num_inference_steps=18
    )
    x = states() / EDM.alphas_cumprod[-1].sqrt()
    for i, sigma in enumerate(sigmas.tolist()):  # Euler's method on dx / d sigma = (x - D_g) / sigma
        denoised = c.denoise(x, levels(sigma))
        if 5 <= i < 12:
            denoised = denoised + 3.0 * (denoised - u.denoise(x, levels(sigma)))
        target = float(sigmas[i + 1]) if i < 17 else 0.0
        x = x + (target - sigma) * (x - denoised) / sigma
    torch.testing.assert_close(guided, x)


def test_settings_that_mean_nothing_are_refused() -> None:
    c, u = gaussian(0), gaussian(1)
    other = GaussianDenoiser(torch.zeros(2), torch.ones(2))
    with pytest.raises(UsageError, match="share a shape"):
        cfg_components(c, other, states(), 1.0)
    with pytest.raises(UsageError, match="sigma"):
        cfg_components(c, u, states(), 0.0)
    with pytest.raises(UsageError, match="gamma"):
        LinearGuidance(c, u, math.nan)
    for parts in ([], "positive", ["positive", "positive"], ["shift"]):
        with pytest.raises(UsageError, match="parts"):
            LinearGuidance(c, u, parts=parts)
    with pytest.raises(UsageError, match="sigma_high"):
        LinearGuidance(c, u, sigma_low=2.0, sigma_high=1.0)
    assert CFGComponents.__dataclass_fields__.keys() == {"mean_shift", "positive", "negative"}
