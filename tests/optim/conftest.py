from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip.optim import Threshold


class DoubleThePast(Threshold):
    """A rule with a memory per block: at most twice the moving average of what was let through."""

    def __init__(self, beta=0.5):
        self.beta, self.average = beta, torch.zeros(0)

    def _grown(self, reading):
        missing = reading.capacity - len(self.average)
        if missing > 0:
            self.average = torch.cat([self.average.to(reading.stat), reading.stat.new_full((missing,), -1.0)])
        return self.average[reading.slots]

    def limit(self, reading):
        past = self._grown(reading)
        return torch.where(past < 0, torch.inf, 2 * past)

    def observe(self, reading, clipped):
        past = self._grown(reading)
        new = torch.where(past < 0, clipped, self.beta * past + (1 - self.beta) * clipped)
        self.average = self.average.clone()
        self.average[reading.slots] = torch.where(reading.finite, new, past)

    def state_dict(self):
        return {"average": self.average.clone()}

    def load_state_dict(self, state):
        self.average = state["average"].clone()


@pytest.fixture
def remembering():
    return DoubleThePast


@pytest.fixture
def parameters():
    """Parameters of many shapes with random gradients: parameters(scale, seed, dtype)."""

    def make(scale=1.0, seed=0, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        shapes = {"conv": (4, 3, 2, 2), "weight": (5, 7), "bias": (5,), "column": (6, 1), "logit_scale": ()}
        result = {}
        for name, shape in shapes.items():
            tensor = nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
            tensor.grad = (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
            result[name] = tensor
        return result

    return make
