"""Margin losses of degraded crops (p138, arXiv 2403.11176): loops written out, torch's ranking loss, limits."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses import QualityRank
from binderclip.losses.degradation_rank import margin_rank


def cosines(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1


def test_margins_are_those_of_torchs_ranking_loss() -> None:
    above, below = cosines(40), cosines(40, seed=1)
    wanted = F.margin_ranking_loss(above, below, torch.ones(40), margin=0.3, reduction="none")
    assert torch.allclose(margin_rank(above, below, 0.3), wanted)


def test_terms_are_sums_over_levels_and_crops() -> None:
    good, bad = cosines(3, 2, 5), cosines(3, 2, 5, seed=1)
    found = QualityRank(consistency_margin=0.1, rank_margin=0.4)(good, bad)
    consistency = positive = negative = 0.0
    for b in range(3):
        for i in range(5):
            for s in (good, bad):
                consistency += max(0.0, abs(float(s[b, 0, i] - s[b, 1, i])) - 0.1)
        for (i, j), k, h in itertools.product(itertools.combinations(range(5), 2), range(2), range(2)):
            positive += max(0.0, 0.4 - float(good[b, k, i] - good[b, h, j]))
            negative += max(0.0, 0.4 - float(bad[b, h, j] - bad[b, k, i]))
    wanted = {"consistency": consistency / 3, "positive": positive / 3, "negative": negative / 3}
    assert {name: float(value) for name, value in found.terms.items()} == pytest.approx(wanted)
    assert float(found.total) == pytest.approx(sum(wanted.values()))


def test_levels_that_are_spaced_by_the_margin_cost_nothing() -> None:
    good = torch.linspace(0.5, 0.1, 5).expand(2, 2, 5)
    loss = QualityRank()
    right = loss(good, good.flip(-1))
    assert float(right.total) == 0.0
    assert float(right.metrics["ordered"]) == 1.0
    # Good and bad exchanged, and the levels reversed, are the same worst case.
    wrong, turned = loss(good.flip(-1), good), loss(good.flip(-1), good.flip(-1).flip(-1))
    assert float(wrong.metrics["ordered"]) == 0.0
    assert float(wrong.total) == pytest.approx(float(turned.total))
    assert float(wrong.total) > 10
    # Mirrored data exchange the two terms.
    one, two = loss(cosines(2, 2, 5), cosines(2, 2, 5, seed=1)), loss(-cosines(2, 2, 5, seed=1), -cosines(2, 2, 5))
    assert float(one.terms["positive"]) == pytest.approx(float(two.terms["negative"]))
    assert float(one.terms["positive"]) != pytest.approx(float(two.terms["positive"]))


def test_cosines_cannot_break_margins_of_two() -> None:
    loss = QualityRank(consistency_margin=2.0, rank_margin=-2.0)
    assert float(loss(cosines(4, 2, 5), cosines(4, 2, 5, seed=1)).total) == 0.0


@pytest.mark.parametrize("shape", [(2, 5), (2, 2, 1), (0, 2, 5)])
def test_shapes_that_cannot_be_ordered_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="must both be"):
        QualityRank()(torch.zeros(shape), torch.zeros(shape))
