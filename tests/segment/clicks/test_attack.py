"""TETRIS (p090): Adversarial clicks: limits, an exhaustive twin, and segmenters whose robustness is known."""

from __future__ import annotations

import pytest
import torch

from binderclip.errors import NotSupported, UsageError
from binderclip.segment.clicks import (
    AdversarialClicker,
    BaselineClicker,
    GridClicker,
    InteractiveEvaluation,
    ObjectClicks,
    click_robustness,
    click_values,
    error_region,
    soft_iou,
)
from binderclip.segment.promptable import OracleSegmenter

IMAGE = torch.rand(3, 40, 60)


def test_without_steps_and_restarts_it_is_the_robot(disks, blobs):
    base = InteractiveEvaluation(disks, BaselineClicker(), 3)([(IMAGE, blobs)])
    for direction in ("min", "max"):
        still = AdversarialClicker(direction, steps=0, restarts=0)
        assert InteractiveEvaluation(disks, still, 3)([(IMAGE, blobs)]).clicks == base.clicks


def test_the_exhaustive_grid_bounds_what_gradients_find(disks, blobs):
    """One click with a disk of radius 6: the worst is in a corner, the best where the whole disk is inside."""
    for direction, better in (("min", torch.le), ("max", torch.ge)):
        exact = InteractiveEvaluation(disks, GridClicker(direction), 1)([(IMAGE, blobs)]).iou
        found = InteractiveEvaluation(disks, AdversarialClicker(direction), 1)([(IMAGE, blobs)]).iou
        assert better(exact, found + (1e-6 if direction == "min" else -1e-6)).all()
        torch.testing.assert_close(found, exact, atol=0.03, rtol=0)
    base = InteractiveEvaluation(disks, BaselineClicker(), 1)([(IMAGE, blobs)]).iou
    worst = InteractiveEvaluation(disks, AdversarialClicker("min"), 1)([(IMAGE, blobs)]).iou
    assert (worst < base - 0.05).all()


def test_the_landscape_is_the_iou_of_each_click(disks, blobs):
    objects = ObjectClicks(disks, disks.encode(IMAGE), blobs)
    region = error_region(objects, 1)
    points, values = click_values(objects, 1, region, stride=4)
    assert points[0].tolist() == [region.click.x, region.click.y]
    y, x = torch.arange(40)[:, None] + 0.5, torch.arange(60)[None] + 0.5
    for (px, py), value in zip(points.tolist(), values.tolist(), strict=True):
        disk = (y - py) ** 2 + (x - px) ** 2 < 36
        assert value == pytest.approx(float((disk & blobs[1]).sum() / (disk | blobs[1]).sum()))
        assert blobs[1, int(py), int(px)]


def test_clicks_stay_in_the_region(tiny, blobs):
    objects = ObjectClicks(tiny, tiny.encode(IMAGE), blobs)
    for _ in range(3):
        regions = [error_region(objects, row) for row in range(3)]
        clicks = AdversarialClicker("min", steps=5)(objects)
        for click, region in zip(clicks, regions, strict=True):
            if region is not None:
                assert region.valid[int(click.y), int(click.x)]
                assert click.positive == region.click.positive
        objects.click(clicks)


def test_a_segmenter_that_does_not_listen_is_robust(deaf, blobs):
    found = click_robustness(deaf, [(IMAGE, blobs)], max_clicks=3, steps=3)
    assert found.delta == 0
    assert found.gaps.tolist() == [0, 0, 0]


def test_one_that_knows_the_object_under_the_click_is_robust(blobs):
    oracle = OracleSegmenter(blobs)
    found = click_robustness(oracle, [(IMAGE, blobs)], max_clicks=2, stride=3)
    assert found.delta == 0
    with pytest.raises(NotSupported, match="GridClicker"):
        click_robustness(oracle, [(IMAGE, blobs)], max_clicks=2)


def test_disks_are_not_robust(disks, blobs):
    found = click_robustness(disks, [(IMAGE, blobs)], max_clicks=2)
    assert found.worst.auc() < found.base.auc() <= found.best.auc() + 1e-6
    assert found.delta > 0.1
    assert 0 < found.place <= 1.01
    assert found.delta == pytest.approx(float(found.best.areas().mean() - found.worst.areas().mean()))


def test_soft_iou_is_the_iou_of_masks(blobs):
    other = blobs.roll(5, dims=2)
    exact = (blobs & other).sum((1, 2)) / (blobs | other).sum((1, 2))
    torch.testing.assert_close(soft_iou(blobs.float(), other.float()), exact)


def test_wrong_numbers_are_refused():
    for wrong in ({"direction": "up"}, {"steps": -1}, {"lr": 0}, {"restarts": -1}):
        with pytest.raises(UsageError):
            AdversarialClicker(**wrong)
    with pytest.raises(UsageError):
        GridClicker(stride=0)
