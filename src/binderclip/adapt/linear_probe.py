"""Logistic regression on unit features (a baseline)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from binderclip.adapt.head import FewShotHead, Terms
from binderclip.errors import UsageError


class LinearProbe(FewShotHead):
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

    def __init__(
        self,
        C: float = 1.0,
        *,
        max_iter: int = 1000,
        Cs: Sequence[float] = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0),
    ) -> None:
        self.C = C
        self.max_iter = max_iter
        self.Cs = Cs

    def _set_prior(self, labels: list[object]) -> None:
        self.prior_, self.scale_ = None, 100.0

    def _fit(self, views: Float[Tensor, "N V d"], targets: Int[Tensor, "N"]) -> None:
        if not self.C > 0:
            raise UsageError(f"C must be above 0, not {self.C}")
        self._data = views.flatten(0, 1).numpy(), targets.repeat_interleave(views.shape[1]).numpy()
        self._solve(self.C)

    def _solve(self, strength: float) -> None:
        x, y = self._data
        self.C_ = float(strength)
        if len(self.classes_) == 1:
            self.coef_, self.intercept_, self.n_iter_ = np.zeros((1, x.shape[1])), np.zeros(1), np.ones(1, dtype=int)
            return
        model = LogisticRegression(C=strength, max_iter=self.max_iter).fit(x, y)
        weight, bias, self.n_iter_ = model.coef_, model.intercept_, model.n_iter_
        if len(weight) == 1:
            weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
        self.coef_, self.intercept_ = weight, bias

    def _terms(self, x: Float[Tensor, "N d"]) -> Terms:
        return {"linear": x @ torch.from_numpy(self.coef_).to(x).T + torch.from_numpy(self.intercept_).to(x)}

    def _tune(self, x: Float[Tensor, "N d"], targets: Int[Tensor, "N"]) -> None:
        accuracy = {}
        for strength in self.Cs:
            self._solve(strength)
            accuracy[strength] = float((self._terms(x)["linear"].argmax(dim=-1) == targets).double().mean())
        self._solve(max(accuracy, key=lambda strength: accuracy[strength]))
