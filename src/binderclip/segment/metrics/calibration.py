"""How far confidence is from accuracy, from sums in bins of confidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.metrics.accumulator import Accumulator
from binderclip.segment.metrics.confusion import is_counted

#: Each bin is kept in so many parts, from which bins of equal mass are put together.
PARTS = 256


def bin_index(values: Float[np.ndarray, "N"], bins: int, *, right: bool = False) -> Int[np.ndarray, "N"]:
    """Bin of each value among bins of equal width in [0, 1].

    Args:
        values: in [0, 1].
        bins: how many.
        right: bins are (low, high], the first with 0 in it, as Guo et al. (2017) have them; else [low, high), the last
            with 1 in it. torchmetrics has the latter, and a bin of its own for 1.
    """
    # edges in the values' own precision: of float32 values, 0.7 lies on the edge 0.7
    edges = (np.arange(1, bins) / bins).astype(values.dtype)
    return np.searchsorted(edges, values, side="left" if right else "right")


@dataclass(frozen=True)
class Reliability:
    """The bars of a reliability diagram; NaN in bins that hold nothing.

    Attributes:
        low: lower edge of each bin.
        high: upper edge of each bin.
        count: number of pixels in it.
        confidence: their mean confidence.
        accuracy: the share of them that is right.
    """

    low: Float[np.ndarray, "B"]
    high: Float[np.ndarray, "B"]
    count: Int[np.ndarray, "B"]
    confidence: Float[np.ndarray, "B"]
    accuracy: Float[np.ndarray, "B"]

    @property
    def gap(self) -> Float[np.ndarray, "B"]:
        """Distance of accuracy and confidence, 0 in bins that hold nothing."""
        return np.nan_to_num(np.abs(self.accuracy - self.confidence))


@dataclass(frozen=True)
class CalibrationScore:
    """Distances of confidence and accuracy over all counted pixels.

    Attributes:
        ece: mean gap of the bins, weighted by their counts; confidence is the largest probability.
        mce: largest gap of a bin.
        rmsce: root of the mean squared gap, weighted by counts.
        classwise_ece: mean over classes of the ECE of each class's own probability; NaN without `per_class`.
        per_class: (C,) of each class; empty without `per_class`.
        brier: mean over pixels of the squared distance of probabilities and one-hot truth, in [0, 2].
        accuracy: share of the pixels that are right.
        confidence: mean confidence.
        pixels: number of counted pixels.
        foreground_only: whether pixels whose target is the background were left out.
        reliability: the bins behind `ece`.
    """

    ece: float
    mce: float
    rmsce: float
    classwise_ece: float
    per_class: Float[np.ndarray, "C"]
    brier: float
    accuracy: float
    confidence: float
    pixels: int
    foreground_only: bool
    reliability: Reliability


class CalibrationBins(Accumulator):
    """Calibration errors of probabilities from sums in bins, so that memory does not grow with the pixels.

    Each bin is kept in 256 parts. Bins of equal width are exact; bins of equal mass (`compute(adaptive=True)`) have
    their edges at parts.

    Args:
        classes: number of classes C.
        bins: of the confidence in [0, 1].
        right: a confidence on an edge belongs to the bin below (Guo et al., 2017), else to the one above.
        foreground_only: leave out pixels whose target is `background`. Scores with and without a large, easy background
            are not comparable, so the result says which it is.
        background: the class meant by it.
        per_class: keep the bins of every class too, for the class-wise error (C times the memory).
        ignore: target value that is left out (255 is too).

    Raises:
        UsageError: fewer than one class or bin, or a background that is no class.
    """

    settings = ("classes", "bins", "right", "foreground_only", "background", "per_class", "ignore")

    def __init__(
        self,
        classes: int,
        *,
        bins: int = 15,
        right: bool = False,
        foreground_only: bool = False,
        background: int = 0,
        per_class: bool = True,
        ignore: int = -1,
    ) -> None:
        if classes < 1 or bins < 1:
            raise UsageError(f"classes and bins must be at least 1, not {classes} and {bins}")
        if not 0 <= background < classes:
            raise UsageError(f"background {background} is no class; they are 0 to {classes - 1}")
        self.classes, self.bins, self.right, self.ignore = classes, bins, right, ignore
        self.foreground_only, self.background, self.per_class = foreground_only, background, per_class
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        parts = self.bins * PARTS
        # Rows: number of pixels, their summed confidence, how many of them are right.
        self.top = torch.zeros(3, parts, dtype=torch.float64)
        self.each = torch.zeros(3, self.classes if self.per_class else 0, parts, dtype=torch.float64)
        self.squares = 0.0

    def update(
        self,
        probabilities: Float[Tensor, "B C *S"],
        target: Int[Tensor, "B *S"],
        *,
        where: Bool[Tensor, "B *S"] | None = None,
        from_logits: bool = False,
    ) -> None:
        """Add pixels (or anything else that has class probabilities).

        Args:
            probabilities: in [0, 1], summing to 1 over the classes; logits with `from_logits`.
            target: classes.
            where: pixels that count, such as `boundary_band(target)`; all by default.
            from_logits: take the softmax first.

        Raises:
            UsageError: shapes that do not belong together, a label that is no class, or values that are no
                probabilities.
        """
        expected = (target.shape[0], self.classes, *target.shape[1:]) if target.ndim else ()
        if tuple(probabilities.shape) != expected:
            raise UsageError(f"probabilities are {tuple(probabilities.shape)}, {expected} goes with this target")
        if where is not None and where.shape != target.shape:
            raise UsageError(f"where {tuple(where.shape)} and target {tuple(target.shape)} differ in shape")
        labels = target.flatten().long().cpu()
        counted = self._counted(labels, where)
        labels = labels[counted]
        if not len(labels):
            return
        values = probabilities.detach().cpu().movedim(1, -1).reshape(-1, self.classes)[counted].double()
        self._add(_probabilities(values, from_logits), labels)

    def update_guesses(
        self,
        confidence: Float[Tensor, "*S"],
        guess: Int[Tensor, "*S"],
        target: Int[Tensor, "*S"],
        *,
        where: Bool[Tensor, "*S"] | None = None,
    ) -> None:
        """Add pixels of which only the guess and its probability are known, as for large pictures of many classes.

        Their other probabilities are missing in the Brier score, which is NaN from then on.

        Args:
            confidence: in [0, 1], the largest probability.
            guess: the class that has it; whatever is no class is wrong.
            target: classes.
            where: pixels that count; all by default.

        Raises:
            UsageError: shapes that differ, a target that is no class, a confidence beyond [0, 1], or an accumulator
                that keeps the bins of every class.
        """
        if self.per_class:
            raise UsageError("guesses say nothing of the other classes: make CalibrationBins with per_class=False")
        if not confidence.shape == guess.shape == target.shape:
            shapes = f"confidence {tuple(confidence.shape)}, guess {tuple(guess.shape)}, target {tuple(target.shape)}"
            raise UsageError(f"{shapes} differ in shape")
        labels = target.flatten().long().cpu()
        counted = self._counted(labels, where)
        values = confidence.detach().flatten().double().cpu()[counted]
        if len(values) and not bool(((values >= 0) & (values <= 1)).all()):
            raise UsageError(
                f"confidence must lie in [0, 1], not {float(values.min()):.4g} to {float(values.max()):.4g}"
            )
        self.top += self._sums(values, (guess.flatten().cpu() == labels)[counted])
        self.squares = float("nan")

    def _counted(self, labels: Int[Tensor, "N"], where: Bool[Tensor, "*S"] | None) -> Bool[Tensor, "N"]:
        """Which pixels count, those that do being of the classes."""
        counted = is_counted(labels, self.classes, self.ignore)
        if self.foreground_only:
            counted &= labels != self.background
        if where is not None:
            counted &= where.flatten().bool().cpu()
        left = labels[counted]
        if len(left) and not 0 <= int(left.min()) <= int(left.max()) < self.classes:
            raise UsageError(
                f"target has labels from {int(left.min())} to {int(left.max())}; classes are 0 to {self.classes - 1}"
            )
        return counted

    def _add(self, values: Float[Tensor, "N C"], labels: Int[Tensor, "N"]) -> None:
        confidence, guess = values.max(dim=1)
        self.top += self._sums(confidence, guess == labels)
        of_truth = values.gather(1, labels[:, None])
        self.squares += float(values.square().sum() - 2 * of_truth.sum() + len(labels))
        for label in range(self.each.shape[1]):
            self.each[:, label] += self._sums(values[:, label], labels == label)

    def _sums(self, confidence: Float[Tensor, "N"], right: Bool[Tensor, "N"]) -> Float[Tensor, "3 P"]:
        parts = self.bins * PARTS
        cells = torch.from_numpy(bin_index(confidence.contiguous().numpy(), parts, right=self.right))
        return torch.stack(
            [torch.bincount(cells, weights=w, minlength=parts).double() for w in (None, confidence, right.double())]
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Counts, confidences and hits of all parts (3, P), the same of each class (3, C, P), the summed squares."""
        return {
            "top": self.top.clone(),
            "each": self.each.clone(),
            "squares": torch.tensor(self.squares, dtype=torch.float64),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Accumulator`."""
        self.top, self.each = state["top"].clone(), state["each"].clone()
        self.squares = float(state["squares"])

    def compute(self, *, adaptive: bool = False) -> CalibrationScore:
        """The errors of everything seen.

        Args:
            adaptive: bins of (nearly) equal mass instead of equal width.

        Raises:
            UsageError: no pixel was counted.
        """
        count, confidence, right = self.top.numpy()
        total = count.sum()
        if not total:
            raise UsageError("no pixel to score: every target was left out, or update was not called")
        bars = _bars(self.top.numpy(), self.bins, adaptive)
        weight = bars.count / total
        each = [_bars(part, self.bins, adaptive) for part in self.each.numpy().swapaxes(0, 1)]
        per_class = np.array([float((bar.count * bar.gap).sum() / total) for bar in each])
        return CalibrationScore(
            float((weight * bars.gap).sum()),
            float(bars.gap.max()),
            float(np.sqrt((weight * bars.gap**2).sum())),
            float(per_class.mean()) if len(per_class) else float("nan"),
            per_class,
            self.squares / float(total),
            float(right.sum() / total),
            float(confidence.sum() / total),
            int(total),
            self.foreground_only,
            bars,
        )


def pixel_calibration_error(
    probabilities: Float[Tensor, "B C *S"],
    target: Int[Tensor, "B *S"],
    *,
    bins: int = 15,
    right: bool = False,
    adaptive: bool = False,
    foreground_only: bool = False,
    background: int = 0,
    where: Bool[Tensor, "B *S"] | None = None,
    from_logits: bool = False,
    ignore: int = -1,
) -> CalibrationScore:
    """`CalibrationBins` in one call; the number of classes is that of the probabilities.

    Args:
        probabilities, target, where, from_logits: as in `CalibrationBins.update`.
        bins, right, foreground_only, background, ignore: as in `CalibrationBins`.
        adaptive: as in `CalibrationBins.compute`.

    Raises:
        UsageError: as `CalibrationBins`.
    """
    if probabilities.ndim < 2:
        raise UsageError(f"probabilities are {tuple(probabilities.shape)}; they are (B, C, ...)")
    accumulator = CalibrationBins(
        probabilities.shape[1],
        bins=bins,
        right=right,
        foreground_only=foreground_only,
        background=background,
        ignore=ignore,
    )
    accumulator.update(probabilities, target, where=where, from_logits=from_logits)
    return accumulator.compute(adaptive=adaptive)


def _probabilities(values: Float[Tensor, "N C"], from_logits: bool) -> Float[Tensor, "N C"]:
    if from_logits:
        return values.softmax(dim=1)
    # Half-precision softmax sums to 1 within this.
    wrong = (values.sum(dim=1) - 1).abs().max() > 0.02 or values.min() < 0 or not bool(torch.isfinite(values).all())
    if wrong:
        raise UsageError("probabilities must lie in [0, 1] and sum to 1 over the classes; pass logits with from_logits")
    return values


def _bars(sums: Float[np.ndarray, "3 P"], bins: int, adaptive: bool) -> Reliability:
    """Parts put together to bins of equal width, or of equal mass by the middle of each part's mass."""
    count = sums[0]
    parts = len(count)
    if adaptive:
        middle = np.cumsum(count) - count / 2
        group = np.minimum((middle * bins / max(count.sum(), 1)).astype(np.int64), bins - 1)
    else:
        group = np.arange(parts) // PARTS
    number, confidence, right = (np.bincount(group, weights=row, minlength=bins) for row in sums)
    edges = np.searchsorted(group, np.arange(bins + 1)) / parts
    with np.errstate(invalid="ignore"):
        return Reliability(edges[:-1], edges[1:], number.astype(np.int64), confidence / number, right / number)
