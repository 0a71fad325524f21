"""Several labels a picture: pseudo-labels from the whole picture and its tiles, and the metric they are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from sklearn.metrics import average_precision_score
from torch import Tensor

from binderclip.adapt.heads.prior import prior_rows
from binderclip.errors import UsageError


def multilabel_average_precision(truth: Any, scores: Any) -> float:
    """Mean over classes of the average precision of ranking the pictures by a class's score.

    Args:
        truth: (N, C), nonzero where a picture shows the class. Classes that no picture shows are left out.
        scores: (N, C), higher is likelier; only the order within a class counts.

    Raises:
        UsageError: shapes that differ, or no class that occurs.
    """
    there, values = np.asarray(truth) != 0, np.asarray(scores, dtype=np.float64)
    if there.shape != values.shape or there.ndim != 2:
        raise UsageError(f"truth {there.shape} and scores {values.shape} must both be (N, C)")
    occurs = there.any(0)
    if not occurs.any():
        raise UsageError("truth has no class that occurs")
    return float(average_precision_score(there[:, occurs], values[:, occurs], average="macro"))


@dataclass(frozen=True)
class PseudoLabels:
    """Soft labels of N pictures in C classes.

    Attributes:
        classes: their names.
        whole: (N, C) softmax of the whole picture, rows sum to 1.
        tiles: (N, C) aggregated over the tiles; in (0, 1), rows do not sum to 1.
        labels: (N, C) of both together.
    """

    classes: list[Any]
    whole: Float[Tensor, "N C"]
    tiles: Float[Tensor, "N C"]
    labels: Float[Tensor, "N C"]


class TileAggregator:
    """Multi-label pseudo-labels without annotation: a picture and its tiles are classified, the tiles' best counts.

    A softmax over the whole picture names its main object; small objects win in a tile of their own. A class gets the
    largest probability a_c that any tile gives it where a_c >= `threshold`, else the smallest, and the label is the
    mean of this and the whole picture's probability.

    Args:
        bank: text side of the classes: a `TextBank`, a `ZeroShotClassifier`, a mapping from class to row, or an array
            with `classes`.
        classes: names of the rows of an array.
        threshold: in [0, 1]; 0 always takes the largest, as the reproduction recommends.
        scale: factor on the cosines before the softmax; None: the bank's own, else 100.
        fusion: lambda_f in 0.5 (whole + tiles + lambda_f |whole - tiles|): 0 is the mean, 1 the maximum, -1 the
            minimum of both.

    Call it with views (N, V, d): features of the whole picture first, then of its tiles, as `Tiles(3).features` gives
    them. With threshold and fusion 0 the labels are what `ZeroShotClassifier(bank, views=Tiles(3), multi_label=True)`
    predicts.

    Raises:
        UsageError: a setting out of range, or views of another width than the bank.

    Paper: Reproducibility Study of CDUL: CLIP-Driven Unsupervised Learning for Multi-Label Image Classification
    (arXiv 2405.11574).

    Examples:
        >>> bank = model.text_bank(["cat", "dog", "tree"], templates="a photo of a {}")  # doctest: +SKIP
        >>> pseudo = TileAggregator(bank)(Tiles(3).features(model, images).features)  # doctest: +SKIP
    """

    def __init__(
        self,
        bank: Any,
        *,
        classes: Sequence[Any] | None = None,
        threshold: float = 0.0,
        scale: float | None = None,
        fusion: float = 0.0,
    ) -> None:
        names, rows, own = prior_rows(bank, classes)
        self.classes, self.rows = names, rows
        self.scale = float(scale if scale is not None else own if own is not None else 100.0)
        if not threshold >= 0 or not -1 <= fusion <= 1 or not self.scale > 0:
            raise UsageError(
                f"threshold {threshold} is at least 0, fusion {fusion} in [-1, 1] and scale {self.scale} above 0"
            )
        self.threshold, self.fusion = float(threshold), float(fusion)

    def __call__(self, views: Float[Tensor, "N V d"]) -> PseudoLabels:
        x = torch.as_tensor(views)
        if x.ndim != 3 or x.shape[-1] != self.rows.shape[1]:
            raise UsageError(f"views are (N, V, {self.rows.shape[1]}), the whole picture first; got {tuple(x.shape)}")
        cosines = F.normalize(x.double(), dim=-1) @ self.rows.to(x.device).T
        probs = (self.scale * cosines).softmax(-1)
        whole, parts = probs[:, 0], probs[:, 1:] if x.shape[1] > 1 else probs
        most = parts.amax(1)
        local = torch.where(most >= self.threshold, most, parts.amin(1))
        labels = 0.5 * (whole + local + self.fusion * (whole - local).abs())
        return PseudoLabels(list(self.classes), whole, local, labels)


def indicator(names: Sequence[Sequence[Any]], classes: Sequence[Any]) -> Bool[Tensor, "N C"]:
    """(N, C), True where a picture shows a class: from the names of what each shows; other names count nowhere."""
    return torch.tensor([[name in set(own) for name in classes] for own in names])
