"""A CLIP with random weights and a dozen pairs for it, small enough that modules are taken out one at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from binderclip.compress import PairedSample
from binderclip.models import build

VISION = {"layers": 3, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 16, "mlp_ratio": 2.0}
TEXT = {"context_length": 8, "vocab_size": 49408, "width": 24, "heads": 3, "layers": 2, "mlp_ratio": 2.0}
WORDS = ("cat", "dog", "red car", "tree", "a house", "sea", "moon", "two birds", "clock", "old boat", "book", "key")


@pytest.fixture
def make_clip() -> Callable[..., Any]:
    """Makes the model; a gain of its matrices of 4 is large enough that a head matters."""

    def make(gain: float = 4) -> Any:
        torch.manual_seed(1)
        model = build({"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}).eval()
        with torch.no_grad():
            for name, p in model.backbone.named_parameters():
                if "resblocks" in name and p.ndim == 2:
                    p.mul_(gain)
        return model

    return make


@pytest.fixture
def make_pairs() -> Callable[..., PairedSample]:
    """Makes the pairs, the same ones each time."""

    def make(**options: Any) -> PairedSample:
        torch.manual_seed(2)
        return PairedSample(**{"pixels": torch.rand(12, 3, 16, 16), "texts": WORDS, **options})

    return make
