"""The loss that teaches a pair of prompts to tell more from less backlit pictures."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.losses.contrastive.loss import LossOutput
from binderclip.losses.degradation_rank import margin_rank

OUTER, INNER = {2: 1.0}, {3: 0.2}
"""Margins by the number of rows; others have 0.9 and 0.1."""


class PromptRank(nn.Module):
    """Order pictures by the probability of the prompt for backlit ones: inputs, older results, newer ones, well-lit.

    With R(a, b, m) = mean max(0, m - (a - b)) and the probabilities s_1 (inputs) to s_n (well-lit pictures):

        R(s_1, s_n, outer) + [R(s_1, s_2, outer) + sum_{1 < r < n} R(s_r, s_{r+1}, inner)  where there are results]

    Args:
        outer: margin between inputs and the others. Default the paper's: 0.9, and 1 where there are no results yet.
        inner: margin between neighbours. Default the paper's: 0.2 for one result, 0.1 for two or more.

    Raises:
        UsageError: a negative margin, or fewer than two rows.

    Paper: Iterative Prompt Learning for Unsupervised Backlit Image Enhancement (arXiv 2303.17569). The order is the
    paper's; the official code hands in the newer result where the older one belongs.
    """

    def __init__(self, outer: float | None = None, inner: float | None = None) -> None:
        super().__init__()
        if min(outer or 0.0, inner or 0.0) < 0:
            raise UsageError(f"margins are at least 0, got {outer} and {inner}")
        self.outer, self.inner = outer, inner

    def extra_repr(self) -> str:
        return f"outer={self.outer}, inner={self.inner}"

    def forward(self, scores: Float[Tensor, "R B"]) -> LossOutput:
        """The loss of one batch.

        Args:
            scores: probability of the backlit prompt, R rows that shall fall by their margins.

        Returns:
            `total`, the terms "outer" and "inner", and the metric "ordered", the share of columns that fall all the
            way.
        """
        if scores.ndim != 2 or len(scores) < 2 or not scores.shape[1]:
            raise UsageError(f"scores {tuple(scores.shape)} must be (R, B) with two rows and one column at least")
        rows = len(scores)
        outer = OUTER.get(rows, 0.9) if self.outer is None else self.outer
        inner = INNER.get(rows, 0.1) if self.inner is None else self.inner
        terms = {"outer": margin_rank(scores[0], scores[-1], outer).mean()}
        if rows > 2:
            terms["outer"] = terms["outer"] + margin_rank(scores[0], scores[1], outer).mean()
            terms["inner"] = margin_rank(scores[1:-1], scores[2:], inner).mean(1).sum()
        fallen = (scores[:-1] > scores[1:]).all(0).to(scores.dtype).mean()
        return LossOutput(torch.stack(list(terms.values())).sum(), terms, {"ordered": fallen.detach()})
