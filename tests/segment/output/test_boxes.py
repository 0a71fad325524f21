"""Boxes by text of p045 (guided cropping, arXiv 2309.06581)."""

from __future__ import annotations

import pytest
import torch

from binderclip.data import scenes
from binderclip.errors import UsageError
from binderclip.segment import text_detector
from binderclip.segment.output.boxes import region_boxes, window_boxes


def test_regions_are_boxes_around_what_stands_out() -> None:
    maps = torch.zeros(8, 8, 2)
    maps[2:4, 5:8, 0] = 1.0
    maps[6, 0, 0] = 1.9  # brighter, but one patch alone
    maps[0, 0, 1] = 0.5
    boxes, scores = region_boxes(maps, (80, 40))
    assert boxes.tolist() == [[50, 10, 80, 20], [0, 0, 10, 5]]
    torch.testing.assert_close(scores, torch.tensor([[1.0, 0], [0, 0.5]]))
    # A ramp of eight columns: above its mean by so many deviations.
    ramp = torch.arange(8.0).repeat(8, 1)[..., None]  # mean 3.5, deviation 2.29
    for threshold, left in ((0.0, 4), (1.0, 6), (1.5, 7)):
        assert region_boxes(ramp, (80, 80), threshold)[0].tolist() == [[10 * left, 0, 80, 80]]
    # A flat map is one region: the whole image.
    assert region_boxes(torch.ones(4, 4, 1), (20, 20))[0].tolist() == [[0, 0, 20, 20]]


def test_windows_cover_the_image_half_a_window_apart() -> None:
    boxes = window_boxes((90, 60), [0.5, 1.0])
    assert {tuple(b) for b in boxes.tolist()} >= {(0, 0, 30, 30), (15, 0, 45, 30), (60, 30, 90, 60), (30, 0, 90, 60)}
    assert len(boxes) == 5 * 3 + 2
    assert boxes.min() == 0
    assert (boxes[:, 2].max(), boxes[:, 3].max()) == (90, 60)
    steps = window_boxes((100, 100), [0.3])[:, 0].unique().diff()
    assert steps.max() <= 15


@pytest.mark.parametrize("method", ["patches", "windows"])
def test_it_finds_the_named_object_better_than_chance(method: str) -> None:
    from binderclip.models import load

    batch = scenes(3, 6, 128, objects=1, area=(0.08, 0.12), background="plain", vocabulary=["cat", "car", "tree"])
    detect = text_detector(load("small"), method)
    hits, share = 0, 0.0
    for i, sample in enumerate(batch.samples()):
        boxes, scores = detect(sample.image, [batch.names[i][0], "a violin"])
        assert scores.shape == (len(boxes), 2)
        x0, y0, x1, y1 = boxes[int(scores[:, 0].argmax())].tolist()
        gx0, gy0, gx1, gy1 = sample.boxes[0].tolist()
        cx, cy = (gx0 + gx1) / 2, (gy0 + gy1) / 2
        hits += x0 <= cx <= x1 and y0 <= cy <= y1
        share += (x1 - x0) * (y1 - y0) / 128**2 / 6
    # Boxes that hold the object's centre more often than their size explains.
    assert hits / 6 > share + 0.3


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="method must be one of patches, windows, got 'owl'"):
        text_detector(None, "owl")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least one text"):
        text_detector(None, background="sky")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="scales are shares"):
        window_boxes((10, 10), [2.0])
