"""The pairwise rank loss (p087, arXiv 2412.06760): slow loops, its floor, scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import log_loss

from binderclip.errors import UsageError
from binderclip.losses import PairwiseRankLoss


def test_all_terms_equal_a_slow_loop() -> None:
    g = torch.Generator().manual_seed(0)
    scores, pairs = torch.randn(5, generator=g).double(), torch.randn(5, 5, generator=g).double()
    targets = torch.tensor([2.0, 0.0, 2.0, 5.0, 0.0]).double()
    out = PairwiseRankLoss(0.7, regression=0.3, presence=0.5)(scores, targets, pairs)
    wins = [float(targets[i] > targets[j]) for i in range(5) for j in range(5)]
    rank = log_loss(wins, pairs.sigmoid().flatten().numpy())
    gaps = [abs(float(a - b)) for a, b in zip(scores, targets, strict=True)]
    smooth = sum(0.5 * gap**2 if gap < 1 else gap - 0.5 for gap in gaps) / 5
    there = log_loss((targets != 0).numpy(), scores.sigmoid().numpy())
    assert float(out.terms["rank"]) == pytest.approx(0.7 * rank)
    assert float(out.terms["regression"]) == pytest.approx(0.3 * math.log(1 + smooth))
    assert float(out.terms["presence"]) == pytest.approx(0.5 * there)
    assert float(out.total) == pytest.approx(sum(map(float, out.terms.values())))
    right = [(pairs[i, j] > 0) == (targets[i] > targets[j]) for i in range(5) for j in range(5)
             if targets[i] != targets[j]]  # fmt: skip
    assert float(out.metrics["pair_accuracy"]) == pytest.approx(sum(map(bool, right)) / len(right))


def test_a_perfect_ranking_has_the_floor_of_the_things_themselves() -> None:
    n, targets = 6, torch.arange(6.0)
    pairs = 1e4 * (targets[:, None] - targets)
    out = PairwiseRankLoss(regression=0.0)(targets, targets, pairs)
    assert list(out.terms) == ["rank"]
    assert float(out.total) == pytest.approx(n * math.log(2) / n**2, rel=1e-6)
    assert float(PairwiseRankLoss(rank=0.0)(targets, targets).total) == 0


def test_without_pairs_the_differences_of_the_scores_are_compared() -> None:
    scores, targets = torch.randn(7).requires_grad_(), torch.rand(7)
    loss = PairwiseRankLoss(regression=0.0)
    assert torch.equal(loss(scores, targets).total, loss(scores, targets, scores[:, None] - scores).total)
    shifted = loss(scores + 3.0, targets).total
    assert torch.allclose(shifted, loss(scores, targets).total, atol=1e-5)
    loss(scores, targets).total.backward()
    # A step against the gradient raises the largest target over the smallest.
    assert scores.grad[targets.argmax()] < scores.grad[targets.argmin()]


def test_only_comparable_pairs_count() -> None:
    scores, targets = torch.randn(6), torch.rand(6)
    group = torch.tensor([0, 0, 0, 1, 1, 1])
    loss = PairwiseRankLoss(regression=0.0)
    both = loss(scores, targets, comparable=group[:, None] == group).total
    alone = [loss(scores[group == k], targets[group == k]).total for k in (0, 1)]
    assert torch.allclose(both, torch.stack(alone).mean())


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="rank -1"):
        PairwiseRankLoss(-1.0)
    with pytest.raises(UsageError, match=r"pairs \(2, 3\)"):
        PairwiseRankLoss()(torch.zeros(2), torch.zeros(2), torch.zeros(2, 3))
