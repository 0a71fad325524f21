"""Balanced token pruning: diversity first, attention later, at layers that a calibration proposes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import functional

from binderclip.compress.tokens.context import TokenContext, attention_criterion
from binderclip.compress.tokens.pruner import PruningStage, TokenPruner
from binderclip.compress.tokens.selection import (
    rank_of,
    select_attended_tokens,
    select_diverse_tokens,
    select_top_tokens,
    spatial_seed_tokens,
)
from binderclip.errors import UsageError
from binderclip.models.towers.base import Stack
from binderclip.models.towers.tokens import Tokens
from binderclip.numeric import check_number, check_whole

__all__ = ["BALANCED_STAGES", "BalancedStage", "BalancedTokenPruning", "StageCalibration", "calibrate_stages"]


class BalancedStage(NamedTuple):
    """What one stage keeps.

    Attributes:
        keep: of the whole grid, in (0, 1].
        seed: of the whole grid, spread evenly over it; 0 for none.
        diverse: of what is kept, by distance in feature space.
        attended: of what is kept, by attention.
        ratio: over-selection of `select_attended_tokens`.
    """

    keep: float
    seed: float
    diverse: float
    attended: float
    ratio: float


BALANCED_STAGES = (
    BalancedStage(1 / 2, 1 / 4, 0.3, 0.3, 3.7),
    BalancedStage(1 / 4, 0.0, 0.1, 0.9, 1.5),
    BalancedStage(1 / 12, 0.0, 0.0, 1.0, 1.2),
)
"""Of the paper for LLaVA-1.5-7B: 1/2, 1/4 and 1/12 of 576 tokens, diversity giving way to attention."""


class BalancedTokenPruning(TokenPruner):
    """Early stages keep what differs, for later layers; late ones keep what is attended, for their own output.

    Each stage keeps the union of an even set on the grid, of far-apart tokens and of attended ones, filled up by
    tokens far from the union. Of a union that is too large the least attended go.

    Args:
        layers: before which the stages prune, from 0; (3, 6, 14) are the paper's layers 4, 7 and 15 of 32.
            `calibrate_stages` proposes others.
        drop: layer before which all image tokens go (those after the paper's 22nd); None for never.
        stages: one for each layer.

    Raises:
        UsageError: as many stages as layers are missing, a fraction out of range, or `drop` before the last stage.

    Paper: Li et al., "Balanced Token Pruning: Accelerating Vision Language Models Beyond Local Optimization",
    arXiv 2505.22038.
    """

    def __init__(
        self,
        layers: Sequence[int] = (3, 6, 14),
        *,
        drop: int | None = 22,
        stages: Sequence[BalancedStage] = BALANCED_STAGES,
    ) -> None:
        if len(layers) != len(stages):
            raise UsageError(f"one stage a layer is needed, got {len(stages)} stages and {len(layers)} layers")
        for stage in stages:
            check_number("keep", stage.keep, above=0.0, most=1.0)
            for name in ("seed", "diverse", "attended"):
                check_number(name, getattr(stage, name), least=0.0, most=1.0)
            check_number("ratio", stage.ratio, least=1.0)
        if layers:
            check_whole("layer", layers[0], least=1)
        plan = [
            PruningStage(layer, partial(balanced_set, stage=stage)) for layer, stage in zip(layers, stages, strict=True)
        ]
        if drop is not None:
            plan.append(PruningStage(drop, lambda context: torch.zeros_like(context.present)))
        super().__init__(plan)


def balanced_set(context: TokenContext, stage: BalancedStage) -> Bool[Tensor, "B n"]:
    """The tokens that a stage keeps, `keep * N` of them.

    Args:
        context: of the layer about to run.
        stage: its fractions.
    """
    keep = min(max(1, int(stage.keep * context.total + 1e-6)), context.count)
    attention = attention_criterion(context, rope=True, over="all")
    union = torch.zeros_like(context.present)
    if stage.seed:
        assert context.tokens.grid is not None
        even = spatial_seed_tokens(context.tokens.grid, max(1, int(stage.seed * context.total)))
        union |= even.to(union.device)[context.places]
    if stage.diverse:
        union |= select_diverse_tokens(context.hidden, int(stage.diverse * keep + 1e-6), among=context.present)
    if stage.attended:
        count = int(stage.attended * keep + 1e-6)
        union |= select_attended_tokens(attention, count, ratio=stage.ratio, first=keep, among=context.present)
    # a union of disjoint sets may be too large: the least attended go
    union = select_top_tokens(attention, keep, among=union & context.present)
    return select_diverse_tokens(context.hidden, keep - union.sum(1), chosen=union, among=context.present)


@dataclass(frozen=True)
class StageCalibration:
    """What a calibration measured, and the layers that follow from it.

    Attributes:
        similarity: mean cosine of image tokens entering and leaving each layer.
        overlap: of each layer, the part of the top quarter of attended tokens that the layer before has too; the first
            is 1.
        attention: of each layer, attention of the last word on all image tokens.
        layers: before which to prune, from 0, rising.
        drop: layer before which image tokens may go, or None.
    """

    similarity: tuple[float, ...]
    overlap: tuple[float, ...]
    attention: tuple[float, ...]
    layers: tuple[int, ...]
    drop: int | None


@torch.no_grad()
def calibrate_stages(
    stack: Stack, batches: Iterable[Tokens], *, stages: int = 3, apart: int = 3, least_attention: float = 0.01
) -> StageCalibration:
    """Propose layers to prune before: those after which image tokens have just changed most.

    Of all sets of layers `apart` from each other, that of the least summed similarity between what enters and what
    leaves a layer is taken; a stage stands before the next layer. All image tokens may go before the first layer from
    which on attention on them stays below `least_attention` of its maximum.

    Args:
        stack: of the blocks.
        batches: tokens that enter the first block, such as 64 pictures with questions.
        stages: how many.
        apart: least distance of two stages in layers.
        least_attention: of the maximum, in [0, 1).

    Raises:
        UsageError: no batch, or no room for so many stages.

    Paper: Li et al., "Balanced Token Pruning", arXiv 2505.22038, which leaves this rule partly open.
    """
    check_whole("stages", stages, least=1)
    check_whole("apart", apart, least=1)
    check_number("least_attention", least_attention, least=0.0, below=1.0)
    sums, count = torch.zeros(3, stack.depth, dtype=torch.float64), 0
    for tokens in batches:
        sums += _layer_statistics(stack, tokens) * len(tokens.x)
        count += len(tokens.x)
    if not count:
        raise UsageError("calibration needs at least one batch of tokens")
    similarity, overlap, attention = (sums / count).tolist()
    places = least_set_apart(similarity[:-1], stages, apart)  # the last layer has none after it
    if places is None:
        raise UsageError(f"{stack.depth} layers have no room for {stages} stages {apart} apart")
    chosen = tuple(place + 1 for place in places)
    dim = [layer for layer in range(stack.depth) if max(attention[layer:]) < least_attention * max(attention)]
    drop = next((layer for layer in dim if layer > max(chosen)), None)
    return StageCalibration(tuple(similarity), tuple(overlap), tuple(attention), chosen, drop)


def least_set_apart(values: Sequence[float], count: int, apart: int) -> tuple[int, ...] | None:
    """`count` indices at least `apart` from each other with the least sum of `values`, or None where none fit.

    Taking the least values first may leave no room for the others. Of equal sums the lowest indices are taken.
    """
    # best[i]: least sum, and its indices, among the first i values
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())] * (len(values) + 1)
    for _ in range(count):
        longer: list[tuple[float, tuple[int, ...]]] = [(math.inf, ())]
        for place, value in enumerate(values):
            total, before = best[max(place + 1 - apart, 0)]
            longer.append(min(longer[-1], (total + value, (*before, place))))
        best = longer
    return best[-1][1] if best[-1][0] < math.inf else None


def _layer_statistics(stack: Stack, tokens: Tokens) -> Tensor:
    """(3, depth): similarity, overlap and attention of each layer, mean over the batch."""
    total = tokens.patches.shape[1]
    entering: list[Tokens] = []

    def remember(layer: int, current: Tokens) -> Tokens:
        entering.append(current)
        return current

    entering.append(stack.run(tokens, on_block=remember))
    out = torch.zeros(3, stack.depth, dtype=torch.float64)
    before: Tensor | None = None
    for layer in range(stack.depth):
        context = TokenContext(stack, layer + 1, entering[layer + 1], entering[layer], total)
        scores = attention_criterion(context, rope=True, over="all")
        top = rank_of(scores) < max(1, total // 4)
        out[0, layer] = functional.cosine_similarity(
            entering[layer].patches, entering[layer + 1].patches, dim=-1
        ).mean()
        out[1, layer] = 1.0 if before is None else (top & before).sum() / before.sum()
        out[2, layer] = scores.sum(1).mean()
        before = top
    return out
