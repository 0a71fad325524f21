"""Presence or absence of one property, told by a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from binderclip.adapt.heads.base import FeatureClassifier, Terms
from binderclip.adapt.heads.prior import NO_OFFSET
from binderclip.adapt.heads.settings import check_settings
from binderclip.errors import UsageError


@dataclass(kw_only=True, eq=False, repr=False)
class PolarClassifier(FeatureClassifier):
    """Says whether a property is there: sigmoid(scale * (cosine with presence - cosine with absence)).

    Models of this kind hardly read negation: "without clouds" is nearer to clouds than "clear sky" is. Try several
    pairs and look at both rates. With labels, `fit` moves the threshold, which mends a biased pair but no bad features.
    Paper: Detecting Cloud Presence in Satellite Images Using the RGB-based CLIP Vision-Language Model
    (arXiv 2308.00541).

    Args:
        presence, absence: texts of the two poles as a `TextBank` (all of its sentences are averaged as unit vectors)
            or rows (K, d) or (d,).
        classes: the two answers, absence first.
        scale: factor on the cosines; None: the bank's own, else 100.
        calibrate: with labels, put the threshold where the balanced accuracy is best; False keeps a probability of 0.5.

    Attributes:
        classes_: the two answers. coef_: (2, d) unit rows, absence first. offset_: (2,) what is taken off the cosine
            with each (`TextBank.offsets`). threshold_: difference of logits from which
            the property counts as present; 0 is a probability of 0.5.

    Raises:
        UsageError: poles of different width, classes that are not two, or labels that are none of them.
    """

    presence: Any = field(kw_only=False)
    absence: Any = field(kw_only=False)
    classes: Sequence[Any] = (0, 1)
    scale: float | None = None
    calibrate: bool = False

    offset_ = NO_OFFSET

    def fit(self, X: Any = None, y: Any = None) -> PolarClassifier:
        """Prepare the poles, and the threshold where `calibrate` is set.

        Args:
            X: features (N, d); looked at only to calibrate.
            y: labels (N,) out of `classes`.
        """
        check_settings(self)
        rows, offsets = zip(*(_pole(pole) for pole in (self.absence, self.presence)), strict=True)
        if rows[0].shape != rows[1].shape:
            raise UsageError(f"presence has width {len(rows[1])} and absence {len(rows[0])}")
        if len(list(self.classes)) != 2:
            raise UsageError(f"classes are the two answers, absence first, not {list(self.classes)}")
        if self.scale is not None and not self.scale > 0:
            raise UsageError(f"scale must be above 0, not {self.scale}")
        own = getattr(self.presence, "scale", None)
        self.scale_ = float(self.scale if self.scale is not None else 100.0 if own is None else own)
        self.classes_ = np.asarray(list(self.classes))
        self.coef_, self.offset_ = torch.stack(rows).numpy(), torch.stack(offsets).numpy()
        self.n_features_in_ = self.coef_.shape[1]
        self.threshold_ = 0.0
        if self.calibrate and y is not None:
            self.threshold_ = self._best_threshold(X, y)
        return self

    def _best_threshold(self, X: Any, y: Any) -> float:
        labels = np.asarray(y)
        if not np.isin(labels, self.classes_).all() or len(set(labels.tolist())) < 2:
            raise UsageError(f"y must hold both of {self.classes_.tolist()} and nothing else")
        margin = self.decision_function(X)
        truth = labels == self.classes_[1]
        order = np.unique(margin)
        cuts = np.concatenate([[order[0] - 1], (order[:-1] + order[1:]) / 2, [order[-1] + 1]])
        predicted = margin[:, None] >= cuts
        return float(cuts[(predicted[truth].mean(axis=0) + (~predicted[~truth]).mean(axis=0)).argmax()])

    def terms(self, X: Float[Tensor, "N *V d"] | ArrayLike) -> Terms:
        """The two scaled cosines under the name `text`; fits first if need be."""
        if not hasattr(self, "classes_"):
            self.fit()
        return super().terms(X)

    def _terms(self, x: Float[Tensor, "N d"]) -> Terms:
        cosines = self.scale_ * (x @ torch.from_numpy(self.coef_).to(x).T - torch.as_tensor(self.offset_).to(x))
        # The threshold belongs to the absence: it is what presence must exceed.
        return {"text": cosines, "threshold": cosines.new_tensor([self.threshold_, 0.0]).expand_as(cosines)}


def _pole(given: Any) -> tuple[Float[Tensor, "d"], Float[Tensor, ""]]:
    """Its unit row, and what the model's similarity takes off every cosine with it."""
    geometry = None
    if hasattr(given, "unit"):
        rows, geometry = given.unit.detach().cpu().double(), given.geometry
    else:
        rows = torch.as_tensor(np.asarray(given) if not isinstance(given, Tensor) else given).double()
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2:
        raise UsageError(f"a pole is a TextBank or rows (K, d), not of shape {tuple(rows.shape)}")
    if not bool(rows.isfinite().all()):
        raise UsageError("a pole holds NaN or infinity")
    row = F.normalize(F.normalize(rows, dim=-1).mean(dim=0), dim=-1)
    return row, row.new_zeros(()) if geometry is None else geometry.offset(row.to(given.raw), "text").detach().to(row)
