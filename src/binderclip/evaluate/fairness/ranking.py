"""Representation of groups in a ranking: skew at k, and the discounted divergence of every prefix."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from binderclip.errors import UsageError


def skew(
    ranking: Sequence[Hashable], desired: Mapping[Any, float] | None = None, *, k: int | None = None
) -> dict[Hashable, float]:
    """Logarithm of each group's share of the first k over its desired share: 0 is as desired, -inf is none.

    Paper: Geyik et al., Fairness-Aware Ranking in Search & Recommendation Systems (KDD 2019, arXiv 1905.01989).

    Args:
        ranking: the group of each result, best first.
        desired: share of each group; they are divided by their sum. Default: the shares of the whole ranking.
        k: results looked at; default all.

    Raises:
        UsageError: an empty ranking, k outside it, a group in it that has no desired share, or shares that are not
            positive.
    """
    groups, proportions = _desired(ranking, desired)
    count = len(ranking) if k is None else k
    if not 1 <= count <= len(ranking):
        raise UsageError(f"k is {k}, of a ranking of {len(ranking)}")
    first = list(ranking[:count])
    with np.errstate(divide="ignore"):
        shares = np.log(np.array([first.count(group) for group in groups]) / count / proportions)
    return dict(zip(groups, map(float, shares), strict=True))


def max_skew(ranking: Sequence[Hashable], desired: Mapping[Any, float] | None = None, *, k: int | None = None) -> float:
    """The largest `skew` over groups, MaxSkew@k: how much the best served group has too much. Arguments of `skew`."""
    return max(skew(ranking, desired, k=k).values())


def ndkl(ranking: Sequence[Hashable], desired: Mapping[Any, float] | None = None) -> float:
    """Normalised discounted KL divergence of every prefix's shares from the desired ones; 0 is best.

    sum over i of KL(shares of the first i || desired) / log2(i + 1), over the sum of 1 / log2(i + 1). Not 0 even where
    shares are as good as they can be, since the first prefix has one group. Arguments and errors of `skew`.
    """
    groups, proportions = _desired(ranking, desired)
    place = {group: number for number, group in enumerate(groups)}
    one = np.eye(len(groups))[[place[group] for group in ranking]]  # (n, G)
    steps = np.arange(1, len(ranking) + 1)
    shares = one.cumsum(axis=0) / steps[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(shares > 0, shares * np.log(shares / proportions), 0.0)
    discount = 1 / np.log2(steps + 1)
    return float((terms.sum(axis=1) * discount).sum() / discount.sum())


def _desired(
    ranking: Sequence[Hashable], desired: Mapping[Any, float] | None
) -> tuple[list[Hashable], Float[np.ndarray, "G"]]:
    if not len(ranking):
        raise UsageError("the ranking is empty")
    shares = desired if desired is not None else {group: ranking.count(group) for group in dict.fromkeys(ranking)}
    missing = [group for group in dict.fromkeys(ranking) if group not in shares]
    values = np.array([float(value) for value in shares.values()])
    if missing or not (np.isfinite(values) & (values > 0)).all():
        raise UsageError(f"every group needs a desired share above 0; got {dict(shares)}" + (
            f", and none for {missing[0]!r}" if missing else ""))  # fmt: skip
    return list(shares), values / values.sum()
