"""A tiny image-text model and a tiny promptable network to segment with, and blobs whose masks are known."""

from __future__ import annotations

import pytest
import torch

from binderclip.models import ImageTextModel, build
from binderclip.segment.promptable import PromptModel, PromptNetwork

SETTINGS = {"side": 64, "width": 32, "heads": 2, "blocks": 1, "layers": 1}


@pytest.fixture(scope="session")
def clip_model() -> ImageTextModel:
    """Three blocks, 32 px, patches of 8, weights moved away from their initialisation."""
    torch.manual_seed(0)
    model = build(
        {
            "embed_dim": 24,
            "vision_cfg": {"image_size": 32, "layers": 3, "width": 48, "head_width": 12, "patch_size": 8},
            "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
        },
        name="tiny",
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            if parameter.ndim:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


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
