"""Clicks over scenes: an oracle needs one, a segmenter that is told nothing needs all."""

from __future__ import annotations

import pytest
import torch

from binderclip.data import scenes
from binderclip.errors import UsageError
from binderclip.evaluate import ClickFigures, click_figures
from binderclip.segment.promptable import ImageState, Masks


class _Boxes:
    """Fills the box, or a square of eight pixels around the last inside click."""

    image_size, differentiable = 64, False

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, image):
        self.encoded += 1
        return ImageState(None, tuple(image.shape[1:]), (1, 1))

    def predict(self, state, prompts, *, multimask=True):
        logits = torch.full((1, 1, *state.size), -1.0)
        if prompts.boxes is not None:
            x0, y0, x1, y1 = prompts.boxes[0].int().tolist()
        else:
            x, y = prompts.points[0][prompts.labels[0] == 1][-1].int().tolist()
            x0, y0, x1, y1 = max(x - 4, 0), max(y - 4, 0), x + 4, y + 4
        logits[..., y0:y1, x0:x1] = 1
        return Masks(logits, torch.ones(1, 1), logits)


def test_boxes_are_filled_and_scenes_encoded_once():
    made = scenes(0, 3, 64, vocabulary=["cat", "dog"], objects=2, background="plain")
    segmenter = _Boxes()
    found = click_figures(segmenter, made, clicks=2)
    assert segmenter.encoded == 3
    assert found.clicks.shape == (6, 2)
    torch.testing.assert_close(found.box, found.filled)
    mask, box = made.visible[0, 0], made.boxes[0, 0]
    share = mask.sum() / ((box[2] - box[0]) * (box[3] - box[1]))
    assert float(found.filled[0]) == pytest.approx(float(share))
    assert set(found.summary()) == {"clicks/1", "clicks/2", "box", "box_filled"}
    shares = made.visible.float().mean((-2, -1)).flatten().sort().values
    larger = click_figures(segmenter, made, clicks=1, least=float(shares[3:5].mean()))
    assert larger.clicks.shape == (2, 1)


def test_clicks_to():
    curves = torch.tensor([[0.5, 0.9, 0.95], [0.2, 0.3, 0.4], [0.9, 0.1, 0.1]])
    figures = ClickFigures(curves, torch.zeros(3), torch.zeros(3))
    assert figures.clicks_to(0.85) == pytest.approx((2 + 3 + 1) / 3)


def test_no_object_is_an_error():
    made = scenes(0, 1, 64, vocabulary=["cat"], objects=0)
    with pytest.raises(UsageError, match="no object"):
        click_figures(_Boxes(), made)
