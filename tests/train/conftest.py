"""A recipe small enough to be run many times: two layers of width 64 on 64 emoji."""

from __future__ import annotations

import copy
from typing import Any

import pytest

TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "data": [{"name": "noto-emoji", "limit": 64}],
    "epochs": 3,
    "batch_size": 16,
    "lr": 1e-3,
    "checkpoint_every": 3,
    "model": {
        "arch": "open_clip",
        "embed_dim": 32,
        "vocabulary": 300,
        "context": 12,
        "vision": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text": {"width": 64, "heads": 2, "layers": 2},
    },
    "evaluation": {"data": [{"name": "noto-emoji", "limit": 32}]},
}


@pytest.fixture(scope="session")
def tiny_document() -> dict[str, Any]:
    """The recipe, not to be changed; for fixtures of wider scope."""
    return TINY


@pytest.fixture
def tiny() -> dict[str, Any]:
    """The recipe as a document; change it freely."""
    return copy.deepcopy(TINY)
