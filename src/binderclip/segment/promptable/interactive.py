"""Clicking: a session that remembers, and the click that a careful annotator would make next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.segment.promptable.image import check_mask, mask_prompt
from binderclip.segment.promptable.prompts import ImageState, Masks, PromptableSegmenter, Prompts

__all__ = ["Action", "Click", "InteractiveSession", "click_curve", "next_click", "sampled_line"]


@dataclass(frozen=True)
class Click:
    """One place that was pointed at, (x, y) in pixels, inside the object or not."""

    x: float
    y: float
    positive: bool = True


@dataclass(frozen=True)
class Action:
    """One thing that an annotator did: clicks of one gesture, a box, or a rough mask.

    Attributes:
        kind: `click`, `scribble`, `box` or `mask`.
        clicks: of a click (one) or a scribble (its samples).
        box: xyxy in pixels, half-open.
        mask: a rough mask at the picture's size.
    """

    kind: Literal["click", "scribble", "box", "mask"]
    clicks: tuple[Click, ...] = ()
    box: tuple[float, float, float, float] | None = None
    mask: Bool[Tensor, "H W"] | None = field(default=None, repr=False)


@dataclass
class _Step:
    action: Action
    clicks: tuple[Click, ...]
    box: tuple[float, float, float, float] | None
    masks: Masks


@dataclass
class InteractiveSession:
    """Click by click to a mask; the picture is encoded once.

    `session = InteractiveSession(load_promptable(), "cat.jpg"); session.click(120.5, 80.5)` gives the mask. The
    previous logits are fed back with each further prompt. `save_session` and `load_session` keep one in a file.

    Args:
        segmenter: any promptable one.
        image: the picture.
        feedback: whether the previous logits are fed back.
        state: of the picture, where it was encoded already.
    """

    segmenter: PromptableSegmenter
    image: ImageLike
    feedback: bool = True
    state: InitVar[ImageState | None] = None
    _state: ImageState = field(init=False, repr=False)
    _steps: list[_Step] = field(default_factory=list, init=False, repr=False)
    _undone: list[_Step] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self, state: ImageState | None) -> None:
        self._state = self.segmenter.encode(self.image) if state is None else state

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the picture."""
        return self._state.size

    @property
    def clicks(self) -> tuple[Click, ...]:
        """All clicks that count now, those of scribbles among them."""
        return self._steps[-1].clicks if self._steps else ()

    @property
    def actions(self) -> tuple[Action, ...]:
        """What was done and not taken back, in order."""
        return tuple(step.action for step in self._steps)

    @property
    def undone(self) -> tuple[Action, ...]:
        """What `redo` would do again, the next one first."""
        return tuple(step.action for step in reversed(self._undone))

    @property
    def history(self) -> list[Bool[Tensor, "H W"]]:
        """The mask after each step that has not been undone."""
        return [step.masks.logits[0, 0] > 0 for step in self._steps]

    @property
    def mask(self) -> Bool[Tensor, "H W"]:
        """The mask now; empty before the first prompt."""
        return self._steps[-1].masks.logits[0, 0] > 0 if self._steps else torch.zeros(self.size, dtype=torch.bool)

    @property
    def logits(self) -> Float[Tensor, "H W"] | None:
        """The logits behind the mask, None before the first prompt."""
        return self._steps[-1].masks.logits[0, 0] if self._steps else None

    @property
    def predicted_iou(self) -> float | None:
        """What the segmenter thinks of the mask, None before the first prompt."""
        return float(self._steps[-1].masks.scores[0, 0]) if self._steps else None

    def click(self, x: float, y: float, *, positive: bool = True) -> Bool[Tensor, "H W"]:
        """Point at the object (or, not positive, at what is none of it).

        Args:
            x, y: in pixels; the centre of pixel (row, column) is (column + 0.5, row + 0.5).
            positive: whether the place belongs to the object.

        Raises:
            UsageError: outside the picture.
        """
        return self.do(Action("click", (Click(float(x), float(y), positive),)))

    def scribble(
        self, points: Sequence[Sequence[float]], *, positive: bool = True, spacing: float | None = None, most: int = 16
    ) -> Bool[Tensor, "H W"]:
        """Draw a line over the object (or, not positive, over what is none of it); one step, taken back as one.

        The segmenter sees clicks at equal distances along the line, its two ends among them.

        Args:
            points: (x, y) in pixels of the line's corners.
            positive: whether the line is in the object.
            spacing: distance between clicks in pixels; None takes a sixteenth of the picture's longer side.
            most: clicks of one scribble at most.

        Raises:
            UsageError: no point, a point outside the picture, or a spacing that is not above 0.
        """
        spacing = max(self.size) / 16 if spacing is None else spacing
        samples = sampled_line(points, spacing, most)
        return self.do(Action("scribble", tuple(Click(x, y, positive) for x, y in samples)))

    def box(self, x0: float, y0: float, x1: float, y1: float) -> Bool[Tensor, "H W"]:
        """Draw a box around the object, half-open, in pixels; it replaces an earlier one and clicks stay.

        Raises:
            UsageError: a box without area, or one that does not meet the picture.
        """
        return self.do(Action("box", box=(float(x0), float(y0), float(x1), float(y1))))

    def rough(self, mask: Bool[Tensor, "H W"]) -> Bool[Tensor, "H W"]:
        """Give a rough mask to start from, such as last year's; it takes the place of the previous logits.

        Raises:
            UsageError: an empty mask, or one of another size than the picture.
        """
        return self.do(Action("mask", mask=mask))

    def do(self, action: Action) -> Bool[Tensor, "H W"]:
        """Take one action; the mask after it. A wrong one raises before anything changes.

        Raises:
            UsageError: see `click`, `box`, `scribble` and `rough`.
        """
        self._check(action)
        last = self._steps[-1] if self._steps else None
        clicks = (*self.clicks, *action.clicks)
        box = action.box if action.box is not None else (last.box if last else None)
        step = _Step(action, clicks, box, self._ask(clicks, box, action.mask))
        self._steps.append(step)
        self._undone.clear()
        return self.mask

    def undo(self) -> Bool[Tensor, "H W"]:
        """Take the last action back; the mask before it.

        Raises:
            UsageError: there is nothing to take back.
        """
        if not self._steps:
            raise UsageError("there is no click to undo")
        self._undone.append(self._steps.pop())
        return self.mask

    def redo(self) -> Bool[Tensor, "H W"]:
        """Do again what was taken back last; nothing is computed.

        Raises:
            UsageError: nothing was taken back, or something else was done since.
        """
        if not self._undone:
            raise UsageError("there is nothing to redo")
        self._steps.append(self._undone.pop())
        return self.mask

    def reset(self) -> None:
        """Forget every prompt; the picture stays encoded."""
        self._steps.clear()
        self._undone.clear()

    def _check(self, action: Action) -> None:
        height, width = self.size
        for click in action.clicks:
            if not (0 <= click.x <= width and 0 <= click.y <= height):
                raise UsageError(f"click ({click.x}, {click.y}) is outside the picture of {width} x {height} pixels")
        if action.box is not None:
            x0, y0, x1, y1 = action.box
            inside = max(x0, 0) < min(x1, width) and max(y0, 0) < min(y1, height)
            if not inside or not np.isfinite(action.box).all():
                raise UsageError(f"box {action.box} has no area inside the picture of {width} x {height} pixels")
        if action.mask is not None:
            check_mask(action.mask, self.size)

    @torch.no_grad()
    def _ask(
        self,
        clicks: tuple[Click, ...],
        box: tuple[float, float, float, float] | None,
        rough: Bool[Tensor, "H W"] | None,
    ) -> Masks:
        previous = self._steps[-1].masks.low_res[0, 0] if self._steps and self.feedback else None
        if rough is not None:
            previous = mask_prompt(rough, self._state, self.segmenter.image_size)
        prompts = Prompts.of(
            points=[(click.x, click.y) for click in clicks] or None,
            labels=[int(click.positive) for click in clicks] or None,
            box=box,
            mask=previous,
        )
        # A single click may mean a part or the whole: the best of three. Everything further is unambiguous.
        single = len(clicks) == 1 and box is None and previous is None
        return self.segmenter.predict(self._state, prompts, multimask=single).pick()


def sampled_line(points: Sequence[Sequence[float]], spacing: float, most: int = 16) -> list[tuple[float, float]]:
    """Places at equal distances along a line of straight pieces, its two ends among them.

    Args:
        points: (x, y) of its corners.
        spacing: largest distance between neighbours, unless `most` is reached.
        most: places at most.

    Raises:
        UsageError: no point, or a spacing or number that is not above 0.
    """
    if not len(points):
        raise UsageError("a scribble needs at least one point (x, y)")
    if not spacing > 0 or most < 1:
        raise UsageError(f"spacing and most must be above 0, got {spacing} and {most}")
    corners = np.asarray(points, dtype=float).reshape(len(points), -1)
    if corners.shape[1] != 2 or not np.isfinite(corners).all():
        raise UsageError("the points of a scribble are (x, y), two finite numbers each")
    along = np.concatenate([[0.0], np.hypot(*np.diff(corners, axis=0).T).cumsum()])
    if along[-1] == 0 or most == 1:
        return [(float(corners[0, 0]), float(corners[0, 1]))]
    count = min(most, int(np.ceil(along[-1] / spacing)) + 1)
    at = np.linspace(0, along[-1], count)
    x, y = (np.interp(at, along, corners[:, axis]) for axis in (0, 1))
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]


def next_click(
    predicted: Bool[Tensor, "H W"],
    truth: Bool[Tensor, "H W"],
    *,
    clicked: Bool[Tensor, "H W"] | None = None,
    ignore: Bool[Tensor, "H W"] | None = None,
) -> Click | None:
    """The middle of the largest error: the pixel farthest from the border of what was missed or wrongly taken.

    As in the usual evaluation of interactive segmentation: distances count the picture's border as a border, inside
    errors must be strictly deeper than outside ones to be clicked first, and of equal pixels the first one is taken.

    Args:
        predicted, truth: the mask now and as it should be.
        clicked: pixels that were clicked already; they are left out.
        ignore: void pixels: nothing is wrong there, and an error ends where they begin.

    Returns:
        The click at the pixel's centre, or None where nothing is wrong.

    Raises:
        UsageError: masks of different sizes.
    """
    for each in (predicted, clicked, ignore):
        if each is not None and each.shape != truth.shape:
            raise UsageError(f"masks are {tuple(each.shape)} and {tuple(truth.shape)}: they are of one picture")
    wrong = {True: truth & ~predicted, False: predicted & ~truth}
    depth = {}
    for positive, region in wrong.items():
        padded = np.pad((region if ignore is None else region & ~ignore.to(region.device)).cpu().numpy(), 1)
        depth[positive] = distance_transform_edt(padded)[1:-1, 1:-1]
        if clicked is not None:
            depth[positive] = np.where(clicked.cpu().numpy(), 0, depth[positive])
    positive = bool(depth[True].max() > depth[False].max())
    best = depth[positive]
    if best.max() <= 0:
        return None
    row, column = np.unravel_index(int(best.argmax()), best.shape)
    return Click(float(column) + 0.5, float(row) + 0.5, positive)


Chooser = Callable[[Tensor, Tensor], "Click | None"]


def click_curve(
    segmenter: PromptableSegmenter,
    image: ImageLike,
    truth: Bool[Tensor, "H W"],
    *,
    clicks: int = 5,
    choose: Chooser = next_click,
    state: ImageState | None = None,
) -> Float[Tensor, "clicks"]:
    """IoU with the truth after each click; once nothing is wrong the rest stays at 1.

    Args:
        segmenter: any promptable one. image: the picture.
        truth: the object's mask.
        clicks: how many.
        choose: (mask now, truth) -> the next click, or None.
        state: of the picture, where it was encoded already.

    Raises:
        UsageError: an empty truth or one of another size than the picture, or fewer than one click.
    """
    if clicks < 1 or not bool(truth.any()):
        raise UsageError("click_curve needs at least one click and an object with pixels")
    session = InteractiveSession(segmenter, image, state=state)
    check_mask(truth, session.size)
    curve = []
    for _ in range(clicks):
        click = choose(session.mask, truth)
        if click is not None:
            session.click(click.x, click.y, positive=click.positive)
        union = (session.mask | truth).sum()
        curve.append(float((session.mask & truth).sum() / union))
    return torch.tensor(curve)
