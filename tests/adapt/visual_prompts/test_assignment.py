"""match_keypoints and the transport plan of p070 (arXiv 2304.06712), and one-to-one assignment of p015."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from binderclip.adapt import assign, match_keypoints, sinkhorn_plan
from binderclip.errors import UsageError


def scores(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_rows_and_columns_of_the_plan_have_their_shares() -> None:
    plan = sinkhorn_plan(scores(4, 6), eps=0.5, iterations=500)
    assert torch.allclose(plan.sum(1), torch.full((4,), 1 / 4, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(plan.sum(0), torch.full((6,), 1 / 6, dtype=torch.float64), atol=1e-6)


def test_the_plan_is_that_of_scalings_in_plain_numbers() -> None:
    z = scores(3, 3)
    kernel, u, v = torch.exp(z / 0.7), torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for _ in range(200):
        u = (1 / 3) / (kernel @ v)
        v = (1 / 3) / (kernel.T @ u)
    assert torch.allclose(sinkhorn_plan(z, eps=0.7, iterations=200), u[:, None] * kernel * v, atol=1e-12)


def test_twice_the_scores_is_half_the_entropy() -> None:
    assert torch.allclose(sinkhorn_plan(2 * scores(4, 4), eps=1.0), sinkhorn_plan(scores(4, 4), eps=0.5), atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_little_entropy_and_hungarian_give_the_best_permutation(seed: int) -> None:
    z = scores(4, 4, seed)
    best = max(permutations(range(4)), key=lambda order: sum(float(z[r, t]) for t, r in enumerate(order)))
    assert assign(z, "hungarian").tolist() == list(best)
    assert assign(z, "sinkhorn", eps=0.005, iterations=3000).tolist() == list(best)
    names = match_keypoints(z, how="hungarian")
    assert [names[r].item() for r in best] == [0, 1, 2, 3]


def test_one_to_one_corrects_a_greedy_region_and_argmax_does_not() -> None:
    # Region 0 is best for both texts; together it is better to give text 1 the other one.
    z = torch.tensor([[3.0, 2.0], [0.0, 1.5]])
    assert assign(z).tolist() == [0, 0]
    assert assign(z, "hungarian").tolist() == [0, 1]
    assert assign(z, "sinkhorn").tolist() == [0, 1]
    assert match_keypoints(z).tolist() == [0, 1]
    assert match_keypoints(torch.tensor([[3.0, 0.0], [2.0, 1.5]]), how="argmax").tolist() == [0, 0]


def test_a_dominant_diagonal_is_found_by_all() -> None:
    z = 5 * torch.eye(5) + 0.1 * scores(5, 5).float()
    for how in ("argmax", "hungarian", "sinkhorn"):
        assert assign(z, how).tolist() == [0, 1, 2, 3, 4]


def test_a_text_without_a_region_gets_none() -> None:
    assert assign(torch.tensor([[1.0, 3.0, 2.0]]), "hungarian").tolist() == [-1, 0, -1]


def test_huge_scores_do_not_overflow() -> None:
    assert torch.isfinite(sinkhorn_plan(1e6 * scores(3, 3))).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: assign(torch.zeros(2, 2), "greedy"), "how must be one of"),
        (lambda: assign(torch.zeros(2)), "must be \\(regions, texts\\)"),
        (lambda: assign(torch.tensor([[float("nan")]])), "NaN"),
        (lambda: sinkhorn_plan(torch.zeros(2, 2), eps=0), "eps 0"),
        (lambda: match_keypoints(torch.zeros(0, 2)), "at least 1"),
    ],
)
def test_mistakes_are_named(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
