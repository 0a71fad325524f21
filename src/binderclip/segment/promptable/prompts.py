"""What every promptable segmenter takes and gives back: one protocol for the bundled model, SAM, SAM 2 and oracles.

Coordinates are (x, y) and xyxy in pixels of the picture, half-open: pixel (row r, column c) is the square from (c, r)
to (c + 1, r + 1), and its centre is (c + 0.5, r + 0.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.image_text.preprocess import ImageLike

__all__ = ["ImageState", "LowResSegmenter", "Masks", "PromptableSegmenter", "Prompts", "predict_masks"]

PAD = -1

Points = "Sequence[tuple[float, float]] | Tensor"


@dataclass(frozen=True)
class Prompts:
    """P prompts for one picture; each asks for one object.

    `Prompts.of(points=[(x, y)])` makes a single one; `Prompts(...)` takes a batch.

    Attributes:
        points: (P, N, 2) float (x, y) in pixels; gradients flow through them where the segmenter lets them.
        labels: (P, N) 1 inside the object, 0 outside, -1 no point (to fill up).
        boxes: (P, 4) float xyxy in pixels, half-open.
        masks: (P, h, w) logits of an earlier prediction, as `Masks.low_res` gives them.
    """

    points: Float[Tensor, "P N 2"] | None = None
    labels: Int[Tensor, "P N"] | None = None
    boxes: Float[Tensor, "P 4"] | None = None
    masks: Float[Tensor, "P h w"] | None = None

    def __post_init__(self) -> None:
        points, labels, boxes, masks = self.points, self.labels, self.boxes, self.masks
        if points is None and boxes is None and masks is None:
            raise UsageError("a prompt needs points, a box or a mask; this one has none of them")
        if (points is None) != (labels is None):
            raise UsageError("points and labels go together: 1 for inside, 0 for outside, -1 for no point")
        if points is not None and (points.ndim != 3 or points.shape[-1] != 2):
            raise UsageError(f"points must be (P, N, 2), got {tuple(points.shape)}; Prompts.of makes one prompt")
        if points is not None and labels is not None and labels.shape != points.shape[:2]:
            raise UsageError(f"labels are {tuple(labels.shape)} for points of {tuple(points.shape)}")
        if labels is not None and not bool(((labels >= PAD) & (labels <= 1)).all()):
            raise UsageError(f"labels must be 1, 0 or -1, got {sorted(set(labels.flatten().tolist()))}")
        if boxes is not None and (boxes.ndim != 2 or boxes.shape[-1] != 4):
            raise UsageError(f"boxes must be (P, 4), got {tuple(boxes.shape)}")
        if boxes is not None and not bool((boxes[:, 2:] > boxes[:, :2]).all()):
            raise UsageError("a box is (x0, y0, x1, y1) with x0 < x1 and y0 < y1")
        if masks is not None and masks.ndim != 3:
            raise UsageError(f"masks must be (P, h, w), got {tuple(masks.shape)}")
        if len({len(part) for part in (points, boxes, masks) if part is not None}) > 1:
            raise UsageError("points, boxes and masks are of different numbers of prompts")
        if points is not None and labels is not None and boxes is None and masks is None:
            empty = (labels < 0).all(1)
            if bool(empty.any()):
                raise UsageError(f"prompt {int(empty.nonzero()[0])} has no point, no box and no mask")

    @classmethod
    def of(
        cls,
        *,
        points: Sequence[Sequence[float]] | Tensor | None = None,
        labels: Sequence[int] | Tensor | None = None,
        box: Sequence[float] | Tensor | None = None,
        mask: Float[Tensor, "h w"] | None = None,
    ) -> Prompts:
        """One prompt.

        Args:
            points: (x, y) of each click in pixels.
            labels: 1 (inside) or 0 (outside) for each; default all inside.
            box: (x0, y0, x1, y1) in pixels, half-open.
            mask: logits of an earlier prediction.

        Raises:
            UsageError: nothing given, or shapes that do not fit.
        """
        if points is not None and len(points) == 0:
            points = None
        if points is None and labels is not None and len(labels):
            raise UsageError("labels without points")
        at = None if points is None else torch.as_tensor(points, dtype=torch.float32)
        if at is not None and (at.ndim != 2 or at.shape[1] != 2):
            raise UsageError(f"points must be a list of (x, y), got shape {tuple(at.shape)}")
        kind = None
        if at is not None:
            kind = torch.ones(len(at), dtype=torch.long) if labels is None else torch.as_tensor(labels).long()
        return cls(
            None if at is None else at[None],
            None if kind is None else kind[None],
            None if box is None else torch.as_tensor(box, dtype=torch.float32)[None],
            None if mask is None else mask[None],
        )

    def __len__(self) -> int:
        return len(next(part for part in (self.points, self.boxes, self.masks) if part is not None))

    def rows(self, start: int, stop: int) -> Prompts:
        """The prompts of these numbers."""
        parts = (self.points, self.labels, self.boxes, self.masks)
        return Prompts(*(None if part is None else part[start:stop] for part in parts))

    def flipped(self, width: float) -> Prompts:
        """The same prompts on the picture mirrored left to right."""
        points, boxes = self.points, self.boxes
        if points is not None:
            points = torch.stack([width - points[..., 0], points[..., 1]], -1)
        if boxes is not None:
            boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], -1)
        return Prompts(points, self.labels, boxes, None if self.masks is None else self.masks.flip(-1))


@dataclass(frozen=True)
class Masks:
    """K candidates for each of P prompts.

    Attributes:
        logits: at the picture's size; a pixel belongs to the mask where they are above 0.
        scores: the IoU that the model predicts for each candidate (no probability, not clamped).
        low_res: logits in the model's own frame, what a mask prompt of the next round takes.
    """

    logits: Float[Tensor, "P K H W"]
    scores: Float[Tensor, "P K"]
    low_res: Float[Tensor, "P K h w"]

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def best(self) -> Int[Tensor, "P"]:
        """Number of the candidate with the highest score."""
        return self.scores.argmax(1)

    def masks(self) -> Bool[Tensor, "P H W"]:
        """The best candidate of each prompt."""
        return self.pick().logits[:, 0] > 0

    def pick(self, candidate: Int[Tensor, "P"] | None = None) -> Masks:
        """One candidate of each prompt (default the best), K = 1."""
        chosen = self.best if candidate is None else candidate
        row = torch.arange(len(self.logits), device=self.logits.device)
        parts = (part[row, chosen][:, None] for part in (self.logits, self.scores, self.low_res))
        return Masks(*parts)


@dataclass(frozen=True)
class ImageState:
    """An encoded picture; `predict` may be called with it as often as one likes.

    Attributes:
        features: whatever the segmenter computed, first the map (1, C, h, w) that its decoder reads.
        size: (H, W) of the picture.
        scale: (x, y): model-input pixels per picture pixel.
    """

    features: Any = field(repr=False)
    size: tuple[int, int]
    scale: tuple[float, float]


@runtime_checkable
class PromptableSegmenter(Protocol):
    """Encode once, predict many. Anything with these members works wherever a segmenter is asked for.

    Attributes:
        image_size: long side of the encoder's input in pixels.
        differentiable: whether gradients of the logits reach `Prompts.points` and `Prompts.boxes`.
    """

    @property
    def image_size(self) -> int: ...

    @property
    def differentiable(self) -> bool: ...

    def encode(self, image: ImageLike) -> ImageState:
        """Encode a picture of any size (float tensors in [0, 1])."""
        ...

    def predict(self, state: ImageState, prompts: Prompts, *, multimask: bool = True) -> Masks:
        """Masks of the prompts: three candidates each, or with `multimask=False` one."""
        ...


@runtime_checkable
class LowResSegmenter(PromptableSegmenter, Protocol):
    """A segmenter whose `predict` is `predict_low`, then `enlarge`: who wants few of the masks enlarges few."""

    def predict_low(
        self, state: ImageState, prompts: Prompts, *, multimask: bool = True
    ) -> tuple[Float[Tensor, "P K h w"], Float[Tensor, "P K"]]:
        """Logits in the model's own frame and predicted IoU."""
        ...

    def enlarge(self, low: Float[Tensor, "*N h w"], state: ImageState) -> Float[Tensor, "*N H W"]:
        """Logits at the picture's size."""
        ...


@torch.no_grad()
def predict_masks(
    segmenter: PromptableSegmenter, state: ImageState, prompts: Prompts, *, multimask: bool = True, batch: int = 64
) -> tuple[Float[Tensor, "P H W"], Float[Tensor, "P"]]:
    """The best candidate of each of many prompts, in batches; only that one is enlarged where the segmenter can.

    Args:
        segmenter: any promptable one.
        state: of the encoded picture.
        prompts: any number of them.
        multimask: whether the best of three or the single mask.
        batch: prompts that are decoded at once.

    Returns:
        Logits at the picture's size and predicted IoU.
    """
    logits, scores = [], []
    for start in range(0, len(prompts), batch):
        asked = prompts.rows(start, start + batch)
        if isinstance(segmenter, LowResSegmenter):
            low, score = segmenter.predict_low(state, asked, multimask=multimask)
            row, best = torch.arange(len(low), device=low.device), score.argmax(1)
            logits.append(segmenter.enlarge(low[row, best], state))
            scores.append(score[row, best])
        else:
            masks = segmenter.predict(state, asked, multimask=multimask).pick()
            logits.append(masks.logits[:, 0])
            scores.append(masks.scores[:, 0])
    return torch.cat(logits), torch.cat(scores)
