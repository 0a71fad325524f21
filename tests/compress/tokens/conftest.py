"""A decoder with random weights and sequences for it, small enough that no test loads a model."""

from __future__ import annotations

import pytest
import torch

from binderclip.models.towers.tokens import Tokens
from binderclip.models.vision_language.decoder import Decoder, DecoderNet

WIDTH, DEPTH, WORDS = 32, 6, 5


@pytest.fixture(scope="session")
def decoder() -> Decoder:
    torch.manual_seed(0)
    net = DecoderNet(8, 36, 20, width=WIDTH, depth=DEPTH, heads=2, ratio=2).double()
    for layer in net.layers:  # sharper attention than an untrained one
        layer.qkv.weight.data *= 4
    return Decoder(net.eval().requires_grad_(False))


@pytest.fixture
def sequence():
    """Makes `[first | image | words]` of a batch, float64."""

    def make(batch: int = 2, grid: tuple[int, int] = (6, 6), words: int = WORDS, seed: int = 0) -> Tokens:
        length = 1 + grid[0] * grid[1] + words
        x = torch.randn(batch, length, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return Tokens(x, torch.arange(length)[None], grid=grid, prefix=1, extra=words, causal=True)

    return make
