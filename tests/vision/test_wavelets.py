"""The wavelet pyramid and its filters against PyWavelets; the pixel representation; Sobel against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import pywt
import torch
from scipy import ndimage

from binderclip.errors import UsageError
from binderclip.vision import PixelTransform, WaveletTransform, daubechies, sobel


@pytest.mark.parametrize("vanishing", range(1, 11))
def test_filters_are_daubechies(vanishing: int) -> None:
    np.testing.assert_allclose(daubechies(vanishing), pywt.Wavelet(f"db{vanishing}").rec_lo, atol=1e-13)


@pytest.mark.filterwarnings("ignore:Level value")
@pytest.mark.parametrize("size", [(32, 32), (24, 40), (21, 34), (8, 13)])
@pytest.mark.parametrize("vanishing", [1, 2, 3, 5])
def test_the_pyramid_is_that_of_pywavelets(size: tuple[int, int], vanishing: int) -> None:
    transform = WaveletTransform(vanishing, levels=3)
    images = torch.rand(2, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    coefficients = transform.analysis(images)
    coarse, details = transform.split(coefficients, size)
    for index in range(2):
        want = pywt.wavedec2(images[index].numpy(), f"db{vanishing}", mode="periodization", level=3)
        np.testing.assert_allclose(coarse[index], want[0], atol=1e-12)
        for ours, theirs in zip(details, want[1:], strict=True):
            for one, other in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(one[index], other, atol=1e-12)
    torch.testing.assert_close(transform.synthesis(coefficients, size), images)


def test_it_is_orthonormal_where_sides_can_be_halved() -> None:
    transform = WaveletTransform(vanishing=3, levels=3)
    basis = transform.analysis(torch.eye(16 * 8, dtype=torch.float64).unflatten(1, (16, 8)))
    torch.testing.assert_close(basis @ basis.T, torch.eye(16 * 8, dtype=torch.float64))
    images = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert transform.analysis(images).shape == (3, 64 * 64)
    assert float((transform.synthesis(transform.analysis(images), (64, 64)) - images).abs().max()) < 1e-6


def test_bands_are_levels_in_order() -> None:
    transform = WaveletTransform(levels=2)
    assert transform.bands((8, 12)) == (2 * 3, 3 * 2 * 3, 3 * 4 * 6)
    constant = transform.analysis(torch.full((8, 12), 0.5))
    # Two levels double the amplitude twice; details of a constant are zero.
    torch.testing.assert_close(constant[:6], torch.full((6,), 2.0))
    assert float(constant[6:].abs().max()) < 1e-6


def test_derivatives_agree_with_differences() -> None:
    transform = WaveletTransform(vanishing=2, levels=2)
    images = torch.rand(7, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    coefficients = transform.analysis(images).detach().requires_grad_()
    assert torch.autograd.gradcheck(transform.analysis, (images,))
    assert torch.autograd.gradcheck(lambda c: transform.synthesis(c, (7, 8)), (coefficients,))


def test_sobel_equals_scipy_and_measures_slopes() -> None:
    images = torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for image, found in zip(images.numpy(), sobel(images).numpy(), strict=True):
        want = np.hypot(*(ndimage.sobel(image, axis=axis, mode="nearest") / 8 for axis in (0, 1)))
        np.testing.assert_allclose(found, want, atol=1e-12)
    ramp = 0.03 * torch.arange(8.0).expand(5, 8)
    torch.testing.assert_close(sobel(ramp)[:, 1:-1], torch.full((5, 6), 0.03))


def test_pixels_are_themselves() -> None:
    images = torch.rand(2, 4, 5)
    assert PixelTransform().analysis(images) is images
    assert PixelTransform().synthesis(images, (4, 5)) is images
    with pytest.raises(UsageError, match="not pixels of size"):
        PixelTransform().synthesis(images, (5, 4))


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(UsageError, match="vanishing must be from 1 to 10 moments, not 11"):
        daubechies(11)
    with pytest.raises(UsageError, match="vanishing"):
        WaveletTransform(0)
    with pytest.raises(UsageError, match="levels must be at least 1"):
        WaveletTransform(levels=0)
    with pytest.raises(UsageError, match="8 x 20 has no 4 levels"):
        WaveletTransform().analysis(torch.rand(8, 20))
    with pytest.raises(UsageError, match="63 coefficients: pictures of size \\(8, 8\\) have 64"):
        WaveletTransform(levels=2).synthesis(torch.rand(63), (8, 8))
