"""p053: the contrastive loss over patches, against a double loop and in closed form."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from binderclip.errors import UsageError
from binderclip.losses import PatchContrastive


def brute_force(tokens: torch.Tensor, labels: torch.Tensor, margin: float) -> float:
    rows = [row / row.norm() for row in tokens]
    total, pairs = 0.0, 0
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            if i != j:
                squared = float((one - other).square().sum())
                total += squared if labels[i] == labels[j] else max(0.0, margin - squared)
                pairs += 1
    return total / pairs


@pytest.mark.parametrize("margin", [0.5, 1.0, 3.0])
def test_it_is_the_mean_over_pairs(margin: float) -> None:
    generator = torch.Generator().manual_seed(1)
    tokens, labels = torch.randn(9, 4, generator=generator), torch.tensor([0, 1, 1, 0, 0, 1, 0, 1, 1]).float()
    found = PatchContrastive(margin)(tokens, labels)
    assert float(found) == pytest.approx(brute_force(tokens, labels, margin), abs=1e-6)


def test_two_tight_clusters_cost_nothing_and_one_costs_the_margin() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    apart = torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 5.0]] * 2)
    assert float(PatchContrastive()(apart, labels)) == 0.0
    together = torch.ones(4, 2)
    # Pairs of one label cost nothing; 8 of 12 have different labels.
    assert float(PatchContrastive(0.7)(together, labels)) == pytest.approx(0.7 * 8 / 12)


def test_a_step_along_the_gradient_separates_the_labels() -> None:
    tokens = torch.randn(12, 6, generator=torch.Generator().manual_seed(2)).requires_grad_(True)
    labels = torch.arange(12) % 2
    before = PatchContrastive()(tokens, labels)
    (gradient,) = torch.autograd.grad(before, tokens)
    moved = tokens.detach() - 2 * gradient

    def gap(x: torch.Tensor) -> float:
        unit = functional.normalize(x, dim=-1)
        return float((unit[labels == 0].mean(0) - unit[labels == 1].mean(0)).norm())

    assert gap(moved) > gap(tokens.detach()) + 0.02


def test_the_sample_is_balanced_where_it_can_be() -> None:
    loss = PatchContrastive(sample=10)
    labels = torch.zeros(100, dtype=torch.bool)
    labels[:30] = True
    rows = loss.sampled(labels, torch.Generator().manual_seed(0))
    assert len(set(rows.tolist())) == 10
    assert int(labels[rows].sum()) == 5
    labels[3:] = False
    assert int(labels[loss.sampled(labels)].sum()) == 3
    assert len(loss.sampled(labels)) == 10


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="above 0"):
        PatchContrastive(0.0)
    with pytest.raises(UsageError, match="one each, and at least two"):
        PatchContrastive()(torch.ones(3, 2), torch.ones(2))
