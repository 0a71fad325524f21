"""Several objects of one picture, made by steps that can be taken back: points, boxes, masks and names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool

from binderclip.data.formats.run_lengths import from_run_lengths
from binderclip.errors import UsageError
from binderclip.segment.promptable.image import mask_prompt
from binderclip.segment.promptable.prompts import ImageState, PromptableSegmenter, Prompts

__all__ = ["MOST_OBJECTS", "ObjectStep", "PictureObjects", "PointedObject", "object_mask"]

Point = tuple[float, float]
Box = tuple[float, float, float, float]

MOST_OBJECTS = 255
"""Objects of one picture: a PNG with a palette has so many colours besides the background."""
MOST_NAME = 100
"""Characters of a name."""


@dataclass(frozen=True)
class ObjectStep:
    """One thing that was done to one object.

    Attributes:
        kind: `point`, `box`, `mask`, `name` or `delete`.
        number: of the object, from 1; the first step with a new one makes the object.
        point: (x, y) in pixels. positive: whether it lies on the object.
        box: xyxy in pixels, half-open; the last one of an object counts.
        mask: COCO's uncompressed run lengths, of a mask that was made elsewhere.
        name: what it is, such as `cup`; empty for none.
    """

    kind: Literal["point", "box", "mask", "name", "delete"]
    number: int
    point: Point | None = None
    positive: bool = True
    box: Box | None = None
    mask: tuple[int, ...] | None = field(default=None, repr=False)
    name: str = ""


@dataclass(frozen=True)
class PointedObject:
    """An object as its steps have made it; equal ones have equal masks.

    Attributes:
        number: from 1, never given twice while its steps are kept.
        name: what it is; empty for none.
        inside, outside: (x, y) in pixels of points on it, and beside it.
        box: xyxy around it.
        mask: run lengths of the mask that it began with.
    """

    number: int
    name: str = ""
    inside: tuple[Point, ...] = ()
    outside: tuple[Point, ...] = ()
    box: Box | None = None
    mask: tuple[int, ...] | None = field(default=None, repr=False)

    @property
    def is_placed(self) -> bool:
        """Whether anything says where it is."""
        return bool(self.inside) or self.box is not None or self.mask is not None

    @property
    def prompts(self) -> tuple[Any, ...]:
        """What its mask depends on."""
        return self.inside, self.outside, self.box, self.mask


@dataclass
class PictureObjects:
    """The objects of one picture, with everything that was done and undone.

    Args:
        size: (H, W) of the picture.
        steps: that count, in their order.
        undone: steps that were taken back, the next one to be done again last.
        hidden: numbers of the objects that a page does not show; their masks are saved all the same.
        done: whether the picture is finished.
    """

    size: tuple[int, int]
    steps: list[ObjectStep] = field(default_factory=list)
    undone: list[ObjectStep] = field(default_factory=list)
    hidden: set[int] = field(default_factory=set)
    done: bool = False
    _made: dict[int, PointedObject] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def objects(self) -> list[PointedObject]:
        """The objects that are there, in the order in which they were begun."""
        return list(self._objects().values())

    def _objects(self) -> dict[int, PointedObject]:
        """By number, made of the steps where they are not held."""
        if self._made is None:
            self._made = {}
            for step in self.steps:
                _take(self._made, step)
        return self._made

    @property
    def next_number(self) -> int:
        """Of an object that is begun now."""
        return max((step.number for step in self.steps), default=0) + 1

    def do(self, step: ObjectStep) -> None:
        """Take a step; what was undone cannot be done again after it. A wrong step raises before anything changes.

        Raises:
            UsageError: outside the picture, a box without area, a point beside an object that is nowhere yet, an
                object that is not there, a name that is too long, or more than 255 objects.
        """
        self.check(step)
        _take(self._objects(), step)
        self.steps.append(step)
        self.undone.clear()

    def check(self, step: ObjectStep) -> None:
        """Refuse a step that cannot be taken now.

        Raises:
            UsageError: as `do`.
        """
        there = self._objects()
        one = there.get(step.number)
        if one is None and (step.kind in ("name", "delete") or step.number != self.next_number):
            raise UsageError(f"there is no object {step.number} on this picture")
        if one is None and len(there) >= MOST_OBJECTS:
            raise UsageError(f"a picture has at most {MOST_OBJECTS} objects: delete one, or take a part of the picture")
        height, width = self.size
        if step.kind == "point":
            if step.point is None:
                raise UsageError("a point is x,y in pixels")
            x, y = step.point
            if not (0 <= x < width and 0 <= y < height):
                raise UsageError(f"point {x:g},{y:g} is outside the picture of {width} x {height} pixels")
            if not step.positive and (one is None or not one.is_placed):
                # What is none of it says nothing of where it is.
                raise UsageError("first click on the object, or draw a box around it; then on what is none of it")
        elif step.kind == "box":
            _check_box(step.box, width, height)
        elif step.kind == "mask":
            _check_mask(step.mask, self.size)
        elif step.kind == "name" and (len(step.name) > MOST_NAME or not step.name.isprintable()):
            raise UsageError(f"a name has at most {MOST_NAME} characters, all of them printable")

    def undo(self) -> None:
        """Take the last step back.

        Raises:
            UsageError: there is none.
        """
        if not self.steps:
            raise UsageError("there is nothing to undo on this picture")
        self.undone.append(self.steps.pop())
        self._made = None

    def redo(self) -> None:
        """Take the step again that was taken back last.

        Raises:
            UsageError: there is none, or another step was taken since.
        """
        if not self.undone:
            raise UsageError("there is nothing to redo on this picture")
        step = self.undone.pop()
        _take(self._objects(), step)
        self.steps.append(step)


def _take(made: dict[int, PointedObject], step: ObjectStep) -> None:
    """Change the objects, by number, as a step does."""
    if step.kind == "delete":
        made.pop(step.number, None)
        return
    one = made.get(step.number, PointedObject(step.number))
    if step.kind == "name":
        one = replace(one, name=step.name)
    elif step.kind == "box":
        one = replace(one, box=step.box)
    elif step.kind == "mask":
        one = replace(one, mask=step.mask)
    elif step.point is not None and step.positive:
        one = replace(one, inside=(*one.inside, step.point))
    elif step.point is not None:
        one = replace(one, outside=(*one.outside, step.point))
    made[step.number] = one


def _check_box(box: Box | None, width: int, height: int) -> None:
    if box is None or not all(map(math.isfinite, box)):
        raise UsageError("a box is x0,y0,x1,y1 in pixels")
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1):
        raise UsageError(f"box {x0:g},{y0:g},{x1:g},{y1:g} has no area: x0 < x1 and y0 < y1")
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise UsageError(f"box {x0:g},{y0:g},{x1:g},{y1:g} is outside the picture of {width} x {height} pixels")


def _check_mask(counts: Sequence[int] | None, size: tuple[int, int]) -> None:
    if counts is None or any(count < 0 for count in counts) or sum(counts) != size[0] * size[1]:
        raise UsageError(f"run lengths of {sum(counts or ())} pixels for a picture of {size[1]} x {size[0]}")


@torch.no_grad()
def object_mask(
    segmenter: PromptableSegmenter, state: ImageState, one: PointedObject
) -> tuple[Bool[np.ndarray, "H W"], float | None]:
    """The mask of an object, and its predicted IoU; None for a mask that was made elsewhere and stays as it is.

    Every prompt is asked at once and of the picture anew, so equal prompts give equal masks, in whatever order they
    came.

    Args:
        segmenter: any promptable one.
        state: of the encoded picture.
        one: with anything that says where it is; a mask that it began with is fed to the decoder beside its points.

    Raises:
        UsageError: nothing says where it is.
    """
    if not one.is_placed:
        raise UsageError(f"nothing says where object {one.number} is")
    given = None if one.mask is None else from_run_lengths(one.mask, state.size)
    if given is not None and not (one.inside or one.outside or one.box):
        return given, None
    points, labels = [*one.inside, *one.outside], [1] * len(one.inside) + [0] * len(one.outside)
    rough = None
    if given is not None and given.any():
        rough = mask_prompt(torch.from_numpy(given.copy()), state, segmenter.image_size)
    prompts = Prompts.of(points=points or None, labels=labels or None, box=one.box, mask=rough)
    # One click may mean a part or the whole: the best of three. More prompts are unambiguous.
    single = len(labels) == 1 and one.box is None and rough is None
    masks = segmenter.predict(state, prompts, multimask=single).pick()
    return (masks.logits[0, 0] > 0).cpu().numpy(), float(masks.scores[0, 0])
