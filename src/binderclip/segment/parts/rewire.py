"""Attention maps for the last block: tokens attend to what is like them, as far as queries, keys or values say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.towers import Block, Record
from binderclip.models.towers.correlation import correlation
from binderclip.segment.parts.context import Context, layer_at, records, to_map
from binderclip.segment.parts.last_block import AttentionMap, PatchWeights, Qkv
from binderclip.settings import check_choice

PLACES = {"q": 0, "k": 1, "v": 2}


def terms_of(text: str) -> tuple[str, ...]:
    """`"q+k"` -> ("q", "k").

    Raises:
        UsageError: anything but q, k and v, or one of them twice.
    """
    terms = tuple(part.strip() for part in text.split("+")) if isinstance(text, str) else ()
    if not terms or set(terms) - set(PLACES) or len(set(terms)) < len(terms):
        raise UsageError(f'of is "q", "k", "v" or several of them joined by +, such as "q+k"; got {text!r}')
    return terms


@dataclass(frozen=True)
class SelfSelf:
    """Self-self attention: softmax(q q^T / sqrt(d)), and the same of keys and values, summed.

    A token attends to tokens with the same query (key, value), itself first, instead of to those its query looks for.

    Args:
        of: which, such as "q", "k", "v", "q+k" or "q+k+v".
        combine: "sum", whose rows sum to the number of terms, or "mean".
        layer: take them of this block (an index, or a share of the depth as in `layer_at`); None for the block whose
            attention is rewired.
        fallback: a last block whose queries (or keys) are all zero attends uniformly and says nothing about likeness;
            True takes them of the block before. This is so in the bundled `small`.

    Raises:
        UsageError: an unknown term or combination.

    Papers: SCLIP (arXiv 2312.01597, "q+k"), ClearCLIP (arXiv 2407.12442, "q"), CLIP Surgery (arXiv 2304.05653, "v"),
    CLIPtrase (arXiv 2407.08268, "q+k+v").
    """

    of: str = "q+k"
    combine: Literal["sum", "mean"] = "sum"
    layer: int | float | None = None
    fallback: bool = True

    def __post_init__(self) -> None:
        terms_of(self.of)
        check_choice("combine", self.combine, ("sum", "mean"))

    @property
    def record(self) -> Record:
        """Query, key and value of the blocks it may read."""
        if self.layer is not None:
            return Record("q", "k", "v")
        return Record("q", "k", "v", layers=[-2]) if self.fallback else Record()

    def __call__(self, block: Block, qkv: Qkv, context: Context) -> Float[Tensor, "B H L L"]:
        """Weights over all tokens."""
        depth = context.tower.depth
        source = qkv if self.layer is None else context.qkv(layer_at(self.layer, depth))
        total: Tensor | None = None
        terms = terms_of(self.of)
        for term in terms:
            x = source[PLACES[term]]
            if self.fallback and self.layer is None and block is context.block and depth > 1 and not bool(x.any()):
                x = context.qkv(-2)[PLACES[term]]
            weights = block.weights(x, x)
            total = weights if total is None else total + weights
        assert total is not None
        return total / len(terms) if self.combine == "mean" else total


@dataclass(frozen=True)
class Blend:
    """Two attention maps mixed: share * first + (1 - share) * second.

    Args:
        first, second: attention maps; `identity` counts as the unit matrix.
        share: of the first.

    Raises:
        UsageError: maps on different tokens (one over all tokens, one over patches of another model).
    """

    first: AttentionMap
    second: AttentionMap
    share: float = 0.5

    @property
    def record(self) -> Record:
        """What both want."""
        return records(self.first, self.second)

    def __call__(self, block: Block, qkv: Qkv, context: Context) -> Tensor | PatchWeights:
        """The mixture."""
        one, other = (each(block, qkv, context) for each in (self.first, self.second))
        if isinstance(one, PatchWeights) or isinstance(other, PatchWeights):
            if not (isinstance(one, PatchWeights) and isinstance(other, PatchWeights) and one.grid == other.grid):
                raise UsageError("Blend: one map is over all tokens and the other over patches, or their grids differ")
            return PatchWeights(self.share * one.weights + (1 - self.share) * other.weights, one.grid)
        eye = torch.eye(qkv[2].shape[-2], device=qkv[2].device, dtype=qkv[2].dtype)
        one, other = (eye if each is None else each for each in (one, other))
        return self.share * one + (1 - self.share) * other


@dataclass(frozen=True)
class AttentionMean:
    """The mean of an attention map over several earlier blocks, each from its own queries, keys and values.

    Args:
        map: which map; `vanilla` gives the blocks' own attention.
        blocks: indices, or shares of the depth as in `layer_at`; those that name one block count once.

    Paper: ITACLIP (arXiv 2411.12044), whose blocks are the 7th, 8th and 10th of 12.
    """

    map: AttentionMap = SelfSelf("q+k")
    blocks: tuple[float, ...] = (7 / 12, 8 / 12, 10 / 12)

    @property
    def record(self) -> Record:
        """The streams between blocks, of which query, key and value are made: which are meant depends on the tower."""
        return Record("block_in") | records(self.map)

    def __call__(self, _block: Block, _qkv: Qkv, context: Context) -> Tensor:
        """The mean map."""
        layers = sorted({layer_at(where, context.tower.depth) for where in self.blocks})
        weights = [self.map(context.tower.blocks[layer], context.qkv(layer), context) for layer in layers]
        if any(not isinstance(each, Tensor) for each in weights):
            raise UsageError("AttentionMean takes a map over all tokens, such as vanilla or SelfSelf")
        return torch.stack(weights).mean(dim=0)  # type: ignore[arg-type]


@dataclass(frozen=True)
class DualPath:
    """A second path beside the last blocks: it adds up their rewired attention and skips their MLPs (CLIP Surgery).

    The ordinary path runs on as it is and feeds the attention of every block.

    Args:
        map: attention map of the second path.
        share: of the depth over which it runs, the last 6 of 12 by default.

    Paper: Li et al., CLIP Surgery for Better Explainability (arXiv 2304.05653).
    """

    map: AttentionMap = SelfSelf("v")
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(f"DualPath: share {self.share} of the depth is not in (0, 1]")

    @property
    def record(self) -> Record:
        """The stream where it starts, and what the blocks' attention is made of."""
        return Record("block_in", "q", "k", "v") | records(self.map)

    def __call__(self, context: Context) -> Float[Tensor, "B D gh gw"]:
        """Patch tokens before the final norm."""
        depth = context.tower.depth
        start = depth - max(1, round(self.share * depth))
        total = context.stream(start)
        for layer in range(start, depth):
            block, qkv = context.tower.blocks[layer], context.qkv(layer)
            total = total + block.mix(self.map(block, qkv, context), qkv[2])  # type: ignore[arg-type]
        count = context.grid[0] * context.grid[1]
        return to_map(total[:, context.prefix : context.prefix + count], context.grid)


def self_cosine(qkv: Sequence[Float[Tensor, "B H L d"]], of: str = "q+k+v") -> Float[Tensor, "B L L"]:
    """Cosines of every two tokens' queries (keys, values), averaged over terms and heads.

    Args:
        qkv: query, key and value of a block.
        of: as in `SelfSelf`.
    """
    return torch.stack([correlation(qkv[PLACES[term]]).mean(dim=1) for term in terms_of(of)]).mean(dim=0)


def without_class_token(correlation: Float[Tensor, "B L L"], prefix: int) -> Float[Tensor, "B N N"]:
    """Correlation of patches with the class token's row taken off every row, negative values cut off.

    Patches that everything looks at are those the class token looks at; what is left is what two patches share.

    Args:
        correlation: of all tokens.
        prefix: number of tokens before the patches; the first is the class token. With 0 the mean row is taken off.

    Paper: CLIPtrase (arXiv 2407.08268).
    """
    patches = correlation[:, prefix:, prefix:]
    common = correlation[:, :1, prefix:] if prefix else patches.mean(dim=1, keepdim=True)
    return (patches - common).clamp(min=0)
