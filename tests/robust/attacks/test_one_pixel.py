"""One pixel (p154, arXiv 1710.08864): networks that look at one pixel, whose best attack is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

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
