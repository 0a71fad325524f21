"""Image quality: distances between image sets (CMMD, Fréchet), and later scores and perceptual distances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from binderclip.quality.frechet import frechet_distance
from binderclip.quality.mmd import PermutationTest, mmd_bootstrap, mmd_permutation_test, mmd_rbf
from binderclip.quality.set_distance import CMMD, FrechetDistance, SetDistance, SetScore

METHODS: dict[str, Callable[..., Any]] = {"cmmd": CMMD, "frechet": FrechetDistance}

__all__ = [
    "CMMD",
    "METHODS",
    "FrechetDistance",
    "PermutationTest",
    "SetDistance",
    "SetScore",
    "frechet_distance",
    "mmd_bootstrap",
    "mmd_permutation_test",
    "mmd_rbf",
]
