"""Clicking: a session that remembers, and the click that a careful annotator would make next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.segment.promptable.prompts import ImageState, Masks, PromptableSegmenter, Prompts

__all__ = ["Click", "InteractiveSession", "click_curve", "next_click"]


@dataclass(frozen=True)
class Click:
    """One place that was pointed at, (x, y) in pixels, inside the object or not."""

    x: float
    y: float
    positive: bool = True


@dataclass
class _Step:
    clicks: tuple[Click, ...]
    box: tuple[float, float, float, float] | None
    masks: Masks


@dataclass
class InteractiveSession:
    """Click by click to a mask; the picture is encoded once.

    `session = InteractiveSession(load_promptable(), "cat.jpg"); session.click(120.5, 80.5)` gives the mask. The
    previous logits are fed back with each further click.

    Args:
        segmenter: any promptable one.
        image: the picture.
        feedback: whether the previous logits are fed back.
        state: of the picture, where it was encoded already.
    """

    segmenter: PromptableSegmenter
    image: ImageLike
    feedback: bool = True
    state: ImageState = field(default=None, repr=False)  # type: ignore[assignment]
    _steps: list[_Step] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.state is None:
            self.state = self.segmenter.encode(self.image)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the picture."""
        return self.state.size

    @property
    def clicks(self) -> tuple[Click, ...]:
        """All clicks that count now."""
        return self._steps[-1].clicks if self._steps else ()

    @property
    def history(self) -> list[Bool[Tensor, "H W"]]:
        """The mask after each step that has not been undone."""
        return [step.masks.logits[0, 0] > 0 for step in self._steps]

    @property
    def mask(self) -> Bool[Tensor, "H W"]:
        """The mask now; empty before the first prompt."""
        return self.history[-1] if self._steps else torch.zeros(self.size, dtype=torch.bool)

    @property
    def logits(self) -> Float[Tensor, "H W"] | None:
        """The logits behind the mask, None before the first prompt."""
        return self._steps[-1].masks.logits[0, 0] if self._steps else None

    def click(self, x: float, y: float, *, positive: bool = True) -> Bool[Tensor, "H W"]:
        """Point at the object (or, not positive, at what is none of it).

        Args:
            x, y: in pixels; the centre of pixel (row, column) is (column + 0.5, row + 0.5).
            positive: whether the place belongs to the object.

        Raises:
            UsageError: outside the picture.
        """
        height, width = self.size
        if not (0 <= x <= width and 0 <= y <= height):
            raise UsageError(f"click ({x}, {y}) is outside the picture of {width} x {height} pixels")
        box = self._steps[-1].box if self._steps else None
        return self._ask((*self.clicks, Click(float(x), float(y), positive)), box)

    def box(self, x0: float, y0: float, x1: float, y1: float) -> Bool[Tensor, "H W"]:
        """Draw a box around the object, half-open, in pixels; it replaces an earlier one and clicks stay."""
        return self._ask(self.clicks, (float(x0), float(y0), float(x1), float(y1)))

    def undo(self) -> Bool[Tensor, "H W"]:
        """Take the last click or box back; the mask before it.

        Raises:
            UsageError: there is nothing to take back.
        """
        if not self._steps:
            raise UsageError("there is no click to undo")
        self._steps.pop()
        return self.mask

    def reset(self) -> None:
        """Forget every prompt; the picture stays encoded."""
        self._steps.clear()

    @torch.no_grad()
    def _ask(self, clicks: tuple[Click, ...], box: tuple[float, float, float, float] | None) -> Bool[Tensor, "H W"]:
        previous = self._steps[-1].masks.low_res[0, 0] if self._steps and self.feedback else None
        prompts = Prompts.of(
            points=[(click.x, click.y) for click in clicks] or None,
            labels=[int(click.positive) for click in clicks] or None,
            box=box,
            mask=previous,
        )
        # A single click may mean a part or the whole: the best of three. Everything further is unambiguous.
        single = len(clicks) == 1 and box is None and previous is None
        masks = self.segmenter.predict(self.state, prompts, multimask=single).pick()
        self._steps.append(_Step(clicks, box, masks))
        return self.mask


def next_click(
    found: Bool[Tensor, "H W"], truth: Bool[Tensor, "H W"], *, clicked: Bool[Tensor, "H W"] | None = None
) -> Click | None:
    """The middle of the largest error: the pixel farthest from the border of what was missed or wrongly taken.

    As in the usual evaluation of interactive segmentation: distances count the picture's border as a border, inside
    errors must be strictly deeper than outside ones to be clicked first, and of equal pixels the first one is taken.

    Args:
        found, truth: the mask now and as it should be.
        clicked: pixels that were clicked already; they are left out.

    Returns:
        The click at the pixel's centre, or None where nothing is wrong.
    """
    wrong = {True: truth & ~found, False: found & ~truth}
    depth = {}
    for positive, region in wrong.items():
        padded = np.pad(region.cpu().numpy(), 1)
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
        UsageError: an empty truth, or fewer than one click.
    """
    if clicks < 1 or not bool(truth.any()):
        raise UsageError("click_curve needs at least one click and an object with pixels")
    session = InteractiveSession(segmenter, image, state=state)  # type: ignore[arg-type]
    curve = []
    for _ in range(clicks):
        click = choose(session.mask, truth)
        if click is not None:
            session.click(click.x, click.y, positive=click.positive)
        union = (session.mask | truth).sum()
        curve.append(float((session.mask & truth).sum() / union))
    return torch.tensor(curve)
