"""One attention map from those of all earlier blocks, which still know where things are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.towers import Block, Record
from binderclip.models.towers.record import resolve_layer
from binderclip.segment.context import Context, head
from binderclip.segment.fusion import Reader
from binderclip.segment.last_block import LastBlock, PatchWeights, Qkv
from binderclip.segment.text import BoundText


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
        """The attention maps of the earlier blocks."""
        return Record("attn")

    def __call__(self, _block: Block, _qkv: Qkv, context: Context) -> Float[Tensor, "B H L L"]:
        """Weights of the values over all tokens."""
        times = context.tower.depth if self.passes == "accumulate" else int(self.passes)
        key = ("fused attention", times)
        if key not in context.notes:
            context.notes[key] = contrasted(self._balanced(context, times))
        return context.notes[key]

    def for_layer(self, layer: int) -> FusedAttention:
        """The map that the released code uses for the `layer`-th stream, counted from 0."""
        return replace(self, passes=layer + 1) if self.passes == "accumulate" else self

    def _balanced(self, context: Context, times: int) -> Tensor:
        """The sum after so many passes; each pass is kept, as layers ask for one after the other."""
        key = ("fused sum", times)
        if key not in context.notes:
            if times:
                before = self._balanced(context, times - 1)
                found = balanced(before)
            else:
                found = sum_of_maps(context)
            context.notes[key] = found
        return context.notes[key]


def sum_of_maps(context: Context) -> Float[Tensor, "B H L L"]:
    """The sum of the attention maps of the blocks before the last.

    Raises:
        UsageError: a tower of one block.
    """
    if context.tower.depth < 2:
        raise UsageError("the tower has a single block, so there are no earlier attention maps to fuse")
    maps = [context.site("attn", layer).float() for layer in range(context.tower.depth - 1)]
    return torch.stack(maps).sum(0)


def balanced(weights: Float[Tensor, "*B N N"]) -> Float[Tensor, "*B N N"]:
    """Divided by column sums, then by row sums; repeated, both become 1."""
    weights = weights / weights.sum(-2, keepdim=True)
    return weights / weights.sum(-1, keepdim=True)


def contrasted(weights: Float[Tensor, "*B N N"]) -> Float[Tensor, "*B N N"]:
    """Symmetric part above its column means, rows normalised; a row that has nothing above them becomes uniform."""
    weights = (weights + weights.mT) / 2
    mean = weights.mean(-2, keepdim=True)
    above = weights - mean
    # Uniform attention leaves nothing but rounding, which must not be blown up to weights.
    above = torch.where(above > 1e-5 * mean, above, 0.0)
    total = above.sum(-1, keepdim=True)
    return torch.where(total > 0, above / total.clamp(min=1e-30), 1.0 / weights.shape[-1])


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
        if not 0 <= self.cut <= 1:
            raise UsageError(f"cut must be in [0, 1], not {self.cut}")

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
            qkv = block.qkv(x) if layer < depth - 1 else context.qkv(-1)
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


def patch_weights(found: Tensor | PatchWeights | None, prefix: int) -> Float[Tensor, "B N N"] | None:
    """What a map gives, between patches, heads averaged; None for the identity."""
    if found is None:
        return None
    if isinstance(found, PatchWeights):
        return found.weights.float().mean(1)
    return found[:, :, prefix:, prefix:].float().mean(1)


def _for_layer(last_block: LastBlock, layer: int) -> LastBlock:
    """With the map that is meant for this layer, where maps differ."""
    own = getattr(last_block.map, "for_layer", None)
    return last_block if own is None else replace(last_block, map=own(layer))
