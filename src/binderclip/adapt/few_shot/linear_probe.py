"""Logistic regression on unit features (a baseline)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from binderclip.adapt.heads.base import PicturesOnlyHead, Terms, WeightedHead
from binderclip.numeric import check_number


@dataclass(kw_only=True, eq=False, repr=False)
class LinearProbe(PicturesOnlyHead, WeightedHead):
    """scikit-learn's logistic regression on unit image features, without any text.

    Args:
        C: inverse strength of the L2 penalty.
        max_iter: of the solver.
        Cs: values to search where `fit` gets a validation split; the first best wins.

    Attributes:
        coef_, intercept_: (C, d) and (C,); for two classes the first row is zero. C_: the strength in use.
        n_iter_: iterations of the solver.

    Raises:
        UsageError: C not above 0.
    """

    transient: ClassVar[tuple[str, ...]] = ("_solver", "_data")

    C: float = field(default=1.0, kw_only=False)
    max_iter: int = 1000
    Cs: Sequence[float] = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0)

    def _fit(self, views: Float[Tensor, "N V d"], targets: Int[Tensor, "N"]) -> None:
        check_number("C", self.C, above=0)
        x, y = views.flatten(0, 1).numpy(), targets.repeat_interleave(views.shape[1]).numpy()
        self._solver = LogisticRegression(max_iter=self.max_iter, warm_start=True)
        weights = None if self._counted is None else self._counted.repeat_interleave(views.shape[1]).numpy()
        self._data = x, y, weights
        self._use(self.C, *self._solve(self.C))

    def _solve(self, strength: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, y, weights = self._data
        if len(self.classes_) == 1:
            return np.zeros((1, x.shape[1])), np.zeros(1), np.ones(1, dtype=int)
        model = self._solver.set_params(C=strength).fit(x, y, sample_weight=weights)
        weight, bias = model.coef_.copy(), model.intercept_.copy()
        if len(weight) == 1:
            weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
        return weight, bias, model.n_iter_

    def _use(self, strength: float, weight: np.ndarray, bias: np.ndarray, iterations: np.ndarray) -> None:
        self.C_, self.coef_, self.intercept_, self.n_iter_ = float(strength), weight, bias, iterations

    def _terms(self, x: Float[Tensor, "N d"]) -> Terms:
        return {"linear": x @ torch.from_numpy(self.coef_).to(x).T + torch.from_numpy(self.intercept_).to(x)}

    def _tune(self, x: Float[Tensor, "N d"], targets: Int[Tensor, "N"]) -> None:
        best = -1.0
        solution_of_best = None
        # Each solution starts from the one before, so a grid costs little more than its hardest point.
        for strength in self.Cs:
            solution = self._solve(strength)
            self._use(strength, *solution)
            accuracy = float((self._terms(x)["linear"].argmax(dim=-1) == targets).double().mean())
            if accuracy > best:
                best, solution_of_best = accuracy, (strength, *solution)
        if solution_of_best is not None:
            self._use(*solution_of_best)
