"""Sets of tokens: by score, by distance in feature space, on the grid. Each is a mask, so that sets unite by `|`."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole

__all__ = [
    "select_attended_tokens", "select_diverse_tokens", "select_top_tokens", "spatial_seed_tokens", "strided_tokens"
]  # fmt: skip

Counts = int | Int[Tensor, "B"]


def select_top_tokens(
    scores: Float[Tensor, "B n"], count: Counts, *, among: Bool[Tensor, "B n"] | None = None
) -> Bool[Tensor, "B n"]:
    """The tokens with the highest scores; of equal ones those that come first.

    Args:
        scores: finite.
        count: how many, for all or for each image; all where there are no more.
        among: the tokens that may be chosen; None for all.

    Raises:
        UsageError: a negative count, a score that is not finite, or shapes that do not fit.
    """
    places = rank_of(scores, among)
    chosen = places < _column(count, scores)
    return chosen if among is None else chosen & among


def rank_of(scores: Float[Tensor, "B n"], among: Bool[Tensor, "B n"] | None = None) -> Int[Tensor, "B n"]:
    """Place of each token by falling score, from 0; equal scores by index; those that may not be chosen last."""
    _check_scores(scores, among)
    ranked = scores if among is None else scores.masked_fill(~among, float("-inf"))
    return ranked.argsort(dim=1, descending=True, stable=True).argsort(1)


def select_attended_tokens(
    attention: Float[Tensor, "B n"],
    count: Counts,
    *,
    ratio: float = 1.0,
    first: int | None = None,
    among: Bool[Tensor, "B n"] | None = None,
) -> Bool[Tensor, "B n"]:
    """The most attended tokens, those early in the sequence before those late in it.

    Of the `int(count * ratio)` most attended, those with an index below `first` are taken first, in order of attention,
    then the others. That counters the bias of causal and rotary attention towards late tokens. A ratio of 1 is plain
    top-k.

    Args:
        attention: finite.
        count: how many.
        ratio: size of the pool over the count, at least 1.
        first: tokens that count as early, an index of the current sequence; None for `count`.
        among: the tokens that may be chosen; None for all.

    Raises:
        UsageError: a ratio below 1, a negative count, attention that is not finite, or shapes that do not fit.

    Paper: Li et al., "Balanced Token Pruning: Accelerating Vision Language Models Beyond Local Optimization",
    arXiv 2505.22038.
    """
    check_number("ratio", ratio, least=1.0)
    limit = _column(count, attention)
    # 1e-6: 10 * 3.7 is 37 in the paper's table, and 36.999... in some precisions
    pool = rank_of(attention, among) < (limit * ratio + 1e-6).floor()
    index = torch.arange(attention.shape[1], device=attention.device)
    early = pool & (index < (limit if first is None else first))
    # ranks of early ones, then of late ones, then of the rest: a stable order by group, attention inside
    group = torch.where(early, 2.0, torch.where(pool, 1.0, 0.0))
    place = (
        (group * attention.shape[1] - rank_of(attention, among)).argsort(dim=1, descending=True, stable=True).argsort(1)
    )
    chosen = pool & (place < limit)
    return chosen if among is None else chosen & among


def select_diverse_tokens(
    features: Float[Tensor, "B n D"],
    count: Counts,
    *,
    chosen: Bool[Tensor, "B n"] | None = None,
    among: Bool[Tensor, "B n"] | None = None,
) -> Bool[Tensor, "B n"]:
    """`count` tokens more that lie far from each other: greedy farthest points by cosine distance (max-min).

    The first is the token whose nearest neighbour is farthest; each next one has the largest distance to its nearest
    chosen one. That is at least half of the largest smallest distance that any set of this size has, wherever the
    distance is a metric. Equal distances go to the lowest index. The `count` steps run one after another.

    Args:
        features: of the tokens; a vector of zeros has distance 1 from all.
        count: how many are added, for all or for each image.
        chosen: tokens that are there already; they are part of what is returned.
        among: the tokens that may be chosen; None for all.

    Returns:
        The tokens of `chosen` and those added.

    Raises:
        UsageError: a negative count, features that are not finite, or shapes that do not fit.

    Paper: Li et al., "Balanced Token Pruning", arXiv 2505.22038.
    """
    if features.dim() != 3 or not features.shape[1]:
        raise UsageError(f"features must be (B, n, D) with n of at least 1, got shape {tuple(features.shape)}")
    _check_finite("features", features)
    unit = functional.normalize(features.float(), dim=-1)
    return farthest_points(1 - unit @ unit.transpose(1, 2), count, chosen=chosen, among=among)


def farthest_points(
    distance: Float[Tensor, "B n n"],
    count: Counts,
    *,
    chosen: Bool[Tensor, "B n"] | None = None,
    among: Bool[Tensor, "B n"] | None = None,
) -> Bool[Tensor, "B n"]:
    """`select_diverse_tokens` by distances that are there already."""
    batch, n, _ = distance.shape
    allowed = distance.new_ones(batch, n, dtype=torch.bool) if among is None else among
    mask = torch.zeros_like(allowed) if chosen is None else chosen & allowed
    counts = _column(count, allowed)[:, 0].expand(batch)
    steps = int(counts.max()) if isinstance(count, Tensor) else int(count)
    # distance to the nearest chosen token; where nothing is chosen, to the nearest other one, for the start alone
    start = distance.masked_fill(torch.eye(n, dtype=torch.bool, device=distance.device), torch.inf)
    start = start.masked_fill(~allowed[:, None], torch.inf).amin(2)
    nearest = distance.masked_fill(~mask[:, None], torch.inf).amin(2)
    empty = ~mask.any(1, keepdim=True)
    rows = torch.arange(batch, device=distance.device)
    for step in range(min(steps, n)):
        value = torch.where(empty, start, nearest).masked_fill(mask | ~allowed, -torch.inf)
        best = value.argmax(1)  # the first of equal ones
        added = (counts > step) & (value[rows, best] > -torch.inf)
        mask = mask.scatter(1, best[:, None], mask.gather(1, best[:, None]) | added[:, None])
        nearest = torch.where(added[:, None], torch.minimum(nearest, distance[rows, best]), nearest)
        empty = empty & ~added[:, None]
    return mask


@lru_cache(maxsize=64)
def spatial_seed_tokens(grid: tuple[int, int], count: int) -> Bool[Tensor, "N"]:
    """Farthest points on the grid by Manhattan distance, from token 0 on; equal distances go to the lowest index.

    Args:
        grid: (h, w) tokens.
        count: how many, at most h * w.

    Returns:
        Mask of the h * w tokens, row by row; kept for the next call, so do not change it.

    Raises:
        UsageError: a count below 1 or above h * w.

    Paper: Li et al., "Balanced Token Pruning", arXiv 2505.22038.
    """
    check_whole("count", count, least=1)
    height, width = grid
    if count > height * width:
        raise UsageError(f"count must be at most {height * width}, the tokens of the grid {grid}, got {count}")
    row, column = torch.arange(height * width) // width, torch.arange(height * width) % width
    distance = ((row[:, None] - row).abs() + (column[:, None] - column).abs()).float()
    first = torch.zeros(1, height * width, dtype=torch.bool)
    first[0, 0] = True
    return farthest_points(distance[None], count - 1, chosen=first)[0]


@lru_cache(maxsize=64)
def strided_tokens(grid: tuple[int, int], stride: int) -> Bool[Tensor, "N"]:
    """Every `stride`-th row and column of the grid, from the first on, as a mask of its tokens row by row.

    Raises:
        UsageError: a stride below 1.
    """
    check_whole("stride", stride, least=1)
    mask = torch.zeros(grid, dtype=torch.bool)
    mask[::stride, ::stride] = True
    return mask.flatten()


def _column(count: Counts, like: Shaped[Tensor, "B n"]) -> Int[Tensor, "#B 1"]:
    """Counts as a column; no look at their numbers where they are a tensor."""
    if isinstance(count, Tensor):
        return count.to(like.device)[:, None]
    check_whole("count", count, least=0)
    return torch.tensor([[count]], device=like.device)


def _check_scores(scores: Tensor, among: Tensor | None) -> None:
    if scores.dim() != 2 or not scores.shape[1]:
        raise UsageError(f"scores must be (B, n) with n of at least 1, got shape {tuple(scores.shape)}")
    if among is not None and among.shape != scores.shape:
        raise UsageError(f"among has shape {tuple(among.shape)} and scores {tuple(scores.shape)}; they must be equal")
    _check_finite("scores", scores)


def _check_finite(name: str, values: Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise UsageError(f"{name} must be finite; {int((~values.isfinite()).sum())} of {values.numel()} are not")
