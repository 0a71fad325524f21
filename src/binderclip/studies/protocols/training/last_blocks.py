"""Fine-tuning the last blocks of an image tower on few pictures: what studies of shortcuts share.

What enters those blocks is the same in every step, so it is computed once, and a step takes a fraction of the time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.models import Tokens

TRAINED, BATCH = 2, 24


class Entering(NamedTuple):
    """What enters the trained blocks.

    Attributes:
        first: tokens of one batch, for their positions. x: (N, L, D) of all pictures. start: the first trained block.
    """

    first: Tokens
    x: Float[Tensor, "N L D"]
    start: int


@torch.no_grad()
def entering(clip: Any, pictures: Float[Tensor, "N 3 S S"]) -> Entering:
    """Run a model's image tower up to its last two blocks."""
    tower, start = clip.image_tower, clip.image_tower.depth - TRAINED
    parts = [tower.run(tower.embed(clip.preprocess(part)), stop=start) for part in pictures.split(BATCH)]
    return Entering(parts[0], torch.cat([tokens.x for tokens in parts]), start)


def leaving(clip: Any, held: Entering, rows: Tensor) -> Float[Tensor, "n E"]:
    """Unit features of some of the pictures, with gradients to the last two blocks."""
    tokens = clip.image_tower.run(held.first.with_x(held.x[rows]), start=held.start)
    return F.normalize(clip.image_tower.project(clip.image_tower.pool(tokens)), dim=-1)


def trained_parameters(clip: Any) -> list[nn.Parameter]:
    """Those of the last two blocks, in the order of the model's own parameters."""
    last = {id(p) for block in list(clip.image_tower.blocks)[-TRAINED:] for p in block.module.parameters()}
    return [p for p in clip.parameters() if id(p) in last]
