"""PromptRank (p024, arXiv 2303.17569): torch's margin loss pair by pair, its margins, its order, mistakes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.losses import PromptRank


def ranked(a: Tensor, b: Tensor, margin: float) -> Tensor:
    return nn.MarginRankingLoss(margin)(a, b, torch.ones_like(a))


def test_it_is_the_papers_sum_of_margin_losses() -> None:
    dark, older, newer, bright = torch.rand(4, 7, generator=torch.Generator().manual_seed(0))
    loss = PromptRank()
    two = ranked(dark, bright, 1.0)
    three = ranked(dark, bright, 0.9) + ranked(dark, newer, 0.9) + ranked(newer, bright, 0.2)
    four = ranked(dark, bright, 0.9) + ranked(dark, older, 0.9) + ranked(older, newer, 0.1) + ranked(newer, bright, 0.1)
    assert torch.allclose(loss(torch.stack([dark, bright])).total, two)
    assert torch.allclose(loss(torch.stack([dark, newer, bright])).total, three)
    assert torch.allclose(loss(torch.stack([dark, older, newer, bright])).total, four)
    own = PromptRank(outer=0.5, inner=0.3)(torch.stack([dark, newer, bright])).total
    assert torch.allclose(own, ranked(dark, bright, 0.5) + ranked(dark, newer, 0.5) + ranked(newer, bright, 0.3))


def test_wide_falls_cost_nothing_and_a_newer_result_that_is_darker_does() -> None:
    falling = torch.tensor([[1.0, 0.98], [0.09, 0.08], [0.05, 0.04], [0.0, 0.0]])
    spaced = PromptRank(outer=0.85, inner=0.03)(falling)
    assert float(spaced.total) == 0
    assert float(spaced.metrics["ordered"]) == 1
    swapped = PromptRank(outer=0.85, inner=0.03)(falling[[0, 2, 1, 3]])
    assert float(swapped.total) == pytest.approx(0.03 + 0.04)  # the margin, and how far it is in the wrong order
    assert float(swapped.metrics["ordered"]) == 0


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="at least 0"):
        PromptRank(outer=-0.1)
    for scores in (torch.zeros(1, 3), torch.zeros(3), torch.zeros(2, 0)):
        with pytest.raises(UsageError, match=r"must be \(R, B\)"):
            PromptRank()(scores)
