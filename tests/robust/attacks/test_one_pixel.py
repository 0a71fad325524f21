"""One pixel (p154, arXiv 1710.08864): networks that look at one pixel, whose best attack is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.robust import CrossEntropy, Margin, OnePixel


class OfOnePixel(nn.Module):
    """Two classes: whether red minus blue of pixel (1, 2) is above `bound`."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = x[:, 0, 1, 2] - x[:, 2, 1, 2] - self.bound
        return torch.stack([-score, score], 1)


def test_the_pixel_that_counts_is_found_and_nothing_else_changes() -> None:
    images = torch.full((2, 3, 4, 5), 0.5)
    labels = torch.tensor([0, 0])
    net = OfOnePixel(0.6)
    found = OnePixel(population=100, generations=40, seed=1)(images, lambda rows: Margin(net, labels[rows]))
    assert found.success.all()
    changed = found.perturbation.abs().amax(1) > 0
    assert changed.nonzero().tolist() == [[0, 1, 2], [1, 1, 2]]
    assert (found.images[:, 0, 1, 2] - found.images[:, 2, 1, 2] > 0.6).all()
    assert ((found.images >= 0) & (found.images <= 1)).all()
    history = found.history[:, 0][~found.history[:, 0].isnan()]
    assert (history.diff() >= 0).all()


def test_what_cannot_be_reached_is_searched_to_the_end() -> None:
    images, labels = torch.full((1, 3, 4, 5), 0.5), torch.tensor([0])
    net = OfOnePixel(1.5)
    found = OnePixel(population=50, generations=60)(images, lambda rows: CrossEntropy(net, labels[rows]))
    assert not found.success.any()
    # The best there is: red 1 and blue 0.
    assert float(found.images[0, 0, 1, 2] - found.images[0, 2, 1, 2]) == pytest.approx(1.0, abs=0.05)
    assert found.queries >= 50 * 60


def test_the_same_seed_finds_the_same_and_settings_are_checked() -> None:
    images, labels = torch.full((1, 3, 4, 5), 0.5), torch.tensor([0])
    objective = lambda rows: Margin(OfOnePixel(0.2), labels[rows])  # noqa: E731
    one, two = (OnePixel(population=20, generations=5, seed=seed)(images, objective) for seed in (3, 3))
    assert torch.equal(one.images, two.images)
    with pytest.raises(UsageError, match="population"):
        OnePixel(population=4)


class SuccessOfSmallerValue(nn.Module):
    """Ten classes, by pixel (1, 2): red above 0.9 turns class 0 into class 1, much green makes the other eight likely.

    At green 1 the cross-entropy of class 0 is log 10 without a success; a success needs no more than log 2.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        red, green = x[:, 0, 1, 2], x[:, 1, 1, 2]
        rest = (10 * (green - 1) - 1e-3)[:, None].expand(-1, 8)
        logits = torch.cat([torch.zeros(len(x), 1), (red - 0.9)[:, None], rest], 1)
        self.seen.append(logits)
        return logits


@pytest.mark.parametrize("seed", range(6))
def test_a_success_is_kept_where_another_candidate_has_a_larger_objective(seed: int) -> None:
    images, labels, net = torch.full((1, 3, 4, 5), 0.5), torch.tensor([0]), SuccessOfSmallerValue()
    found = OnePixel(population=60, generations=30, seed=seed)(images, lambda rows: CrossEntropy(net, labels[rows]))
    logits = torch.cat(net.seen[:-1])
    values = F.cross_entropy(logits, torch.zeros(len(logits)).long(), reduction="none")
    reached = logits.argmax(1) != 0
    assert reached.any()
    assert values[~reached].max() > values[reached].max()  # what makes the case
    assert found.success.tolist() == [True]
    assert float(found.images[0, 0, 1, 2]) > 0.9
    assert float(found.objective) == pytest.approx(float(values[reached].max()), abs=1e-5)


def test_grey_pictures_are_attacked_by_one_grey_level() -> None:
    class Grey(nn.Module):
        """Whether pixel (3, 1) is above 0.7."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            score = x[:, 0, 3, 1] - 0.7
            return torch.stack([-score, score], 1)

    images = torch.full((2, 1, 5, 4), 0.5)
    found = OnePixel(population=60, generations=40)(images, lambda rows: Margin(Grey(), torch.zeros(len(rows)).long()))
    assert found.success.all()
    assert (found.perturbation != 0).nonzero().tolist() == [[0, 0, 3, 1], [1, 0, 3, 1]]


def test_the_history_of_a_search_that_ended_early_goes_on_with_its_last_value() -> None:
    images, labels = torch.full((2, 3, 4, 5), 0.5), torch.tensor([0, 0])
    nets = [OfOnePixel(0.1), OfOnePixel(1.5)]  # soon reached, and never
    found = OnePixel(population=20, generations=10)(
        images, lambda rows: Margin(nets[int(rows[0])], labels[rows])
    )  # fmt: skip
    assert found.success.tolist() == [True, False]
    assert found.history.isfinite().all()
    assert (found.history[-1, 0] == found.history[3:, 0]).all()
