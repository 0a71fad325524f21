"""The zero-shot classifier: cosines with text prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.adapt.head import FeatureClassifier, Terms
from binderclip.adapt.prior import prior_rows
from binderclip.errors import UsageError


class ZeroShotClassifier(FeatureClassifier):
    """Scores an image feature by its cosine with one text prototype a class; knows no images.

    Args:
        bank: a `TextBank`, a mapping from class to row, or an array (C, d) with `classes`.
        classes: names of the rows of an array.
        scale: factor on the cosines; None: the bank's own, else 100.
        prototype: how several sentences of a class become one row: `mean-unit` (average unit vectors, normalise
            again), `mean` (do not normalise again) or `mean-raw-unit` (average raw vectors, normalise).

    Attributes:
        coef_: prototypes (C, d), the `text_prior` of every few-shot head. classes_: in the bank's order.

    Raises:
        UsageError: scale not above 0, or a bank that is not (C, d).
    """

    def __init__(
        self,
        bank: Any,
        *,
        classes: Sequence[Any] | None = None,
        scale: float | None = None,
        prototype: str = "mean-unit",
    ) -> None:
        self.bank = bank
        self.classes = classes
        self.scale = scale
        self.prototype = prototype

    def fit(self, X: Any = None, y: Any = None) -> ZeroShotClassifier:
        """Prepare the prototypes; images and labels are not looked at, so pipelines and `clone` work."""
        names, rows, own = prior_rows(self.bank, self.classes, rule=self.prototype)
        if self.scale is not None and not self.scale > 0:
            raise UsageError(f"scale must be above 0, not {self.scale}")
        self.classes_ = np.asarray(names)
        self.n_features_in_ = rows.shape[1]
        self.coef_ = rows.numpy()
        self.scale_ = float(self.scale if self.scale is not None else own if own is not None else 100.0)
        return self

    def terms(self, X: Float[Tensor, "N *V d"]) -> Terms:
        """The scaled cosines under the name `text`; fits first where that was left out."""
        if not hasattr(self, "classes_"):
            self.fit()
        return super().terms(X)

    def _terms(self, x: Float[Tensor, "N d"]) -> Terms:
        return {"text": self.scale_ * x @ torch.from_numpy(self.coef_).to(x).T}

    def to_open_clip(self) -> Float[Tensor, "d C"]:
        """The prototypes as open_clip's `build_zero_shot_classifier` returns them."""
        if not hasattr(self, "classes_"):
            self.fit()
        return torch.from_numpy(self.coef_).float().T
