"""Where in a backbone a reduction acts, for the length of a stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from binderclip.errors import NotSupported, UsageError
from binderclip.models.towers import open_image_tower
from binderclip.train.tokens.image import PatchSelection, Resize, TokenReduction
from binderclip.train.tokens.positions import Positions, positions_for

__all__ = ["check_size", "input_side", "patch_grid", "prefix_tokens", "reduced_tokens", "short_context"]


@contextlib.contextmanager
def reduced_tokens(
    backbone: nn.Module,
    tokens: TokenReduction | None,
    positions: Positions = "fixed",
    *,
    image_size: int | None = None,
    text_length: int | None = None,
) -> Iterator[None]:
    """Fewer tokens and other positions on entry, the former state on exit.

    Args:
        backbone: an open_clip model, others without `tokens` and with fixed positions.
        tokens: which image tokens are kept in training.
        positions: see `positions_for`.
        image_size: side in pixels of the pictures that the tower is given in training; None is the model's own.
        text_length: tokens of a training caption; None is the model's own context.

    Raises:
        NotSupported: the backbone has no place for what is asked.
        UsageError: a size that the reduction cannot do.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(positions_for(backbone, positions, image_size=image_size, text_length=text_length))
        if tokens is not None and not isinstance(tokens, Resize):
            _place(backbone)
            if grid := patch_grid(backbone, image_size):
                tokens.count(grid)  # refuses a grid that it cannot do
            stack.enter_context(_selecting(backbone, tokens))
        yield


@contextlib.contextmanager
def _selecting(backbone: nn.Module, tokens: TokenReduction) -> Iterator[None]:
    """Put a selection of patches where the library has its own patch dropout."""
    owner, name, prefix = _place(backbone)
    former = getattr(owner, name)
    setattr(owner, name, PatchSelection(tokens, prefix))
    try:
        yield
    finally:
        setattr(owner, name, former)


def _place(backbone: nn.Module) -> tuple[Any, str, int]:
    """(module, attribute, prefix tokens) where patches can be dropped after positions were added."""
    visual: Any = getattr(backbone, "visual", None)
    if visual is not None and hasattr(visual, "patch_dropout"):
        return visual, "patch_dropout", 1
    trunk = getattr(visual, "trunk", None)
    if trunk is not None and hasattr(trunk, "patch_drop"):
        return trunk, "patch_drop", trunk.num_prefix_tokens
    raise NotSupported(
        f"image_tokens: {type(visual or backbone).__name__} has no patch tokens to drop; it works for open_clip and "
        "timm ViTs"
    )


def patch_grid(backbone: nn.Module, image_size: int | None = None) -> tuple[int, int] | None:
    """(h, w) patches that an image tower makes of a square picture; None where it has no patch tokens.

    Args:
        backbone: a model with `visual`.
        image_size: side in pixels; None is the model's own.

    Raises:
        UsageError: a side that is no whole number of patches.
    """
    visual: Any = getattr(backbone, "visual", None)
    trunk = getattr(visual, "trunk", None)
    if hasattr(visual, "patch_dropout"):
        grid, patch = tuple(visual.grid_size), visual.patch_size[0]
    elif hasattr(trunk, "patch_drop"):
        tower = open_image_tower(backbone)  # knows embeddings that are several layers
        grid, patch = tower.grid, tower.patch
    else:
        return None
    if image_size is None:
        return grid[0], grid[1]
    if image_size % patch:
        raise UsageError(f"image_size {image_size} is no multiple of the patch, {patch} pixels")
    return image_size // patch, image_size // patch


def input_side(backbone: nn.Module, tokens: TokenReduction | None, side: int) -> int:
    """Side in pixels of the pictures that a tower is given in training.

    Args:
        backbone: a model with `visual`.
        tokens: the stage's reduction; `Resize` makes pictures smaller, to whole patches.
        side: of the pictures before.

    Raises:
        NotSupported: resized pictures for a tower without patches.
    """
    if not isinstance(tokens, Resize):
        return side
    grid = patch_grid(backbone, side)
    if grid is None or grid[0] != grid[1]:
        raise NotSupported("image_tokens 'resize' counts patches of a square ViT; set image_size for this model")
    return side // grid[0] * tokens.side(grid[0])


def prefix_tokens(backbone: nn.Module) -> int:
    """Image tokens that are no patches: the class token and registers; 0 where there are no tokens.

    Args:
        backbone: a model with `visual`.
    """
    try:
        return _place(backbone)[2]
    except NotSupported:
        return 0


def check_size(backbone: nn.Module, positions: Positions, image_size: int | None) -> None:
    """Whether the library's own forward pass takes pictures of this size.

    Args:
        backbone: a model with `visual`.
        positions: of the stage.
        image_size: side in pixels; None is the model's own.

    Raises:
        NotSupported: a ViT whose positions stay as they are.
    """
    visual: Any = getattr(backbone, "visual", None)
    if positions != "fixed" or type(visual).__name__ != "VisionTransformer" or image_size is None:
        return
    if patch_grid(backbone, image_size) != tuple(visual.grid_size):
        raise NotSupported(
            f"image_size {image_size}: this model's positions are those of {visual.image_size[0]} x "
            f"{visual.image_size[1]} pixels; write positions = 'sincos' or 'interpolated' to train at another size"
        )


@contextlib.contextmanager
def short_context(backbone: nn.Module, length: int) -> Iterator[None]:
    """Let open_clip's text tower take `length` tokens: its causal mask is of the full context."""
    text: Any = getattr(backbone, "text", None)
    mask = getattr(text, "attn_mask", None)
    if mask is None or mask.shape[-1] == length:
        yield
        return
    text.attn_mask = mask[:length, :length]
    try:
        yield
    finally:
        text.attn_mask = mask
