"""Several labels a picture: one binary head a class, each answer calibrated and cut by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve
from torch import Tensor

from binderclip.adapt.few_shot.gaussian import GaussianHead
from binderclip.adapt.few_shot.linear_probe import LinearProbe
from binderclip.adapt.heads.base import FeatureClassifier, Terms, _checked_input, _see_names
from binderclip.adapt.heads.prior import align, prior_rows
from binderclip.adapt.heads.settings import check_settings
from binderclip.errors import UsageError
from binderclip.settings import check_choice

BASES = ("linear-probe", "gda", "nearest-example", "zero-shot")


@dataclass(kw_only=True, eq=False, repr=False)
class OneVsRest(FeatureClassifier):
    """One binary classifier a class, so that a picture may have any number of labels.

    The logit of a class is that of "has it" less that of "has it not". `calibrate` turns the logits of held-out
    pictures into probabilities, class by class (Platt's scaling), and sets the threshold that gives the best F1 there.

    Args:
        base: `linear-probe`, `gda`, `nearest-example`, or `zero-shot` (the cosine with the class's text less the mean
            over all classes; learns nothing but the scaling).
        text_prior: rows for the classes (see `prior_rows`), matched by name; needed by `zero-shot`, and beside `gda`
            and `linear-probe` an offer: their logit is added to the text's, weighted by `text_weight`.
        classes: names of the columns of Y, in order.
        text_weight: factor on the text's logit beside a base that learns; 0 leaves the text out.

    Attributes:
        scaling_: (C, 2) slope and offset of each class's logit before the sigmoid. thresholds_: (C,) probabilities.

    Raises:
        UsageError: an unknown base, Y that is not an indicator (N, C), or `zero-shot` without texts.
    """

    transient: ClassVar[tuple[str, ...]] = ()

    base: str = field(default="linear-probe", kw_only=False)
    text_prior: Any = None
    classes: Sequence[str] | None = None
    text_weight: float = 0.0

    def fit(self, X: Any, Y: Int[np.ndarray, "N C"]) -> OneVsRest:  # type: ignore[override]
        """Fit one head a class.

        Args:
            X: features (N, d).
            Y: 1 where picture n has label c.
        """
        check_settings(self)
        check_choice("base", self.base, BASES)
        targets = np.asarray(Y)
        if targets.ndim != 2 or not np.isin(targets, (0, 1)).all():
            raise UsageError(f"Y must be an indicator (N, C) of zeros and ones, not of shape {targets.shape}")
        _see_names(self, X, reset=True)
        x = F.normalize(torch.tensor(_checked_input(X)), dim=-1)
        if len(x) != len(targets):
            raise UsageError(f"X has {len(x)} rows and Y {len(targets)}")
        names = list(self.classes) if self.classes is not None else [str(c) for c in range(targets.shape[1])]
        if len(names) != targets.shape[1]:
            raise UsageError(f"classes names {len(names)} columns; Y has {targets.shape[1]}")
        self.classes_, self.n_features_in_ = np.asarray(names), x.shape[1]
        self._texts = self._text_rows(names)
        self._fit_bases(x, targets)
        self.scaling_ = torch.tensor([[1.0, 0.0]]).double().repeat(len(names), 1)
        self.thresholds_ = np.full(len(names), 0.5)
        return self

    def _text_rows(self, names: list[str]) -> Tensor | None:
        if self.text_prior is None:
            if self.base == "zero-shot":
                raise UsageError("base 'zero-shot' needs text_prior, the texts of the classes")
            return None
        given, rows, scale = prior_rows(self.text_prior)
        rows = align(given, rows, names)
        return (100.0 if scale is None else float(scale)) * (rows - rows.mean(dim=0))

    def _fit_bases(self, x: Float[Tensor, "N d"], targets: np.ndarray) -> None:
        self._weights, self._offsets = torch.zeros(targets.shape[1], x.shape[1]).double(), torch.zeros(targets.shape[1])
        self._offsets = self._offsets.double()
        if self.base == "nearest-example":
            self._examples, self._has = x, torch.from_numpy(targets).bool()
            return
        if self.base == "zero-shot":
            return
        for c in range(targets.shape[1]):
            if len(np.unique(targets[:, c])) < 2:
                continue  # Only one answer was seen: no evidence either way.
            head = LinearProbe(C=10.0) if self.base == "linear-probe" else GaussianHead()
            head.fit(x.numpy(), targets[:, c])
            self._weights[c] = torch.from_numpy(np.asarray(head.coef_[1] - head.coef_[0])).double()
            self._offsets[c] = float(head.intercept_[1] - head.intercept_[0])

    def _terms(self, x: Float[Tensor, "N d"]) -> Terms:
        terms: Terms = {}
        if self._texts is not None and (self.base == "zero-shot" or self.text_weight):
            weight = 1.0 if self.base == "zero-shot" else self.text_weight
            terms["text"] = weight * x @ self._texts.to(x).T
        if self.base == "nearest-example":
            similar = x @ self._examples.to(x).T
            has, low = self._has.T, similar.new_tensor(-1.0)
            with_it = torch.where(has, similar.unsqueeze(1), low).amax(dim=-1)
            without = torch.where(~has, similar.unsqueeze(1), low).amax(dim=-1)
            terms["nearest"] = 100 * (with_it - without)
        elif self.base != "zero-shot":
            terms[self.base] = x @ self._weights.to(x).T + self._offsets.to(x)
        return terms

    def calibrate(self, logits: Float[np.ndarray, "N C"], Y: Int[np.ndarray, "N C"]) -> OneVsRest:
        """Set scaling and thresholds from logits of pictures that the heads had not seen."""
        for c in range(logits.shape[1]):
            y, score = np.asarray(Y)[:, c], logits[:, c]
            if len(np.unique(y)) < 2:
                continue
            spread = float(score.std()) or 1.0
            platt = LogisticRegression(C=1.0).fit((score / spread)[:, None], y)
            self.scaling_[c] = torch.tensor([float(platt.coef_[0, 0]) / spread, float(platt.intercept_[0])])
            precision, recall, cuts = precision_recall_curve(y, score)
            f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
            best = int(f1[:-1].argmax())
            # Half-way to the next lower score, so that rounding cannot push a picture over the edge.
            cut = cuts[best] if best == 0 else (cuts[best] + cuts[best - 1]) / 2
            slope, offset = self.scaling_[c].tolist()
            self.thresholds_[c] = float(special.expit(slope * cut + offset))
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits (N, C), one column a label, also for two."""
        return self.predict_logits(X)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each label by itself, (N, C)."""
        logits = self._in_chunks(X).double()
        return (logits * self.scaling_[:, 0] + self.scaling_[:, 1]).sigmoid().numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Indicator (N, C) of the labels at or above their thresholds."""
        return (self.predict_proba(X) >= self.thresholds_).astype(int)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Mean average precision over the labels that occur."""
        from binderclip.adapt.multi_label.labels import multilabel_average_precision

        return multilabel_average_precision(np.asarray(y), self.decision_function(X))
