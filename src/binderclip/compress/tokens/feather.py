"""FEATHER and what it is compared with: FastV's single early stage, and tokens kept by place alone."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from binderclip.compress.tokens.context import TokenContext, attention_criterion
from binderclip.compress.tokens.pruner import PruningStage, TokenPruner
from binderclip.compress.tokens.selection import select_top_tokens, strided_tokens
from binderclip.numeric import check_number, check_whole

__all__ = ["FastVTokenPruning", "FeatherTokenPruning", "UniformTokenPruning"]


class FastVTokenPruning(TokenPruner):
    """Keep the image tokens that the last word attends to most, once, early in the decoder.

    Args:
        layer: before which tokens are dropped (K of the released code); attention is that of the layer before.
        keep_rate: tokens that stay, in (0, 1] (1 - R).
        rope: whether the rotary turn is part of the score. With it, tokens near the question, the lower rows of the
            image, may win by place; False is the correction that FEATHER begins with.
        released: whether counts are truncated as in the released code, whose `int(N * (1 - R))` keeps 19 of 100 at R of
            0.8.

    Raises:
        UsageError: a rate out of range, or a layer below 1.

    Papers: Chen et al., "An Image is Worth 1/2 Tokens After Layer 2", arXiv 2403.06764; Endo et al., "Feather the
    Throttle", arXiv 2412.13180.
    """

    def __init__(self, layer: int = 3, *, keep_rate: float = 0.25, rope: bool = True, released: bool = False) -> None:
        check_number("keep_rate", keep_rate, above=0.0, most=1.0)
        check_whole("layer", layer, least=1)
        rate = _released_rate(keep_rate) if released else keep_rate

        def select(context: TokenContext) -> Bool[Tensor, "B n"]:
            count = _part(context.present.sum(1), rate, released)
            return select_top_tokens(attention_criterion(context, rope=rope), count, among=context.present)

        super().__init__([PruningStage(layer, select)])


class FeatherTokenPruning(TokenPruner):
    """Keep attended tokens and an even grid of them first, and attended ones alone later, by a score without positions.

    Before the first layer stay the `keep_rate * N` tokens that the last word attends to most without the rotary turn,
    and every `stride`-th row and column of the grid. Before the second, `keep_rate ** 2` of those that are left, by the
    later and better attention; the grid is not protected there.

    Args:
        layers: (first, second); (8, 16) is that of 32 layers.
        keep_rate: 1 - R, in (0, 1].
        stride: of the even grid in the first stage.
        released: whether counts are truncated as in the released code; see `FastVTokenPruning`.

    Raises:
        UsageError: a rate or stride out of range, or layers that do not rise from 1.

    Paper: Endo et al., "Feather the Throttle: Revisiting Visual Token Pruning for Vision-Language Model Acceleration",
    arXiv 2412.13180.
    """

    def __init__(
        self, layers: tuple[int, int] = (8, 16), *, keep_rate: float = 0.3, stride: int = 3, released: bool = False
    ) -> None:
        check_number("keep_rate", keep_rate, above=0.0, most=1.0)
        check_whole("stride", stride, least=1)
        check_whole("layer", layers[0], least=1)
        first_rate = _released_rate(keep_rate) if released else keep_rate

        def select(context: TokenContext, rate: float, even: bool) -> Bool[Tensor, "B n"]:
            count = _part(context.present.sum(1), rate, released)
            kept = select_top_tokens(attention_criterion(context, rope=False), count, among=context.present)
            return kept | _at_places(context, strided_tokens(_grid(context), stride)) if even else kept

        first = PruningStage(layers[0], partial(select, rate=first_rate, even=True))
        super().__init__([first, PruningStage(layers[1], partial(select, rate=first_rate**2, even=False))])


class UniformTokenPruning(TokenPruner):
    """Keep tokens by place alone: an even grid and the last ones of the sequence.

    Args:
        layer: before which tokens are dropped.
        stride: of the grid; None for no grid.
        last: tokens at the end that stay as well, in [0, 1]: what FastV's bias alone would keep.

    Raises:
        UsageError: a number out of range, or neither grid nor last tokens.
    """

    def __init__(self, layer: int = 3, *, stride: int | None = 2, last: float = 0.0) -> None:
        check_number("last", last, least=0.0 if stride is not None else 1e-9, most=1.0)
        if stride is not None:
            check_whole("stride", stride, least=1)

        def select(context: TokenContext) -> Bool[Tensor, "B n"]:
            tail = torch.arange(context.total) >= context.total - round(last * context.total)
            return _at_places(context, tail if stride is None else tail | strided_tokens(_grid(context), stride))

        super().__init__([PruningStage(layer, select)])


def _released_rate(keep_rate: float) -> float:
    """`1 - R` as floating point gives it from the decimal R that the released code is called with."""
    return 1 - round(1 - keep_rate, 12)


def _part(counts: Int[Tensor, "B"], rate: float, released: bool) -> Int[Tensor, "B"]:
    """`rate` of each count, rounded; the released code truncates the product as floating point gives it."""
    part = counts.double() * rate
    return (part.floor() if released else part.round()).long()


def _grid(context: TokenContext) -> tuple[int, int]:
    assert context.tokens.grid is not None
    return context.tokens.grid


def _at_places(context: TokenContext, mask: Bool[Tensor, "N"]) -> Bool[Tensor, "B n"]:
    """A mask of the whole grid, for the tokens that are left."""
    places = context.places.expand(len(context.hidden), -1)
    return mask.to(places.device)[places] & context.present
