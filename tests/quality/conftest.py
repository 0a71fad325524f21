"""Tiny models of the kinds that take pictures of any size differently."""

from __future__ import annotations

import pytest
import torch

from binderclip.models import ImageTextModel, build

TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}


def _built(name: str, vision: dict) -> ImageTextModel:
    torch.manual_seed(0)
    model = build({"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT}, name=name)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="session")
def vit() -> ImageTextModel:
    """A transformer of 32 pixels, patch 8."""
    return _built("vit", {"image_size": 32, "patch_size": 8, "layers": 2, "width": 32, "head_width": 16})


@pytest.fixture(scope="session")
def resnet() -> ImageTextModel:
    """CLIP's ResNet with attention pooling, at 64 pixels."""
    return _built("resnet", {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None})
