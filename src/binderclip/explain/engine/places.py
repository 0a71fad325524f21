"""Places of a model whose tensors are read: their names, the last feature map, and a tensor there as a grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError

__all__ = ["Layer", "Place", "last_map", "site_of", "to_grid", "tokens_to_grid"]

Place: TypeAlias = int | str | tuple[str, int]
"""`"input"`, a block index, a `models.Site` (name, block) of a tower, or the name of a submodule."""

Layer: TypeAlias = Place | nn.Module
"""A place as a user may give it: also the submodule itself."""

# Finding the last map costs a forward pass: once for a network and a size of image.
_LAST_MAPS: WeakKeyDictionary[nn.Module, tuple[Any, str]] = WeakKeyDictionary()


def last_map(network: nn.Module, images: Float[Tensor, "B C H W"], forward: Callable[[Tensor], Tensor]) -> str:
    """Name of the submodule that gives the last feature map, found by one forward pass of one image.

    Args:
        network: whose submodules are watched.
        images: of the size that is to be explained.
        forward: what runs them.

    Raises:
        NotSupported: there is none, or tokens follow it.
    """
    maps: list[tuple[str, int, torch.Size]] = []

    def note(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim in (3, 4):
                maps.append((name, output.ndim, output.shape))

        return hook

    parts = tuple((n, type(m)) for n, m in network.named_modules())
    key = (parts, tuple(images.shape[1:]))
    known = _LAST_MAPS.get(network)
    if known is not None and known[0] == key:
        return known[1]
    handles = [m.register_forward_hook(note(n)) for n, m in network.named_modules() if n]
    try:
        with torch.no_grad():
            forward(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    spatial = [i for i, (_, ndim, s) in enumerate(maps) if ndim == 4 and min(s[-2:]) > 1]
    if not spatial:
        raise NotSupported(f"{type(network).__name__} has no feature map to show: name one with layer=")
    if sum(ndim == 3 for _, ndim, _ in maps[spatial[-1] + 1 :]) > 2:
        raise NotSupported(
            f"{type(network).__name__} goes on with tokens after its last feature map: name the layer, for a timm "
            "ViT layer='blocks.11.norm1'"
        )
    _LAST_MAPS[network] = (key, maps[spatial[-1]][0])
    return maps[spatial[-1]][0]


def site_of(place: Place, depth: int) -> tuple[str, int]:
    """(name, block) of a place in a tower: a bare index means the tokens after the block's first norm."""
    from binderclip.models.towers.record import BLOCK_SITES

    name, layer = ("ln1", place) if isinstance(place, int) else (str(place[0]), place[1])
    if name not in BLOCK_SITES:
        raise UsageError(f"layer {place!r}: a block has {', '.join(BLOCK_SITES)}")
    if not isinstance(layer, int) or not -depth <= layer < depth:
        raise UsageError(f"layer {place!r}: the tower has {depth} blocks (0 to {depth - 1}, or -1 to -{depth})")
    return name, layer % depth


def tokens_to_grid(value: Tensor, name: str, grid: tuple[int, int], prefix: int) -> Tensor:
    """Patch tokens (B, L, D), or (B, H, L, d) a head, to (B, h, w, D)."""
    if name == "attn":
        raise UsageError("attention weights (B, H, L, L) have no place in the image: read them raw")
    tokens = value.transpose(1, 2).flatten(2) if value.ndim == 4 else value
    return tokens[:, prefix : prefix + grid[0] * grid[1]].unflatten(1, grid)


def to_grid(value: Tensor, name: str, aspect: float) -> Tensor:
    """A recorded value as (B, h, w, C): feature maps, channels first or last, and square tokens."""
    if value.ndim == 4:
        _, a, b, c = value.shape
        # Patch embeddings and some networks keep channels last; read as channels first their map would be a sliver.
        if not 1 / 2 <= b / c / aspect <= 2 and 4 / 5 <= a / b / aspect <= 5 / 4:
            return value
        return value.permute(0, 2, 3, 1)
    if value.ndim == 3:
        length = value.shape[1]
        for prefix in range(min(length, 9)):
            side = round((length - prefix) ** 0.5)
            if side > 1 and side * side == length - prefix:
                return value[:, prefix:].unflatten(1, (side, side))
    raise UsageError(f"layer {name!r} gives {tuple(value.shape)}: neither a feature map (B, C, h, w) nor square tokens")
