"""Sets of tokens against loops, scikit-learn, worked examples and the bound of greedy farthest points (p069, p073)."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances

from binderclip.compress import (
    select_attended_tokens,
    select_diverse_tokens,
    select_top_tokens,
    spatial_seed_tokens,
    strided_tokens,
)
from binderclip.compress.tokens.selection import farthest_points
from binderclip.errors import UsageError


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def indices(mask: torch.Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in mask]


def test_top_tokens_take_the_first_of_equal_scores():
    scores = torch.tensor([[1.0, 3.0, 1.0, 3.0, 1.0, 0.0]])
    assert indices(select_top_tokens(scores, 3)) == [[0, 1, 3]]
    assert indices(select_top_tokens(torch.zeros(1, 6), 2)) == [[0, 1]]


def test_counts_may_differ_between_images_and_only_allowed_tokens_are_taken():
    scores = random(2, 7)
    among = torch.tensor([[True] * 7, [False, True, False, True, False, False, True]])
    chosen = select_top_tokens(scores, torch.tensor([2, 5]), among=among)
    assert chosen.sum(1).tolist() == [2, 3]
    assert indices(chosen)[1] == [1, 3, 6]
    assert set(indices(chosen)[0]) == set(scores[0].topk(2).indices.tolist())


def rebalanced(attention: np.ndarray, count: int, ratio: float, first: int) -> list[int]:
    """The rule as a loop."""
    order = sorted(range(len(attention)), key=lambda token: (-attention[token], token))
    pool = order[: int(count * ratio)]
    early = [token for token in pool if token < first]
    late = [token for token in pool if token >= first]
    return sorted((early + late)[:count])


@pytest.mark.parametrize(("count", "ratio", "first"), [(4, 2.0, None), (5, 3.7, None), (6, 1.2, 3), (9, 9.0, 20)])
def test_attended_tokens_against_the_rule_as_a_loop(count, ratio, first):
    attention = random(3, 20, seed=1).softmax(1)
    chosen = select_attended_tokens(attention, count, ratio=ratio, first=first)
    limit = count if first is None else first
    assert indices(chosen) == [rebalanced(row, count, ratio, limit) for row in attention.numpy()]


def test_a_ratio_of_one_is_top_k_and_a_larger_one_is_not():
    attention = torch.linspace(0, 1, 16).softmax(0)[None]  # rises to the end
    assert torch.equal(select_attended_tokens(attention, 4), select_top_tokens(attention, 4))
    # of the eight most attended, 8 to 15, none is early; of all sixteen, the first four are
    assert indices(select_attended_tokens(attention, 4, ratio=2.0)) == [[12, 13, 14, 15]]
    assert indices(select_attended_tokens(attention, 4, ratio=4.0)) == [[0, 1, 2, 3]]


def greedy(features: np.ndarray, count: int, start: list[int]) -> list[int]:
    """Farthest points by scikit-learn's distances."""
    distance = pairwise_distances(features, metric="cosine")
    chosen = list(start)
    if not chosen and count:
        others = distance + np.diag(np.full(len(distance), np.inf))
        chosen, count = [int(others.min(1).argmax())], count - 1
    for _ in range(count):
        nearest = distance[:, chosen].min(1)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return sorted(chosen)


@pytest.mark.parametrize("start", [[], [3, 17]])
def test_diverse_tokens_against_scikit_learn(start):
    features = random(4, 30, 6, seed=2).double()
    chosen = torch.zeros(4, 30, dtype=torch.bool)
    chosen[:, start] = True
    found = select_diverse_tokens(features, 7, chosen=chosen)
    assert indices(found) == [greedy(row, 7, start) for row in features.numpy()]


def test_diverse_tokens_with_a_count_for_each_image():
    features = random(3, 12, 4, seed=3).double()
    found = select_diverse_tokens(features, torch.tensor([0, 2, 5]))
    assert indices(found) == [greedy(row, count, []) for row, count in zip(features.numpy(), (0, 2, 5), strict=True)]
    among = torch.arange(12)[None].expand(3, -1) < 6
    assert all(max(row) < 6 and len(row) == 6 for row in indices(select_diverse_tokens(features, 9, among=among)))


def test_greedy_is_within_half_of_the_best_smallest_distance():
    """Angles are a metric; the best of all sets of 4 of 12 by brute force."""
    ratios = []
    for seed in range(20):
        unit = torch.nn.functional.normalize(random(12, 3, seed=seed).double(), dim=1)
        angle = (unit @ unit.T).clamp(-1, 1).arccos()
        chosen = farthest_points(angle[None], 4)[0].nonzero()[:, 0].tolist()
        smallest = {subset: min(float(angle[pair]) for pair in combinations(subset, 2)) for subset in
                    combinations(range(12), 4)}  # fmt: skip
        ratios.append(smallest[tuple(chosen)] / max(smallest.values()))
    assert min(ratios) >= 0.5 - 1e-9
    assert np.mean(ratios) > 0.7


def test_the_seed_of_the_worked_example_and_of_all_quadrants():
    assert spatial_seed_tokens((4, 4), 4).nonzero()[:, 0].tolist() == [0, 3, 9, 15]
    quadrants = spatial_seed_tokens((8, 8), 16).view(2, 4, 2, 4).sum((1, 3)).flatten()
    assert quadrants.sum() == 16
    assert bool(((quadrants - 4).abs() <= 1).all())
    assert int(spatial_seed_tokens((24, 24), 144).sum()) == 144
    assert int(spatial_seed_tokens((3, 3), 9).sum()) == 9


def test_strided_tokens_of_the_worked_example():
    assert strided_tokens((4, 4), 2).nonzero()[:, 0].tolist() == [0, 2, 8, 10]
    assert int(strided_tokens((24, 24), 3).sum()) == 64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: select_top_tokens(torch.tensor([[1.0, float("nan")]]), 1), "scores must be finite"),
        (lambda: select_top_tokens(torch.zeros(2, 0), 1), "n of at least 1"),
        (lambda: select_top_tokens(torch.zeros(1, 3), -1), "count must be a whole number of at least 0"),
        (lambda: select_top_tokens(torch.zeros(1, 3), 1, among=torch.ones(1, 2, dtype=torch.bool)), "among has shape"),
        (lambda: select_attended_tokens(torch.zeros(1, 3), 1, ratio=0.5), "ratio"),
        (lambda: select_diverse_tokens(torch.full((1, 3, 2), float("inf")), 1), "features must be finite"),
        (lambda: spatial_seed_tokens((2, 2), 5), "count must be at most 4"),
        (lambda: spatial_seed_tokens((2, 2), 0), "count must be a whole number of at least 1"),
        (lambda: strided_tokens((2, 2), 0), "stride"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(UsageError, match=message):
        call()
