"""Closed paths inside their bounding boxes: coverage, fills and compositing whose cost is what the paths cover.

Outside the box of its outline a path covers nothing, so nothing of it has to be known there. The pixels of all boxes
stand one box after the other, each row by row, in one flat list; its length, not curves times pixels, is what a drawing
costs. Later paths of a photograph are small: 128 of them at 240 px have boxes of some eight pictures in all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.generate.draw.vector.coverage import EDGE, enumerate_rows, nearest_piece, piece_distance
from binderclip.generate.draw.vector.curves import Pieces

__all__ = ["PathBoxes", "composite_boxes", "coverage_in_boxes", "path_boxes"]


class PathBoxes(NamedTuple):
    """The pixels of the boxes of n paths.

    Args:
        bounds: left, top, right and bottom of each on the canvas, half open; an empty one is left = right.
        first: where each begins in the flat list, and the list's length last.
        owner: path of each pixel of the list.
        x, y: its column and row on the canvas.
        size: (H, W) of the canvas.
    """

    bounds: list[tuple[int, int, int, int]]
    first: list[int]
    owner: Int[Tensor, " M"]
    x: Int[Tensor, " M"]
    y: Int[Tensor, " M"]
    size: tuple[int, int]

    def parts(self) -> list[tuple[slice, tuple[int, int], tuple[slice, slice]]]:
        """Of each box that is not empty: its part of the list, its (h, w), and its rows and columns."""
        filled = []
        for i, (left, top, right, bottom) in enumerate(self.bounds):
            flat = slice(self.first[i], self.first[i + 1])
            if flat.start < flat.stop:
                filled.append((flat, (bottom - top, right - left), (slice(top, bottom), slice(left, right))))
        return filled


@torch.no_grad()
def path_boxes(pieces: Pieces, size: tuple[int, int]) -> PathBoxes:
    """The boxes of closed paths: where their outlines are nearer than half a pixel, and all between."""
    height, width = size
    low = pieces.start.new_full((pieces.curves, 2), torch.inf)
    high = -low
    if len(pieces.owner):
        owner = pieces.owner[:, None].expand(-1, 2)
        # of a closed path every end is another piece's start
        low.scatter_reduce_(0, owner, pieces.start, "amin")
        high.scatter_reduce_(0, owner, pieces.start, "amax")
    limits = torch.tensor([width, height], device=low.device)
    # NaN and huge numbers have no place on the canvas: clamping first keeps the integers in range
    first = torch.minimum((low - EDGE - 0.5).nan_to_num(0).ceil().clamp(min=0), limits).long()
    last = torch.minimum((high + EDGE - 0.5).nan_to_num(-1).floor().clamp(min=-1) + 1, limits).long()
    sides = (last - first).clamp(min=0)
    count = sides.prod(1)
    last = torch.where(count[:, None] > 0, last, first)
    owner, offset = enumerate_rows(count)
    start = count.cumsum(0) - count
    columns = sides[owner, 0]
    row = torch.div(offset, columns, rounding_mode="floor")
    x, y = first[owner, 0] + offset - row * columns, first[owner, 1] + row
    bounds = [(a, b, c, d) for (a, b), (c, d) in zip(first.tolist(), last.tolist(), strict=True)]
    return PathBoxes(bounds, [*start.tolist(), len(owner)], owner, x, y, size)


def coverage_in_boxes(pieces: Pieces, boxes: PathBoxes) -> Float[Tensor, " M"]:
    """The part of each pixel of the boxes that their paths cover: `fill_coverage` without what is 0 anyway.

    The gradient flows through the distance at the outline.
    """
    with torch.no_grad():
        inside = _inside(pieces, boxes)
        key, piece = _outline(pieces, boxes)
        sign = 2 * inside[key].to(pieces.start) - 1
    pixel = torch.stack([boxes.x[key], boxes.y[key]], 1)
    near = (EDGE + sign * piece_distance(pieces, piece, pixel)).clamp(0, 1)
    return inside.to(pieces.start).index_put((key,), near)


def composite_boxes(
    alpha: Float[Tensor, " M"], colour: Float[Tensor, "3 M"], boxes: PathBoxes, background: Float[Tensor, "3 P"]
) -> Float[Tensor, "3 P"]:
    """Lay paths over a background, the first lowest, each inside its box: `composite_over` without what is clear.

    Args:
        alpha: opacity of each pixel of the boxes, in [0, 1].
        colour: of it, straight.
        boxes: whose pixels these are.
        background: a picture of the canvas' size; no gradient flows into it.
    """
    return _BoxesOver.apply(alpha, colour, background, boxes)


def _inside(pieces: Pieces, boxes: PathBoxes) -> Tensor:
    """Whether each pixel of the boxes lies inside its path, by the non-zero rule; see `winding_number`."""
    height, width = boxes.size
    bounds = torch.tensor(boxes.bounds, dtype=torch.long, device=boxes.x.device).reshape(-1, 4)
    first = torch.tensor(boxes.first, dtype=torch.long, device=bounds.device)[:-1]
    wide, high = bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1]
    above = high.cumsum(0) - high  # rows of the boxes before
    y0, y1 = pieces.start[:, 1], pieces.end[:, 1]
    low = (torch.minimum(y0, y1) - 0.5).ceil().clamp(0, height).long()
    last = (torch.maximum(y0, y1) - 0.5).ceil().clamp(0, height).long()
    piece, offset = enumerate_rows((last - low) * (wide > 0)[pieces.owner])
    row, owner = low[piece] + offset, pieces.owner[piece]
    start, end = pieces.start[piece], pieces.end[piece]
    x = start[:, 0] + (row + 0.5 - start[:, 1]) * (end[:, 0] - start[:, 0]) / (end[:, 1] - start[:, 1])
    column = (x - 0.5).ceil().clamp(0, width).long()
    column = torch.minimum(torch.maximum(column, bounds[owner, 0]), bounds[owner, 2]) - bounds[owner, 0]
    # Every row of a box has one place more, for what is crossed at its right.
    line = above[owner] + row - bounds[owner, 1]
    place = first[owner] + (row - bounds[owner, 1]) * wide[owner] + line + column
    change = torch.zeros(len(boxes.owner) + int(high.sum()) + 1, dtype=torch.int32, device=x.device)
    change.index_add_(0, place + 1, torch.where(end[:, 1] > start[:, 1], -1, 1).to(change))
    turns = change.cumsum(0, dtype=torch.int32)
    line = above[boxes.owner] + boxes.y - bounds[boxes.owner, 1]
    here = torch.arange(len(boxes.owner), device=x.device) + line
    before = here - (boxes.x - bounds[boxes.owner, 0])  # where its row begins
    return turns[here + 1] != turns[before]


def _outline(pieces: Pieces, boxes: PathBoxes) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """Pixels of the boxes that an outline is nearer to than half a pixel, and the nearest piece of each."""
    height, width = boxes.size
    limits = torch.tensor([width, height], device=boxes.x.device)
    low, high = torch.minimum(pieces.start, pieces.end), torch.maximum(pieces.start, pieces.end)
    low = torch.minimum((low - EDGE - 0.5).nan_to_num(0).ceil().clamp(min=0), limits).long()
    high = torch.minimum((high + EDGE - 0.5).nan_to_num(0).floor().clamp(min=-1) + 1, limits).long()
    sides = (high - low).clamp(min=0)
    piece, offset = enumerate_rows(sides[:, 0] * sides[:, 1])
    columns = sides[piece, 0]
    row = torch.div(offset, columns, rounding_mode="floor")
    pixel = torch.stack([low[piece, 0] + offset - row * columns, low[piece, 1] + row], 1)
    distance = piece_distance(pieces, piece, pixel)
    close = distance < EDGE
    piece, pixel, distance = piece[close], pixel[close], distance[close]
    bounds = torch.tensor(boxes.bounds, dtype=torch.long, device=boxes.x.device).reshape(-1, 4)
    first = torch.tensor(boxes.first, dtype=torch.long, device=bounds.device)
    owner = pieces.owner[piece]
    left, top, right, _ = bounds[owner].unbind(1)
    key = first[owner] + (pixel[:, 1] - top) * (right - left) + pixel[:, 0] - left
    return nearest_piece(key, piece, distance, len(boxes.owner))


class _BoxesOver(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, alpha: Tensor, colour: Tensor, background: Tensor, boxes: PathBoxes) -> Tensor:
        picture = background.reshape(3, *boxes.size).clone()
        below = torch.empty_like(colour)
        for flat, shape, place in boxes.parts():
            part = picture[:, place[0], place[1]]
            below[:, flat].view(3, *shape).copy_(part)
            part.lerp_(colour[:, flat].view(3, *shape), alpha[flat].view(shape))
        ctx.save_for_backward(alpha, colour, below)
        ctx.boxes = boxes
        return picture.flatten(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        alpha, colour, below = ctx.saved_tensors
        seen = gradients[0].reshape(3, *ctx.boxes.size).clone()  # of the picture up to a path, from the last one down
        through = torch.empty_like(colour)
        for flat, shape, place in reversed(ctx.boxes.parts()):
            part = seen[:, place[0], place[1]]
            through[:, flat].view(3, *shape).copy_(part)
            part.mul_(1 - alpha[flat].view(shape))
        return ((colour - below) * through).sum(0), alpha * through, None, None
