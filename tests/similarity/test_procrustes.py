"""The orthogonal Procrustes problem (p059, arXiv 2505.23161) against SciPy and known rotations."""

from __future__ import annotations

from math import nan

import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.similarity import procrustes_align


def vectors(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_it_is_scipys_solution() -> None:
    source, target = vectors(12, 5, 0), vectors(12, 5, 1)
    expected, _ = orthogonal_procrustes(source.numpy(), target.numpy())  # source @ expected is near target
    torch.testing.assert_close(procrustes_align(source, target, rho=0.0), torch.from_numpy(expected).T)


@pytest.mark.parametrize("count", [5, 9])
def test_a_known_rotation_of_enough_vectors_is_recovered(count: int) -> None:
    rotation = torch.linalg.qr(vectors(5, 5, 2)).Q
    source = vectors(count, 5, 3)
    torch.testing.assert_close(procrustes_align(source, source @ rotation.T, rho=0.0), rotation)


def test_fewer_vectors_leave_what_is_orthogonal_to_both_sets_where_it_is() -> None:
    source, target = vectors(2, 8, 4), vectors(2, 8, 5)
    rotation = procrustes_align(source, target, rho=1e-6)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(8, dtype=torch.float64))
    apart = torch.linalg.svd(torch.cat((source, target)))[2][4:]  # orthogonal to all four
    torch.testing.assert_close(apart @ rotation.T, apart)
    # Pairs that a rotation can match are matched.
    exact = torch.linalg.qr(vectors(8, 8, 6)).Q
    matched = procrustes_align(source, source @ exact.T, rho=1e-9)
    torch.testing.assert_close(source @ matched.T, source @ exact.T, rtol=1e-5, atol=1e-6)


def test_a_large_rho_is_the_identity() -> None:
    rotation = procrustes_align(vectors(6, 4, 0), vectors(6, 4, 1), rho=1e9)
    torch.testing.assert_close(rotation, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("source", "target", "rho", "message"),
    [
        (torch.ones(2, 3), torch.ones(3, 3), 0.0, "pairs"),
        (torch.ones(0, 3), torch.ones(0, 3), 0.0, "pairs"),
        (torch.full((2, 3), nan), torch.ones(2, 3), 0.0, "finite"),
        (torch.ones(2, 3), torch.ones(2, 3), -1.0, "rho"),
        (torch.ones(2, 3), torch.ones(2, 3), nan, "rho"),
    ],
)
def test_refusals(source: Tensor, target: Tensor, rho: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        procrustes_align(source, target, rho)
