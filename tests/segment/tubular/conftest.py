"""What the tests of tubes share: a plain tube whose truth is known by construction."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor


@dataclass(frozen=True)
class Plain:
    """A white tube on black, and its annotation."""

    image: Tensor
    line: Tensor
    mask: Tensor

    @property
    def lines(self) -> list[Tensor]:
        return [self.line]

    @property
    def start(self) -> tuple[int, int]:
        return int(self.line[0, 1]), int(self.line[0, 0])

    @property
    def end(self) -> tuple[int, int]:
        return int(self.line[-1, 1]), int(self.line[-1, 0])


@pytest.fixture
def corner() -> Plain:
    """A tube five pixels wide that turns once by a right angle, in 40 x 48 pixels."""
    mask = torch.zeros(40, 48, dtype=torch.bool)
    mask[6:11, 4:40] = True
    mask[6:36, 35:40] = True
    right = torch.stack([torch.full((32,), 8), torch.arange(6, 38)], 1)
    down = torch.stack([torch.arange(9, 34), torch.full((25,), 37)], 1)
    return Plain(mask.float().expand(3, 40, 48).clone(), torch.cat([right, down]), mask)
