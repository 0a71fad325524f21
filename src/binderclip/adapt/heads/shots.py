"""One call that compares heads on the same few-shot draws."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import has_fit_parameter

from binderclip.data import few_shot_split


def draw_shots(y: np.ndarray, shots: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of `shots` training examples a class and, disjoint from them, as many for validation.

    Args:
        y: labels (N,) of any kind.
        shots: examples a class in each of the two.
        seed: of the draw; see `data.few_shot_split`.

    Raises:
        UsageError: a class has too few examples.
    """
    _, ids = np.unique(y, return_inverse=True)
    train, rest = few_shot_split(ids, shots, seed)
    held, _ = few_shot_split(ids[rest], shots, seed)
    return train, rest[held]


@dataclass(frozen=True)
class HeadScore:
    """Accuracy and fit time of one head at one number of shots and one seed.

    The time is processor seconds, tuning included: it does not depend on what else the machine does.
    """

    head: str
    shots: int
    seed: int
    accuracy: float
    fit_seconds: float


def compare_heads(
    heads: Mapping[str, Any],
    X: np.ndarray,
    y: np.ndarray,
    X_test: np.ndarray,
    y_test: np.ndarray,
    *,
    shots: Sequence[int] = (1, 2, 4, 8, 16),
    seeds: Sequence[int] = (0, 1, 2),
) -> list[HeadScore]:
    """Fit every head on the same few-shot draws, tuned on as many validation examples, and score it.

    Args:
        heads: unfitted estimators by name; each is cloned. Estimators whose `fit` takes no validation split get none.
        X, y: pool the shots are drawn from; features (N, d) or (N, V, d).
        X_test, y_test: test set, shared by all draws.
        shots, seeds: what to run.
    """
    rows = []
    for seed in seeds:
        for count in shots:
            train, held = draw_shots(y, count, seed)
            for name, head in heads.items():
                model = clone(head)
                extra = (X[held], y[held]) if has_fit_parameter(model, "X_val") else ()
                start = time.process_time()
                model.fit(X[train], y[train], *extra)
                seconds = time.process_time() - start
                rows.append(HeadScore(name, count, seed, float(model.score(X_test, y_test)), seconds))
    return rows
