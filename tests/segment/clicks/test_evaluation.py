"""Curves of clicks: against sessions one by one, and their measures against NumPy."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from binderclip.errors import UsageError
from binderclip.segment.clicks import (
    BaselineClicker,
    ClickCurves,
    Clicker,
    InteractiveEvaluation,
    ObjectClicks,
    RandomClicker,
    UserClicker,
    error_region,
)
from binderclip.segment.promptable import InteractiveSession, Masks, OracleSegmenter, next_click


@pytest.mark.parametrize("feedback", [True, False])
def test_objects_together_get_what_each_gets_alone(tiny, blobs, feedback):
    image = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))
    found = InteractiveEvaluation(tiny, max_clicks=4, feedback=feedback, batch=2)([(image, blobs)])
    for row, truth in enumerate(blobs):
        session = InteractiveSession(tiny, image, feedback=feedback)
        clicked = torch.zeros_like(truth)
        for k in range(4):
            click = next_click(session.mask, truth, clicked=clicked)
            clicked[int(click.y), int(click.x)] = True
            session.click(click.x, click.y, positive=click.positive)
            iou = (session.mask & truth).sum() / (session.mask | truth).sum()
            assert found.iou[row, k] == pytest.approx(float(iou), abs=1e-3)
        assert found.clicks[row] == session.clicks


def test_a_picture_is_encoded_once_and_a_round_is_one_pass(disks, blobs):
    InteractiveEvaluation(disks, max_clicks=3)([(torch.rand(3, 40, 60), blobs), (torch.rand(3, 40, 60), blobs[:1])])
    assert disks.encoded == 2
    assert disks.asked == 6


def test_an_oracle_needs_one_click(blobs):
    found = InteractiveEvaluation(OracleSegmenter(blobs), max_clicks=3)([(torch.rand(3, 40, 60), blobs)])
    assert found.iou.tolist() == [[1, 1, 1]] * 3
    assert found.boundary.tolist() == [[1, 1, 1]] * 3
    assert [len(c) for c in found.clicks] == [1, 1, 1]
    assert found.summary()["NoC@90"] == 1
    assert found.auc() == 1


def test_measures_against_numpy():
    rng = np.random.default_rng(0)
    curves = rng.random((30, 7)).astype(np.float32)
    found = ClickCurves(torch.from_numpy(curves), torch.from_numpy(curves), [()] * 30)
    for t in (0.5, 0.8, 0.97):
        first = [next((k + 1 for k, v in enumerate(row) if v >= t), 7) for row in curves]
        assert found.noc(t) == pytest.approx(np.mean(first))
        assert found.nof(t) == sum(row.max() < t for row in curves)
    assert found.auc() == pytest.approx(np.mean([np.trapezoid(row) / 6 for row in curves]), rel=1e-5)


class _Noisy(OracleSegmenter):
    """The oracle's masks, but for what is painted into the void."""

    def __init__(self, masks, ignore, seed):
        super().__init__(masks)
        generator = torch.Generator().manual_seed(seed)
        self.noise = torch.where(ignore, torch.randn(ignore.shape, generator=generator), torch.nan)

    def predict(self, state, prompts, *, multimask=True):
        found = super().predict(state, prompts, multimask=multimask)
        logits = torch.where(self.noise.isnan(), found.logits, self.noise)
        return Masks(logits, found.scores, found.low_res)


@pytest.mark.parametrize("clicker", [BaselineClicker(), UserClicker(seed=1)])
def test_void_pixels_change_nothing(blobs, clicker):
    """Neither what a segmenter draws there nor what the annotation says."""
    ignore = torch.zeros(40, 60, dtype=torch.bool)
    ignore[:, 44:] = True  # through the largest blob
    ignore[5:9, 8:15] = True  # and off another one's corner
    image = torch.rand(3, 40, 60)
    held = []
    for seed in range(3):
        annotated = blobs ^ (ignore & (torch.rand(40, 60, generator=torch.Generator().manual_seed(seed)) > 0.5))
        segmenter = _Noisy(blobs, ignore, seed)
        found = InteractiveEvaluation(segmenter, copy.deepcopy(clicker), max_clicks=2)([(image, annotated, ignore)])
        held.append((found.iou, found.boundary, found.clicks))
        assert all(not ignore[int(click.y), int(click.x)] for own in found.clicks for click in own)
    assert all(torch.equal(iou, held[0][0]) and torch.equal(band, held[0][1]) for iou, band, _ in held)
    assert held[0][2] == held[1][2] == held[2][2]
    assert (held[0][0] == 1).all()
    # an object that lies in the void is no object
    assert InteractiveEvaluation(segmenter, max_clicks=1)([(image, blobs, ~blobs[0])]).empty == 2


def test_empty_objects_are_left_out_and_counted(disks, blobs):
    masks = torch.cat([blobs, torch.zeros(2, 40, 60, dtype=torch.bool)])
    found = InteractiveEvaluation(disks, max_clicks=2)([(torch.rand(3, 40, 60), masks)])
    assert len(found) == 3
    assert found.empty == 2
    with pytest.raises(UsageError, match="no object with pixels"):
        InteractiveEvaluation(disks)([(torch.rand(3, 40, 60), masks[3:])])
    with pytest.raises(UsageError, match=r"\(3, 40, 60\), the picture is \(60, 40\)"):
        InteractiveEvaluation(disks)([(torch.rand(3, 60, 40), blobs)])
    with pytest.raises(UsageError, match="object 3 has no pixel"):
        ObjectClicks(disks, disks.encode(torch.rand(3, 40, 60)), masks)
    with pytest.raises(UsageError, match="max_clicks"):
        InteractiveEvaluation(disks, max_clicks=0)


@pytest.mark.parametrize("make", [BaselineClicker, RandomClicker, UserClicker])
def test_clicks_lie_in_the_robots_region(disks, blobs, make):
    clicker = make()
    assert isinstance(clicker, Clicker)
    objects = ObjectClicks(disks, disks.encode(torch.rand(3, 40, 60)), blobs)
    for _ in range(3):
        regions = [error_region(objects, row) for row in range(3)]
        clicks = clicker(objects)
        for click, region in zip(clicks, regions, strict=True):
            assert region.valid[int(click.y), int(click.x)]
            assert click.positive == region.click.positive
        objects.click(clicks)


def test_people_click_nearer_to_the_middle_than_chance(disks, blobs):
    truth = blobs[2:]
    away = {}
    for name, clicker in (("random", RandomClicker(1)), ("user", UserClicker(0.2, seed=1))):
        far = []
        for _ in range(200):
            objects = ObjectClicks(disks, disks.encode(torch.rand(3, 40, 60)), truth)
            click, middle = clicker(objects)[0], error_region(objects, 0).click
            far.append(np.hypot(click.x - middle.x, click.y - middle.y))
        away[name] = np.mean(far)
    assert away["user"] < 0.6 * away["random"]
    # of a uniform pixel in the 28 x 26 rectangle, by integration
    y, x = np.mgrid[6:34, 30:56] + 0.5
    assert away["random"] == pytest.approx(np.hypot(y - middle.y, x - middle.x).mean(), rel=0.1)


def test_the_region_is_connected_and_of_one_kind(disks):
    truth = torch.zeros(1, 40, 60, dtype=torch.bool)
    truth[0, 2:12, 2:12] = True
    truth[0, 20:38, 30:50] = True
    objects = ObjectClicks(disks, disks.encode(torch.rand(3, 40, 60)), truth)
    region = error_region(objects, 0)
    expected = torch.zeros(40, 60, dtype=torch.bool)
    expected[20:38, 30:50] = True
    assert np.array_equal(region.valid, expected.numpy())
    with pytest.raises(UsageError, match="spread"):
        UserClicker(spread=0)
