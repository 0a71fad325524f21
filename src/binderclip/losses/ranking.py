"""Losses for putting things in order."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses.contrastive.loss import LossOutput


class PairwiseRankLoss(nn.Module):
    """Which of two is larger, for every ordered pair of a batch, and how large each is.

    Ranking is the binary cross-entropy of the pair logits l_ij against y_i > y_j, over all N^2 pairs: ties and a thing
    with itself have target 0. Regression is log(1 + SmoothL1(r, y)), the mean taken before the logarithm, so that large
    targets do not drown the ranking.

    Args:
        rank: weight of the ranking.
        regression: weight of the regression.
        presence: weight of a binary cross-entropy of the scores against y != 0. Default 0.

    Raises:
        UsageError: a negative weight, or shapes that do not fit.

    Paper: Ranking-aware adapter for text-driven image ordering with CLIP (arXiv 2412.06760).
    """

    def __init__(self, rank: float = 1.0, *, regression: float = 0.2, presence: float = 0.0) -> None:
        super().__init__()
        if min(rank, regression, presence) < 0:
            raise UsageError(f"weights are at least 0, got rank {rank}, regression {regression}, presence {presence}")
        self.rank, self.regression, self.presence = rank, regression, presence

    def extra_repr(self) -> str:
        return f"rank={self.rank}, regression={self.regression}, presence={self.presence}"

    def forward(
        self,
        scores: Float[Tensor, "N"],
        targets: Float[Tensor, "N"],
        pairs: Float[Tensor, "N N"] | None = None,
        *,
        comparable: Bool[Tensor, "N N"] | None = None,
    ) -> LossOutput:
        """The loss of one batch.

        Args:
            scores: r, predicted quantities.
            targets: y, true quantities.
            pairs: logit l_ij that i is more than j; None takes the differences r_i - r_j.
            comparable: pairs that count, where the batch holds several quantities; None: all.

        Returns:
            `total`, and the weighted terms "rank", "regression" and "presence" that have a weight; the metric
            "pair_accuracy" over comparable pairs that are no ties.
        """
        targets = targets.to(scores.dtype)
        n = len(scores)
        logits = scores[:, None] - scores if pairs is None else pairs
        if scores.ndim != 1 or targets.shape != scores.shape or logits.shape != (n, n):
            raise UsageError(
                f"scores {tuple(scores.shape)} and targets {tuple(targets.shape)} are (N,), pairs "
                f"{tuple(logits.shape)} (N, N)"
            )
        wins = (targets[:, None] > targets).to(scores.dtype)
        counted = torch.ones_like(wins) if comparable is None else comparable.to(scores.dtype)
        terms: dict[str, Tensor] = {}
        if self.rank:
            each = F.binary_cross_entropy_with_logits(logits, wins, reduction="none")
            terms["rank"] = self.rank * (each * counted).sum() / counted.sum().clamp_min(1)
        if self.regression:
            terms["regression"] = self.regression * F.smooth_l1_loss(scores, targets).log1p()
        if self.presence:
            there = (targets != 0).to(scores.dtype)
            terms["presence"] = self.presence * F.binary_cross_entropy_with_logits(scores, there)
        total = torch.stack(list(terms.values())).sum() if terms else scores.sum() * 0
        decided = counted * (wins + wins.T)
        right = ((logits.detach() > 0) == (wins > 0)).to(scores.dtype)
        accuracy = (right * decided).sum() / decided.sum().clamp_min(1)
        return LossOutput(total, terms, {"pair_accuracy": accuracy})
