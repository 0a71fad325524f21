"""The shared study of private training: a softmax head on frozen features, at equal epsilon."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

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
"""Learning rates as multiples of one over the clip norm; the best one counts, for every method alike."""
TRAIN = 1400


@dataclass(frozen=True)
class Split:
    """Features in [0, 1] or of unit length, labels 0..9."""

    train: Float[Tensor, "N d"]
    labels: Int[Tensor, "N"]
    test: Float[Tensor, "M d"]
    test_labels: Int[Tensor, "M"]

    def accuracy(self, run: HeadRun) -> float:
        """On the test rows."""
        best = (self.test @ run.weight.T + run.bias).argmax(1)
        return float((best == self.test_labels).double().mean())


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


def digits(seed: int, kind: str = "unit rows") -> Split:
    """scikit-learn's digits, 1,400 for training.

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
    return Split(features[:TRAIN], labels[:TRAIN], features[TRAIN:], labels[TRAIN:])


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
) -> float:
    """The best test accuracy over learning rates a / scale.

    Args:
        data, epsilon, C2, seed: as for `run_head`. make: a fresh rule for each run. scale: usually the clip norm.
        learning: the a's.
    """
    return max(data.accuracy(run_head(data, make(), epsilon, a / scale, C2=C2, seed=seed)) for a in learning)


def best_flat(data: Split, norm: float, epsilon: float, *, C2: float | None = None, seed: int = 0) -> float:
    """The best accuracy of flat clipping to `norm`, with DiceSGD's feedback where `C2` is given."""
    return best_accuracy(data, lambda: FlatClip(norm), epsilon, norm, C2=C2, seed=seed)
