"""Small models of the kinds that private training must handle, with per-sample losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Case:
    """A model, (model, *batch) -> losses (B,), and a batch, all float64."""

    model: nn.Module
    loss: Callable[..., Tensor]
    batch: tuple[Any, ...]


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y, reduction="none")


class TiedText(nn.Module):
    """The token table is also the output layer, one linear layer is used twice, positions are a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8, padding_idx=0)
        self.positions = nn.Parameter(0.1 * torch.randn(5, 8))
        self.layer = nn.Linear(8, 8)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.layer(F.gelu(self.layer(self.table(ids) + self.positions)))
        return h @ self.table.weight.T


def next_token(model: nn.Module, ids: Tensor) -> Tensor:
    logits = model(ids)
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none").sum(1)


def _vit() -> Case:
    settings = {"img_size": 32, "patch_size": 8, "depth": 2, "num_classes": 5, "embed_dim": 48, "num_heads": 3}
    model = timm.create_model("vit_tiny_patch16_224", **settings)
    return Case(model, cross_entropy, (torch.randn(6, 3, 32, 32), torch.randint(0, 5, (6,))))


def _convnet() -> Case:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(inplace=True),
        nn.Conv2d(8, 16, 3, stride=2, groups=4, dilation=2), nn.ReLU(inplace=True),
        nn.Conv2d(16, 40, 3, padding=1), nn.PReLU(40), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 5),
    )  # fmt: skip
    return Case(model, cross_entropy, (torch.randn(6, 3, 14, 14), torch.randint(0, 5, (6,))))


def small_clip() -> nn.Module:
    """An open_clip model of two layers a side."""
    return open_clip.model.CLIP(
        embed_dim=32,
        vision_cfg={"layers": 2, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 32},
        text_cfg={"context_length": 12, "vocab_size": 100, "width": 64, "heads": 2, "layers": 2},
    )


def _clip(side: str) -> Case:
    bank = F.normalize(torch.randn(7, 32, dtype=torch.float64), dim=-1)

    def loss(model: Any, x: Tensor, y: Tensor) -> Tensor:
        encode = model.encode_image if side == "image" else model.encode_text
        return F.cross_entropy(model.logit_scale.exp() * encode(x, normalize=True) @ bank.T, y, reduction="none")

    x = torch.randn(6, 3, 32, 32) if side == "image" else torch.randint(1, 100, (6, 12))
    return Case(small_clip(), loss, (x, torch.randint(0, 7, (6,))))


CASES = {
    "linear": lambda: Case(nn.Linear(4, 5), cross_entropy, (torch.randn(6, 4), torch.randint(0, 5, (6,)))),
    "vit": _vit,
    "convnet": _convnet,
    "clip-image": lambda: _clip("image"),
    "clip-text": lambda: _clip("text"),
    "tied-text": lambda: Case(TiedText(), next_token, (torch.randint(0, 20, (6, 5)),)),
}


def make_case(name: str) -> Case:
    torch.manual_seed(0)
    case = CASES[name]()
    case.model.double()
    for parameter in case.model.parameters():
        if not parameter.count_nonzero():
            # a zero of the initialisation would hide what goes through it
            nn.init.normal_(parameter, std=0.1)
    case.batch = tuple(t.double() if t.is_floating_point() else t for t in case.batch)
    return case


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    """Each model in turn."""
    return make_case(request.param)


@pytest.fixture
def clip_model() -> nn.Module:
    """A small open_clip model."""
    torch.manual_seed(0)
    return small_clip()
