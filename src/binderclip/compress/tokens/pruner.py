"""Stages of pruning between the blocks of a decoder or an image tower, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.compress.tokens.context import TokenContext
from binderclip.errors import UsageError
from binderclip.models.towers.base import Stack, Tower
from binderclip.models.towers.record import Record, Recorder
from binderclip.models.towers.tokens import Tokens, gather_patches
from binderclip.numeric import check_whole

__all__ = ["PrunedRun", "PruningStage", "TokenPruner", "kept_tokens", "layer_flops"]

Selection = Callable[[TokenContext], Bool[Tensor, "B n"]]


@dataclass(frozen=True)
class PruningStage:
    """One place at which tokens are dropped.

    Attributes:
        layer: the layer (from 0) whose input is pruned.
        select: which of the image tokens stay, as a mask.
    """

    layer: int
    select: Selection


@dataclass(frozen=True)
class PrunedRun:
    """Tokens after the last block, and which image tokens each stage left.

    Attributes:
        tokens: for `pool`, `read` or `project`.
        kept: layer -> mask of the whole grid, (B, N): the image tokens that enter that layer.
        lengths: tokens that enter each layer, prefix and words included, mean over the batch.
        stack: the blocks that ran.
    """

    tokens: Tokens
    kept: Mapping[int, Bool[Tensor, "B N"]]
    lengths: tuple[float, ...]
    stack: Stack = field(repr=False)

    def flops(self) -> float:
        """Floating-point operations of all blocks for one image, with the length that each layer really had."""
        return sum(layer_flops(self.stack, layer, length) for layer, length in enumerate(self.lengths))

    def flops_ratio(self) -> float:
        """`flops` over those of the same blocks with all tokens."""
        whole = [layer_flops(self.stack, layer, self.lengths[0]) for layer in range(len(self.lengths))]
        return self.flops() / sum(whole)

    def kept_ratio(self) -> float:
        """Image tokens that enter a layer, mean over layers, over those of the whole grid."""
        words = self.tokens.prefix + self.tokens.extra
        return sum(length - words for length in self.lengths) / (len(self.lengths) * (self.lengths[0] - words))


class TokenPruner:
    """Drops image tokens before some layers of a decoder or an image tower.

    Kept tokens stay in order and keep their positions; first word or class token and question always stay. Where the
    images of a batch keep unequal numbers, the shorter rows are padded with tokens that nothing attends to.

    Args:
        stages: by rising layer.

    Raises:
        UsageError: no stage, or layers that do not rise.
    """

    def __init__(self, stages: Sequence[PruningStage]) -> None:
        self.stages = tuple(stages)
        layers = [stage.layer for stage in self.stages]
        for layer in layers:
            check_whole("layer", layer, least=0)
        if not layers or any(later <= earlier for earlier, later in pairwise(layers)):
            raise UsageError(f"stages must be at rising layers, at least one, got {layers}")

    def run(self, stack: Stack, tokens: Tokens, *, record: Record | Recorder | None = None) -> PrunedRun:
        """Run all blocks, pruning before those of the stages.

        Args:
            stack: such as `TinyVLM.decoder`, or a tower of `open_image_tower`.
            tokens: that enter the first block, with a whole grid of patches.
            record: places that the run keeps, as `Stack.run` takes it.

        Raises:
            UsageError: a layer that the stack does not have, tokens without a grid, or tokens missing already.
        """
        if self.stages[-1].layer >= stack.depth:
            raise UsageError(f"layer {self.stages[-1].layer} does not exist: there are {stack.depth} (from 0)")
        total = 0 if tokens.grid is None else tokens.grid[0] * tokens.grid[1]
        if not total or tokens.patches.shape[1] != total:
            raise UsageError(
                f"pruning starts with a whole grid; {tokens.patches.shape[1]} tokens are there, of {total}"
            )
        selections = {stage.layer: stage.select for stage in self.stages}
        kept: dict[int, Tensor] = {}
        lengths: list[Tensor] = []
        previous: Tokens | None = None

        def on_block(layer: int, entering: Tokens) -> Tokens:
            nonlocal previous
            if layer in selections:
                context = TokenContext(stack, layer, entering, previous, total)
                entering = kept_tokens(entering, selections[layer](context))
                kept[layer] = _on_grid(entering, total)
            lengths.append(_length(entering))
            previous = entering
            return entering

        out = stack.run(tokens, on_block=on_block, record=record)
        return PrunedRun(out, kept, tuple(torch.stack(lengths).tolist()), stack)

    def embed_images(self, tower: Tower, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B E"]:
        """Normalised pixels -> embeddings of an image tower that is pruned on the way."""
        return tower.project(tower.pool(self.run(tower, tower.embed(images)).tokens))


def kept_tokens(tokens: Tokens, keep: Bool[Tensor, "B n"]) -> Tokens:
    """The prefix, the image tokens of a mask in their order, and the appended tokens, with their positions.

    Args:
        tokens: what to choose from.
        keep: of each image token. Rows that keep fewer than others are padded, and the padding is masked.

    Raises:
        UsageError: a mask of another shape.
    """
    batch, n = tokens.patches.shape[:2]
    if keep.shape != (batch, n) or keep.dtype != torch.bool:
        raise UsageError(f"keep must be a mask ({batch}, {n}), got {keep.dtype} of shape {tuple(keep.shape)}")
    if tokens.mask is not None:
        keep = keep & tokens.mask[:, tokens.prefix : tokens.prefix + n]
    counts = keep.sum(1)
    longest, shortest = int(counts.max()), int(counts.min())
    # False sorts before True: what is kept comes first, in order
    index = (~keep).byte().argsort(dim=1, stable=True)[:, :longest]
    out = gather_patches(tokens, index)
    if shortest == longest:
        return replace(out, mask=None) if tokens.mask is not None and _text_present(tokens, n) else out
    here = torch.ones(out.x.shape[:2], dtype=torch.bool, device=keep.device) if out.mask is None else out.mask.clone()
    here[:, tokens.prefix : tokens.prefix + longest] = torch.arange(longest, device=keep.device) < counts[:, None]
    return replace(out, mask=here)


def _text_present(tokens: Tokens, n: int) -> bool:
    """Whether a mask hides image tokens alone, so that it may go once no padding is left."""
    assert tokens.mask is not None
    return bool(tokens.mask[:, : tokens.prefix].all() & tokens.mask[:, tokens.prefix + n :].all())


def layer_flops(stack: Stack, layer: int, length: float) -> float:
    """Floating-point operations of one block on `length` tokens, a multiplication and an addition each.

    Twice the weights of its matrices for each token, and `4 L^2 d` of a head for scores and weighted values.
    """
    block = stack.blocks[layer]
    weights = sum(value.numel() for value in block.module.parameters() if value.dim() > 1)
    return 2.0 * weights * length + 4.0 * length * length * block.heads * block.head_dim


def _length(tokens: Tokens) -> Tensor:
    """Tokens that are there, mean over the batch."""
    if tokens.mask is None:
        return torch.tensor(float(tokens.x.shape[1]), device=tokens.x.device)
    return tokens.mask.sum(1).float().mean()


def _on_grid(tokens: Tokens, total: int) -> Bool[Tensor, "B N"]:
    """Which tokens of the whole grid are there."""
    end = tokens.x.shape[1] - tokens.extra
    places: Int[Tensor, "B n"] = tokens.positions[:, tokens.prefix : end].expand(len(tokens.x), -1) - tokens.prefix
    mask = torch.zeros(len(tokens.x), total, dtype=torch.bool, device=places.device)
    there = torch.ones_like(places, dtype=torch.bool) if tokens.mask is None else tokens.mask[:, tokens.prefix : end]
    return mask.scatter(1, places, there)
