"""Losses that order pictures by how strongly they were degraded."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.losses.contrastive.loss import LossOutput


def margin_rank(
    above: Float[Tensor, "*#shape"], below: Float[Tensor, "*#shape"], margin: float
) -> Float[Tensor, "*shape"]:
    """max(0, margin - (above - below)): how much of the margin is missing, entry by entry.

    Args:
        above, below: `above` shall be larger, by the margin at least; they broadcast.
        margin: 0 asks for the order alone.
    """
    return (margin - (above - below)).clamp_min(0)


class QualityRank(nn.Module):
    """Order degraded crops of a picture by their similarity to a good and to a bad text, and hold crops together.

    With the crops k, h of a picture at rising levels i < j and cosines s_p to the good, s_n to the bad text:

        consistency = sum_i max(0, |s_p(k, i) - s_p(h, i)| - m_c) over pairs of crops, and the same of s_n
        positive    = sum_{i < j} sum_{k, h} max(0, m_r - (s_p(k, i) - s_p(h, j)))
        negative    = sum_{i < j} sum_{k, h} max(0, m_r - (s_n(h, j) - s_n(k, i)))

    Sums over levels and crops as in the paper, the mean over pictures.

    Args:
        consistency_margin: m_c, of cosines. Default the paper's.
        rank_margin: m_r, of cosines. Default the paper's.

    Raises:
        UsageError: shapes that differ, fewer than two levels, or no picture.

    Paper: Quality-Aware Image-Text Alignment for Opinion-Unaware Image Quality Assessment (arXiv 2403.11176); the
    official code has no training, so margins and sums are the paper's.
    """

    def __init__(self, *, consistency_margin: float = 2.5e-3, rank_margin: float = 6.75e-2) -> None:
        super().__init__()
        self.consistency_margin, self.rank_margin = consistency_margin, rank_margin

    def extra_repr(self) -> str:
        return f"consistency_margin={self.consistency_margin}, rank_margin={self.rank_margin}"

    def forward(self, positive: Float[Tensor, "B K L"], negative: Float[Tensor, "B K L"]) -> LossOutput:
        """The loss of one batch.

        Args:
            positive, negative: cosines with the good and the bad text, of B pictures, K crops and L levels, weakest
                first.

        Returns:
            `total`, the terms "consistency", "positive" and "negative", and the metric "ordered", the share of pairs of
            levels that both texts put in order.
        """
        if positive.ndim != 3 or positive.shape != negative.shape or positive.shape[2] < 2 or not len(positive):
            raise UsageError(
                f"positive {tuple(positive.shape)} and negative {tuple(negative.shape)} must both be (B, K, L) with at "
                "least one picture and two levels"
            )
        crops, levels = positive.shape[1:]
        first, later = torch.triu_indices(levels, levels, offset=1)
        one, other = torch.triu_indices(crops, crops, offset=1)
        apart = torch.stack([(s[:, one] - s[:, other]).abs() for s in (positive, negative)])  # (2, B, K(K-1)/2, L)
        terms = {"consistency": (apart - self.consistency_margin).clamp_min(0).sum()}
        ordered = []
        for name, s in (("positive", positive), ("negative", -negative)):
            weaker, stronger = s[:, :, None, first], s[:, None, :, later]  # (B, K, 1, P), (B, 1, K, P)
            terms[name] = margin_rank(weaker, stronger, self.rank_margin).sum()
            ordered.append(weaker.detach() > stronger.detach())
        terms = {name: value / len(positive) for name, value in terms.items()}
        accuracy = (ordered[0] & ordered[1]).to(positive.dtype).mean()
        return LossOutput(torch.stack(list(terms.values())).sum(), terms, {"ordered": accuracy})
