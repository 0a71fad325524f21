"""A backbone whose features are known: colours and their powers, on grids of 8, 4 and 2 cells."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image

from binderclip.models.image_text.image_classifier import ImageClassifier
from binderclip.models.image_text.preprocess import Preprocess
from binderclip.segment import CorrelationBackbone

SIDE = 32


class Colours(CorrelationBackbone):
    """Two maps of centred colours on the finest grid, one on each of the deeper two."""

    def __init__(self) -> None:
        self.model = SimpleNamespace(  # type: ignore[assignment]
            name="colours",
            device=torch.device("cpu"),
            preprocess=Preprocess(size=(SIDE, SIDE), mean=(0.5,) * 3, std=(0.5,) * 3),
        )
        self.size, self.counts, self.passes = SIDE, (1, 1, 2), 0

    def __call__(self, pixels: torch.Tensor) -> list[list[torch.Tensor]]:
        self.passes += 1
        fine, middle, deep = (F.adaptive_avg_pool2d(pixels, side) for side in (8, 4, 2))
        return [[deep], [middle], [fine, fine**3]]


@pytest.fixture
def colours() -> Colours:
    return Colours()


@pytest.fixture(scope="session")
def lite() -> CorrelationBackbone:
    """EfficientNet-Lite0 of random weights, 64 px."""
    torch.manual_seed(0)
    net = timm.create_model("efficientnet_lite0", num_classes=2).eval()
    model = ImageClassifier(net, ["a", "b"], Preprocess(size=(64, 64)), arch="efficientnet_lite0", name="random-lite")
    return CorrelationBackbone(model, 64)


@pytest.fixture
def painted() -> Callable[..., Any]:
    """`painted(where, colour, size)`: a grey picture with a rectangle, and its mask."""

    def paint(
        where: tuple[int, int, int, int], colour: str = "red", size: tuple[int, int] = (32, 32)
    ) -> tuple[Image.Image, np.ndarray]:
        picture = Image.new("RGB", size, (120, 130, 125))
        picture.paste(colour, where)
        mask = np.zeros(size[::-1], dtype=bool)
        mask[where[1] : where[3], where[0] : where[2]] = True
        return picture, mask

    return paint
