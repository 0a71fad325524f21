"""Which weights of a model make up a layer."""

from __future__ import annotations

import re

from torch import nn

from binderclip.errors import UsageError

_BLOCK = re.compile(r"^(?:.*\.)?(?:resblocks|blocks|layers|layer|h|layer\d+|stages\.\d+)\.\d+(?=\.)")
"""One residual block of a transformer or of a residual network, its attention and its MLP together."""
_LEAVES = ("weight", "bias", "running_mean", "running_var")


def weight_layers(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """The layers of a model: their names, and the parameters and floating buffers of each.

    A residual block is one layer, attention and MLP together; what stands outside of blocks, such as the patch
    embedding, a norm or a projection, is a layer for itself. Parameters without an axis, such as a logit scale, are in
    none. A weight that modules share belongs to the first.

    Args:
        model: any module.

    Raises:
        UsageError: no weight with an axis.

    Examples:
        >>> weight_layers(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
        {'0': ('0.weight', '0.bias'), '2': ('2.weight', '2.bias')}
    """
    layers: dict[str, list[str]] = {}
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if buffer.is_floating_point()]
    for name, tensor in [*model.named_parameters(), *buffers]:
        if tensor.ndim:
            block = _BLOCK.match(name)
            owner, _, leaf = name.rpartition(".")
            layers.setdefault(block[0] if block else owner if owner and leaf in _LEAVES else name, []).append(name)
    if not layers:
        raise UsageError(f"{type(model).__name__} has no weight with an axis, so it has no layer")
    return {layer: tuple(names) for layer, names in layers.items()}


def chosen_layers(model: nn.Module, layers: tuple[str, ...] | list[str] | None) -> dict[str, tuple[str, ...]]:
    """Those of the model's layers that are asked for; None for all.

    Raises:
        UsageError: a layer that the model does not have, or none at all.
    """
    from binderclip.settings import hint

    known = weight_layers(model)
    if layers is None:
        return known
    if isinstance(layers, str) or not layers:
        raise UsageError(f"layers is a list of names of layers, got {layers!r}")
    for layer in layers:
        if layer not in known:
            raise UsageError(f"the model has no layer {layer!r}: {hint(layer, known)}")
    return {layer: known[layer] for layer in dict.fromkeys(layers)}
