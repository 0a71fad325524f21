"""Foveated and matched blur (p122, arXiv 2006.07991), structural similarity: against scikit-image and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from binderclip.data.augment.fill import gaussian_blur
from binderclip.errors import UsageError
from binderclip.vision import (
    FoveatedBlur,
    FoveatedTexture,
    PoolingRegions,
    match_strength,
    matched_uniform_blur,
    ssim_map,
)


def pictures(side: int = 64, count: int = 2) -> Tensor:
    noise = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (gaussian_blur(noise, 1.0) - 0.5) * 2 + 0.5


def test_similarity_is_that_of_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    x = pictures(40)
    y = gaussian_blur(x, 1.5)
    _, expected = metrics.structural_similarity(
        x[0, 0].numpy(), y[0, 0].numpy(), gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0,
        full=True,
    )  # fmt: skip
    torch.testing.assert_close(ssim_map(x[:, :1], y[:, :1])[0], torch.from_numpy(expected))
    assert torch.equal(ssim_map(x, x), torch.ones_like(x[:, 0]))


def test_each_ring_has_the_blur_of_its_own_width() -> None:
    images = pictures(48, 1)
    masks, radius = PoolingRegions((48, 48), 0.7, fovea_deg=1.0).ring_masks()
    expected = np.zeros((48, 48))
    for mask, size in zip(masks.numpy(), radius.tolist(), strict=True):
        sigma = 0.5 * size * 48 / 26 if size != float(radius[0]) else 0
        expected += mask * gaussian_filter(images[0, 1].numpy(), sigma, mode="mirror")
    blurred = FoveatedBlur(0.5, scale=0.7, fovea_deg=1.0)(images)
    np.testing.assert_allclose(blurred[0, 1].numpy(), expected, atol=1e-5)


def test_no_blur_is_the_identity_and_flat_pictures_stay() -> None:
    images = pictures()
    torch.testing.assert_close(FoveatedBlur(0.0)(images), images, rtol=1e-5, atol=1e-6)
    flat = torch.full((1, 1, 20, 30), 0.3)
    torch.testing.assert_close(FoveatedBlur(2.0)(flat), flat)


def test_matched_systems_have_one_similarity() -> None:
    images = pictures(48)
    texture = FoveatedTexture(scale=0.4)(images, generator=torch.Generator().manual_seed(1))
    target = float(ssim_map(texture, images).mean())
    sigma = matched_uniform_blur(images, texture)
    assert float(ssim_map(gaussian_blur(images, sigma), images).mean()) == pytest.approx(target, abs=0.005)
    coefficient = match_strength(lambda c: FoveatedBlur(c)(images), images, target, most=5)
    assert float(ssim_map(FoveatedBlur(coefficient)(images), images).mean()) == pytest.approx(target, abs=0.005)
    # What the fovea keeps the periphery pays for.
    outer = ssim_map(FoveatedBlur(coefficient)(images), images)[:, :6].mean()
    assert float(outer) < float(ssim_map(gaussian_blur(images, sigma), images)[:, :6].mean())


def test_the_known_blur_is_found_again() -> None:
    images = pictures()
    assert matched_uniform_blur(images, gaussian_blur(images, 1.3), tolerance=1e-5) == pytest.approx(1.3, abs=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FoveatedBlur(-1.0), "coefficient"),
        (lambda: FoveatedBlur(float("inf")), "coefficient"),
        (lambda: FoveatedBlur(1.0, scale=0.0), "scale"),
        (lambda: FoveatedBlur(1.0)(torch.zeros(3, 8, 8)), r"\(B, C, H, W\)"),
        (lambda: ssim_map(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 5)), "one shape"),
        (lambda: match_strength(lambda s: pictures(), pictures(), 0.5, most=1.0), "still has an SSIM of 1.000"),
        (lambda: match_strength(lambda s: pictures(), pictures(), 2.0, most=1.0), "similarity"),
    ],
)
def test_what_cannot_be_done_is_refused(call: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()  # type: ignore[operator]
