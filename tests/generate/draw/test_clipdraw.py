"""CLIPDraw (p125, arXiv 2106.14843): the released loop written out, its learning rates, and what zero steps leave."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from binderclip import load
from binderclip.errors import UsageError
from binderclip.generate import BezierStrokes, PerspectiveCutouts, clipdraw
from binderclip.generate.draw.clipdraw import settling_rate
from binderclip.models import ImageTextModel


@pytest.fixture(scope="module")
def model(tiny_clip: Any) -> ImageTextModel:
    return load(tiny_clip(1))


def test_it_is_the_released_loop(model: ImageTextModel) -> None:
    steps, size = 8, (32, 32)
    drawing = clipdraw(model, "a cat", strokes=6, steps=steps, negative=["a dog"], normalise_input=False, seed=4)
    # three Adams with rates of their own, the sum of cosines of four views, and the limits of widths and colours
    strokes = BezierStrokes.random(6, size, seed=4)
    rates = [size[0] / 224, 0.2 * size[0] / 224, 0.01]
    values = [strokes.points, strokes.widths, strokes.colours]
    optimizers = [torch.optim.Adam([value], lr=rate) for value, rate in zip(values, rates, strict=True)]
    target, other = model.encode_text(["a cat"]).detach(), model.encode_text(["a dog"]).detach()
    generator, losses = torch.Generator().manual_seed(4), []
    for step in range(steps):
        optimizers[0].param_groups[0]["lr"] = rates[0] * (
            1 if step < steps // 2 else 0.4 if step < 3 * steps // 4 else 0.1
        )
        features = model.encode_pixels(PerspectiveCutouts(4)(strokes(), generator))
        loss = -F.cosine_similarity(features, target).sum() + 0.3 * F.cosine_similarity(features, other).sum()
        losses.append(float(loss.detach()))
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        strokes.widths.data.clamp_(2 * size[0] / 224, 100 * size[0] / 224)
        strokes.colours.data.clamp_(0, 1)
    assert drawing.history["loss"].tolist() == pytest.approx(losses, abs=1e-4)
    torch.testing.assert_close(drawing.image, strokes().detach(), atol=2e-3, rtol=0)
    assert losses[-1] < losses[0]


def test_the_rate_of_points_falls_at_half_and_three_quarters() -> None:
    assert [settling_rate(step / 8) for step in range(8)] == [1, 1, 1, 1, 0.4, 0.4, 0.1, 0.1]


def test_no_steps_leave_the_first_drawing_and_a_drawing_goes_on(model: ImageTextModel) -> None:
    first = clipdraw(model, "a cat", strokes=5, steps=0, seed=2)
    assert torch.equal(first.image, BezierStrokes.random(5, (32, 32), seed=2)().detach())
    assert isinstance(first.param, BezierStrokes)
    further = clipdraw(model, "a cat", strokes=first.param, steps=2)
    assert further.param is first.param
    assert not torch.equal(further.image, first.image)
    assert clipdraw(model, "a cat", strokes=2, steps=0, size=(40, 48)).image.shape == (1, 3, 40, 48)


@pytest.mark.parametrize(
    ("setting", "text"), [({"strokes": 0}, "strokes"), ({"steps": -1}, "steps"), ({"views": 0}, "views")]
)
def test_settings_out_of_range_are_refused(model: ImageTextModel, setting: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        clipdraw(model, "a cat", **setting)
    with pytest.raises(UsageError, match="prompt"):
        clipdraw(model, "  ", strokes=1, steps=1)
