"""localise_keypoint and mark_effect of p070 (arXiv 2304.06712)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from binderclip.adapt import Outline, Region, correct_keypoints, localise_keypoint, mark_effect, score_regions
from binderclip.errors import UsageError
from binderclip.models import ImageTextModel


@dataclass(frozen=True)
class Paint(Outline):
    """A mark that is easy to find again: the picture in one colour that says where the point is."""

    def draw(self, image: Any, region: Region, copies: Any) -> Any:
        x, y = region.centre(*image.shape[:2])
        return np.full_like(image, 0) + np.array([round(x), round(y), 0], dtype=np.uint8), region


def test_candidates_are_a_grid_in_the_box_and_the_best_wins(tiny: ImageTextModel) -> None:
    image = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    found = localise_keypoint(tiny, image, "a cat", box=(20, 10, 60, 30), grid=4, negatives=["a dog"], size=60)
    assert found.points[..., 0].tolist() == [[25, 35, 45, 55]] * 4
    assert found.points[:, 0, 1].tolist() == [12.5, 17.5, 22.5, 27.5]
    row, column = divmod(int(found.scores.argmax()), 4)
    assert found.point == tuple(found.points[row, column].tolist())
    one = score_regions(
        tiny, image, [Region(point=found.point)], ["a cat"], edits=[Outline("keypoint")], negatives=["a dog"], size=60
    )
    assert float(one) == pytest.approx(float(found.scores.max()), abs=1e-3)
    assert localise_keypoint(tiny, image, "a cat", grid=1, edits=[Paint()]).point == (30, 20)


def test_points_are_right_within_a_tenth_of_the_longer_side() -> None:
    boxes = torch.tensor([[0.0, 0.0, 40.0, 100.0]]).expand(3, -1)
    found = torch.tensor([[0.0, 10.0], [6.0, 8.0], [0.0, 10.1]])
    assert correct_keypoints(found, torch.zeros(3, 2), boxes).tolist() == [True, True, False]
    assert correct_keypoints(found, torch.zeros(3, 2), boxes, alpha=0.05).tolist() == [False, False, False]


def test_a_mark_shifts_probability_and_an_invisible_one_does_not(tiny: ImageTextModel) -> None:
    images = list(np.random.default_rng(2).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))
    boxes, texts = [(4, 4, 28, 28)] * 3, ["a cat", "a dog", "a tree"]
    effect = mark_effect(tiny, images, boxes, texts, edit=Outline("ellipse", width=0.1))
    assert torch.allclose(effect.before, tiny.classify(images, texts).probs.mean(0), atol=1e-4)
    assert float(effect.change.sum()) == pytest.approx(0, abs=1e-5)
    assert float(effect.change.abs().max()) > 1e-3
    marked = [Outline("ellipse", width=0.1)(image, Region(boxes[0])) for image in images]
    assert torch.allclose(effect.after, tiny.classify(marked, texts).probs.mean(0), atol=1e-4)
    nothing = mark_effect(tiny, images, boxes, texts, edit=Outline("ellipse", width=0))
    assert torch.allclose(nothing.change, torch.zeros(3), atol=1e-6)


def test_mistakes_are_named(tiny: ImageTextModel) -> None:
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    with pytest.raises(UsageError, match="grid must be"):
        localise_keypoint(tiny, image, "a cat", grid=0)
    with pytest.raises(UsageError, match="one region a picture: 1 pictures, 2 regions"):
        mark_effect(tiny, [image], [(0, 0, 9, 9), (0, 0, 8, 8)], ["a cat"])
    with pytest.raises(UsageError, match="predicted and truth"):
        correct_keypoints(torch.zeros(3, 2), torch.zeros(2, 2), torch.zeros(3, 4))
    with pytest.raises(UsageError, match="alpha"):
        correct_keypoints(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 4), alpha=-1)
