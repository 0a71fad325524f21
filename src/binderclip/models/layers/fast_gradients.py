"""Layers of the libraries computed in the way whose gradients are fastest, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from timm.layers import Attention, Conv2dSame
from torch import nn

from binderclip.models.layers.depthwise import TiledDepthwise, TiledDepthwiseSame
from binderclip.models.layers.self_attention import PackedAttention, ShortAttention

__all__ = ["fast_gradients"]


@contextmanager
def fast_gradients(module: nn.Module) -> Iterator[None]:
    """Run the same layers with a faster backward, inside the context: for training, attribution, attacks.

    Self-attention of torch and timm and depthwise convolutions that torch is slow with run as `PackedAttention`,
    `ShortAttention` and `TiledDepthwise`: the same parameters, values and gradients up to rounding, also under
    `torch.func` and with `is_grads_batched`. Without gradients their own code runs.

    Args:
        module: what gradients go through. Classes of its parts are put back at the end; a copy made meanwhile keeps
            working.

    Examples:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(8, 8, 5, padding=2, groups=8), nn.ReLU())
        >>> with fast_gradients(model):
        ...     model(torch.ones(1, 8, 16, 16)).sum().backward()
        >>> model[0].weight.grad.shape
        torch.Size([8, 1, 5, 5])
    """
    swapped: list[tuple[nn.Module, type[nn.Module], type[nn.Module]]] = []
    for part in module.modules():
        own = type(part)
        faster = _faster(part)
        if faster is not None:
            part.__class__ = faster
            swapped.append((part, own, faster))
    try:
        yield
    finally:
        for part, own, faster in swapped:
            if type(part) is faster:  # else somebody has wrapped it since
                part.__class__ = own


def _faster(part: nn.Module) -> type[nn.Module] | None:
    """The class that a layer may run as; exact types only, since a subclass has its own forward."""
    if type(part) is nn.MultiheadAttention and PackedAttention.suits(part):
        return PackedAttention
    if type(part) is Attention:
        return ShortAttention
    if type(part) is nn.Conv2d and TiledDepthwise.suits(part):
        return TiledDepthwise
    if type(part) is Conv2dSame and TiledDepthwise.suits(part):
        return TiledDepthwiseSame
    return None
