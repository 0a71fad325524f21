"""How good a classifier is against how many examples it has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from binderclip.data import few_shot_split
from binderclip.errors import UsageError


@dataclass(frozen=True)
class LearningPoint:
    """Figures of one learning set.

    Attributes:
        size: examples a class.
        repeat: number of the draw.
        figures: `accuracy`; with a positive class also `sensitivity` (share of the positives that are found),
            `specificity` (share of the others that are left alone), `precision`, `f1` and `auroc`.
    """

    size: int
    repeat: int
    figures: dict[str, float]


@dataclass(frozen=True)
class LearningCurve:
    """All points of `learning_set_curve`, in the order of sizes, then repeats."""

    points: list[LearningPoint]

    def summary(self, figure: str = "accuracy") -> list[tuple[int, float, float]]:
        """(size, mean, standard deviation over the draws; 0 for a single draw) of one figure.

        Raises:
            UsageError: a figure that was not measured.
        """
        if figure not in self.points[0].figures:
            raise UsageError(f"figure {figure!r} was not measured: one of {', '.join(self.points[0].figures)}")
        rows = []
        for size in dict.fromkeys(point.size for point in self.points):
            values = np.array([point.figures[figure] for point in self.points if point.size == size])
            rows.append((size, float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else 0.0))
        return rows


def learning_set_curve(
    estimator: Any,
    X: Shaped[np.ndarray, "N ..."],
    y: Shaped[np.ndarray, "N"],
    *,
    sizes: Sequence[int] = (10, 20, 30, 40, 50, 100),
    repeats: int = 10,
    positive: Any = None,
    X_test: Shaped[np.ndarray, "M ..."] | None = None,
    y_test: Shaped[np.ndarray, "M"] | None = None,
    seed: int = 0,
) -> LearningCurve:
    """Fit a classifier on random learning sets of growing size and score it on what they leave.

    The sets of one repeat are nested, so a curve shows what more examples add and not another draw.

    Args:
        estimator: any scikit-learn classifier; cloned for each set.
        X, y: where the learning sets are drawn from, the same number from each class; without a test set the rest of
            them is the test set. Remove near-duplicates before: a frame of the same part in both is a leak.
        sizes: examples a class.
        repeats: draws.
        positive: the class to find, such as the defective parts; measures that need one are left out without it.
        X_test, y_test: a fixed test set; may hold what the learning sets never draw.
        seed: of the draws.

    Raises:
        UsageError: no size or repeat, half a test set, a positive class that is not in y, or a class that has too few
            examples for the largest set (and one more to test on, where there is no test set).

    Paper: Adapting OpenAI's CLIP Model for Few-Shot Image Inspection in Manufacturing Quality Control (arXiv
    2501.12596).
    """
    from sklearn.base import clone

    X, y = np.asarray(X), np.asarray(y)
    if (X_test is None) != (y_test is None):
        raise UsageError("X_test and y_test go together: pass both or neither")
    names, ids = np.unique(y, return_inverse=True)
    if not len(sizes) or repeats < 1:
        raise UsageError(f"give at least one size and one repeat, not {list(sizes)} and {repeats}")
    if positive is not None and positive not in names:
        raise UsageError(f"positive={positive!r} is not a class of y: one of {', '.join(map(repr, names.tolist()))}")
    need, fewest = max(sizes) + (X_test is None), int(np.bincount(ids).min())
    if fewest < need:
        scarce = names.tolist()[int(np.bincount(ids).argmin())]
        raise UsageError(f"class {scarce!r} has {fewest} examples; {need} are needed")
    points = []
    for size in sizes:
        for repeat in range(repeats):
            draw = int(np.random.SeedSequence([seed, repeat]).generate_state(1)[0])
            chosen, rest = few_shot_split(ids, size, draw)
            model = clone(estimator).fit(X[chosen], y[chosen])
            held, asked = (X[rest], y[rest]) if X_test is None or y_test is None else (X_test, np.asarray(y_test))
            points.append(LearningPoint(size, repeat, _figures(model, held, asked, positive)))
    return LearningCurve(points)


def _figures(model: Any, X: np.ndarray, y: np.ndarray, positive: Any) -> dict[str, float]:
    from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

    predicted = model.predict(X)
    figures = {"accuracy": float(np.mean(predicted == y))}
    if positive is None:
        return figures
    truth, predicted_positive = y == positive, predicted == positive
    return figures | {
        "sensitivity": float(recall_score(truth, predicted_positive, zero_division=0.0)),
        "specificity": float(recall_score(~truth, ~predicted_positive, zero_division=0.0)),
        "precision": float(precision_score(truth, predicted_positive, zero_division=0.0)),
        "f1": float(f1_score(truth, predicted_positive, zero_division=0.0)),
        "auroc": float(roc_auc_score(truth, _margin(model, X, positive))),
    }


def _margin(model: Any, X: np.ndarray, positive: Any) -> np.ndarray:
    """How much the positive class leads; from logits where there are any, as saturated probabilities tie."""
    column = int(np.flatnonzero(np.asarray(model.classes_) == positive)[0])
    scores = np.asarray(model.decision_function(X) if hasattr(model, "decision_function") else model.predict_proba(X))
    if scores.ndim == 1:
        return scores if column == 1 else -scores
    return scores[:, column] - np.delete(scores, column, axis=1).max(axis=1)
