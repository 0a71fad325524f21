"""A tiny vector-quantised autoencoder of diffusers' layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def make_vq_model() -> Callable[[int], Any]:
    """Random weights and a codebook of unit variance: `make_vq_model(codes)`, 4 channels, 2 pixels a code."""
    pytest.importorskip("diffusers")

    def make(codes: int) -> Any:
        from diffusers import VQModel

        torch.manual_seed(0)
        model = VQModel(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, num_vq_embeddings=codes,
        )  # fmt: skip
        nn.init.normal_(model.quantize.embedding.weight)
        return model.eval()

    return make
