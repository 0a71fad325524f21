"""Few-shot sampling, and one call that compares heads."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone

from binderclip.errors import UsageError


def few_shot_split(y: Any, shots: int, seed: int, *, validation: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Indices of `shots` examples a class for training and, disjoint from them, for validation.

    Args:
        y: labels (N,).
        shots: training examples a class.
        seed: of the sampling.
        validation: validation examples a class; None: as many as `shots`.

    Raises:
        UsageError: shots below 1, or a class with too few examples, which is named.
    """
    validation = shots if validation is None else validation
    if shots < 1 or validation < 0:
        raise UsageError(f"shots must be at least 1 and validation at least 0, not {shots} and {validation}")
    labels = np.asarray(y)
    rng = np.random.default_rng(seed)
    train, held = [], []
    for name in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == name))
        if len(rows) < shots + validation:
            raise UsageError(f"class {name!r} has {len(rows)} examples; {shots} + {validation} are asked for")
        train.append(rows[:shots])
        held.append(rows[shots : shots + validation])
    return np.concatenate(train), np.concatenate(held)


@dataclass(frozen=True)
class HeadScore:
    """Accuracy and fit time (seconds, tuning included) of one head at one number of shots and one seed."""

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
            train, held = few_shot_split(y, count, seed)
            for name, head in heads.items():
                model = clone(head)
                extra = (X[held], y[held]) if "X_val" in model.fit.__code__.co_varnames else ()
                start = time.perf_counter()
                model.fit(X[train], y[train], *extra)
                seconds = time.perf_counter() - start
                rows.append(HeadScore(name, count, seed, float(model.score(X_test, y_test)), seconds))
    return rows
