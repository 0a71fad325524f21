"""Plain shapes for studies: what is known of them is true, and rules judge what a denoiser draws."""

from __future__ import annotations

import pytest
import torch

from binderclip.studies.protocols import plain_shapes as protocol
from binderclip.studies.protocols.plain_shapes import named, plain_shapes, shape_overlap
from binderclip.train.bundled.data.drawings import shape_pictures


def test_masks_and_grounds_are_those_of_the_pictures() -> None:
    shapes = plain_shapes(12, 0, pairs=0.5)
    outside = ~shapes.masks.expand(-1, 3, -1, -1)
    near = (shapes.images - shapes.grounds).abs()
    # at the rim a pixel is partly covered, but by less than a half
    assert float(near[outside].max()) < 0.51
    assert float((near.amax(1, keepdim=True)[shapes.masks] > 0.1).float().mean()) > 0.99
    assert float(shape_overlap(shapes.images, shapes.masks).min()) > 0.8


def test_what_is_right_is_named_rightly_and_what_is_shuffled_is_not() -> None:
    shapes = plain_shapes(20, 1)
    assert all(named(shapes.images, shapes.captions))
    turned = [*shapes.captions[1:], shapes.captions[0]]
    assert sum(named(shapes.images, turned)) < 4


def test_studies_have_other_shapes_than_the_training() -> None:
    trained = {picture.pixels.tobytes() for seed in (0, 1) for picture in shape_pictures(50, seed)}
    studied = shape_pictures(50, 1_000_000)
    assert not trained & {picture.pixels.tobytes() for picture in studied}


def test_the_precondition_counts_right_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = plain_shapes(10, 4)
    half = torch.cat([shapes.images[:5], torch.ones(5, 3, 64, 64)])
    monkeypatch.setattr(protocol, "bundled_denoiser", lambda: None)
    monkeypatch.setattr(protocol, "drawn_pictures", lambda *_, **__: half)
    assert protocol.drawn_rightly(4).value == pytest.approx(0.5)
