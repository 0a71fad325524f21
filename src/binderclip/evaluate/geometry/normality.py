"""How near whitened embeddings are to a standard normal."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError

__all__ = ["NormalityReport", "normality_report"]

ANDERSON, PEARSON = 0.752, 0.05
"""The Anderson-Darling statistic below which a feature passes, and D'Agostino and Pearson's p value above which."""
MOST = 5000
"""Rows that the tests of single features look at: with more, they find every departure however small."""


@dataclass(frozen=True)
class NormalityReport:
    """What whitened vectors look like.

    Attributes:
        anderson, pearson: shares of the features that pass either test.
        norm_mean, norm_std: of the vectors' lengths. expected: their mean under the standard normal.
        square: mean of the squared length over its expectation, the number of dimensions.
        correlation: mean absolute correlation between different features.
    """

    anderson: float
    pearson: float
    norm_mean: float
    norm_std: float
    expected: float
    square: float
    correlation: float


def normality_report(y: Float[Tensor, "n k"]) -> NormalityReport:
    """Tests of single features and of lengths, of vectors that were not fitted on.

    Raises:
        UsageError: fewer than 20 vectors.

    Paper: Whitened CLIP as a Likelihood Surrogate of Images and Captions (arXiv 2505.06934).
    """
    from scipy import stats

    count, width = y.shape
    if count < 20:
        raise UsageError(f"{count} vectors are too few for tests of normality: give 20 at least")
    x = y.double()
    rows = x[:MOST].numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of how critical values are given; the statistic stays
        statistics = [float(stats.anderson(rows[:, i], "norm").statistic) for i in range(width)]
    chances = stats.normaltest(rows, axis=0).pvalue
    norms = x.norm(dim=1)
    correlation = torch.corrcoef(x.T).abs() if width > 1 else torch.ones(1, 1, dtype=torch.float64)
    others = (float(correlation.sum()) - width) / max(1, width * (width - 1))
    return NormalityReport(
        sum(s < ANDERSON for s in statistics) / width,
        float((chances > PEARSON).mean()),
        float(norms.mean()),
        float(norms.std()),
        math.sqrt(2) * math.exp(math.lgamma((width + 1) / 2) - math.lgamma(width / 2)),
        float(x.square().sum(1).mean()) / width,
        others,
    )
