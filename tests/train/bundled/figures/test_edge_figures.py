"""Recall of outlines: known maps of a square, and mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from binderclip.errors import UsageError
from binderclip.train.bundled.figures.edge_figures import outline_recall


def test_the_strongest_pixels_are_taken_and_an_outline_is_met_within_the_tolerance() -> None:
    mask = np.zeros((40, 40), dtype=bool)
    mask[10:20, 10:20] = True  # an outline of 36 pixels
    top = torch.zeros(40, 40)
    top[9, 10:20] = 0.9  # beside its upper side
    top[30:40, :] = 0.1
    far = 1.5 / np.hypot(40, 40)
    # the side, and both pixels below its ends are too far
    assert outline_recall(top, mask, share=10 / 1600, tolerance=far) == pytest.approx(10 / 36)
    assert outline_recall(top, mask, share=10 / 1600, tolerance=0) == 0
    assert outline_recall(1 - top, mask, share=10 / 1600, tolerance=far) == 0  # other pixels are stronger
    assert outline_recall(torch.zeros(40, 40), mask) == 0
    with pytest.raises(UsageError, match="no outline"):
        outline_recall(top, np.ones((40, 40), dtype=bool))
    with pytest.raises(UsageError, match="the mask is 3 x 4"):
        outline_recall(top, np.ones((3, 4), dtype=bool))
