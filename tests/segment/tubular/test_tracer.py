"""The front of `TubularTracer` (p174) against shortest paths of SciPy, and what a known score traces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from binderclip.errors import UsageError
from binderclip.segment import LocalPathNet, TubularTracer
from binderclip.segment.tubular.tracer import NEIGHBOURS, STEPS, _Front


def distances(potential: np.ndarray, start: int) -> np.ndarray:
    """Costs of all pixels by SciPy's Dijkstra, where a step from x costs potential(x) times its length."""
    height, width = potential.shape
    rows, columns = np.divmod(np.arange(height * width), width)
    parts = []
    for (down, right), step in zip(NEIGHBOURS, STEPS, strict=True):
        y, x = rows + down, columns + right
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        source = np.flatnonzero(inside)
        parts.append((potential.ravel()[source] * step, source, (y * width + x)[inside]))
    data, source, target = (np.concatenate(part) for part in zip(*parts, strict=True))
    return np.asarray(dijkstra(coo_matrix((data, (source, target)), (rows.size, rows.size)).tocsr(), indices=start))


@pytest.mark.parametrize("seed", range(5))
def test_costs_of_a_map_are_those_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    potential = 1 / (0.05 + rng.uniform(0, 1, (17, 23)))
    front = _Front((17, 23), 40, 200)
    while not front.reached:
        batch = front.next_batch(1 / 1.05)
        front.relax(batch, potential.ravel()[batch])
    expected = distances(potential, 40)
    np.testing.assert_allclose(front.cost[front.fixed], expected[front.fixed], rtol=1e-12)
    # The way back costs what was said.
    way = front.way_back(200)[::-1]
    steps = np.hypot(*np.diff(np.stack(np.divmod(way, 23)), axis=1))
    assert float((potential.ravel()[way[:-1]] * steps).sum()) == pytest.approx(expected[200])


def judged_one_by_one(tracer: TubularTracer, image: Any, start: Any, end: Any) -> Any:
    """The same front with one pixel at a time."""
    wide = _Front.next_batch
    try:
        _Front.next_batch = lambda self, band: wide(self, 1e-12)  # type: ignore[method-assign]
        return tracer(image, start, end)
    finally:
        _Front.next_batch = wide  # type: ignore[method-assign]


def test_batches_of_the_front_change_nothing() -> None:
    image = torch.rand(3, 30, 36, generator=torch.Generator().manual_seed(2))

    def bright(strips: torch.Tensor) -> torch.Tensor:
        return strips.mean((1, 2, 3)).clamp(0, 1)

    tracer = TubularTracer(bright, length=6, radius=2)
    batched, single = tracer(image, (3, 4), (30, 25)), judged_one_by_one(tracer, image, (3, 4), (30, 25))
    assert torch.equal(batched.path, single.path)
    assert batched.cost == pytest.approx(single.cost, rel=1e-6)
    assert len(batched.visited) >= len(single.visited)


def test_pictures_side_by_side_are_traced_as_alone(corner: Any) -> None:
    def bright(strips: torch.Tensor) -> torch.Tensor:
        return strips.mean((1, 2, 3)).clamp(0, 1)

    other = torch.rand(3, 20, 26, generator=torch.Generator().manual_seed(4))
    tracer = TubularTracer(bright, length=6, radius=2)
    both = tracer.all([corner.image, other], [corner.start, (2, 3)], [corner.end, (20, 15)])
    for found, alone in zip(both, (tracer(corner.image, corner.start, corner.end), tracer(other, (2, 3), (20, 15))),
                            strict=True):  # fmt: skip
        assert torch.equal(found.path, alone.path)
        assert found.cost == pytest.approx(alone.cost, rel=1e-6)
        assert torch.equal(found.visited, alone.visited)
        assert len(found.scores) == len(found.visited)
    with pytest.raises(UsageError, match="2 pictures need as many starts and ends, not 1 and 2"):
        tracer.all([other, other], [(1, 1)], [(2, 2), (3, 3)])


def test_an_even_score_goes_straight() -> None:
    even = TubularTracer(lambda strips: torch.ones(len(strips)), length=3, radius=1, unknown=1.0)
    trace = even(torch.zeros(1, 20, 30), (2, 3), (27, 13))
    assert trace.cost == pytest.approx((15 + 10 * 2**0.5) / 1.05)  # 15 steps to the side and 10 diagonal ones
    assert trace.length == pytest.approx(15 + 10 * 2**0.5)
    assert trace.mask is None


def test_a_score_that_knows_the_tube_follows_it_round_the_corner(corner: Any) -> None:
    def inside(strips: torch.Tensor) -> torch.Tensor:
        middle = strips.shape[-1] // 2
        return strips[:, 0, :, middle - 1 : middle + 2].mean((1, 2))

    trace = TubularTracer(inside, length=8, radius=4, mask=lambda strips: strips[:, 0])(
        corner.image, corner.start, corner.end
    )
    assert tuple(trace.path[0].tolist()) == (8, 6)
    assert tuple(trace.path[-1].tolist()) == (33, 37)
    assert ((trace.path[1:] - trace.path[:-1]).abs().amax(1) == 1).all()
    assert len(torch.unique(trace.path, dim=0)) == len(trace.path)
    # But for the inner side of the corner.
    assert corner.mask[trace.path[:, 0], trace.path[:, 1]].float().mean() > 0.95
    assert trace.mask is not None
    both = (trace.mask & corner.mask).sum() / (trace.mask | corner.mask).sum()
    assert float(both) > 0.85
    # What does not know it takes the short cut over the ground.
    blind = TubularTracer(lambda strips: torch.ones(len(strips)), length=8, radius=4, unknown=1.0)
    short = blind(corner.image, corner.start, corner.end).path
    assert corner.mask[short[:, 0], short[:, 1]].float().mean() < 0.7


def test_the_folded_net_says_the_same() -> None:
    torch.manual_seed(0)
    net = LocalPathNet(3, (8, 12, 16))
    net(torch.rand(40, 3, 20, 11))  # statistics that are not the initial ones
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.5, 2.0)
            torch.nn.init.normal_(part.bias)
    strips = torch.rand(7, 3, 20, 11)
    fast = net.folded()
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in fast.modules())
    torch.testing.assert_close(fast.scores(strips), net.scores(strips), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fast.masks(strips), net.masks(strips), atol=1e-5, rtol=1e-5)
    assert net.training
    tracer = TubularTracer(net.scores, length=20, radius=5, mask=net.masks)
    image = torch.rand(3, 24, 30)
    one, other = tracer(image, (2, 3), (25, 20)), tracer.folded()(image, (2, 3), (25, 20))
    assert torch.equal(one.path, other.path)
    assert other.cost == pytest.approx(one.cost, rel=1e-4)
    own = TubularTracer(lambda strips: strips.mean((1, 2, 3)), length=20, radius=5, mask=net.masks)
    assert own.folded() is own


def test_the_net_gives_a_score_and_a_mask_a_strip_and_keeps_its_mode() -> None:
    net = LocalPathNet(2, (4, 6, 8)).train()
    strips = torch.rand(5, 2, 23, 17)
    score, mask = net.scores(strips), net.masks(strips)
    assert score.shape == (5,)
    assert mask.shape == (5, 23, 17)
    assert ((score >= 0) & (score <= 1)).all()
    assert net.training
    torch.testing.assert_close(net.scores(strips[:1]), score[:1])  # a batch does not change it


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"length": 2}, "length must be at least 3"), ({"radius": 0}, "radius at least 1"), ({"eps": 0.0}, "eps"),
     ({"unknown": 2.0}, "unknown"), ({"threshold": 1.0}, "threshold")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TubularTracer(LocalPathNet().scores, **wrong)


def test_a_score_that_is_not_a_number_ends_with_an_error() -> None:
    broken = TubularTracer(lambda strips: torch.full((len(strips),), torch.nan), length=3, radius=1)
    with pytest.raises(UsageError, match="NaN or infinite"):
        broken(torch.zeros(1, 12, 12), (1, 1), (9, 9))


def test_points_outside_and_equal_points_are_refused() -> None:
    tracer = TubularTracer(LocalPathNet().scores)
    image = torch.rand(3, 20, 30)
    with pytest.raises(UsageError, match=r"end .* lies outside the picture of 30 x 20 pixels"):
        tracer(image, (1, 1), (30, 1))
    with pytest.raises(UsageError, match="the same pixel"):
        tracer(image, (1, 1), (1, 1))
    with pytest.raises(UsageError, match=r"\(C, H, W\)"):
        tracer(image[0], (1, 1), (2, 2))
