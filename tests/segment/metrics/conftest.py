"""Pictures of instances for the tests of metrics."""

from __future__ import annotations

import numpy as np
import pytest


def discs(seed: int, *, n: int = 6, side: int = 40, wrong: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Boolean stacks (predicted, true) of discs: moved, grown, some missing, some invented, some overlapping."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:side, :side]

    def disc(y: float, x: float, radius: float) -> np.ndarray:
        return (yy - y) ** 2 + (xx - x) ** 2 <= radius**2

    ours, true = [], []
    for k in range(n + wrong):
        y, x = rng.uniform(4, side - 4, 2)
        radius = rng.uniform(3, 7)
        if k < n:
            true.append(disc(y, x, radius))
        if k >= wrong:
            dy, dx = rng.normal(0, 1.5, 2)
            ours.append(disc(y + dy, x + dx, radius + rng.uniform(-1, 1)))
    return np.array(ours), np.array(true)


def flat(stack: np.ndarray) -> np.ndarray:
    """A stack as a label map, later masks on top."""
    labels = np.zeros(stack.shape[1:], dtype=np.int64)
    for number, mask in enumerate(stack, 1):
        labels[mask] = number
    return labels


@pytest.fixture(scope="session")
def make_discs():
    """`discs(seed, ...) -> (predicted, true)` stacks."""
    return discs


@pytest.fixture(scope="session")
def flatten():
    """`flat(stack) -> label map`."""
    return flat
