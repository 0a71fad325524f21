"""The class of the most similar stored example: inspection with a handful of good and bad parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.adapt.heads.base import PicturesOnlyHead, Terms
from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.settings import check_choice

AGGREGATES = ("max", "mean", "top-k")


@dataclass(kw_only=True, eq=False, repr=False)
class NearestExampleClassifier(PicturesOnlyHead):
    """Scores a class by the cosines with its stored examples; no text, no training, and the answer can be shown.

    `logits = m_c(x) / tau` with m_c the largest, the mean, or the mean of the k largest cosines. Fitted on good parts
    alone, `anomaly_score` and `is_anomaly` judge new ones.

    Args:
        aggregate: `max`, `mean` or `top-k`. The largest of many cosines grows with their number, so with classes of
            different size `max` favours the larger; `top-k` less so.
        k: for `top-k`; classes with fewer examples use all they have.
        tau: temperature; 1 gives nearly even probabilities, 0.01 is CLIP's scale. It moves no prediction.
        alpha: share of good parts that `is_anomaly` may call bad.

    Attributes:
        bank_: (M, d) examples, every view one; owner_: their classes; picture_: which row of X each came from.
        threshold_: the (1 - alpha) quantile of the anomaly scores that the stored examples get from the others; None
            where no class has two.

    Raises:
        UsageError: unknown aggregate, k below 1, tau not above 0, alpha outside (0, 1).

    Examples:
        >>> head = NearestExampleClassifier().fit([[1.0, 0.0], [0.0, 1.0]], ["good", "bad"])
        >>> head.predict([[0.9, 0.2]]).tolist()
        ['good']

    Paper: Adapting OpenAI's CLIP Model for Few-Shot Image Inspection in Manufacturing Quality Control (arXiv
    2501.12596).
    """

    aggregate: str = "max"
    k: int = 3
    tau: float = 0.01
    alpha: float = 0.05
    scale: float | None = field(default=1.0, init=False)

    def _fit(self, views: Float[Tensor, "N V d"], targets: Int[Tensor, "N"]) -> None:
        check_choice("aggregate", self.aggregate, AGGREGATES)
        check_number("k", self.k, least=1)
        check_number("tau", self.tau, above=0)
        check_number("alpha", self.alpha, above=0, below=1)
        each = views.shape[1]
        self.bank_ = views.flatten(0, 1)
        self.owner_ = targets.repeat_interleave(each)
        self.picture_ = torch.arange(len(views)).repeat_interleave(each)
        self.threshold_ = self._leave_one_out()

    def _class_scores(self, cosines: Float[Tensor, "N M"]) -> Float[Tensor, "N C"]:
        owner = self.owner_.to(cosines.device)
        return torch.stack([self._reduced(cosines[:, owner == c]) for c in range(len(self.classes_))], dim=1)

    def _reduced(self, cosines: Float[Tensor, "N m"]) -> Float[Tensor, "N"]:
        if self.aggregate == "mean":
            return cosines.mean(dim=1)
        if self.aggregate == "max":
            return cosines.amax(dim=1)
        return cosines.topk(min(self.k, cosines.shape[1]), dim=1).values.mean(dim=1)

    def _terms(self, x: Float[Tensor, "N d"]) -> Terms:
        return {"nearest": self._class_scores(x @ self.bank_.to(x).T) / self.tau}

    def _leave_one_out(self) -> float | None:
        """Quantile of the scores that each stored picture gets from the other pictures of its class."""
        scores = []
        for index in self.picture_.unique().tolist():
            mine = self.picture_ == index
            others = (self.owner_ == self.owner_[mine][0]) & ~mine
            if others.any():
                scores.append(1 - self._reduced(self.bank_[mine] @ self.bank_[others].T).mean())
        if not scores:
            return None
        return float(np.quantile(torch.stack(scores).numpy(), 1 - self.alpha, method="higher"))

    def anomaly_score(self, X: Any) -> np.ndarray:
        """One minus the similarity to the nearest class, (N,): high for what resembles no stored example."""
        return 1 - self.tau * self.predict_logits(X).max(axis=1)

    def is_anomaly(self, X: Any) -> np.ndarray:
        """Whether the anomaly score is above `threshold_`, (N,).

        Raises:
            UsageError: the head was fitted on one picture a class, so there is no threshold.
        """
        if self.threshold_ is None:
            raise UsageError("a threshold needs at least two examples of a class")
        return self.anomaly_score(X) > self.threshold_

    def nearest(self, X: Any) -> tuple[Int[np.ndarray, "N C"], Float[np.ndarray, "N C"]]:
        """The explanation: for each row and class, which stored picture is most similar, and how much.

        Returns:
            Rows of the X that was fitted, and cosines; several views of a row of X are averaged first.
        """
        views = self._views(torch.as_tensor(np.asarray(X), dtype=torch.float64))
        cosines = (views @ self.bank_.T).mean(dim=1)
        best = [cosines.masked_fill(self.owner_ != c, -2.0).max(dim=1) for c in range(len(self.classes_))]
        places = torch.stack([self.picture_[rows.indices] for rows in best], dim=1)
        return places.numpy(), torch.stack([rows.values for rows in best], dim=1).numpy()
