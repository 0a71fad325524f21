"""Fairness of single items: alike ones decided alike, flips by the attribute alone; and bias a model amplifies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Real

from binderclip.errors import UsageError
from binderclip.numeric import check_present, check_whole


def consistency(
    features: Real[np.ndarray, "N D"], y_pred: Real[np.ndarray, "N"] | Sequence[float], *, k: int = 5
) -> float:
    """1 minus the mean distance of each decision to the mean decision of the item's k nearest neighbours.

    Paper: Zemel et al., Learning Fair Representations (ICML 2013).

    Args:
        features: what says which items are alike; Euclidean distance, the item itself is no neighbour.
        y_pred: decisions, 0 or 1, or scores in [0, 1].
        k: neighbours.

    Raises:
        UsageError: lengths differ, there are not more than k items, features that are not finite, or decisions outside
            [0, 1].
    """
    check_whole("k", k, least=1)
    x, y = np.asarray(features, dtype=float), np.asarray(y_pred, dtype=float)
    if x.ndim != 2 or y.shape != x.shape[:1] or len(y) <= k:
        raise UsageError(f"consistency takes (N, D) features and (N,) decisions, N > k = {k}; got {x.shape}, {y.shape}")
    if not np.isfinite(x).all():
        raise UsageError("features must be finite: leave items out that have none")
    if not ((y >= 0) & (y <= 1)).all():
        raise UsageError("y_pred must hold decisions, 0 or 1, or scores in [0, 1]")
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=k).fit(x).kneighbors(return_distance=False)  # (N, k), without itself
    return float(1 - np.abs(y - y[near].mean(axis=1)).mean())


def counterfactual_flip_rate(y_pred: Any, y_pred_changed: Any) -> float:
    """Share of items whose decision changes where nothing but the attribute does.

    Args:
        y_pred: decisions (N,) of any kind.
        y_pred_changed: of the same items, with the attribute changed.

    Raises:
        UsageError: not of one length, no item, or a decision that is None or NaN.
    """
    check_present("a decision of y_pred", y_pred)
    check_present("a decision of y_pred_changed", y_pred_changed)
    one, other = np.asarray(y_pred), np.asarray(y_pred_changed)
    if one.ndim != 1 or one.shape != other.shape or not len(one):
        raise UsageError(f"both must be (N,), N > 0; got {one.shape} and {other.shape}")
    return float((one != other).mean())


def bias_amplification(
    attribute: Any, task: Any, predicted: Any, *, direction: Literal["task->attribute", "attribute->task"]
) -> float:
    """Directional bias amplification: how much more a model pairs attribute and task than its training labels do.

    y_at = 1 where P(A = a, T = t) > P(A = a) P(T = t) in the labels; delta_at is, for "task->attribute", the predicted
    minus the labelled share of a among the items of t, for "attribute->task" the predicted minus the labelled share of
    t among the items of a. The figure is the mean over all pairs of y_at delta_at - (1 - y_at) delta_at: above 0, the
    model makes the pairs that are too frequent more frequent.

    Paper: Wang and Russakovsky, Directional Bias Amplification (ICML 2021, arXiv 2102.12594).

    Args:
        attribute, task: labels (N,) of any kind.
        predicted: of the same items the predicted attribute, or task.
        direction: what is predicted from what.

    Raises:
        UsageError: not of one length, no item, a label that is None or NaN, or another direction.
    """
    for name, values in (("attribute", attribute), ("task", task), ("predicted", predicted)):
        check_present(f"a label of {name}", values)
    a, t, decisions = np.asarray(attribute), np.asarray(task), np.asarray(predicted)
    if a.ndim != 1 or not len(a) == len(t) == len(decisions) > 0:
        raise UsageError(
            f"attribute, task and predicted must have one value an item; got {len(a)}, {len(t)}, {len(decisions)}"
        )
    if direction not in ("task->attribute", "attribute->task"):
        raise UsageError(f"direction is {direction!r}; it is 'task->attribute' or 'attribute->task'")
    total = []
    for one in np.unique(a):
        for other in np.unique(t):
            has, does = a == one, t == other
            frequent = (has & does).mean() > has.mean() * does.mean()
            among, truth, guess = (
                (does, has, decisions == one) if direction == "task->attribute" else (has, does, decisions == other)
            )
            delta = guess[among].mean() - truth[among].mean()
            total.append(delta if frequent else -delta)
    return float(np.mean(total))
