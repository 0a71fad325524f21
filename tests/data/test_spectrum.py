"""Radial spectra against a loop over coefficients, and copies that are given another picture's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from binderclip.data import matched_spectrum, radial_spectrum
from binderclip.data.augment.fill import gaussian_blur
from binderclip.errors import UsageError

NOISE = torch.rand(2, 3, 48, 40, generator=torch.Generator().manual_seed(0))


def test_rings_are_means_over_the_coefficients_of_a_radius() -> None:
    image = NOISE[0, 0].numpy().astype(np.float64)
    found, counts = np.zeros(7), np.zeros(7)
    coefficients = dctn(image, norm="ortho")
    for row in range(48):
        for column in range(40):
            if row or column:
                ring = int(np.rint(np.hypot(row / 48, column / 40) / 2**0.5 * 6))
                found[ring] += coefficients[row, column] ** 2
                counts[ring] += 1
    assert np.allclose(radial_spectrum(NOISE, bins=7)[0, 0].numpy(), found / counts, rtol=1e-3)
    # Parseval: rings times their sizes hold all of the variance.
    total = (radial_spectrum(NOISE, bins=7)[0, 0].numpy() * counts).sum()
    assert total == pytest.approx(image.var() * image.size, rel=1e-4)


def test_a_wave_lies_in_the_ring_of_its_period() -> None:
    for period, ring in ((2, 8), (4, 4), (8, 2)):  # 0.5, 0.25 and 0.125 cycles a pixel, of rings 0.0643 apart
        wave = torch.cos(2 * torch.pi * (torch.arange(32) + 0.5) / period).expand(1, 1, 32, 32)
        wave = wave if period > 2 else (-1.0) ** torch.arange(32).expand(1, 1, 32, 32)
        found = radial_spectrum(wave, bins=12)[0, 0]
        assert int(found.argmax()) == ring


def test_matching_gives_a_blurred_picture_the_spectrum_of_the_sharp_one_and_not_its_pixels() -> None:
    # 1/f pictures, which do not reach the ends of the range
    coefficients = torch.fft.rfft2(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    radius = (torch.fft.fftfreq(64)[:, None].square() + torch.fft.rfftfreq(64).square()).sqrt().clamp(min=1 / 64)
    sharp = torch.fft.irfft2(coefficients / radius, s=(64, 64))
    sharp = 0.5 + 0.1 * sharp / sharp.std()
    soft = gaussian_blur(sharp, 0.6)
    matched = matched_spectrum(soft, sharp)
    wanted, before, after = (radial_spectrum(each).log() for each in (sharp, soft, matched))
    assert float((before - wanted)[..., 12:].mean()) < -1.0  # the finer half has lost most of its power
    assert float((after - wanted)[..., 2:].abs().mean()) < 0.15
    # A blur without direction is undone; what has the same spectrum at other places is not moved there.
    assert float((matched - sharp).abs().mean()) < 0.35 * float((soft - sharp).abs().mean())
    turned = sharp.flip(-1).transpose(-2, -1)
    assert float((matched_spectrum(turned, sharp) - sharp).abs().mean()) > 3 * float((soft - sharp).abs().mean())
    assert torch.allclose(matched_spectrum(sharp, sharp), sharp, atol=1e-5)
    assert torch.allclose(matched.mean((-2, -1)), soft.mean((-2, -1)), atol=0.01)


def test_flat_pictures_stay_flat_and_sizes_must_agree() -> None:
    flat = torch.full((1, 3, 20, 24), 0.3)
    assert torch.allclose(matched_spectrum(flat, NOISE[:1, :, :20, :24]), flat, atol=1e-4)
    with pytest.raises(UsageError, match="differ in size"):
        matched_spectrum(flat, NOISE[:1])
    with pytest.raises(UsageError, match="at least 2 rings"):
        radial_spectrum(flat, bins=1)
