"""A tiny tower of 32 pixels, and pictures of which one class carries a faint grid."""

from __future__ import annotations

import pytest
import torch

from binderclip.data import RealFakeSet
from binderclip.models import ImageTextModel, build


@pytest.fixture(scope="session")
def tower() -> ImageTextModel:
    """A transformer of two blocks, 32 pixels, patch 8; its weights ask for gradients."""
    torch.manual_seed(0)
    vision = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 32, "head_width": 16}
    text = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model = build({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}, name="vit")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def gridded(real: torch.Tensor) -> torch.Tensor:
    """The same pictures with every second column a little lighter."""
    return (real + 0.25 * (torch.arange(real.shape[-1]) % 2)).clamp(0, 1)


@pytest.fixture(scope="session")
def pairs() -> RealFakeSet:
    """Twenty smooth pictures of 40 x 48 pixels and their aligned copies with a grid."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(20, 3, 5, 6, generator=generator) * 0.7
    real = torch.nn.functional.interpolate(coarse, (40, 48), mode="bilinear")
    return RealFakeSet.from_pictures(list(real), {"grid": list(gridded(real))})
