"""What trained methods share of an image tower: how pictures enter it, and which of its weights may move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.models.towers.tokens import Tokens
from binderclip.segment.parts.context import dense_tower

__all__ = ["embed_once", "picture_side", "squashed", "tower_parameters"]


def picture_side(model: Any, size: int | None) -> int:
    """The side at which pictures are seen: `size`, or twice the model's own.

    Raises:
        UsageError: it is no multiple of the patch.
    """
    patch = dense_tower(model).patch
    side = 2 * model.preprocess.size[0] if size is None else size
    if side < patch or side % patch:
        raise UsageError(f"size {size} is no multiple of the patch of {patch} pixels")
    return side


def squashed(model: Any, images: ImageLike | Sequence[ImageLike], side: int) -> Float[Tensor, "B 3 S S"]:
    """Pictures at `side` pixels a side, normalised for the model.

    Args:
        model: an image-text model.
        images: one or many, as `Preprocess` takes them.
        side: in pixels.
    """
    squash = replace(model.preprocess, size=(side, side), resize_mode="squash")
    return squash(images).to(model.device)


@torch.no_grad()
def embed_once(
    model: Any,
    pixels: Callable[[Float[Tensor, "_ 3 H W"]], Float[Tensor, "_ 3 S S"]],
    images: Float[Tensor, "N 3 H W"],
    at_once: int = 16,
    *,
    blocks: int = 0,
) -> Tokens:
    """What enters a block for each picture, where training does not change that.

    Args:
        model: an image-text model.
        pixels: what it sees of pictures.
        images: in [0, 1].
        at_once: pictures a pass.
        blocks: how many blocks are run, too; default none, so that the tokens enter the first.
    """
    tower = dense_tower(model)
    parts = [tower.run(tower.embed(pixels(some)), stop=blocks) for some in images.split(at_once)]
    return parts[0].with_x(torch.cat([part.x for part in parts]))


def tower_parameters(model: Any, blocks: int | None) -> list[nn.Parameter]:
    """Parameters of the last blocks and the final norm, or of the whole image tower.

    Args:
        model: an image-text model.
        blocks: number of blocks from the end, 0 for no parameter at all; None for the whole image tower.

    Raises:
        UsageError: a tower without blocks, or more than it has.
    """
    tower = dense_tower(model)
    if not tower.depth:
        raise UsageError("there is nothing to tune: this tower has no block")
    if blocks is None:
        return list(model.visual.parameters())
    if not 0 <= blocks <= tower.depth:
        raise UsageError(f"blocks must be 0 to {tower.depth}, the tower's depth, not {blocks}")
    modules = [*(block.module for block in tower.blocks[tower.depth - blocks :]), tower.final_norm] if blocks else []
    return list(dict.fromkeys(p for module in modules for p in module.parameters()))
