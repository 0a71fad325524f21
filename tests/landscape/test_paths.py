"""Paths between solutions (p169, arXiv 2110.03095) on losses whose values along them are known in closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.landscape import bezier_middle, figure_between

ENDS = ([torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 0.0])])


def ring(w: torch.Tensor) -> torch.Tensor:
    """0 on the unit circle, 1 in its middle."""
    return (w.square().sum() - 1) ** 2


def test_the_straight_line_crosses_the_ring_and_everything_is_put_back() -> None:
    w = torch.tensor([0.3, 0.4])
    held = w.clone()
    found = figure_between(lambda: ring(w), {"w": w}, {"w": ENDS[0][0]}, {"w": ENDS[1][0]}, points=5)
    assert found.steps.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.losses.tolist() == pytest.approx([((1 - 2 * t) ** 2 - 1) ** 2 for t in found.steps.tolist()])
    assert found.start == pytest.approx((0.25 - 1) ** 2)
    assert torch.equal(w, held)


def test_the_curve_is_the_quadratic_one_and_straight_where_the_middle_is_the_mean() -> None:
    w, middle = torch.zeros(2), [torch.tensor([0.5, 3.0])]
    seen: list[list[float]] = []
    figure_between(lambda: float(seen.append(w.tolist()) or 0), [w], *ENDS, middle=middle, points=4)  # type: ignore[func-returns-value]
    for t, place in zip((0, 1 / 3, 2 / 3, 1), seen[1:], strict=True):
        x = (1 - t) ** 2 * 1 + 2 * t * (1 - t) * 0.5 + t**2 * -1
        assert place == pytest.approx([x, 2 * t * (1 - t) * 3.0], abs=1e-6)
    straight = figure_between(lambda: ring(w), [w], *ENDS, points=9)
    mean = figure_between(lambda: ring(w), [w], *ENDS, middle=[torch.zeros(2)], points=9)
    torch.testing.assert_close(straight.losses, mean.losses)


def test_a_trained_middle_goes_around_the_hill_as_the_best_one_does() -> None:
    w = torch.nn.Parameter(torch.tensor([0.7, 0.1]))
    held = w.detach().clone()

    def loss() -> torch.Tensor:
        # the ring alone is level across the line: a slope to one side breaks the tie
        return ring(w) + 0.02 * (1 - w[1])

    middle = bezier_middle(loss, [w], *ENDS, steps=1500, lr=0.02)
    assert torch.equal(w, held)
    assert w.grad is None
    bent = figure_between(loss, [w], *ENDS, middle=middle, points=101).losses
    straight = figure_between(loss, [w], *ENDS, points=101).losses
    assert float(straight.max()) > 1
    assert float(bent.max()) < 0.3
    # brute force: the mean loss over a grid of middles
    best = min(
        float(figure_between(loss, [w], *ENDS, middle=[torch.tensor([x, y])], points=101).losses.mean())
        for x in (-0.3, 0.0, 0.3)
        for y in torch.linspace(0, 3, 31).tolist()
    )
    assert float(bent.mean()) < best + 0.01
    again = bezier_middle(loss, [w], *ENDS, steps=1500, lr=0.02)
    assert torch.equal(again[0], middle[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"points": 1}, "two ends at least"),
        ({"params": []}, "holds no tensor"),
        ({"start": [torch.zeros(3)]}, "start must have the shapes"),
        ({"end": [torch.zeros(2)] * 2}, "end must have the shapes"),
        ({"end": {"w": torch.zeros(2)}}, "both be sequences"),
        ({"middle": []}, "middle must have the shapes"),
    ],
)
def test_ways_that_do_not_fit(change: dict[str, Any], words: str) -> None:
    w = torch.zeros(2)
    settings: dict[str, Any] = {"params": [w], "start": ENDS[0], "end": ENDS[1]} | change
    with pytest.raises(UsageError, match=words):
        figure_between(lambda: ring(w), **settings)


def test_training_that_cannot_work() -> None:
    w = torch.zeros(2)
    with pytest.raises(UsageError, match="does not require a gradient"):
        bezier_middle(lambda: ring(w), [w], *ENDS)
    for wrong in ({"steps": 0}, {"lr": 0.0}, {"lr": math.nan}):
        with pytest.raises(UsageError, match="steps must be at least 1 and lr above 0"):
            bezier_middle(lambda: ring(w), [w.requires_grad_()], *ENDS, **wrong)
    with pytest.raises(UsageError, match="differ in names: u, w"):
        bezier_middle(lambda: ring(w), {"w": w}, {"u": w}, {"w": w})
