"""Training with weights that the forward pass sees in a few bits."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from binderclip.errors import UsageError
from binderclip.optim.fake_quantization import AffineGrid, Blocks, MinMax, fake_quant

__all__ = ["fake_quantize", "quantized_linear"]

M = TypeVar("M", bound=nn.Module)


def fake_quantize(weight: Float[Tensor, "*shape"], bits: int = 4, group_size: int = 128) -> Float[Tensor, "*shape"]:
    """The weights rounded to 2^bits levels between the minimum and the maximum of each group; the gradient passes
    straight through.

    With scale = (max - min) / (2^bits - 1) and zero = round(-min / scale) clamped to the levels, a weight becomes
    (clamp(round(w / scale) + zero) - zero) * scale.

    Args:
        weight: of any shape; groups are `group_size` consecutive values, the last may be shorter.
        bits: 1 to 16.
        group_size: at least 1.

    Raises:
        UsageError: a value outside its range.

    Paper: as in Stable-SPAM, arXiv 2502.17055.
    """
    _check(bits, group_size)
    rounded = fake_quant(weight.detach().float(), MinMax(), AffineGrid(bits), blocks=Blocks(size=group_size))
    # Weight plus difference, which differs from the level in its last bit: so studies were measured.
    return weight + (rounded.to(weight.dtype) - weight).detach()


class _FakeQuantized(nn.Module):
    def __init__(self, bits: int, group_size: int) -> None:
        super().__init__()
        self.bits, self.group_size = bits, group_size

    def forward(self, weight: Tensor) -> Tensor:
        return fake_quantize(weight, self.bits, self.group_size)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, group_size={self.group_size}"


def quantized_linear(module: M, bits: int = 4, group_size: int = 128, *, exclude: str | Iterable[str] = ()) -> M:
    """Let every `nn.Linear` compute with weights of a few bits, while the optimizer trains full-precision ones.

    The weight becomes a parametrisation of `torch.nn.utils.parametrize`: the trained parameter is
    `parametrizations.weight.original`; `remove_parametrizations(layer, "weight")` makes the rounded weights final.

    Args:
        module: changed in place.
        bits: 1 to 16.
        group_size: consecutive weights that share a scale.
        exclude: name patterns (shell wildcards) of layers that stay as they are.

    Returns:
        The module.

    Raises:
        UsageError: a value outside its range, or no Linear layer that is not quantised already.

    Examples:
        >>> layer = quantized_linear(nn.Linear(64, 8), bits=2, group_size=64)
        >>> max(len(row.unique()) for row in layer.weight)
        4

    Paper: Stable-SPAM: How to Train in 4-Bit More Stably than 16-Bit Adam, arXiv 2502.17055.
    """
    _check(bits, group_size)
    patterns = (exclude,) if isinstance(exclude, str) else tuple(exclude)
    chosen = [
        layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
        and not parametrize.is_parametrized(layer, "weight")
        and not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    ]
    if not chosen:
        raise UsageError("there is nothing to quantise: no nn.Linear with a plain weight is left in this module")
    for layer in chosen:
        # rounding cannot be undone, so assigning to .weight must not try
        parametrize.register_parametrization(layer, "weight", _FakeQuantized(bits, group_size))
    return module


def _check(bits: int, group_size: int) -> None:
    if not 1 <= bits <= 16 or bits != int(bits):
        raise UsageError(f"bits must be a whole number from 1 to 16, got {bits}")
    if group_size < 1 or group_size != int(group_size):
        raise UsageError(f"group_size must be a whole number of at least 1, got {group_size}")
