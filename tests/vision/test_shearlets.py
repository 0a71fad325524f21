"""The shearlet transform of p106 (arXiv 2211.12857): exactness, energy, direction, derivatives."""

from __future__ import annotations

import math

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.vision import ShearletTransform

SIZES = [(64, 64), (63, 50), (40, 97), (33, 33)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_synthesis_undoes_analysis_and_energy_is_kept(size: tuple[int, int], dtype: torch.dtype) -> None:
    transform = ShearletTransform(scales=2)
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=dtype)
    coefficients = transform.analysis(images)
    assert coefficients.shape == (2, 3, 17, *size)
    assert coefficients.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    assert float((transform.synthesis(coefficients, size) - images).abs().max()) < tolerance
    assert float(coefficients.square().sum() / images.square().sum()) == pytest.approx(1, abs=tolerance)
    # The frame operator itself, at every frequency: the filters divided by sqrt(W) are the filters.
    total = transform.filters(size).square().sum(dim=0)
    assert float((total - 1).abs().max()) < 1e-12


def test_a_block_of_some_filters_is_no_different(monkeypatch: pytest.MonkeyPatch) -> None:
    transform = ShearletTransform(scales=2)
    images = torch.rand(3, 33, 40, generator=torch.Generator().manual_seed(0))
    whole = transform.analysis(images)
    monkeypatch.setattr("binderclip.vision.shearlets.BLOCK", 3 * 33 * 40)
    torch.testing.assert_close(transform.analysis(images), whole)
    torch.testing.assert_close(transform.synthesis(whole), images, atol=1e-6, rtol=0)


def test_the_coefficients_are_those_of_full_complex_transforms() -> None:
    transform = ShearletTransform(scales=2, directions=(5, 6))
    images = torch.rand(2, 35, 36, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = torch.fft.ifft2(torch.fft.fft2(images)[:, None] * transform.filters((35, 36)))
    # Filters are even and real, also where w and -w are the same sample.
    assert float(found.imag.abs().max()) < 1e-12
    torch.testing.assert_close(transform.analysis(images), found.real)


@pytest.mark.parametrize("degrees", [0, 18, 30, 45, 60, 80, 90, 110, 135, 150, 170])
def test_a_line_answers_most_in_the_filter_of_its_direction(degrees: int) -> None:
    transform = ShearletTransform(scales=3)
    y, x = torch.meshgrid(torch.arange(64.0) - 31.5, torch.arange(64.0) - 31.5, indexing="ij")
    angle = math.radians(degrees)
    # Rows grow downwards, angles counter-clockwise.
    distance = x * math.sin(angle) + y * math.cos(angle)
    line = torch.exp(-(distance**2)) * torch.exp(-(x**2 + y**2) / (2 * 12**2))
    energy = transform.analysis(line).square().sum(dim=(1, 2))
    for scale in (1, 2):
        entries = [(k, entry[1]) for k, entry in enumerate(transform.angles) if entry and entry[0] == scale]
        gaps = [min(abs(a - degrees), 180 - abs(a - degrees)) for _, a in entries]
        answers = [float(energy[k]) for k, _ in entries]
        best = answers.index(max(answers))
        assert gaps[best] == min(gaps)
        # The filter of the direction at right angles sees next to nothing.
        assert answers[best] > 50 * answers[(best + len(answers) // 2) % len(answers)]


def test_scales_are_octaves() -> None:
    transform = ShearletTransform(scales=3)
    filters = transform.filters((128, 128))
    frequency = torch.fft.fftfreq(128).abs() * 2
    radius = torch.maximum(frequency[:, None], frequency[None])
    for response, entry in zip(filters, transform.angles, strict=True):
        seen = radius[response > 1e-9]
        low, high = (0, 1 / 8) if entry is None else (2.0 ** (entry[0] - 4), min(1.0, 2.0 ** (entry[0] - 2)))
        assert low <= float(seen.min())
        assert float(seen.max()) <= high
    constant = transform.analysis(torch.full((64, 64), 0.7))
    assert float(constant[1:].abs().max()) < 1e-6
    torch.testing.assert_close(constant[0], torch.full((64, 64), 0.7))


def test_derivatives_agree_with_differences_and_with_the_adjoint() -> None:
    transform = ShearletTransform(scales=1, directions=(2,))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    other = torch.rand(3, 5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(transform.analysis, (images,))
    assert torch.autograd.gradcheck(transform.synthesis, (other,))
    assert torch.autograd.gradgradcheck(lambda x: transform.synthesis(transform.analysis(x).tanh()), (images,))
    forwards = (transform.analysis(images) * other).sum()
    assert forwards.item() == pytest.approx((images * transform.synthesis(other)).sum().item(), rel=1e-12)


def test_bands_and_settings() -> None:
    transform = ShearletTransform()
    assert transform == ShearletTransform(4, (8, 8, 16, 16))
    assert len(transform) == len(transform.angles) == 49
    assert ShearletTransform(1, [4]).bands((5, 6)) == (30,) * 5


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(UsageError, match="scales must be at least 1, got 0"):
        ShearletTransform(0)
    with pytest.raises(UsageError, match="directions must be 2 numbers"):
        ShearletTransform(2, (8,))
    with pytest.raises(UsageError, match="16 x 16 is too small"):
        ShearletTransform(3).analysis(torch.rand(16, 16))
    with pytest.raises(UsageError, match=r"float32 or float64, not torch\.uint8"):
        ShearletTransform(1).analysis(torch.zeros(32, 32, dtype=torch.uint8))
    with pytest.raises(UsageError, match=r"must be \(\.\.\., 9, 32, 32\)"):
        ShearletTransform(1).synthesis(torch.rand(8, 32, 32), (32, 32))
    with pytest.raises(UsageError, match="must be"):
        ShearletTransform(1).analysis(torch.rand(32))
