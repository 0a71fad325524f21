"""Overlap of label maps from one confusion matrix: update with label maps, compute at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.segment.metrics.accumulator import Accumulator


def is_counted(target: Int[Tensor, "*shape"], classes: int, ignore: int) -> Bool[Tensor, "*shape"]:
    """Where a target counts: not `ignore`, nor 255, which means the same in 8-bit maps unless it is a class."""
    return (target != ignore) & ((target != 255) | (classes > 255))


@dataclass(frozen=True)
class IoUScore:
    """Overlap of predicted and true labels over everything seen.

    Attributes:
        per_class: (C,) intersection over union, NaN for classes that neither occur nor are predicted.
        miou: mean over the classes that occur in the targets.
        accuracy: share of the counted pixels that are right.
        class_accuracy: mean over occurring classes of the share of their pixels that are right.
        pixels: number of counted pixels.
    """

    per_class: Tensor
    miou: float
    accuracy: float
    class_accuracy: float
    pixels: int


class IoU(Accumulator):
    """Mean intersection over union from one confusion matrix of all images.

    Counts are summed over images before the ratio is taken, so a class is judged on all its pixels. Pixels whose target
    is `ignore` (or 255, with at most 255 classes) are left out; unsegmented predictions (-1) count as wrong.

    Args:
        classes: number of classes C.
        ignore: target value that is left out.

    Raises:
        UsageError: fewer than one class.
    """

    settings = ("classes", "ignore")

    def __init__(self, classes: int, *, ignore: int = -1) -> None:
        check_number("classes", classes, least=1)
        self.classes, self.ignore = classes, ignore
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        # One column more than classes: predictions of nothing.
        self.confusion = torch.zeros(self.classes, self.classes + 1, dtype=torch.int64)

    def update(
        self,
        prediction: Int[Tensor, "*shape"],
        target: Int[Tensor, "*shape"],
        *,
        where: Bool[Tensor, "*shape"] | None = None,
    ) -> None:
        """Add label maps of any equal shape.

        Args:
            where: pixels that count, such as a band around boundaries; all by default.

        Raises:
            UsageError: shapes that differ, or a label that is no class.
        """
        for name, other in (("target", target), ("where", where)):
            if other is not None and prediction.shape != other.shape:
                raise UsageError(
                    f"prediction {tuple(prediction.shape)} and {name} {tuple(other.shape)} differ in shape"
                )
        prediction, target = prediction.flatten().long().cpu(), target.flatten().long().cpu()
        counted = is_counted(target, self.classes, self.ignore)
        if where is not None:
            counted &= where.flatten().bool().cpu()
        prediction, target = prediction[counted], target[counted]
        for name, labels, low in (("target", target, 0), ("prediction", prediction, -1)):
            if len(labels) and not low <= int(labels.min()) <= int(labels.max()) < self.classes:
                raise UsageError(
                    f"{name} has labels from {int(labels.min())} to {int(labels.max())}; classes are 0 to "
                    f"{self.classes - 1}"
                )
        columns = self.classes + 1
        cells = target * columns + torch.where(prediction < 0, self.classes, prediction)
        self.confusion += torch.bincount(cells, minlength=self.classes * columns).view(self.classes, columns)

    def state_dict(self) -> dict[str, Tensor]:
        """The confusion matrix (C, C + 1); its last column counts predictions of nothing."""
        return {"confusion": self.confusion.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Accumulator`."""
        self.confusion = state["confusion"].clone()

    def compute(self) -> IoUScore:
        """The scores of everything seen.

        Raises:
            UsageError: no pixel was counted.
        """
        total = int(self.confusion.sum())
        if not total:
            raise UsageError("no pixel to score: every target was left out, or update was not called")
        counts = self.confusion.double()
        hit = counts[:, : self.classes].diagonal()
        true, guessed = counts.sum(dim=1), counts[:, : self.classes].sum(dim=0)
        union = true + guessed - hit
        per_class = torch.where(union > 0, hit / union, torch.full_like(hit, torch.nan))
        occurs = true > 0
        return IoUScore(
            per_class,
            float(per_class[occurs].mean()),
            float(hit.sum() / total),
            float((hit[occurs] / true[occurs]).mean()),
            total,
        )


def mask_iou(prediction: Shaped[Tensor, "*B H W"], target: Shaped[Tensor, "*B H W"]) -> Float[Tensor, "*B"]:
    """Intersection over union of pairs of binary masks; two empty masks agree (1).

    Raises:
        UsageError: shapes that differ.
    """
    if prediction.shape != target.shape:
        raise UsageError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
    prediction, target = prediction.bool(), target.bool()
    intersection = (prediction & target).sum(dim=(-2, -1)).double()
    either = (prediction | target).sum(dim=(-2, -1)).double()
    return torch.where(either > 0, intersection / either.clamp(min=1), torch.ones_like(intersection))
