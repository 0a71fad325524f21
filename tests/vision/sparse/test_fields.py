"""p023: whitening against the filter's own equation, tuning against gratings and Gabor functions of known angle."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.vision import receptive_field_stats, sample_patches, whiten

SIDE = 12


def gabor(angle: float, frequency: float, width: float = 2.0) -> Tensor:
    place = torch.arange(SIDE).double() - (SIDE - 1) / 2
    y, x = torch.meshgrid(place, place, indexing="ij")
    along = x * math.cos(angle) + y * math.sin(angle)
    envelope = torch.exp(-(x.square() + y.square()) / (2 * width**2))
    return (envelope * torch.cos(2 * math.pi * frequency * along + 0.7)).reshape(-1)


def test_whitening_multiplies_every_frequency() -> None:
    image = torch.rand(40, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    f = np.hypot(np.fft.fftfreq(40)[:, None], np.fft.fftfreq(50)[None])
    theirs = np.fft.ifft2(np.fft.fft2(image.numpy()) * f * np.exp(-((f / (200 / 512)) ** 4))).real
    assert np.allclose(whiten(image).numpy(), theirs, atol=1e-6)
    assert abs(float(whiten(image).mean())) < 1e-9  # the mean is at frequency 0


def test_a_gabor_function_is_found_again() -> None:
    angles = (0.0, math.pi / 4, math.pi / 2, 3 * math.pi / 4)
    dictionary = torch.stack([gabor(angle, 0.25) for angle in angles], 1)
    stats = receptive_field_stats(dictionary, gabor=True)
    assert torch.allclose(stats.orientation, torch.tensor(angles).double(), atol=0.14)
    assert torch.allclose(stats.frequency, torch.full((4,), 0.25).double(), atol=0.03)
    assert bool(stats.oriented.all())
    assert bool((stats.explained > 0.98).all())


def test_round_fields_and_noise_are_not_oriented() -> None:
    place = torch.arange(SIDE).double() - (SIDE - 1) / 2
    square = place[:, None].square() + place.square()
    ring = torch.exp(-square / 8) - 0.5 * torch.exp(-square / 16)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(SIDE * SIDE, 30, generator=generator).double()
    stats = receptive_field_stats(torch.cat([ring.reshape(-1, 1), torch.ones(SIDE * SIDE, 1), noise], 1))
    assert float(stats.circular_variance[0]) > 0.9
    assert float(stats.circular_variance[1]) == 1  # a constant field answers to no grating
    assert float(stats.circular_variance[2:].mean()) > 0.5
    assert bool(stats.explained.isnan().all())


def test_noise_is_no_gabor_function() -> None:
    noise = torch.randn(SIDE * SIDE, 2, generator=torch.Generator().manual_seed(1))
    assert bool((receptive_field_stats(noise, gabor=True).explained < 0.5).all())


def test_a_gabor_function_is_well_fitted_in_little_noise() -> None:
    """Noise of variance v on a field of variance 1 leaves about 1 / (1 + v) to be explained: .8 and .4."""
    noise = torch.randn(SIDE * SIDE, 2, generator=torch.Generator().manual_seed(4)).double()
    clean = gabor(0.3, 0.2)
    clean = (clean - clean.mean()) / clean.std()
    noise = (noise - noise.mean(0)) / noise.std(0)
    fields = torch.stack([clean, clean + 0.25**0.5 * noise[:, 0], clean + 1.5**0.5 * noise[:, 1]], 1)
    constant = torch.ones(SIDE * SIDE, 1).double()
    stats = receptive_field_stats(torch.cat([fields, constant], 1), gabor=True)
    assert stats.well_fitted.tolist() == [True, True, False, False]
    with pytest.raises(UsageError, match="gabor=True"):
        _ = receptive_field_stats(fields).well_fitted


def test_patches_are_parts_of_the_picture() -> None:
    image = torch.arange(20 * 30).double().reshape(20, 30).square()
    patches = sample_patches(image, 50, 5, seed=1)
    assert patches.shape == (50, 25)
    assert torch.allclose(patches.mean(1), torch.zeros(50).double(), atol=1e-12)
    assert float(patches.std()) == pytest.approx(1)
    windows = image.unfold(0, 5, 1).unfold(1, 5, 1).reshape(-1, 25)
    windows = windows - windows.mean(1, keepdim=True)
    unit = torch.nn.functional.normalize(windows, dim=1)
    alike = torch.nn.functional.normalize(patches, dim=1) @ unit.T
    assert torch.allclose(alike.amax(1), torch.ones(50).double(), atol=1e-9)
    assert len(alike.argmax(1).unique()) > 30


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(UsageError, match="height, width"):
        whiten(torch.zeros(3, 4, 4))
    with pytest.raises(UsageError, match="finite"):
        whiten(torch.full((4, 4), float("nan")))
    with pytest.raises(UsageError, match="no patch of 5"):
        sample_patches(torch.rand(4, 9), 3, 5)
    with pytest.raises(UsageError, match="one colour"):
        sample_patches(torch.ones(9, 9), 3, 5)
    with pytest.raises(UsageError, match="square patches"):
        receptive_field_stats(torch.rand(10, 3))
