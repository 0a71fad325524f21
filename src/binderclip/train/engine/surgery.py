"""Small changes to a backbone that hold for the length of a stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from binderclip.errors import NotSupported
from binderclip.train.tokens.image import TokenReduction
from binderclip.train.tokens.place import reduced_tokens
from binderclip.train.tokens.positions import Positions

__all__ = ["training_view"]


@contextlib.contextmanager
def training_view(
    backbone: Any,
    *,
    tokens: TokenReduction | None = None,
    positions: Positions = "fixed",
    image_size: int | None = None,
    text_length: int | None = None,
    grad_checkpointing: bool = False,
    channels_last: bool = False,
) -> Iterator[None]:
    """Fewer tokens, other positions, recomputed activations and memory format on entry, the former state on exit.

    Args:
        backbone: an open_clip model (others only without `tokens` and with fixed positions).
        tokens: which image tokens are kept in training.
        positions: see `positions_for`.
        image_size: side in pixels of the pictures that the tower is given in training; None is the model's own.
        text_length: tokens of a training caption; None is the model's own context.
        grad_checkpointing: recompute activations in the backward pass.
        channels_last: memory format of convolution weights.

    Raises:
        NotSupported: the backbone has no place for what is asked.
        UsageError: a size that the reduction cannot do.
    """
    with contextlib.ExitStack() as stack:
        shape = {"image_size": image_size, "text_length": text_length}
        stack.enter_context(reduced_tokens(backbone, tokens, positions, **shape))
        if grad_checkpointing:
            if not hasattr(backbone, "set_grad_checkpointing"):
                raise NotSupported(f"grad_checkpointing: {type(backbone).__name__} cannot recompute activations")
            backbone.set_grad_checkpointing(True)
            stack.callback(backbone.set_grad_checkpointing, False)
        if channels_last:
            backbone.to(memory_format=torch.channels_last)
        yield
