"""Blobs whose masks are known, and a localiser that knows where each word is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.segment.promptable import OracleSegmenter

PLACES = {"cat": 0, "dog": 1, "car": 2}


@pytest.fixture
def blobs() -> torch.Tensor:
    """Three disjoint rectangles on 40 x 60 pixels: a cat, a dog, a car."""
    masks = torch.zeros(3, 40, 60, dtype=torch.bool)
    masks[0, 2:18, 3:23] = True
    masks[1, 22:38, 5:15] = True
    masks[2, 6:34, 30:56] = True
    return masks


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
