"""An image-text model small enough to be taught in a test."""

from __future__ import annotations

import pytest
import torch

from binderclip.models import ImageTextModel
from binderclip.train import build_model

TINY = {
    "arch": "open_clip",
    "embed_dim": 24,
    "vocabulary": 300,
    "context": 12,
    "vision": {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 4},
    "text": {"width": 20, "heads": 2, "layers": 1},
}


@pytest.fixture
def model() -> ImageTextModel:
    """Two blocks on 4 x 4 patches, and a text tower of another width."""
    made = build_model(TINY, seed=1, captions=lambda: ["a red cat", "a blue dog", "a green tree on a hill"])
    assert isinstance(made, ImageTextModel)
    return made.eval()


@pytest.fixture
def images() -> torch.Tensor:
    """Six pictures in [0, 1]."""
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(5))
