"""Fréchet distance, the baseline of p092, against scipy and the closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from binderclip.errors import UsageError
from binderclip.quality import frechet_distance


def test_equals_the_matrix_square_root_of_scipy() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6))
    y = rng.normal(size=(150, 6)) @ rng.normal(size=(6, 6)) + 0.3
    a, b = np.cov(x.T), np.cov(y.T)
    want = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert float(frechet_distance(torch.from_numpy(x), torch.from_numpy(y))) == pytest.approx(want, rel=1e-9)


def test_few_samples_take_the_other_factorisation_and_warn() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(7, 12)), rng.normal(size=(9, 12)) + 1
    a, b = np.cov(x.T), np.cov(y.T)
    # Rank-deficient: the root through the eigenvalues of the symmetric form, not scipy's sqrtm.
    values, vectors = np.linalg.eigh(a)
    root = vectors @ np.diag(np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(0)).sum()
    want = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * cross
    with pytest.warns(UserWarning, match="7 samples of 12 features"):
        assert float(frechet_distance(torch.from_numpy(x), torch.from_numpy(y))) == pytest.approx(want, rel=1e-6)


def test_axis_aligned_gaussians_have_a_closed_form() -> None:
    base = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    x, y = base, base * torch.tensor([3.0, 0.5]) + torch.tensor([2.0, -1.0])
    variance = 4 / 3
    want = 4 + 1 + variance * ((1 - 3) ** 2 + (1 - 0.5) ** 2)
    assert float(frechet_distance(x, y)) == pytest.approx(want, rel=1e-9)
    assert float(frechet_distance(x, x)) == pytest.approx(0, abs=1e-12)


def test_bad_input_is_named() -> None:
    with pytest.raises(UsageError, match="n at least 2"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(4, 3))
    with pytest.raises(UsageError, match="3 features and y 2"):
        frechet_distance(torch.randn(5, 3), torch.randn(4, 2))
