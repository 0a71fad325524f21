"""p168: windows by frequency grade, against SciPy's DCT and a loop over bands, and in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from binderclip.data import dct_grades, dct_patches
from binderclip.data.frequency import dct_matrix, grade_weights
from binderclip.errors import DataError, UsageError


def looped(window: np.ndarray, bands: int) -> float:
    """The grade by its definition: one band after the other, one coefficient after the other."""
    size, total = window.shape[-1], 0.0
    coefficients = np.abs(dctn(window, axes=(-2, -1), norm="ortho"))
    for k in range(bands):
        inside = [
            (i, j) for i in range(size) for j in range(size)
            if size * 2.0 / bands * k <= i + j <= size * 2.0 / bands * (k + 1)
        ]  # fmt: skip
        total += 2**k * sum(math.log1p(c[i, j]) for c in coefficients for i, j in inside) / len(inside)
    return total


@pytest.mark.parametrize(("size", "bands"), [(8, 6), (8, 4), (12, 5)])
def test_grades_are_the_definition(size: int, bands: int) -> None:
    windows = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    found = dct_grades(windows, bands=bands)
    assert found.tolist() == pytest.approx([looped(window.double().numpy(), bands) for window in windows], rel=1e-5)


def test_the_transform_is_orthonormal_and_keeps_energy() -> None:
    d = dct_matrix(32)
    assert torch.allclose(d @ d.T, torch.eye(32), atol=1e-5)
    window = torch.rand(32, 32, generator=torch.Generator().manual_seed(1))
    coefficients = d @ window @ d.T
    assert float(coefficients.square().sum()) == pytest.approx(float(window.square().sum()), rel=1e-5)
    assert np.allclose(coefficients.numpy(), dctn(window.numpy(), norm="ortho"), atol=1e-4)


def test_a_flat_window_has_one_coefficient_and_noise_raises_the_grade() -> None:
    flat = torch.full((3, 32, 32), 0.4)
    weight = float(grade_weights(32, 6)[0, 0])
    first = sum(1 for i in range(32) for j in range(32) if i + j <= 64 / 6)
    assert weight == pytest.approx(1 / first)
    assert float(dct_grades(flat)) == pytest.approx(3 * math.log1p(32 * 0.4) / first, rel=1e-4)
    noisy = flat + 0.05 * torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert float(dct_grades(noisy)) > 5 * float(dct_grades(flat))


def test_the_extremes_are_those_of_all_windows() -> None:
    images = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(2))
    images *= torch.linspace(0.1, 1, 56)  # quiet at the left, loud at the right
    found = dct_patches(images, window=16, stride=8, k=2)
    for number, image in enumerate(images):
        grades = {}
        for top in range(0, 25, 8):
            for left in range(0, 41, 8):
                grades[top, left] = looped(image[:, top : top + 16, left : left + 16].double().numpy(), 6)
        order = sorted(grades, key=lambda place: grades[place])
        assert [tuple(place) for place in found.low_at[number].tolist()] == order[:2]
        assert [tuple(place) for place in found.high_at[number].tolist()] == order[::-1][:2]
        assert found.grades[number].tolist() == pytest.approx(list(grades.values()), rel=1e-4)
        top, left = order[-1]
        assert torch.equal(found.high[number, 0], image[:, top : top + 16, left : left + 16])


def test_a_batch_in_parts_gives_the_same_and_one_window_is_taken_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(3))
    whole = dct_patches(images, window=16, stride=8)
    monkeypatch.setattr("binderclip.data.frequency.CHUNK", 1000)
    parts = dct_patches(images, window=16, stride=8)
    assert torch.allclose(whole.grades, parts.grades)
    assert torch.equal(whole.low, parts.low)
    single = dct_patches(images[..., :16, :16], window=16)
    assert torch.equal(single.low[:, 0], single.low[:, 1])
    assert torch.equal(single.low, single.high)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="20 x 40 pixels: smaller than a window of 32"):
        dct_patches(torch.zeros(1, 3, 20, 40))
    with pytest.raises(UsageError, match="at least 1"):
        dct_patches(torch.zeros(1, 3, 40, 40), k=0)
