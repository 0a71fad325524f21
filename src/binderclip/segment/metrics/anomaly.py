"""Scores of anomaly detectors: images ranked, pixels ranked, regions covered, from counts a threshold sweep needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.segment.metrics.accumulator import Accumulator

#: Largest share of false positive pixels up to which region overlap is averaged.
FPR_LIMIT = 0.3


class BestF1(NamedTuple):
    """The largest F1 of all thresholds, and the threshold: scores of at least this are called anomalous."""

    f1: float
    threshold: float


@dataclass(frozen=True)
class AnomalyScore:
    """How well anomalies are told from the rest; NaN where there were no positives, no negatives, or no pixels.

    Attributes:
        image_auroc: chance that an anomalous image scores higher than a normal one (ties count half).
        image_ap: average precision of images.
        image_f1_max: largest F1 of all thresholds on image scores.
        image_threshold: the threshold that gives it; scores of at least this are called anomalous.
        pixel_auroc: the same of the pixels of all images together.
        pixel_ap: the same of pixels.
        pixel_f1_max: the same of pixels.
        pixel_threshold: the same of pixels.
        pro: mean share of an anomalous region that is found, averaged over false positive rates up to the limit.
    """

    image_auroc: float = math.nan
    image_ap: float = math.nan
    image_f1_max: float = math.nan
    image_threshold: float = math.nan
    pixel_auroc: float = math.nan
    pixel_ap: float = math.nan
    pixel_f1_max: float = math.nan
    pixel_threshold: float = math.nan
    pro: float = math.nan


def binary_auroc(scores: Float[Tensor, "*N"], labels: Bool[Tensor, "*N"]) -> float:
    """Area under the ROC curve; ties count half. NaN without positives or without negatives.

    Raises:
        UsageError: shapes that differ, or a score that is not finite.
    """
    return _auroc(*_counts(scores, labels)[1:])


def binary_average_precision(scores: Float[Tensor, "*N"], labels: Bool[Tensor, "*N"]) -> float:
    """Precision averaged over the steps of recall, without interpolation. NaN without positives.

    Raises:
        UsageError: shapes that differ, or a score that is not finite.
    """
    return _average_precision(*_counts(scores, labels)[1:])


def binary_f1_max(scores: Float[Tensor, "*N"], labels: Bool[Tensor, "*N"]) -> BestF1:
    """The largest F1 of all thresholds. NaN without positives.

    Raises:
        UsageError: shapes that differ, or a score that is not finite.
    """
    return _f1_max(*_counts(scores, labels))


class ScoreStore(Accumulator):
    """Image and pixel scores of an anomaly detector with their truth, ready for every threshold at once.

    Image scores are kept. Pixels go into histograms (normal, anomalous, and anomalous weighted by one over the size of
    their region), so memory does not grow with the number of images; a threshold sweep is a cumulative sum. Scores of
    one bin are ties: the AUROC is off by at most half the chance that a normal and an anomalous pixel share a bin.

    Args:
        bins: of the pixel histograms.
        limits: (least, largest) pixel score. Maps are never normalised per image: that would hide which image is
            anomalous.
        fpr_limit: largest false positive rate of the region overlap, in (0, 1].

    Raises:
        UsageError: no bins, limits that are not ascending, or a rate outside (0, 1].

    Examples:
        >>> store = ScoreStore()
        >>> store.update(torch.tensor([[[0.1, 0.9], [0.2, 0.1]]]), torch.tensor([[[False, True], [False, False]]]))
        >>> store.compute().pixel_auroc
        1.0
    """

    settings = ("bins", "limits", "fpr_limit")
    rows = frozenset({"scores", "labels"})

    def __init__(
        self, *, bins: int = 4096, limits: tuple[float, float] = (0.0, 1.0), fpr_limit: float = FPR_LIMIT
    ) -> None:
        check_number("bins", bins, least=1)
        if not limits[0] < limits[1]:
            raise UsageError(f"limits must be (least, largest), not {limits}")
        check_number("fpr_limit", fpr_limit, above=0, most=1)
        self.bins, self.limits, self.fpr_limit = bins, limits, fpr_limit
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.scores: list[float] = []
        self.labels: list[bool] = []
        self.normal = np.zeros(self.bins, dtype=np.int64)
        self.anomalous = np.zeros(self.bins, dtype=np.int64)
        # Each region weighs 1, however large: its pixels weigh 1 / size.
        self.covered = np.zeros(self.bins)

    def update(
        self,
        maps: Float[Tensor, "*B H W"] | None = None,
        masks: Bool[Tensor, "*B H W"] | None = None,
        *,
        scores: Float[Tensor, "*B"] | None = None,
        labels: Bool[Tensor, "*B"] | None = None,
    ) -> None:
        """Add images.

        Args:
            maps: anomaly score of each pixel, higher is more anomalous. Without them only images are scored.
            masks: anomalous pixels. Without them only images are scored.
            scores: of the images; the largest score of each map by default.
            labels: whether the images are anomalous; whether its mask has a pixel by default.

        Raises:
            UsageError: shapes that differ, neither maps nor scores, neither masks nor labels, or scores that are not
                finite or beyond the limits.
        """
        if maps is None and (scores is None or masks is not None):
            raise UsageError("masks need maps" if masks is not None else "give maps, or scores of images")
        if masks is None and labels is None:
            raise UsageError("give masks, or labels of images")
        if maps is not None and masks is not None and (maps.shape != masks.shape or maps.ndim < 2):
            raise UsageError(
                f"maps {tuple(maps.shape)} and masks {tuple(masks.shape)} must be (..., H, W) of one shape"
            )
        values = scores if scores is not None else maps.amax(dim=(-2, -1))  # type: ignore[union-attr]
        truth = labels if labels is not None else masks.bool().flatten(-2).any(dim=-1)  # type: ignore[union-attr]
        values, truth = torch.as_tensor(values), torch.as_tensor(truth)
        if values.shape != truth.shape:
            raise UsageError(f"{tuple(values.shape)} scores and {tuple(truth.shape)} labels of images differ in shape")
        _check_finite(values)
        if maps is not None and masks is not None:
            self._add_pixels(maps, masks)
        self.scores += values.flatten().double().tolist()
        self.labels += truth.flatten().bool().tolist()

    def _add_pixels(self, maps: Float[Tensor, "*B H W"], masks: Bool[Tensor, "*B H W"]) -> None:
        from scipy.ndimage import label

        size = maps.shape[-2:]
        values = maps.detach().reshape(-1, *size).double().cpu().numpy()
        truth = masks.detach().reshape(-1, *size).bool().cpu().numpy()
        cells = _cells(values, self.limits, self.bins)
        self.normal += np.bincount(cells[~truth], minlength=self.bins)
        self.anomalous += np.bincount(cells[truth], minlength=self.bins)
        for cell, mask in zip(cells, truth, strict=True):
            if not mask.any():
                continue
            numbers, _ = label(mask, structure=np.ones((3, 3)))
            weights = 1 / np.maximum(np.bincount(numbers.ravel()), 1)
            self.covered += np.bincount(cell[mask], weights=weights[numbers[mask]], minlength=self.bins)

    def state_dict(self) -> dict[str, Tensor]:
        """Scores and labels of the images, histograms of the pixels."""
        return {
            "scores": torch.tensor(self.scores, dtype=torch.float64),
            "labels": torch.tensor(self.labels, dtype=torch.bool),
            "normal": torch.from_numpy(self.normal.copy()),
            "anomalous": torch.from_numpy(self.anomalous.copy()),
            "covered": torch.from_numpy(self.covered.copy()),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Accumulator`."""
        self.scores, self.labels = state["scores"].tolist(), state["labels"].tolist()
        for name in ("normal", "anomalous", "covered"):
            setattr(self, name, state[name].numpy().copy())

    def compute(self) -> AnomalyScore:
        """The scores of everything seen.

        Raises:
            UsageError: update was not called.
        """
        if not self.scores:
            raise UsageError("nothing to score: update was not called")
        counts = _counts(torch.tensor(self.scores, dtype=torch.float64), torch.tensor(self.labels))
        best = _f1_max(*counts)
        image = (_auroc(*counts[1:]), _average_precision(*counts[1:]), best.f1, best.threshold)
        if not self.normal.sum() + self.anomalous.sum():
            return AnomalyScore(*image)
        low, high = self.limits
        edges = low + (high - low) * np.arange(self.bins) / self.bins
        best = _f1_max(edges, self.anomalous, self.normal)
        return AnomalyScore(
            *image,
            _auroc(self.anomalous, self.normal),
            _average_precision(self.anomalous, self.normal),
            best.f1,
            best.threshold,
            _pro(self.covered, self.normal, self.fpr_limit),
        )


def anomaly_scores(
    maps: Float[Tensor, "*B H W"] | None = None,
    masks: Bool[Tensor, "*B H W"] | None = None,
    *,
    scores: Float[Tensor, "*B"] | None = None,
    labels: Bool[Tensor, "*B"] | None = None,
    bins: int = 4096,
    fpr_limit: float = FPR_LIMIT,
) -> AnomalyScore:
    """`ScoreStore` of some images in one call, its limits those of the maps.

    Args:
        maps, masks, scores, labels: as in `ScoreStore.update`.
        bins, fpr_limit: as in `ScoreStore`.

    Raises:
        UsageError: as `ScoreStore`.
    """
    limits = (0.0, 1.0)
    if maps is not None and maps.numel():
        low, high = float(maps.min()), float(maps.max())
        limits = (low, high) if low < high else (low, low + 1)
    store = ScoreStore(bins=bins, limits=limits, fpr_limit=fpr_limit)
    store.update(maps, masks, scores=scores, labels=labels)
    return store.compute()


def per_region_overlap(
    maps: Float[Tensor, "*B H W"], masks: Bool[Tensor, "*B H W"], *, bins: int = 4096, fpr_limit: float = FPR_LIMIT
) -> float:
    """Mean share of an anomalous region (8-connected) that is found, over false positive rates up to a limit.

    The area under the overlap as a function of the false positive rate, divided by the limit. NaN without regions or
    without normal pixels.

    Raises:
        UsageError: as `ScoreStore`.
    """
    return anomaly_scores(maps, masks, bins=bins, fpr_limit=fpr_limit).pro


def _check_finite(scores: Tensor) -> None:
    if not bool(torch.isfinite(scores).all()):
        raise UsageError(f"{int((~torch.isfinite(scores)).sum())} of {scores.numel()} scores are NaN or infinite")


def _counts(scores: Tensor, labels: Tensor) -> tuple[np.ndarray, Int[np.ndarray, "V"], Int[np.ndarray, "V"]]:
    """Distinct scores, ascending, with the numbers of positives and of negatives that have each."""
    if scores.shape != labels.shape:
        raise UsageError(f"scores {tuple(scores.shape)} and labels {tuple(labels.shape)} differ in shape")
    _check_finite(scores)
    values, cells = np.unique(scores.detach().flatten().double().cpu().numpy(), return_inverse=True)
    truth = labels.flatten().bool().cpu().numpy()
    positives, negatives = (np.bincount(cells[chosen], minlength=len(values)) for chosen in (truth, ~truth))
    return values, positives, negatives


def _cells(values: np.ndarray, limits: tuple[float, float], bins: int) -> np.ndarray:
    low, high = limits
    if values.size and not (low <= values.min() and values.max() <= high):  # NaN compares false too
        raise UsageError(
            f"pixel scores lie in [{values.min():.4g}, {values.max():.4g}], limits are [{low:.4g}, {high:.4g}]: give "
            "limits=(least, largest) of all images"
        )
    return np.minimum(((values - low) * (bins / (high - low))).astype(np.int64), bins - 1)


def _falling(counts: np.ndarray) -> np.ndarray:
    """How much lies at or above each threshold, from the highest threshold to the lowest."""
    return np.cumsum(counts[::-1])


def _auroc(positives: np.ndarray, negatives: np.ndarray) -> float:
    total = float(positives.sum()) * float(negatives.sum())
    if not total:
        return math.nan
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + 0.5 * negatives)).sum() / total)


def _average_precision(positives: np.ndarray, negatives: np.ndarray) -> float:
    if not positives.sum():
        return math.nan
    hits = _falling(positives)
    precision = hits / np.maximum(hits + _falling(negatives), 1)
    return float((positives[::-1] * precision).sum() / hits[-1])


def _f1_max(thresholds: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> BestF1:
    if not positives.sum():
        return BestF1(math.nan, math.nan)
    hits, alarms = _falling(positives), _falling(negatives)
    f1 = 2 * hits / (hits + alarms + hits[-1])
    best = int(f1.argmax())
    return BestF1(float(f1[best]), float(thresholds[::-1][best]))


def _pro(covered: np.ndarray, normal: np.ndarray, limit: float) -> float:
    if not covered.sum() or not normal.sum():
        return math.nan
    rate = np.concatenate([[0.0], _falling(normal) / normal.sum()])
    curve = _falling(covered)
    overlap = np.concatenate([[0.0], curve / curve[-1]])  # the last is the number of regions, but for rounding
    end = np.interp(limit, rate, overlap)
    inside = rate < limit
    rate, overlap = np.append(rate[inside], limit), np.append(overlap[inside], end)
    return float(((rate[1:] - rate[:-1]) * (overlap[1:] + overlap[:-1])).sum() / 2 / limit)
