from __future__ import annotations

import pytest
import torch


@pytest.fixture
def features():
    """Matching raw features: features(B, d, dtype) -> image, text, both requiring a gradient."""

    def make(rows=23, width=8, dtype=torch.float64, seed=0, noise=0.7):
        generator = torch.Generator().manual_seed(seed)
        image = torch.randn(rows, width, generator=generator, dtype=dtype)
        text = image + noise * torch.randn(rows, width, generator=generator, dtype=dtype)
        return (2 * image).requires_grad_(), (0.5 * text).requires_grad_()

    return make
