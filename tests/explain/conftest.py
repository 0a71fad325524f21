"""Tiny models to explain."""

from __future__ import annotations

import pytest
import torch

from binderclip.models import ImageTextModel, build


@pytest.fixture(scope="session")
def clip_model() -> ImageTextModel:
    """A two-block ViT of 32 px with a text tower, random weights moved away from their initialisation."""
    torch.manual_seed(0)
    model = build(
        {
            "embed_dim": 24,
            "vision_cfg": {"image_size": 32, "layers": 2, "width": 48, "head_width": 12, "patch_size": 8},
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


class ConvNet(torch.nn.Module):
    """Two convolutions, global average pooling, a linear layer: its class activation map has a closed form."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv1 = torch.nn.Conv2d(3, 6, 3, padding=1)
        self.act1 = torch.nn.ReLU(inplace)
        self.conv2 = torch.nn.Conv2d(6, 5, 3, padding=1, stride=2)
        self.act2 = torch.nn.ReLU(inplace)
        self.fc = torch.nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.act2(self.conv2(self.act1(self.conv1(x)))).mean(dim=(2, 3)))


@pytest.fixture
def conv_net() -> ConvNet:
    return ConvNet()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 12, 16, generator=torch.Generator().manual_seed(0))
