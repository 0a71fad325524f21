"""The table of a grid (p039, arXiv 2404.08197): planted laws and frontiers come back, and mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from binderclip.errors import UsageError
from binderclip.train import StudyRun, StudyTable

COSTS = (1e12, 1e13, 1e14, 1e15, 1e16)


def runs() -> list[StudyRun]:
    """Two towers by five lengths by two seeds: the small one is better until its floor holds it up."""
    laws = {"small": (20.0, 0.15, 0.2), "large": (2000.0, 0.28, 0.05)}
    return [
        StudyRun(
            {"length": str(number), "tower": tower}, seed,
            {"flops": int(cost), "samples": 100 * 10**number, "tokens": None},
            {"a/text_to_image/R@10": 1 - error + off, "b/text_to_image/R@10": 1 - error - off, "a/count": 90.0},
            f"{number}-{tower}-{seed}",
        )
        for number, cost in enumerate(COSTS)
        for tower, (a, b, c) in laws.items()
        for seed, off in ((0, 0.01), (1, 0.02))
        for error in [min(0.97, a * cost**-b + c) if tower == "small" else a * cost**-b + c]
    ]  # fmt: skip


def test_errors_are_means_over_sets_and_seeds_and_laws_those_that_were_planted() -> None:
    table = StudyTable(runs(), curves="tower")
    cells = table.cells()
    assert len(cells) == 10
    assert {cell.seeds for cell in cells} == {2}
    first = next(cell for cell in cells if cell.levels == {"length": "0", "tower": "small"})
    assert first.error == pytest.approx(20 * 1e12**-0.15 + 0.2)
    laws = table.laws()
    assert list(laws) == ["small", "large"]
    assert (laws["small"].b, laws["small"].c) == pytest.approx((0.15, 0.2), rel=1e-3)
    assert (laws["large"].b, laws["large"].c) == pytest.approx((0.28, 0.05), rel=1e-3)
    place = table.crossing("tower", "large", "small")
    assert place is not None
    assert 2000 * place**-0.28 + 0.05 == pytest.approx(20 * place**-0.15 + 0.2)


def test_the_frontier_is_the_better_tower_at_each_cost() -> None:
    table = StudyTable(runs())
    best = {(cell.levels["length"], cell.levels["tower"]) for cell in table.frontier()}
    for number, cost in enumerate(COSTS):
        small, large = 20 * cost**-0.15 + 0.2, 2000 * cost**-0.28 + 0.05
        assert (str(number), "small" if small < large else "large") in best
    assert len(best) == 5
    assert list(table.laws()) == ["frontier"]


def test_spread_over_seeds_is_kept_and_one_set_can_be_named() -> None:
    table = StudyTable(runs(), metric="a/text_to_image/R@10")
    cell = table.cells()[0]
    assert cell.high - cell.low == pytest.approx(0.01)
    header, rows = table.rows()
    assert header[:3] == ["length", "tower", "flops"]
    assert len(rows) == 10
    costs = [float(row[2]) for row in rows]
    assert costs == sorted(costs)


def test_other_costs_and_few_of_them() -> None:
    table = StudyTable(runs(), x="samples", curves="tower")
    assert [cell.cost for cell in table.cells()][::2] == [1e2, 1e3, 1e4, 1e5, 1e6]
    few = StudyTable(runs()[:8], curves="tower")  # two lengths
    assert few.laws() == {}
    with pytest.raises(UsageError, match="'small' has no law"):
        few.crossing("tower", "small", "large")
    three = StudyTable(runs()[:12], curves="tower").laws()
    assert three["large"].c == 0


@pytest.mark.parametrize("curves", [None, "tower"])
def test_the_picture_is_drawn(tmp_path: Path, curves: str | None) -> None:
    with Image.open(StudyTable(runs(), curves=curves).plot(tmp_path / "frontier.png")) as picture:
        assert min(picture.size) > 300


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="needs a finished run"):
        StudyTable([])
    with pytest.raises(UsageError, match=r"was not measured by 0-small-0: a/text_to_image/R@10, b/"):
        StudyTable(runs(), metric="R@3")
    with pytest.raises(UsageError, match="'count' is no share: 90"):
        StudyTable(runs(), metric="count")
    with pytest.raises(UsageError, match="'tokens' of 0-small-0 is not known"):
        StudyTable(runs(), x="tokens")
    with pytest.raises(UsageError, match="no factor 'width': one of length, tower"):
        StudyTable(runs(), curves="width")
    with pytest.raises(UsageError, match="no factor 'width'"):
        StudyTable(runs()).laws("width")
