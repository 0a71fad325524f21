"""Walks along level sets (p047, arXiv 2310.19889): closed forms of linear models, second order, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.robust import LevelSetTraversal, confidence_along, level_set_width, triangle_confidence_map

WIDE = (-50.0, 50.0)
PLAIN: dict[str, Any] = {"eps": 0.0, "noise": 0.0, "box": WIDE}


class Linear(nn.Module):
    """Logits (0, scale w x)."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = self.scale * (x.flatten(1) @ self.w)
        return torch.stack([torch.zeros_like(score), score], 1)


def constant(x: torch.Tensor) -> torch.Tensor:
    return x.new_tensor([2.0, 0.0, 0.0]).expand(len(x), 3) + 0 * x.flatten(1)[:, :1]


def smooth() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 3)).double().eval()


@pytest.fixture
def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randn(5, 3, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_on_a_linear_model_the_end_is_the_targets_projection(pairs: Any, scale: float) -> None:
    """At a scale of 1e4 the softmax is 1 to the last digit and the cross-entropy's gradient 0."""
    source, target = pairs
    model = Linear(scale)
    found = LevelSetTraversal(model, steps=400, **PLAIN)(source, target)
    w = model.w.detach()
    off = ((target - source).flatten(1) @ w / (w @ w))[:, None] * w
    torch.testing.assert_close(found.images, target - off.reshape(target.shape), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.confidence, found.start, atol=1e-6, rtol=0)
    assert bool(found.accepted.all())
    torch.testing.assert_close(found.distance, off.norm(dim=1) / (source - target).flatten(1).norm(dim=1))
    half = LevelSetTraversal(model, steps=7, eta=0.1, **PLAIN)(source, target).images
    torch.testing.assert_close(half, found.images + 0.9**7 * (source - found.images), atol=1e-6, rtol=1e-6)


def test_where_there_is_no_gradient_the_way_is_straight(pairs: Any) -> None:
    source, target = pairs
    found = LevelSetTraversal(constant, steps=9, eta=0.2, **PLAIN)(source, target)
    torch.testing.assert_close(found.images, target - 0.8**9 * (target - source))


def test_a_step_along_the_level_set_changes_the_confidence_in_the_second_order(pairs: Any) -> None:
    source, target = pairs
    model = smooth()

    def change(eta: float, **options: Any) -> torch.Tensor:
        found = LevelSetTraversal(model, steps=1, eta=eta, tolerance=1.0, **PLAIN, **options)(source, target)
        return (found.confidence.log() - found.start.log()).abs()

    ratio = change(1e-3) / change(5e-4)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 4.0), atol=0.1, rtol=0)
    ratio = change(1e-3, straight=True) / change(5e-4, straight=True)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 2.0), atol=0.1, rtol=0)
    ended = LevelSetTraversal(model, steps=3, **PLAIN)(source, target)
    leaf = ended.images.requires_grad_()
    loss = nn.functional.cross_entropy(model(leaf), ended.labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, leaf)
    products = (gradient * ended.direction).flatten(1).sum(1)
    assert float(products.abs().max()) < 1e-10


def test_no_walk_falls_below_the_tolerance_and_the_straight_one_ends_earlier(pairs: Any) -> None:
    source, target = pairs
    target = 3 * target
    model = smooth()
    found, straight = (
        LevelSetTraversal(model, steps=60, tolerance=0.02, noise=0.0, box=WIDE, straight=each)(source, target)
        for each in (False, True)
    )
    for each in (found, straight):
        assert bool((each.start - each.confidence < 0.02).all())
    assert not bool(straight.accepted.all())
    assert float(found.distance.median()) < float(straight.distance.median())
    # A refused step leaves the image where it was.
    stuck = LevelSetTraversal(model, steps=5, tolerance=0.0, eps=0.0, noise=0.0, box=WIDE, straight=True)
    away = source - (target - source)
    found = stuck(source, away)
    torch.testing.assert_close(found.images[~found.accepted.any(0)], source[~found.accepted.any(0)])


def test_descent_raises_the_confidence_and_stays_bounded(pairs: Any) -> None:
    source, _ = pairs
    model = smooth()
    found = LevelSetTraversal(model, steps=8, eps=0.01, noise=0.0, tolerance=1.0, box=WIDE)(source, source)
    assert bool((found.confidence >= found.start).all())
    assert bool((found.confidence > found.start).any())
    # Eight steps against bounds of 0.01 each, drawn back by the way to the target.
    assert 0 < float((found.images - source).abs().max()) <= 0.08


def test_batches_do_not_matter_and_weights_stay(pairs: Any) -> None:
    source, target = pairs
    model = smooth().train()
    one = LevelSetTraversal(model, steps=5, noise=0.0, box=WIDE)(source, target)
    two = LevelSetTraversal(model, steps=5, noise=0.0, box=WIDE, batch_size=2)(source, target)
    for name in ("images", "confidence", "accepted", "distance", "target_confidence"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name))
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_confidence_on_lines_and_triangles(pairs: Any) -> None:
    source, target = pairs
    model = smooth()
    labels = model(source).argmax(1)
    line = confidence_along(model, source, target, labels, points=5, box=WIDE)
    with torch.no_grad():
        for place, share in enumerate((0.0, 0.25, 0.5, 0.75, 1.0)):
            p = model((1 - share) * source + share * target).softmax(1)
            torch.testing.assert_close(line[:, place], p[torch.arange(5), labels])
        found = triangle_confidence_map(
            model, source[0], target[0], target[1], int(labels[0]), cells=3, box=WIDE, batch_size=4
        )
        assert len(found.weights) == 10
        torch.testing.assert_close(found.weights.sum(1), torch.ones(10, dtype=torch.float64))
        for (a, b, c), value in zip(found.weights.tolist(), found.confidence, strict=True):
            p = model((a * source[0] + b * target[0] + c * target[1])[None]).softmax(1)[0, labels[0]]
            torch.testing.assert_close(value, p)
    assert found.start == pytest.approx(float(line[0, 0]))
    assert found.above(1.0) == 1.0
    assert found.above(0.0) == pytest.approx(float((found.confidence >= found.start).double().mean()))


def test_the_width_is_that_across_the_walk(pairs: Any) -> None:
    source, target = pairs
    direction = (target - source)[:1]

    def along(x: torch.Tensor) -> torch.Tensor:
        """Sees nothing but the direction of the walk."""
        score = (x.flatten(1) * direction.flatten()).sum(1)
        return torch.stack([score, -score], 1)

    label = along(source[:1]).argmax(1)
    start = along(source[:1]).softmax(1)[0, label]
    width = level_set_width(along, source[:1], direction, label, draws=16, box=WIDE)
    assert width.shape == (1, 4, 2)
    torch.testing.assert_close(width, start.expand(1, 4, 2))
    model = smooth()
    label = model(source[:2]).argmax(1)
    both = torch.cat([direction, torch.zeros_like(direction)])
    wide = level_set_width(model, source[:2], both, label, draws=64, distances=(1e-6, 3.0), box=WIDE)
    assert bool((wide[0, :, 0] <= wide[0, :, 1]).all())
    assert float(wide[0, 0, 1] - wide[0, 0, 0]) < 1e-5 < float(wide[0, 1, 1] - wide[0, 1, 0])
    assert not bool(wide[1].any())


def test_what_is_wrong_is_named(pairs: Any) -> None:
    source, target = pairs
    model = smooth()
    with pytest.raises(UsageError, match="eta"):
        LevelSetTraversal(model, eta=0.0)
    with pytest.raises(UsageError, match="at least 0"):
        LevelSetTraversal(model, steps=-1)
    with pytest.raises(UsageError, match="outside"):
        LevelSetTraversal(model)(source, target)
    walk = LevelSetTraversal(model, **PLAIN)
    with pytest.raises(UsageError, match="of the same shape"):
        walk(source, target[:2])
    with pytest.raises(UsageError, match="is not taken for its label"):
        walk(source, target, (model(source).argmax(1) + 1) % 3)
    with pytest.raises(UsageError, match="two points"):
        confidence_along(model, source, target, torch.zeros(5, dtype=torch.long), points=1)
    corners = (source[0], target[0], target[1])
    for wrong in ({"cells": 0}, {"cells": 1.5}, {"batch_size": 0}):
        with pytest.raises(UsageError, match=r"cell|batch_size"):
            triangle_confidence_map(model, *corners, 0, **wrong)
    with pytest.raises(UsageError, match="three images of one shape"):
        triangle_confidence_map(model, *corners[:2], target[:2], 0)
    with pytest.raises(UsageError, match="label must be a whole number of at least 0"):
        triangle_confidence_map(model, *corners, -1)
    with pytest.raises(UsageError, match="1000"):
        triangle_confidence_map(model, *corners, 1000, box=WIDE)
    with pytest.raises(UsageError, match="float"):
        triangle_confidence_map(model, *(corner.long() for corner in corners), 0)
    with pytest.raises(UsageError, match=r"NaN|finite"):
        triangle_confidence_map(model, corners[0] * math.nan, *corners[1:], 0, box=WIDE)
    with pytest.raises(UsageError, match="a direction and a label"):
        level_set_width(model, source, target[:2], torch.zeros(5, dtype=torch.long))


def test_the_start_and_one_step_of_descent_by_hand(pairs: Any) -> None:
    source, target = pairs
    model = smooth()
    still = LevelSetTraversal(model, steps=0, noise=0.3, box=WIDE)(source, target).images - source
    assert 0.1 < float(still.abs().max()) <= 0.15  # uniform, half of it to either side
    assert float(still.min()) < 0 < float(still.max())
    # Half of eps times the gradient of the cross-entropy, at most eps; the target is the image, so nothing else moves.
    torch.manual_seed(3)
    model, source = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double(), 0.05 * source
    with torch.no_grad():
        model[1].weight.mul_(20)
    leaf = source.clone().requires_grad_()
    loss = nn.functional.cross_entropy(model(leaf), model(source).argmax(1), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, leaf)
    wanted = source - (0.01 / 2 * gradient).clamp(-0.01, 0.01)
    assert 0 < int((gradient.abs() > 2).sum()) < gradient.numel()
    found = LevelSetTraversal(model, steps=1, eps=0.01, noise=0.0, tolerance=1.0, box=WIDE)(source, source)
    torch.testing.assert_close(found.images, wanted)


def test_the_width_is_taken_at_the_distances_asked_for(pairs: Any) -> None:
    centre, direction = (each[:1] for each in pairs)

    def away(x: torch.Tensor) -> torch.Tensor:
        """Sees nothing but the distance from one image."""
        far = (x - centre).flatten(1).norm(dim=1)
        return torch.stack([torch.zeros_like(far), far], 1)

    width = level_set_width(away, centre, direction, torch.tensor([0]), draws=8, distances=(0.5, 2.0), box=WIDE)
    for place, distance in enumerate((0.5, 2.0)):
        wanted = 1 / (1 + torch.tensor(distance, dtype=torch.float64).exp())
        torch.testing.assert_close(width[0, place], wanted.expand(2))
