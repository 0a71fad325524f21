"""How much it matters where in the error one clicks: the worst and the best honest click (TETRIS)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.numeric import check_number
from binderclip.segment.clicks.clickers import BaselineClicker, ErrorRegion, error_region
from binderclip.segment.clicks.evaluation import ClickCurves, InteractiveEvaluation
from binderclip.segment.clicks.objects import ObjectClicks, ious
from binderclip.segment.promptable import Click, PromptableSegmenter, Prompts
from binderclip.settings import check_choice

__all__ = ["AdversarialClicker", "ClickRobustness", "GridClicker", "click_robustness", "click_values", "soft_iou"]

Direction = Literal["min", "max"]


def soft_iou(probs: Float[Tensor, "*B H W"], truth: Float[Tensor, "*B H W"]) -> Float[Tensor, "*B"]:
    """Sum of products over the sum of `p + g - p g`; the IoU where probabilities are 0 or 1."""
    intersection = (probs * truth).sum((-2, -1))
    return intersection / (probs.sum((-2, -1)) + truth.sum((-2, -1)) - intersection).clamp(min=1e-6)


@dataclass
class AdversarialClicker:
    """The click of the robot's error region that makes the mask worst or best, found by gradients on its position.

    From the robot's click and a few random pixels of the region Adam moves the coordinates along the gradient of the
    soft IoU; each step ends at the nearest pixel of the region. The best of all pixels visited, judged by the exact
    IoU, is clicked. All objects of a picture and all starts go through the segmenter together.

    Args:
        direction: "min" for the worst mask, "max" for the best.
        steps: of Adam; 0 judges the starts alone.
        lr: of Adam, in pixels a step.
        restarts: random starts beside the robot's click.
        seed: of them.

    Raises:
        UsageError: a number out of its range or an unknown direction.
        NotSupported: (when it clicks) a segmenter without gradients.

    Paper: TETRIS: Towards Exploring the Robustness of Interactive Segmentation (AAAI 2024, arXiv 2402.06132).
    """

    direction: Direction = "min"
    steps: int = 20
    lr: float = 2.5
    restarts: int = 2
    seed: int = 0
    _random: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_direction(self.direction)
        if self.steps < 0 or self.restarts < 0 or not self.lr > 0:
            raise UsageError("steps and restarts must be at least 0 and lr above 0")
        self._random = np.random.default_rng(self.seed)

    def __call__(self, objects: ObjectClicks) -> list[Click | None]:
        """See `Clicker`."""
        if not objects.segmenter.differentiable:
            raise NotSupported(f"{type(objects.segmenter).__name__} has no gradients for clicks: take GridClicker")
        regions = [error_region(objects, row) for row in range(len(objects))]
        due = [row for row, region in enumerate(regions) if region is not None]
        chosen: list[Click | None] = [None] * len(objects)
        size = max(1, objects.batch // (1 + self.restarts))
        for start in range(0, len(due), size):
            rows = due[start : start + size]
            for row, click in zip(rows, self._batch(objects, rows, [regions[r] for r in rows]), strict=True):
                chosen[row] = click
        return chosen

    def _batch(self, objects: ObjectClicks, rows: list[int], regions: list[ErrorRegion | None]) -> list[Click]:
        each = [region for region in regions if region is not None for _ in range(1 + self.restarts)]
        owner = [row for row in rows for _ in range(1 + self.restarts)]
        nearest = [distance_transform_edt(~region.valid, return_distances=False, return_indices=True)
                   for region in each[:: 1 + self.restarts]]  # fmt: skip
        search = _Search(objects, owner, [region.click.positive for region in each])
        points = torch.tensor([self._start(region, i) for i, region in enumerate(each)], dtype=torch.float32)
        sign = 1.0 if self.direction == "max" else -1.0
        points.requires_grad_(True)
        optimizer = torch.optim.Adam([points], lr=self.lr)
        kept = [region.click for region in each[:: 1 + self.restarts]]
        best = [-np.inf] * len(rows)
        for step in range(self.steps + 1):
            exact, soft = search(points)
            for i, value in enumerate((sign * exact).tolist()):
                number = i // (1 + self.restarts)
                if value > best[number]:
                    best[number] = value
                    x, y = points[i].tolist()
                    kept[number] = Click(x, y, each[i].click.positive)
            if step == self.steps:
                break
            (points.grad,) = torch.autograd.grad(-sign * soft.sum(), points)
            optimizer.step()
            with torch.no_grad():
                for i in range(len(each)):
                    points[i] = _projected(points[i], nearest[i // (1 + self.restarts)])
        return kept

    def _start(self, region: ErrorRegion, number: int) -> tuple[float, float]:
        if number % (1 + self.restarts) == 0:
            return region.click.x, region.click.y
        rows, columns = region.pixels
        at = int(self._random.integers(len(rows)))
        return float(columns[at]) + 0.5, float(rows[at]) + 0.5


@dataclass(frozen=True)
class GridClicker:
    """The worst or best of every `stride`-th pixel of the error region, all of them tried; needs no gradients.

    Args:
        direction: "min" or "max".
        stride: in pixels along both axes; 1 is exhaustive. The robot's click is among those tried.

    Raises:
        UsageError: a stride below 1 or an unknown direction.
    """

    direction: Direction = "min"
    stride: int = 1

    def __post_init__(self) -> None:
        _check_direction(self.direction)
        check_number("stride", self.stride, least=1)

    def __call__(self, objects: ObjectClicks) -> list[Click | None]:
        """See `Clicker`."""
        return [self._best(objects, row) for row in range(len(objects))]

    def _best(self, objects: ObjectClicks, row: int) -> Click | None:
        region = error_region(objects, row)
        if region is None:
            return None
        points, values = click_values(objects, row, region, self.stride)
        at = int(values.argmax() if self.direction == "max" else values.argmin())
        return Click(float(points[at, 0]), float(points[at, 1]), region.click.positive)


@torch.no_grad()
def click_values(
    objects: ObjectClicks, row: int, region: ErrorRegion, stride: int = 1
) -> tuple[Float[Tensor, "P 2"], Float[Tensor, "P"]]:
    """IoU that an object would have after a click at each of the region's pixels: the landscape of a click.

    Args:
        objects: and the row of one among them.
        region: where to click.
        stride: in pixels.

    Returns:
        (x, y) of the places, the robot's click first, and their IoU.
    """
    rows, columns = region.pixels
    kept = (rows % stride == 0) & (columns % stride == 0)
    places = torch.tensor(np.stack([columns[kept], rows[kept]], 1) + 0.5, dtype=torch.float32)
    points = torch.cat([torch.tensor([[region.click.x, region.click.y]]), places])
    values = []
    for part in points.split(objects.batch):
        search = _Search(objects, [row] * len(part), [region.click.positive] * len(part))
        values.append(search(part)[0])
    return points, torch.cat(values)


class _Search:
    """IoU and soft IoU of objects with one more click each, as a function of where it is."""

    def __init__(self, objects: ObjectClicks, owner: list[int], positive: list[bool]) -> None:
        self.objects, self.truth = objects, objects.truth[owner]
        placeholder = [[*objects.clicks[row], Click(0.0, 0.0, kind)] for row, kind in zip(owner, positive, strict=True)]
        self.fixed = objects.prompts(placeholder, owner)
        lengths = torch.tensor([len(clicks) for clicks in placeholder])
        assert self.fixed.points is not None
        self.last = torch.arange(self.fixed.points.shape[1])[None] == lengths[:, None] - 1

    def __call__(self, points: Float[Tensor, "P 2"]) -> tuple[Float[Tensor, "P"], Float[Tensor, "P"]]:
        assert self.fixed.points is not None
        placed = torch.where(self.last[..., None], points[:, None], self.fixed.points)
        masks = self.objects.predict(Prompts(placed, self.fixed.labels, masks=self.fixed.masks))
        logits = masks.logits[:, 0].to(self.truth.device)
        if self.objects.ignore is not None:  # what stands in the void is neither right nor wrong
            logits = logits.masked_fill(self.objects.ignore.to(logits.device), -torch.inf)
        return ious(logits > 0, self.truth), soft_iou(logits.sigmoid(), self.truth.float())


def _projected(point: Float[Tensor, "2"], nearest: np.ndarray) -> Float[Tensor, "2"]:
    """The centre of the nearest valid pixel."""
    height, width = nearest.shape[1:]
    column, line = (int(np.clip(np.floor(v), 0, n - 1)) for v, n in zip(point.tolist(), (width, height), strict=True))
    return torch.tensor([nearest[1, line, column] + 0.5, nearest[0, line, column] + 0.5], dtype=torch.float32)


def _check_direction(direction: str) -> None:
    check_choice("direction", direction, ("min", "max"))


@dataclass(frozen=True)
class ClickRobustness:
    """Three trajectories of the same objects: the robot's, the worst and the best.

    Attributes:
        base, worst, best: their curves.
    """

    base: ClickCurves
    worst: ClickCurves
    best: ClickCurves

    @property
    def delta(self) -> float:
        """AuC of the best trajectory minus that of the worst: 0 for a segmenter that does not mind where one clicks."""
        return self.best.auc() - self.worst.auc()

    @property
    def gaps(self) -> Float[Tensor, "K"]:
        """Mean IoU of the best minus the worst after each click."""
        return (self.best.iou - self.worst.iou).mean(0)

    @property
    def place(self) -> float:
        """Where the robot stands between worst (0) and best (1); nan where they are equal."""
        return (self.base.auc() - self.worst.auc()) / self.delta if self.delta else float("nan")


def click_robustness(
    segmenter: PromptableSegmenter,
    samples: Iterable[tuple[ImageLike, Bool[Tensor, "M H W"]]],
    *,
    max_clicks: int = 10,
    stride: int | None = None,
    steps: int = 20,
    lr: float = 2.5,
    restarts: int = 2,
    seed: int = 0,
) -> ClickRobustness:
    """The robustness of a segmenter to where in the error one clicks.

    Args:
        segmenter: any promptable one; one without gradients needs a `stride`.
        samples: (picture, masks).
        max_clicks: on each object and trajectory.
        stride: every so many pixels is tried instead of gradients.
        steps, lr, restarts, seed: of `AdversarialClicker`.

    Raises:
        UsageError: see `InteractiveEvaluation`.
        NotSupported: gradients are asked of a segmenter that has none.
    """
    pairs = list(samples)

    def along(direction: Direction) -> ClickCurves:
        clicker = (
            AdversarialClicker(direction, steps, lr, restarts, seed) if stride is None
            else GridClicker(direction, stride)
        )  # fmt: skip
        return InteractiveEvaluation(segmenter, clicker, max_clicks)(pairs)

    base = InteractiveEvaluation(segmenter, BaselineClicker(), max_clicks)(pairs)
    return ClickRobustness(base, along("min"), along("max"))
