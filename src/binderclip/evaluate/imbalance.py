"""What unequal frequencies of the training classes leave in a classifier: biased guesses, and uneven collapse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Integer, Real
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.similarity.arrays import Rows, as_features, as_indices

__all__ = ["ImbalanceReport", "NeuralCollapse", "imbalance_report", "neural_collapse"]


@dataclass(frozen=True)
class ImbalanceReport:
    """How a classifier's answers follow the frequencies of its training classes.

    Attributes:
        accuracy: (C,) share of each class's samples that are named; NaN without samples.
        predicted: (C,) how often each class is named, as a share of all answers were all classes as frequent.
        accuracy_correlation: Spearman's correlation of frequency and accuracy; near 0 is unbiased.
        prediction_correlation: Spearman's correlation of frequency and `predicted`; near 0 is unbiased.
        mean_accuracy: mean over classes.
        head, median, tail: mean accuracy of the most frequent third of the classes, the next, and the rarest; NaN
            without samples. Of equally frequent classes the first come first.
    """

    accuracy: Float[np.ndarray, "C"]
    predicted: Float[np.ndarray, "C"]
    accuracy_correlation: float
    prediction_correlation: float
    mean_accuracy: float
    head: float
    median: float
    tail: float


def imbalance_report(confusion: Real[np.ndarray, "C C"], freq: Real[np.ndarray, "C"]) -> ImbalanceReport:
    """Judge a confusion matrix by how frequent the classes were in training.

    Each row counts as much as another, so the test set need not be balanced; where it is, `predicted` has the order of
    the official code's counts.

    Args:
        confusion: samples of each true class (rows) that were given each class (columns), as
            `sklearn.metrics.confusion_matrix` has them.
        freq: training samples of each class.

    Returns:
        A correlation is 0 where accuracies, predictions or frequencies are all alike.

    Raises:
        UsageError: wrong shapes, fewer than three classes, negative or infinite numbers, or no sample.

    Examples:
        >>> report = imbalance_report(np.array([[9, 1, 0], [4, 6, 0], [7, 1, 2]]), np.array([900, 90, 9]))
        >>> report.prediction_correlation, report.tail
        (1.0, 0.2)

    Paper: Wen et al., "Generalization Beyond Data Imbalance: A Controlled Study on CLIP for Transferable Insights",
    arXiv 2405.21070.
    """
    counts, freq = np.asarray(confusion, np.float64), np.asarray(freq, np.float64)
    classes = len(counts)
    if counts.shape != (classes, classes) or freq.shape != (classes,) or classes < 3:
        raise UsageError(f"confusion is (C, C) and freq (C,) with C from 3, got {counts.shape} and {freq.shape}")
    if not (np.isfinite(counts).all() and np.isfinite(freq).all() and min(counts.min(), freq.min()) >= 0):
        raise UsageError("confusion and freq hold finite numbers from 0")
    samples = counts.sum(1)
    known = samples > 0
    if not known.any():
        raise UsageError("the confusion matrix holds no sample")
    with np.errstate(invalid="ignore"):
        given = counts / samples[:, None]  # P(answer | true class)
    accuracy, predicted = np.diagonal(given).copy(), given[known].mean(0)
    order = np.argsort(-freq, kind="stable")
    thirds = [accuracy[part] for part in np.array_split(order, 3)]
    head, median, tail = (float(np.nanmean(part)) if (~np.isnan(part)).any() else np.nan for part in thirds)
    return ImbalanceReport(
        accuracy,
        predicted,
        _correlation(freq[known], accuracy[known]),
        _correlation(freq, predicted.round(12)),  # shares that are equal but for rounding are ties
        float(accuracy[known].mean()),
        head,
        median,
        tail,
    )


def _correlation(x: Float[np.ndarray, "C"], y: Float[np.ndarray, "C"]) -> float:
    """Spearman's; 0 where there is nothing to follow."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(spearmanr(x, y).statistic)


@dataclass(frozen=True)
class NeuralCollapse:
    """How far features and head are from one point a class at the corners of a simplex; all are 0 there.

    Attributes:
        within: (C,) scatter inside each class against that between classes (NC1).
        means: (C,) mean over the other classes of |cosine of two centred class means + 1 / (C - 1)| (NC2).
        means_most: (C,) the largest of these.
        head, head_most: the same of the head's rows; None without a head.
    """

    within: Float[Tensor, "C"]
    means: Float[Tensor, "C"]
    means_most: Float[Tensor, "C"]
    head: Float[Tensor, "C"] | None
    head_most: Float[Tensor, "C"] | None


@torch.no_grad()
def neural_collapse(
    features: Rows, labels: Integer[Tensor, "N"] | Integer[np.ndarray, "N"] | Sequence[int], head: Rows | None = None
) -> NeuralCollapse:
    """Measure neural collapse class by class, so that frequent and rare classes can be compared.

    With class means mu_c, their mean mu and S_b = sum_c (mu_c - mu)(mu_c - mu)^T / C, NC1 of class c is
    tr(S_c S_b^+), S_c the scatter of its samples divided by the number of ALL samples, as in the official code; so a
    class with few samples in `features` has a small one. Measure on a balanced set.

    Args:
        features: of samples, raw.
        labels: classes from 0, of any whole-number type; each class has a sample.
        head: rows of the classifier, which are not centred.

    Raises:
        UsageError: lengths that do not match, values that are not finite, fewer than two classes, a class without
            samples, or a head with another number of classes or another width.

    Examples:
        >>> corners = torch.eye(3).repeat(4, 1)
        >>> found = neural_collapse(corners, torch.arange(12) % 3)
        >>> bool((found.within.abs() + found.means < 1e-9).all())
        True

    Paper: Wen et al., "Generalization Beyond Data Imbalance: A Controlled Study on CLIP for Transferable Insights",
    arXiv 2405.21070.
    """
    features, labels = as_features("features", features), as_indices("labels", labels)
    labels, head = labels.to(features.device), None if head is None else as_features("head", head)
    if len(features) != len(labels) or not len(labels) or not bool(features.isfinite().all()):
        raise UsageError(f"neural_collapse needs a finite feature a label, got {len(features)} and {len(labels)}")
    classes = int(labels.max()) + 1 if head is None else len(head)
    if head is not None and (head.shape[1] != features.shape[1] or not bool(head.isfinite().all())):
        raise UsageError(f"head is (C, {features.shape[1]}) finite numbers, got {tuple(head.shape)}")
    if int(labels.min()) < 0 or int(labels.max()) >= classes or classes < 2:
        raise UsageError(f"labels lie between 0 and {classes - 1} and there are two classes at least")
    x, count = features.double(), labels.bincount(minlength=classes)
    if bool((count == 0).any()):
        raise UsageError(f"class {int((count == 0).nonzero()[0])} has no sample")
    means = torch.zeros(classes, x.shape[1], dtype=x.dtype, device=x.device).index_add_(0, labels, x) / count[:, None]
    centred = means - means.mean(0)
    inverse = torch.linalg.pinv(centred.T @ centred / classes, hermitian=True)  # S_b^+, (d, d)
    away = x - means[labels]
    traces = ((away @ inverse) * away).sum(1) / len(x)  # (h - mu_c)^T S_b^+ (h - mu_c) / N
    within = torch.zeros(classes, dtype=x.dtype, device=x.device).index_add_(0, labels, traces)
    rows = (None, None) if head is None else _simplex_distance(head.double())
    return NeuralCollapse(within, *_simplex_distance(centred), *rows)


def _simplex_distance(rows: Float[Tensor, "C d"]) -> tuple[Float[Tensor, "C"], Float[Tensor, "C"]]:
    """Mean and largest |cosine + 1 / (C - 1)| of each row with the others."""
    unit = F.normalize(rows, dim=1)
    away = (unit @ unit.T + 1 / (len(rows) - 1)).abs().fill_diagonal_(0)
    return away.sum(1) / (len(rows) - 1), away.amax(1)
