"""Drawings: the rasteriser of strokes beside all distances, and CLIPDraw beside its model alone."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.harness import Row, compare, row, timed
from binderclip.generate import BezierStrokes, PerspectiveCutouts, clipdraw
from binderclip.generate.draw.vector.curves import CurveIndex, flatten
from binderclip.models import load

SIDE = 64
SECONDS_RASTER, SECONDS_DRAWING = 0.5, 60.0
"""Goals on two cores."""


def run(*, strokes: int = 256, steps: int = 200, drawn: int = 32, repeats: int = 5) -> list[Row]:
    """Random strokes on 64 x 64 pixels, thin as CLIPDraw begins and wide as they grow; a drawing by `small`.

    Args:
        strokes: of the rasteriser.
        steps: of the drawing.
        drawn: its strokes.
        repeats: pairs of the rasteriser; the drawing is made once.
    """
    wide = [_raster(strokes, width, repeats) for width in (None, 20.0)]
    return [*wide, _linear(strokes, repeats), _drawing(drawn, steps)]


def _strokes(count: int, width: float | None) -> BezierStrokes:
    drawing = BezierStrokes.random(count, (SIDE, SIDE))
    if width is not None:
        with torch.no_grad():
            drawing.widths.fill_(width)
    return drawing


def _raster(count: int, width: float | None, repeats: int) -> Row:
    drawing = _strokes(count, width)

    def ours() -> Tensor:
        image: Tensor = drawing()
        image.sum().backward()  # type: ignore[no-untyped-call]
        return image

    def peer() -> Tensor:
        image = dense(drawing)
        image.sum().backward()  # type: ignore[no-untyped-call]
        return image

    if float((ours() - peer()).detach().abs().max()) > 1e-3:
        raise RuntimeError("the two sides do not draw the same picture")
    result = compare(
        f"{count} strokes of {float(drawing.widths.mean()):.1f} px at {SIDE} px, forward and backward",
        ours,
        peer,
        repeats=repeats,
        fastest=True,
        goal=f"at most {SECONDS_RASTER:g} s on two cores",
        peer_name="distances of all pieces at all pixels, in a loop over strokes",
    )
    return replace(result, met=result.ours <= 1e3 * SECONDS_RASTER)


def dense(drawing: BezierStrokes) -> Tensor:
    """The picture [3, P] of strokes by the distance of every pixel to every piece of a stroke, laid over in a loop.

    Args:
        drawing: of strokes.
    """
    height, width = drawing.size
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    centres = torch.stack([x, y], -1).reshape(-1, 1, 2)
    index = CurveIndex(drawing.index_points, drawing.index_owner, len(drawing.segments))
    pieces = flatten(drawing.points, index, drawing.pieces)
    picture = drawing.background[:, None].expand(3, height * width)
    for stroke in range(len(drawing.segments)):
        own = pieces.owner == stroke
        start, along = pieces.start[own], pieces.end[own] - pieces.start[own]
        offset = centres - start  # [P, Q, 2]
        t = ((offset * along).sum(2) / along.square().sum(1).clamp(min=1e-12)).clamp(0, 1)
        distance = (offset - t[..., None] * along).square().sum(2).amin(1).clamp(min=1e-12).sqrt()
        half = drawing.widths[stroke] / 2
        overlap = torch.minimum(distance + 0.5, half) - torch.maximum(distance - 0.5, -half)
        alpha = overlap.clamp(0, 1) * drawing.colours[stroke, 3]
        picture = torch.lerp(picture, drawing.colours[stroke, :3, None].expand_as(picture), alpha)
    return picture.reshape(1, 3, height, width)


def _linear(count: int, repeats: int) -> Row:
    whole, quarter = _strokes(count, None), _strokes(count // 4, None)

    def backward(drawing: BezierStrokes) -> None:
        drawing().sum().backward()

    return compare(
        f"{count} strokes beside four times {count // 4}",
        lambda: backward(whole),
        lambda: [backward(quarter) for _ in range(4)],
        repeats=repeats,
        fastest=True,
        speedup=False,
        goal="at most 1.2 of the time: linear in strokes",
        target=1.2,
        peer_name="a quarter of them, four times",
    )


def _drawing(count: int, steps: int) -> Row:
    model = load("small")
    views, generator = PerspectiveCutouts(4), torch.Generator().manual_seed(0)

    def tower() -> None:
        picture = torch.rand(1, 3, SIDE, SIDE, requires_grad=True)
        for _ in range(steps):
            model.encode_image(views(picture, generator)).sum().backward()

    size = (SIDE, SIDE)
    model.requires_grad_(False)
    clipdraw(model, "a red apple", strokes=count, steps=1, size=size)
    ours = timed(lambda: clipdraw(model, "a red apple", strokes=count, steps=steps, size=size))
    result = row(
        f"CLIPDraw, {steps} steps of {count} strokes at {SIDE} px, small",
        [ours],
        [timed(tower)],
        unit="s",
        speedup=False,
        goal=f"at most {SECONDS_DRAWING:g} s on two cores", peer_name="the same views through the model, nothing drawn",
        note="once; what is above 1 is the drawing's",
    )  # fmt: skip
    return replace(result, met=result.ours <= SECONDS_DRAWING)
