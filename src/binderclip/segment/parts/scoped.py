"""Attention rebuilt from outside: where it may go by regions, how much by features; and branches beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.models.towers import Block, Record
from binderclip.models.towers.tokens import Tokens, append_tokens
from binderclip.numeric import check_number
from binderclip.segment.parts.affinity import cosines
from binderclip.segment.parts.context import Context, Projected, records, resample, to_map
from binderclip.segment.parts.fusion import Reader
from binderclip.segment.parts.last_block import LastBlock, PatchWeights, Qkv
from binderclip.segment.parts.region_scope import Scope, scoped_softmax
from binderclip.segment.parts.text import BoundText


@dataclass(frozen=True)
class MaskScoped:
    """Patches attend within their region only, by the cosines of features that know what belongs together.

    Args:
        scope: regions, and the features whose cosines are the weights.
        tau: factor on the cosines before the softmax.
        inside: False to let every patch attend to all, by the same cosines.

    Raises:
        UsageError: tau is not positive.

    Paper: CorrCLIP: Reconstructing Patch Correlations in CLIP for Open-Vocabulary Semantic Segmentation
    (arXiv 2411.10086).
    """

    scope: Scope = field(default_factory=Scope)
    tau: float = 4.0
    inside: bool = True

    def __post_init__(self) -> None:
        check_number("tau", self.tau, above=0)

    @property
    def record(self) -> Record:
        """What the scope wants."""
        return self.scope.record

    def __call__(self, _block: Block, _qkv: Qkv, context: Context) -> PatchWeights:
        """Weights between patches, on the grid of the features."""
        key = ("mask scoped", self)
        if key not in context.notes:
            features = self.scope.features(context)
            similar = cosines(features)
            if self.inside:
                weights = scoped_softmax(similar, self.scope(context).flatten(1), self.tau)
            else:
                weights = (self.tau * similar).softmax(-1)
            context.notes[key] = PatchWeights(weights[:, None], (features.shape[-2], features.shape[-1]))
        return context.notes[key]


#: (context, last block, grid of the main branch) -> tokens (B, D, gh, gw) before the final norm
Branch: TypeAlias = "Callable[[Context, LastBlock, tuple[int, int]], Tensor]"


@dataclass(frozen=True)
class SpatialBranch:
    """The mean of mid-block streams through the same rewired last block: less meaning, more detail.

    Args:
        weight: of the branch in the sum.
        blocks: how many blocks before the last but one are averaged over; None for as many as the paper takes of
            towers of 12, 24 and 32 blocks (5, 12, 28), and the share 5/12 of others (the paper has all but four, which
            are none of a small tower).

    Raises:
        UsageError: blocks below 1 or, when called, more than there are.

    Paper: CorrCLIP: Reconstructing Patch Correlations in CLIP for Open-Vocabulary Semantic Segmentation
    (arXiv 2411.10086).
    """

    weight: float = 1.0
    blocks: int | None = None

    def __post_init__(self) -> None:
        if self.blocks is not None and self.blocks < 1:
            raise UsageError(f"blocks must be at least 1, not {self.blocks}")

    @property
    def record(self) -> Record:
        """The streams between the earlier blocks."""
        return Record("block_in")

    def layers(self, depth: int) -> range:
        """The blocks whose outputs are averaged.

        Raises:
            UsageError: the tower has not so many.
        """
        count = {12: 5, 24: 12, 32: 28}.get(depth, max(1, round(depth * 5 / 12)))
        count = count if self.blocks is None else self.blocks
        if count > depth - 2:
            raise UsageError(f"blocks {count}: a tower of {depth} blocks has {max(0, depth - 2)} before its last two")
        return range(depth - 2 - count, depth - 2)

    def __call__(self, context: Context, last_block: LastBlock, grid: tuple[int, int]) -> Float[Tensor, "B D gh gw"]:
        """Tokens of the branch."""
        # The output of a block is the input of the next.
        streams = [context.stream(layer + 1) for layer in self.layers(context.tower.depth)]
        x = torch.stack(streams).mean(0)
        return resample(last_block.of(context, Projected(context.block, x, context.rope), x), grid)


@dataclass(frozen=True)
class MaskClassTokens:
    """A class token for every region, which sees the class token and the region's patches; patches take theirs.

    The tokens run through the whole tower beside the others, which do not see them.

    Args:
        weight: of the branch in the sum.
        scope: the regions; None for those of the last block's map.

    Raises:
        NotSupported: (when called) a tower without a class token.
        UsageError: (when called) no scope, and a map that has none.

    Paper: CorrCLIP: Reconstructing Patch Correlations in CLIP for Open-Vocabulary Semantic Segmentation
    (arXiv 2411.10086).
    """

    weight: float = 0.5
    scope: Scope | None = None

    @property
    def record(self) -> Record:
        """What the scope wants."""
        return records(self.scope)

    def __call__(self, context: Context, last_block: LastBlock, grid: tuple[int, int]) -> Float[Tensor, "B D gh gw"]:
        """Tokens of the branch; patches in no region share one token, that of all such patches."""
        scope = self.scope if self.scope is not None else getattr(last_block.map, "scope", None)
        if scope is None:
            raise UsageError("MaskClassTokens needs a scope, as the last block's map has none")
        ids = scope(context)
        coarse = _nearest(ids, context.grid).flatten(1)
        # Row 0 of each window is what is in no region.
        count = int(ids.max()) + 2
        numbers = torch.arange(-1, count - 1, device=ids.device)
        member = coarse[:, None, :] == numbers[None, :, None]
        key = ("region tokens", scope)
        if key not in context.notes:
            context.notes[key] = region_tokens(context, member)
        regions = context.notes[key]
        fine = (_nearest(coarse.unflatten(1, context.grid), grid) + 1).flatten(1)
        out = regions.gather(1, fine[:, :, None].expand(-1, -1, regions.shape[-1]))
        return to_map(out, grid)


def region_tokens(context: Context, member: Bool[Tensor, "B R N"]) -> Float[Tensor, "B R D"]:
    """Copies of the class token run through all blocks, each with the patches of its region.

    Args:
        context: windows.
        member: patches of every region.

    Raises:
        NotSupported: a tower without a class token.
    """
    if context.prefix < 1:
        raise NotSupported("region class tokens need a tower with a class token; this one has no prefix token")
    start = context.start
    tokens = append_tokens(start, start.x[:, :1].expand(-1, member.shape[1], -1))
    out = context.tower.run(tokens, attn_bias=region_bias(tokens, member))
    return out.x[:, -member.shape[1] :]


def region_bias(tokens: Tokens, member: Bool[Tensor, "B R N"]) -> Float[Tensor, "B 1 L L"]:
    """Attention bias for appended region tokens: seen by none, they see the prefix and their own patches."""
    batch, regions, _ = member.shape
    length = tokens.x.shape[1]
    first = length - regions
    allowed = torch.ones(batch, length, length, dtype=torch.bool, device=tokens.x.device)
    allowed[:, :, first:] = False
    allowed[:, first:, tokens.prefix : first] = member
    bias = torch.zeros(batch, length, length, device=tokens.x.device, dtype=tokens.x.dtype)
    return bias.masked_fill(~allowed, -torch.inf)[:, None]


def _nearest(ids: Tensor, grid: tuple[int, int]) -> Tensor:
    if tuple(ids.shape[1:]) == tuple(grid):
        return ids
    return F.interpolate(ids[:, None].double(), size=grid, mode="nearest-exact")[:, 0].long()


@dataclass(frozen=True)
class BranchSum:
    """The last block's tokens and those of further branches, each through the final norm, then summed and projected.

    Args:
        branches: beside the main one, each with its `weight`.

    Paper: CorrCLIP: Reconstructing Patch Correlations in CLIP for Open-Vocabulary Semantic Segmentation
    (arXiv 2411.10086).
    """

    branches: tuple[SpatialBranch | MaskClassTokens, ...] = (SpatialBranch(), MaskClassTokens())

    @property
    def record(self) -> Record:
        """What the branches want."""
        return records(*self.branches)

    def __call__(self, context: Context, last_block: Reader, text: BoundText) -> Float[Tensor, "B Q gh gw"]:
        """Cosines.

        Raises:
            UsageError: a last block that is no `LastBlock`.
        """
        if not isinstance(last_block, LastBlock):
            raise UsageError(f"BranchSum sends streams through a LastBlock, not through {last_block!r}")
        main = last_block(context)
        grid = (main.shape[-2], main.shape[-1])
        total = _lifted(context, main)
        for branch in self.branches:
            total = total + branch.weight * _lifted(context, branch(context, last_block, grid))
        return text.cosines(to_map(context.tower.project(total), grid))


def _lifted(context: Context, maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B N D"]:
    return context.tower.lift(maps.flatten(2).mT)
