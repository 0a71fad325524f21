"""The rewired last block: what multiplies the values, and what stays of the block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from jaxtyping import Float
from torch import Tensor

from binderclip.models.tokens import Tokens
from binderclip.models.towers import Block, Tower


@dataclass
class Context:
    """What parts may look at while one batch of pixels is segmented.

    Attributes:
        tower: the image tower.
        pixels: (B, 3, h, w) in [0, 1], as the model sees them before normalisation.
        tokens: the residual stream entering the last block.
        notes: free for parts that work together (affinities, region masks).
    """

    tower: Tower
    pixels: Tensor
    tokens: Tokens
    notes: dict[str, Any] = field(default_factory=dict)


Qkv: TypeAlias = tuple[Tensor, Tensor, Tensor]
#: (block, q k v, context) -> weights (B, 1 or H, M, N), rows need not sum to 1; None = every token its own value.
AttentionMap: TypeAlias = "Callable[[Block, Qkv, Context], Tensor | None]"


def identity(_block: Block, _qkv: Qkv, _context: Context) -> None:
    """Every token keeps its own value."""
    return None


def vanilla(block: Block, qkv: Qkv, _context: Context) -> Float[Tensor, "B H L L"]:
    """The block's own attention."""
    return block.weights(qkv[0], qkv[1])


@dataclass(frozen=True)
class LastBlock:
    """Runs the tower up to its last block and that block by another attention map.

    Args:
        map: weights of the values.
        residual: keep the residual sum around attention.
        mlp: keep the MLP with its residual sum.
    """

    map: AttentionMap = identity
    residual: bool = False
    mlp: bool = False

    def __call__(self, context: Context) -> Float[Tensor, "B E gh gw"]:
        """Dense features in the shared space."""
        block, tokens = context.tower.blocks[-1], context.tokens
        qkv = block.qkv(tokens.x)
        out = block.mix(self.map(block, qkv, context), qkv[2])
        if self.residual:
            out = tokens.x + out
        if self.mlp:
            out = out + block.mlp(out)
        return context.tower.dense(tokens.with_x(out))
