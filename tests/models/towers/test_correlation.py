"""Affinity against torch's own cosine and numpy's correlation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from binderclip.errors import UsageError
from binderclip.models.towers.correlation import correlation


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 7, 5, generator=generator) + 1, torch.randn(2, 4, 5, generator=generator)


def test_cosines(pair):
    a, b = pair
    expected = torch.cosine_similarity(a.unsqueeze(2), b.unsqueeze(1), dim=-1)
    assert torch.allclose(correlation(a, b), expected, atol=1e-6)
    own = correlation(a)
    assert torch.allclose(own.diagonal(dim1=1, dim2=2), torch.ones(2, 7), atol=1e-6)
    assert torch.allclose(own, own.mT)


def test_centred_rows_ignore_what_all_share(pair):
    a, b = pair
    assert torch.allclose(correlation(a, b, centre=True), correlation(a + 100.0, b - 3.0, centre=True), atol=1e-3)
    assert torch.allclose(correlation(a, centre=True, unit=False).sum(-1), torch.zeros(2, 7), atol=1e-4)
    # transposed, centring over rows is what numpy's covariance does
    covariance = np.cov(a[0].numpy().T, bias=True)
    ours = correlation(a[0] - a[0].mean(0), unit=False)
    assert np.allclose(np.trace(ours.numpy()) / 7, np.trace(covariance), atol=1e-4)


def test_chunks_broadcasting_and_precision(pair):
    a, b = pair
    for size in (1, 3, 7, 50):
        assert torch.allclose(correlation(a, b, centre=True, chunk=size), correlation(a, b, centre=True), atol=1e-6)
    assert correlation(a, b[:1]).shape == (2, 7, 4)
    assert correlation(a.bfloat16(), b.bfloat16()).dtype == torch.float32
    assert correlation(a.double()).dtype == torch.float64
    assert torch.equal(correlation(torch.zeros(1, 2, 3)), torch.zeros(1, 2, 2))


def test_bad_input(pair):
    a, _ = pair
    with pytest.raises(UsageError, match=r"\(2, 7, 5\) and \(2, 4, 6\)"):
        correlation(a, torch.zeros(2, 4, 6))
    with pytest.raises(UsageError, match="chunk"):
        correlation(a, chunk=0)
