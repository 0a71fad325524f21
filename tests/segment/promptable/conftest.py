"""A tiny promptable network of random weights, and blobs whose masks are known."""

from __future__ import annotations

import pytest
import torch

from binderclip.segment.promptable import PromptModel, PromptNetwork

SETTINGS = {"side": 64, "width": 32, "heads": 2, "blocks": 1, "layers": 1}


@pytest.fixture(scope="session")
def tiny() -> PromptModel:
    torch.manual_seed(0)
    return PromptModel(PromptNetwork(**SETTINGS), settings=SETTINGS, name="tiny").eval()


@pytest.fixture
def blobs() -> torch.Tensor:
    """Three disjoint rectangles on 40 x 60 pixels."""
    masks = torch.zeros(3, 40, 60, dtype=torch.bool)
    masks[0, 2:18, 3:23] = True
    masks[1, 22:38, 5:15] = True
    masks[2, 6:34, 30:56] = True
    return masks
