"""Masks of what a user points at, as the tasks share them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from binderclip.tasks.fields import SMALL_SAM
from binderclip.tasks.models import promptable_model

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
    from binderclip.segment import Prompts

    labels = [1] * len(inside) + [0] * len(outside)
    prompts = Prompts.of(points=[*inside, *outside] or None, labels=labels or None, box=box)
    # One click may mean a part or the whole: the best of three. More prompts are unambiguous.
    with torch.no_grad():
        state = segmenter.encode(picture)
        masks = segmenter.predict(state, prompts, multimask=len(labels) == 1 and box is None).pick()
    return (masks.logits[0, 0] > 0).cpu().numpy(), float(masks.scores[0, 0])
