"""Random maps, which the studies of attribution let stand for a method's."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate


def random_maps(count: int, side: int, chance: int | torch.Generator, *, cells: int = 16) -> Float[Tensor, "N S S"]:
    """Maps as smooth as those of a network's last layers: uniform cells, resized bilinearly.

    Args:
        count: of maps.
        side: of a map in pixels.
        chance: seed, or a generator that other draws follow.
        cells: of a side.
    """
    generator = torch.Generator().manual_seed(chance) if isinstance(chance, int) else chance
    return interpolate(torch.rand(count, 1, cells, cells, generator=generator), size=(side, side), mode="bilinear")[
        :, 0
    ]
