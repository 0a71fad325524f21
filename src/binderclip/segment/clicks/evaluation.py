"""How good masks become click by click: NoC, NoF, AuC and boundary IoU over the objects of many pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.numeric import check_number
from binderclip.segment.clicks.clickers import BaselineClicker, Clicker
from binderclip.segment.clicks.objects import ObjectClicks, ious
from binderclip.segment.metrics.boundary_bands import boundary_iou
from binderclip.segment.promptable import Click, PromptableSegmenter

__all__ = ["ClickCurves", "InteractiveEvaluation"]

ClickSample = tuple[ImageLike, Bool[Tensor, "M H W"]] | tuple[ImageLike, Bool[Tensor, "M H W"], Bool[Tensor, "H W"]]


@dataclass(frozen=True)
class ClickCurves:
    """IoU of N objects after each click; what was perfect before the last click stays so.

    Attributes:
        iou, boundary: with the truth, and of the bands along the outlines.
        clicks: of each object.
        empty: objects without a pixel, which were left out.
    """

    iou: Float[Tensor, "N K"]
    boundary: Float[Tensor, "N K"]
    clicks: list[tuple[Click, ...]] = field(repr=False)
    empty: int = 0

    def __len__(self) -> int:
        return len(self.iou)

    def first(self, iou: float) -> Float[Tensor, "N"]:
        """Clicks until each object reaches an IoU; one that never does counts as all of them."""
        reached = self.iou >= iou
        return torch.where(reached.any(1), reached.float().argmax(1) + 1, self.iou.shape[1]).float()

    def noc(self, iou: float) -> float:
        """Number of clicks: the mean of `first`."""
        return float(self.first(iou).mean())

    def nof(self, iou: float) -> int:
        """Number of failures: objects that never reach an IoU.

        Scripts in the style of RITM also count those that reach it with the very last click.
        """
        return int((~(self.iou >= iou).any(1)).sum())

    def areas(self) -> Float[Tensor, "N"]:
        """Area under each object's curve by trapezoids, over K - 1; the IoU itself where there is one click."""
        if self.iou.shape[1] == 1:
            return self.iou[:, 0]
        return torch.trapezoid(self.iou, dim=1) / (self.iou.shape[1] - 1)

    def auc(self) -> float:
        """The mean of `areas`."""
        return float(self.areas().mean())

    def summary(self) -> dict[str, float]:
        """`NoC@80`, `NoC@85`, `NoC@90`, `NoF@...`, `AuC`, and mean IoU and boundary IoU after the first and last."""
        last = self.iou.shape[1]
        figures: dict[str, float] = {}
        for percent in (80, 85, 90):
            figures[f"NoC@{percent}"] = self.noc(percent / 100)
            figures[f"NoF@{percent}"] = self.nof(percent / 100)
        figures["AuC"] = self.auc()
        for name, curves in (("IoU", self.iou), ("boundary IoU", self.boundary)):
            figures[f"{name}@1"], figures[f"{name}@{last}"] = float(curves[:, 0].mean()), float(curves[:, -1].mean())
        return figures


@dataclass(frozen=True)
class InteractiveEvaluation:
    """Clicks on objects whose masks are known; each picture is encoded once and its objects are clicked together.

    `InteractiveEvaluation(load_promptable())([(image, masks), ...]).noc(0.9)`.

    Args:
        segmenter: any promptable one.
        clicker: who clicks.
        max_clicks: on each object.
        feedback: whether the previous logits are fed back.
        batch: objects that are decoded at once.

    Raises:
        UsageError: fewer than one click.
    """

    segmenter: PromptableSegmenter
    clicker: Clicker = field(default_factory=BaselineClicker)
    max_clicks: int = 20
    feedback: bool = True
    batch: int = 64

    def __post_init__(self) -> None:
        check_number("max_clicks", self.max_clicks, least=1)

    def __call__(self, samples: Iterable[ClickSample]) -> ClickCurves:
        """Click on every object.

        Args:
            samples: (picture, masks of its objects), or with a third mask of void pixels, such as VOC's 255: nobody
                clicks there, and neither IoU counts them. Masks without a pixel are left out and counted.

        Raises:
            UsageError: no object at all, or masks of another size than their picture.
        """
        parts: list[tuple[Any, Any]] = []
        clicks: list[tuple[Click, ...]] = []
        empty = 0
        for image, masks, *void in samples:
            ignore = void[0] if void else None
            there = (masks if ignore is None else masks & ~ignore).flatten(1).any(1)
            empty += int((~there).sum())
            if not bool(there.any()):
                continue
            objects = ObjectClicks(
                self.segmenter, self.segmenter.encode(image), masks[there].bool(), self.feedback, self.batch, ignore
            )
            parts.append(self.curves(objects))
            clicks.extend(tuple(own) for own in objects.clicks)
        if not parts:
            raise UsageError("there is no object with pixels to click on")
        iou, boundary = (torch.cat([part[i] for part in parts]) for i in (0, 1))
        return ClickCurves(iou, boundary, clicks, empty)

    def curves(self, objects: ObjectClicks) -> tuple[Float[Tensor, "M K"], Float[Tensor, "M K"]]:
        """IoU and boundary IoU of the objects of one picture after each click."""
        rounds = []
        for _ in range(self.max_clicks):
            predicted = objects.click(self.clicker(objects))
            rounds.append((ious(predicted, objects.truth), boundary_iou(predicted, objects.truth)))
        return torch.stack([r[0] for r in rounds], 1), torch.stack([r[1] for r in rounds], 1)
