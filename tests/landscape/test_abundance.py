"""`solution_abundance` of p169 (arXiv 2110.03095), where the share of solutions is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chi2

from binderclip.errors import UsageError
from binderclip.landscape import solution_abundance


def test_noise_has_the_length_of_each_filter() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.5], [0.0, 0.0]])
    held = weight.clone()
    moved: list[torch.Tensor] = []

    def loss() -> torch.Tensor:
        moved.append(weight - held)
        return weight.sum()

    solution_abundance(loss, [weight], radii=(0.5, 2.0), draws=3)
    lengths = torch.stack([each.norm(dim=1) for each in moved[1:]])
    for row, radius in zip(lengths, [0.5, 2.0] * 3, strict=True):
        assert row.tolist() == pytest.approx([5 * radius, 0.5 * radius, 0.0], rel=1e-4)
    assert torch.equal(weight, held)


def test_the_share_is_that_of_a_quadratic_bowl() -> None:
    # one filter of length 1 in d dimensions: w + r n with |n| = 1 has w.n distributed as a coordinate on the sphere
    d, radius = 40, 0.6
    w = torch.zeros(d)
    w[0] = 1.0
    target, sharp = w.clone(), 30.0
    found = solution_abundance(
        lambda: sharp * (w - target)[0] ** 2, {"w": w}, radii=(radius,), draws=4000, threshold=0.1
    )
    # the first coordinate of a random direction is about N(0, 1 / d): its square times sharp r^2 d is chi-squared
    expected = chi2.cdf(0.1 / (sharp * radius**2) * d, 1)
    assert found.share[0] == pytest.approx(expected, abs=0.03)
    assert found.mean_loss[0] == pytest.approx(sharp * radius**2 / d, rel=0.1)
    assert found.start == 0


def test_flatter_solutions_have_more_room_and_larger_radii_less() -> None:
    w = torch.ones(20)
    target = w.clone()

    def volume(sharp: float) -> list[float]:
        return solution_abundance(
            lambda: sharp * (w - target).square().sum() / 20, [w], radii=(0.1, 0.3, 1.0), draws=20
        ).share.tolist()

    assert volume(0.05) == [1.0, 1.0, 1.0]
    assert volume(1.0) == [1.0, 1.0, 0.0]
    assert volume(100.0) == [0.0, 0.0, 0.0]


def test_losses_that_are_not_finite_count_as_no_solution_and_weights_come_back() -> None:
    w = torch.ones(3)
    calls = [0]

    def loss() -> torch.Tensor:
        calls[0] += 1
        return torch.tensor(0.0 if calls[0] == 1 else math.nan)

    found = solution_abundance(loss, [w], radii=(0.1,), draws=4)
    assert (float(found.share[0]), float(found.mean_loss[0]), found.volume) == (0.0, math.inf, 0.0)

    def broken() -> torch.Tensor:
        if float(w[0]) != 1.0:
            raise KeyError
        return w.sum()

    with pytest.raises(KeyError):
        solution_abundance(broken, [w])
    assert torch.equal(w, torch.ones(3))
    with pytest.raises(UsageError, match="above 0"):
        solution_abundance(loss, [w], radii=(0.0,))
