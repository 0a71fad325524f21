"""Masks of what a user points at or names, as the tasks share them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from binderclip.tasks.fields import SMALL_SAM
from binderclip.tasks.models import image_text_model, promptable_model

NAMES, PRESET = "everyday", "photograph"
"""The bundled model that knows words for what photographs show, and the preset that cuts it out."""

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.segment import PromptableSegmenter


def cuts_out(model: str, cut: bool | None = None) -> bool:
    """Whether masks are cut out anew: as was said, else those of the bundled model."""
    return model == SMALL_SAM if cut is None else cut


def opened_segmenter(model: str, *, cut: bool | None = None, device: str = "cpu") -> Any:
    """A promptable model; masks of the bundled one are cut out along the edges of the picture.

    Raises:
        BinderclipError: as `promptable_model`.
    """
    segmenter: Any = promptable_model(model, device=device)
    if cuts_out(model, cut):
        from binderclip.segment import CutSegmenter

        segmenter = CutSegmenter(segmenter)
    return segmenter


def pointed_mask(
    segmenter: PromptableSegmenter,
    picture: Image.Image,
    inside: Sequence[tuple[float, float]],
    outside: Sequence[tuple[float, float]] = (),
    box: tuple[float, float, float, float] | None = None,
) -> tuple[np.ndarray, float]:
    """The mask of prompts (H, W), of bool, and its predicted IoU.

    Args:
        segmenter: the model. picture: RGB.
        inside, outside: (x, y) in pixels on the object, and beside it.
        box: around the object.
    """
    from binderclip.segment.clicks import PointedObject, object_mask

    one = PointedObject(1, inside=tuple(inside), outside=tuple(outside), box=box)
    mask, certainty = object_mask(segmenter, segmenter.encode(picture), one)
    assert certainty is not None  # it has prompts
    return mask, certainty


def named_mask(picture: Image.Image, labels: Sequence[str], *, device: str = "cpu") -> np.ndarray:
    """Where a picture shows any of the labels (H, W), of bool; by what `segment` does without options.

    Args:
        picture: RGB.
        labels: words.
        device: where the model looks.

    Raises:
        BinderclipError: as `image_text_model`.
    """
    from binderclip.segment import Segmenter

    # Words for the ground are left out: this preset cuts out what a label names, whatever else is asked for.
    result = Segmenter(image_text_model(NAMES, device=device), PRESET)(picture, list(labels))
    return np.logical_or.reduce([result.mask(label).cpu().numpy() for label in labels])
