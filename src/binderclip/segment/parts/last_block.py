"""The rewired last block: what multiplies the values, and what stays of the block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import NotSupported
from binderclip.models.towers import Block, Record
from binderclip.segment.parts.context import Context, records, resample, to_map

#: query, key, value (B, H, L, d)
Qkv: TypeAlias = "Sequence[Tensor]"


@dataclass(frozen=True)
class PatchWeights:
    """Weights between patches alone, perhaps on another grid than the tower's (that of an external model).

    Attributes:
        weights: (B, 1 or H, N, N), N = h * w; rows need not sum to 1.
        grid: (h, w). Values are brought to it bilinearly, and the map of tokens comes out on it.
    """

    weights: Tensor
    grid: tuple[int, int]


#: (block, q k v, context) -> weights (B, 1 or H, L, L) over all tokens, rows need not sum to 1; `PatchWeights`; or None
#: for every token its own value. An attribute `record` names what it wants of earlier blocks.
AttentionMap: TypeAlias = "Callable[[Block, Qkv, Context], Tensor | PatchWeights | None]"


def identity(_block: Block, _qkv: Qkv, _context: Context) -> None:
    """Every token keeps its own value."""
    return None


def vanilla(block: Block, qkv: Qkv, _context: Context) -> Float[Tensor, "B H L L"]:
    """The block's own attention."""
    return block.weights(qkv[0], qkv[1])


@dataclass(frozen=True)
class LastBlock:
    """The last block by another attention map.

    Args:
        map: weights of the values.
        residual: keep the residual sum around attention.
        mlp: keep the MLP with its residual sum.
    """

    map: AttentionMap = identity
    residual: bool = False
    mlp: bool = False

    @property
    def record(self) -> Record:
        """What the map wants of earlier blocks."""
        return records(self.map)

    def __call__(self, context: Context) -> Float[Tensor, "B D gh gw"]:
        """Patch tokens before the final norm."""
        return self.of(context, context.qkv(-1), context.tokens.x)

    def of(self, context: Context, qkv: Qkv, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B D gh gw"]:
        """The same on another stream `x` with its own query, key and value (layer fusion sends earlier blocks here)."""
        out, prefix, grid = self._tokens(context, qkv, x)
        return to_map(out[:, prefix : prefix + grid[0] * grid[1]], grid)

    def with_class_token(self, context: Context) -> tuple[Float[Tensor, "B D gh gw"], Float[Tensor, "B D"]]:
        """Patch tokens, and the class token after the same block.

        Raises:
            NotSupported: a tower without a class token, or a map between patches alone.
        """
        out, prefix, grid = self._tokens(context, context.qkv(-1), context.tokens.x)
        if prefix < 1:
            raise NotSupported("the class token of the last block: this tower, or this attention map, has none")
        return to_map(out[:, prefix : prefix + grid[0] * grid[1]], grid), out[:, 0]

    def _tokens(self, context: Context, qkv: Qkv, x: Float[Tensor, "B L D"]) -> tuple[Tensor, int, tuple[int, int]]:
        """All tokens, how many stand before the patches, and the grid."""
        block, prefix, grid = context.block, context.prefix, context.grid
        weights = self.map(block, qkv, context)
        if isinstance(weights, PatchWeights):
            values = qkv[2][:, :, prefix:]
            if weights.grid != grid:
                wide = to_map(values.transpose(1, 2).flatten(2), grid)
                wide = resample(wide, weights.grid).flatten(2).transpose(1, 2)
                values = wide.unflatten(-1, (values.shape[1], -1)).transpose(1, 2)
            out = block.mix(weights.weights, values)
            stream = resample(to_map(x[:, prefix:], grid), weights.grid).flatten(2).transpose(1, 2)
            prefix, grid = 0, weights.grid
        else:
            out, stream = block.mix(weights, qkv[2]), x
        if self.residual:
            out = stream + out
        if self.mlp:
            out = out + block.mlp(out)
        return out, prefix, grid


@dataclass(frozen=True)
class OwnTokens:
    """The tower's own last tokens, nothing rewired; of a convolutional tower its last feature map."""

    needs_attention = False

    def __call__(self, context: Context) -> Float[Tensor, "B D gh gw"]:
        """Patch tokens before the final norm."""
        tower = context.tower
        return to_map(tower.run(context.tokens, start=max(0, tower.depth - 1)).patches, context.grid)


def row_normalised(weights: Float[Tensor, "*B N N"]) -> Float[Tensor, "*B N N"]:
    """Rows that sum to 1; a row of zeros becomes the identity's."""
    total = weights.sum(-1, keepdim=True)
    eye = torch.eye(weights.shape[-1], device=weights.device, dtype=weights.dtype)
    return torch.where(total > 0, weights / total.clamp(min=torch.finfo(weights.dtype).tiny), eye)
