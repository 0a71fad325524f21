"""A tiny model with a class token, for what needs both towers."""

from __future__ import annotations

import pytest
import torch

from binderclip.models import ImageTextModel, build


@pytest.fixture(scope="session")
def tiny() -> ImageTextModel:
    """Two blocks, a 4 x 4 grid of 8 px patches, width 64, random but moved away from its initialisation."""
    torch.manual_seed(0)
    model = build(
        {
            "embed_dim": 32,
            "vision_cfg": {"layers": 3, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 32},
            "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
        },
        name="tiny",
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        model.logit_scale.fill_(3.0)
    return model.eval()
