"""The blobs as a cat, a dog and a car, and a localiser that knows where each word is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.segment.promptable import OracleSegmenter

PLACES = {"cat": 0, "dog": 1, "car": 2}


@pytest.fixture
def picture(blobs) -> Image.Image:
    pixels = np.full((40, 60, 3), 200, dtype=np.uint8)
    for mask, colour in zip(blobs.numpy(), ((220, 30, 30), (30, 200, 30), (30, 30, 220)), strict=True):
        pixels[mask] = colour
    return Image.fromarray(pixels)


class KnownPlaces:
    """Maps that are hot where the word's blob is, at a quarter of the resolution; others are where no blob is."""

    def __init__(self, masks: torch.Tensor) -> None:
        self.masks, self.seen = masks.float(), []

    def __call__(self, image, words):
        self.seen.append((np.asarray(image), tuple(words)))
        rest = 1 - self.masks.amax(0)
        maps = [self.masks[PLACES[w]] if w in PLACES else rest for w in words]
        return torch.nn.functional.avg_pool2d(torch.stack(maps)[None], 4)[0]


@pytest.fixture
def places(blobs) -> KnownPlaces:
    return KnownPlaces(blobs)


@pytest.fixture
def oracle(blobs) -> OracleSegmenter:
    return OracleSegmenter(blobs)
