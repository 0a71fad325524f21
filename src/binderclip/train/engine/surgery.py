"""Small changes to a backbone that hold for the length of a stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from binderclip.errors import NotSupported, UsageError
from binderclip.models import ImageTextModel, TokenIds

__all__ = ["short_context", "shorten", "training_view"]


@contextlib.contextmanager
def training_view(
    backbone: Any, *, patch_dropout: float = 0.0, grad_checkpointing: bool = False, channels_last: bool = False
) -> Iterator[None]:
    """Patch dropout, recomputed activations and memory format on entry, the former state on exit.

    Args:
        backbone: an open_clip model (others only without patch dropout).
        patch_dropout: share of patch tokens left out in training.
        grad_checkpointing: recompute activations in the backward pass.
        channels_last: memory format of convolution weights.

    Raises:
        NotSupported: the backbone has no place for what is asked.
    """
    undo = _set_patch_dropout(backbone, patch_dropout) if patch_dropout else None
    if grad_checkpointing:
        if not hasattr(backbone, "set_grad_checkpointing"):
            raise NotSupported(f"grad_checkpointing: {type(backbone).__name__} cannot recompute activations")
        backbone.set_grad_checkpointing(True)
    if channels_last:
        backbone.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        if undo is not None:
            owner, name, former = undo
            setattr(owner, name, former)
        if grad_checkpointing:
            backbone.set_grad_checkpointing(False)


def _set_patch_dropout(backbone: nn.Module, share: float) -> tuple[nn.Module, str, Any]:
    """Put the library's own patch dropout in; (owner, attribute, what was there)."""
    visual: Any = getattr(backbone, "visual", None)
    if visual is not None and hasattr(visual, "patch_dropout"):
        from open_clip.transformer import PatchDropout

        former, visual.patch_dropout = visual.patch_dropout, PatchDropout(share)
        return visual, "patch_dropout", former
    trunk = getattr(visual, "trunk", None)
    if trunk is not None and hasattr(trunk, "patch_drop"):
        from timm.layers import PatchDropout as TimmPatchDropout

        former, trunk.patch_drop = trunk.patch_drop, TimmPatchDropout(share, trunk.num_prefix_tokens)
        return trunk, "patch_drop", former
    raise NotSupported(
        f"patch_dropout: {type(visual or backbone).__name__} has no patch tokens to drop; it works for open_clip and "
        "timm ViTs"
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


def shorten(model: ImageTextModel, tokens: TokenIds, length: int | None) -> TokenIds:
    """Captions cut to `length` tokens, the end token kept: shorter captions train faster (CLIPA, arXiv 2305.07017).

    Raises:
        UsageError: longer than the model's context.
        NotSupported: a text tower that takes its full context only.
    """
    full = tokens.ids.shape[1]
    if length is None or length == full:
        return tokens
    if length > full:
        raise UsageError(f"text_length {length} is more than the model's context of {full} tokens")
    text = getattr(model.backbone, "text", None)
    if text is None or not hasattr(text, "positional_embedding"):
        raise NotSupported(f"text_length: this model's text tower always takes {full} tokens; leave text_length out")
    ids, mask, position = tokens.ids[:, :length].clone(), tokens.mask[:, :length], tokens.position
    late = position >= length
    ids[late, length - 1] = tokens.ids[late, position[late]]
    return TokenIds(ids, mask, position.clamp(max=length - 1))
