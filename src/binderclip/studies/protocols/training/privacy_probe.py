"""The shared study of private training: a softmax head on frozen features, at equal epsilon."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.privacy import (
    DiceFeedback,
    FlatClip,
    HeadRun,
    SensitivityRule,
    noise_multiplier_for,
    train_softmax_head,
)

DELTA, RATE, STEPS = 1e-5, 0.1, 200
LEARNING = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Learning rates as multiples of one over the clip norm; the one that is best on the validation rows counts."""
TRAIN, VALIDATION = 1200, 200


@dataclass(frozen=True)
class Split:
    """Features in [0, 1] or of unit length, labels 0..9."""

    train: Float[Tensor, "N d"]
    labels: Int[Tensor, "N"]
    validation: Float[Tensor, "V d"]
    validation_labels: Int[Tensor, "V"]
    test: Float[Tensor, "M d"]
    test_labels: Int[Tensor, "M"]

    def accuracies(self, run: HeadRun) -> Accuracies:
        """Of one run."""
        parts = ((self.validation, self.validation_labels), (self.test, self.test_labels))
        right = [(features @ run.weight.T + run.bias).argmax(1) == labels for features, labels in parts]
        return Accuracies(*(float(part.double().mean()) for part in right))


class Accuracies(NamedTuple):
    """Of one run: on the rows that settings are chosen by, and on the test rows."""

    validation: float
    test: float


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


def digits(seed: int, kind: str = "unit rows") -> Split:
    """scikit-learn's digits: 1,200 to train on, 200 to choose settings by, 397 to test.

    Args:
        seed: of the split.
        kind: "unit rows", or "scaled rows": each times exp(u), u uniform in [-1, 1].
    """
    x, y = _digits()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    features = F.normalize(torch.from_numpy(x).float()[order], dim=1)
    if kind == "scaled rows":
        features = features * torch.empty(len(x), 1).uniform_(-1, 1, generator=generator).exp()
    labels = torch.from_numpy(y).long()[order]
    rows = (slice(TRAIN), slice(TRAIN, TRAIN + VALIDATION), slice(TRAIN + VALIDATION, None))
    return Split(*(part for chosen in rows for part in (features[chosen], labels[chosen])))


@lru_cache(maxsize=32)
def noise(epsilon: float) -> float:
    """The multiplier that 200 Poisson steps at rate .1 may use."""
    return noise_multiplier_for(epsilon, DELTA, RATE, STEPS)


def run_head(
    data: Split, rule: SensitivityRule, epsilon: float, lr: float, *, C2: float | None = None, seed: int = 0
) -> HeadRun:
    """One run at the budget.

    Args:
        data: the set. rule: what to clip to. epsilon: with delta 1e-5. lr: of SGD.
        C2: the error's threshold, for DiceSGD.
        seed: of sampling and noise.
    """
    feedback = None if C2 is None else DiceFeedback(C2)
    return train_softmax_head(
        data.train, data.labels, 10, rule=rule, noise_multiplier=noise(epsilon), sample_rate=RATE, steps=STEPS, lr=lr,
        feedback=feedback, seed=seed,
    )  # fmt: skip


def best_accuracy(
    data: Split,
    make: Callable[[], SensitivityRule],
    epsilon: float,
    scale: float,
    *,
    C2: float | None = None,
    seed: int = 0,
    learning: Iterable[float] = LEARNING,
) -> Accuracies:
    """The accuracies at the learning rate a / scale that is best on the validation rows.

    Args:
        data, epsilon, C2, seed: as for `run_head`. make: a fresh rule for each run. scale: usually the clip norm.
        learning: the a's.
    """
    runs = (data.accuracies(run_head(data, make(), epsilon, a / scale, C2=C2, seed=seed)) for a in learning)
    return chosen(runs)


def chosen(runs: Iterable[Accuracies]) -> Accuracies:
    """The run that is best on the validation rows; the first of several."""
    return max(runs, key=lambda run: run.validation)


def best_flat(data: Split, norm: float, epsilon: float, *, C2: float | None = None, seed: int = 0) -> Accuracies:
    """The same for flat clipping to `norm`, with DiceSGD's feedback where `C2` is given."""
    return best_accuracy(data, lambda: FlatClip(norm), epsilon, norm, C2=C2, seed=seed)
