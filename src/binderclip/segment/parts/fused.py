"""One attention map from those of all earlier blocks, which still know where things are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.towers import Block, Record, Site
from binderclip.models.towers.block import CACHED
from binderclip.models.towers.record import resolve_layer
from binderclip.numeric import check_number
from binderclip.segment.parts.context import Context, Projected, head
from binderclip.segment.parts.fusion import Reader
from binderclip.segment.parts.last_block import LastBlock, PatchWeights, Qkv
from binderclip.segment.parts.text import BoundText


@dataclass(frozen=True)
class FusedAttention:
    """The attention maps of all blocks before the last, summed and balanced; each head for itself.

    A pass divides the sum by its column sums, then by its row sums (Sinkhorn). Then the map is made symmetric, what
    every token gives to a column on the average is taken off, and rows are normalised.

    Args:
        passes: how many; `accumulate` for one more pass with every layer that goes through the last block, as the
            released code does by changing the sum in place: k for the k-th layer of a `LayerEnsemble`, and as many as
            there are blocks for the last layer, alone or not.

    Raises:
        UsageError: passes below 1.

    Paper: CLIPer: Hierarchically Improving Spatial Representation of CLIP for Open-Vocabulary Semantic Segmentation
    (arXiv 2411.13836).
    """

    passes: int | Literal["accumulate"] = "accumulate"

    def __post_init__(self) -> None:
        if self.passes != "accumulate" and (not isinstance(self.passes, int) or self.passes < 1):
            raise UsageError(f"passes must be a number of at least 1, or accumulate; not {self.passes!r}")

    @property
    def record(self) -> Record:
        """The sum of the earlier blocks' attention maps."""
        return Record("attn_sum")

    def __call__(self, _block: Block, _qkv: Qkv, context: Context) -> Float[Tensor, "B H L L"]:
        """Weights of the values over all tokens."""
        times = context.tower.depth if self.passes == "accumulate" else int(self.passes)
        known = context.notes.get(LATEST)
        if known is None or known[0] != times:
            if BALANCE not in context.notes:
                context.notes[BALANCE] = Balance(sum_of_maps(context))
            # The one before is given up first: maps are large.
            known = context.notes[LATEST] = None
            known = context.notes[LATEST] = (times, context.notes[BALANCE].contrasted(times))
        return known[1]

    def for_layer(self, layer: int) -> FusedAttention:
        """The map that the released code uses for the `layer`-th stream, counted from 0."""
        return replace(self, passes=layer + 1) if self.passes == "accumulate" else self


LATEST, BALANCE = "latest fused attention", "fused attention, balanced"


def sum_of_maps(context: Context) -> Float[Tensor, "B H L L"]:
    """The sum of the attention maps of the blocks before the last.

    Raises:
        UsageError: a tower of one block.
    """
    if context.tower.depth < 2:
        raise UsageError("the tower has a single block, so there are no earlier attention maps to fuse")
    return context.sites[Site("attn_sum")]


class Balance:
    """A map after any number of passes, kept as factors of its rows and columns.

    A pass divides by column sums, then by row sums, so that two products with a vector take the place of two new maps.

    Args:
        total: the map before the first pass.
    """

    def __init__(self, total: Float[Tensor, "*B N N"]) -> None:
        self.total, self.turned = total, total.mT.contiguous()
        ones = torch.ones_like(total[..., 0])
        #: Of every number of passes: factors of rows and of columns, and column sums before the columns' factors.
        self.known = [(ones, ones, total.sum(-2))]

    def factors(self, times: int) -> tuple[Float[Tensor, "*B N"], Float[Tensor, "*B N"], Float[Tensor, "*B N"]]:
        """Factors of rows and columns after so many passes, and the sums of the columns."""
        while len(self.known) <= times:
            columns = 1 / self.known[-1][2]
            rows = 1 / torch.matmul(self.total, columns[..., None])[..., 0]
            self.known.append((rows, columns, torch.matmul(rows[..., None, :], self.total)[..., 0, :]))
        rows, columns, sums = self.known[times]
        return rows, columns, columns * sums

    def contrasted(self, times: int) -> Float[Tensor, "*B N N"]:
        """Symmetric part above its column means, after so many passes (at least one), rows normalised.

        A row that has nothing above them becomes uniform.
        """
        rows, columns, sums = self.factors(times)
        # Column means of the symmetric part; uniform attention leaves nothing but rounding above them, which must not
        # be blown up to weights.
        floor = (0.5 + ABOVE) * (1 + sums) / sums.shape[-1]
        out = torch.empty_like(self.total)
        length = out.shape[-1]
        flat = [each.reshape(-1, length) for each in (0.5 * rows, columns, floor)]
        maps, turned, outs = (each.reshape(-1, length, length) for each in (self.total, self.turned, out))
        # As many maps at once as stay in a CPU's cache.
        step = max(1, CACHED // (length * length)) if out.device.type == "cpu" else len(maps)
        for first in range(0, len(maps), step):
            some = slice(first, first + step)
            row, column, least = (each[some] for each in flat)
            scaled = maps[some] * column[:, None]
            contrasted = torch.addcmul(-least[:, None], scaled, row[..., None], out=outs[some])
            # Rows and columns change places in the map turned over.
            torch.mul(turned[some], column[..., None], out=scaled)
            contrasted.addcmul_(scaled, row[:, None]).clamp_(min=0)
            sum_ = contrasted.sum(-1, keepdim=True)
            contrasted /= sum_.clamp(min=1e-30)
            if not bool(sum_.all()):
                contrasted.masked_fill_(sum_ == 0, 1 / length)
        return out


ABOVE = 5e-6
"""Half the share of the mean above which an entry counts."""


@dataclass(frozen=True)
class LayerEnsemble:
    """Every block's normalised input goes through the rewired last block; the segmentations are averaged.

    Softmax is over the words and one class more, the mean of the words that are not background, which takes up what
    is no class in particular. One layer's map, its weak entries cut, is spread by the last attention map (mass moves
    from row to column) and added to the mean of all.

    Use it with `ClassRule(over="given")`: the scores, up to 2, are no cosines.

    Args:
        scale: factor on the cosines; None for the model's own.
        cut: entries of the chosen layer's map below this share of its class's maximum become 0.
        extra: the additional class.
        spread: False for the mean over layers alone.
        layer: whose map is cut and spread, negative from the end; the paper takes -1 of ViT-B and -2 of ViT-L.
        background: whether background words keep their map and compete as a class. In the paper they only take up
            probability; what no class claims is found by the thresholds behind (see `ClassScore`).

    Raises:
        UsageError: cut out of [0, 1], or, when called, a last block that is no `LastBlock`, or no such layer.

    Paper: CLIPer: Hierarchically Improving Spatial Representation of CLIP for Open-Vocabulary Semantic Segmentation
    (arXiv 2411.13836).
    """

    scale: float | None = None
    cut: float = 0.1
    extra: bool = True
    spread: bool = True
    layer: int = -1
    background: bool = True

    def __post_init__(self) -> None:
        check_number("cut", self.cut, least=0, most=1)

    @property
    def record(self) -> Record:
        """The normalised inputs of the earlier blocks."""
        return Record("ln1")

    def __call__(self, context: Context, last_block: Reader, text: BoundText) -> Float[Tensor, "B Q gh gw"]:
        """Scores in [0, 2]."""
        if not isinstance(last_block, LastBlock):
            raise UsageError(f"LayerEnsemble sends layers through a LastBlock, not through {last_block!r}")
        depth, block = context.tower.depth, context.block
        rows, scale = self._rows(text), text.scale if self.scale is None else self.scale
        maps = []
        for layer in range(depth):
            x = context.site("ln1", layer) if layer < depth - 1 else context.tokens.x
            qkv = Projected(block, x, context.rope) if layer < depth - 1 else context.qkv(-1)
            tokens = _for_layer(last_block, layer).of(context, qkv, x)
            cosines = replace(text, rows=rows).cosines(head(context.tower, tokens))
            maps.append((scale * cosines).softmax(dim=1)[:, : len(text.rows)])
            if text.background and not self.background:
                maps[-1][:, text.owner == 0] = 0.0
        if not self.spread:
            return torch.stack(maps).mean(0)
        chosen = maps[resolve_layer(self.layer, depth)]
        # The mean takes the cut map too, as in the released code, where it is cut in place.
        chosen.masked_fill_(chosen < self.cut * chosen.amax((-2, -1), keepdim=True), 0.0)
        weights = patch_weights(last_block.map(block, context.qkv(-1), context), context.prefix)
        return torch.stack(maps).mean(0) + spread_by(chosen, weights)

    def _rows(self, text: BoundText) -> Tensor:
        if not self.extra:
            return text.rows
        front = text.rows[text.owner > 0] if text.background else text.rows
        mean = torch.nn.functional.normalize(front.mean(0, keepdim=True), dim=-1)
        return torch.cat([text.rows, mean])


def spread_by(maps: Float[Tensor, "B Q h w"], weights: Float[Tensor, "B N N"] | None) -> Float[Tensor, "B Q h w"]:
    """Maps times an attention map from the right: what a cell holds moves to the cells it attends to."""
    if weights is None:
        return maps
    return (maps.flatten(2) @ weights).unflatten(2, (maps.shape[-2], maps.shape[-1]))


def patch_weights(weights: Tensor | PatchWeights | None, prefix: int) -> Float[Tensor, "B N N"] | None:
    """What a map gives, between patches, heads averaged; None for the identity."""
    if weights is None:
        return None
    if isinstance(weights, PatchWeights):
        return weights.weights.float().mean(1)
    return weights[:, :, prefix:, prefix:].float().mean(1)


def _for_layer(last_block: LastBlock, layer: int) -> LastBlock:
    """With the map that is meant for this layer, where maps differ."""
    own = getattr(last_block.map, "for_layer", None)
    return last_block if own is None else replace(last_block, map=own(layer))
