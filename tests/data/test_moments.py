from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from binderclip.data.moments import Moments
from binderclip.errors import UsageError


@settings(max_examples=60)
@given(st.integers(2, 40), st.integers(1, 6), st.lists(st.integers(0, 40), max_size=5), st.integers(0, 2**31))
def test_any_split_gives_numpys_covariance(n: int, d: int, cuts: list[int], seed: int) -> None:
    rows = np.random.default_rng(seed).normal(3, 2, (n, d))
    edges = sorted({0, n, *(cut for cut in cuts if cut < n)})
    pieces = [torch.from_numpy(rows[a:b]) for a, b in itertools.pairwise(edges)]
    running, merged = Moments(d), Moments(d)
    for piece in pieces:
        running.update(piece)
        merged.merge(Moments(d).update(piece))
    for moments in (running, merged):
        assert float(moments.count) == n
        assert np.allclose(moments.mean, rows.mean(0), atol=1e-12)
        for correction in (0, 1):
            wanted = np.cov(rows, rowvar=False, ddof=correction).reshape(d, d)
            assert np.allclose(moments.covariance(correction=correction), wanted, atol=1e-10)
            assert np.allclose(moments.variance(correction=correction), np.diag(wanted), atol=1e-10)


def test_a_large_mean_costs_no_digits() -> None:
    """Sums of squares in float64 would be off by 1e-2 here; centred sums are not."""
    rows = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1e8
    moments = Moments(3)
    for piece in rows.split(7):
        moments.update(piece)
    exact = np.cov((rows - 1e8).numpy(), rowvar=False)
    assert np.allclose(moments.covariance(), exact, rtol=1e-6)


def test_classes_and_pooled_covariance() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 200)
    rows = draw.normal(size=(200, 4)) @ draw.normal(size=(4, 4)) + 3 * labels[:, None]
    moments = Moments(4, classes=5)
    ignored = torch.from_numpy(np.r_[labels[:100], [-1]])
    moments.update(torch.from_numpy(np.r_[rows[:100], [[9, 9, 9, 9]]]), ignored)
    moments.merge(Moments(4, classes=5).update(torch.from_numpy(rows[100:]), torch.from_numpy(labels[100:])))
    assert moments.count.tolist() == [*np.bincount(labels), 0, 0]
    for c in range(3):
        assert np.allclose(moments.mean[c], rows[labels == c].mean(0))
        assert np.allclose(moments.covariance()[c], np.cov(rows[labels == c], rowvar=False))
    assert moments.covariance()[3:].isnan().all()
    assert moments.mean[3:].abs().max() == 0
    # scikit-learn's within-class covariance is the maximum-likelihood one
    lda = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True).fit(rows, labels)
    assert np.allclose(moments.covariance(pooled=True, correction=0), lda.covariance_)
    within = sum((labels == c).sum() * np.cov(rows[labels == c], rowvar=False, ddof=0) for c in range(3))
    assert np.allclose(moments.covariance(pooled=True), within / (200 - 3))


def test_diagonal_is_the_diagonal() -> None:
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    full, diagonal = Moments(6).update(rows), Moments(6, diagonal=True)
    for piece in rows.split(9):
        diagonal.merge(Moments(6, diagonal=True).update(piece))
    assert torch.allclose(diagonal.variance(), full.covariance().diagonal())
    assert diagonal.covariance().dtype == torch.float64


def test_state_round_trip_and_independence_of_results() -> None:
    rows = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    first = Moments(3).update(rows[:20])
    second = Moments(3)
    second.load_state_dict(first.state_dict())
    kept = first.mean
    second.update(rows[20:])
    first.update(rows[20:])
    assert torch.equal(first.covariance(), second.covariance())
    assert not torch.equal(kept, first.mean)


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match=r"\(n, 3\)"):
        Moments(3).update(torch.zeros(2, 4))
    with pytest.raises(UsageError, match="labels go with"):
        Moments(3).update(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    with pytest.raises(UsageError, match=r"-1\.\.1"):
        Moments(3, classes=2).update(torch.zeros(2, 3), torch.tensor([0, 2]))
    with pytest.raises(UsageError, match="NaN"):
        Moments(3).update(torch.full((1, 3), torch.nan))
    with pytest.raises(UsageError, match="cannot be merged"):
        Moments(3).merge(Moments(4))
