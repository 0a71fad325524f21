"""A drawing of open strokes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.generate.draw.parametrisation import Parametrisation
from binderclip.generate.draw.vector.canvas import check_canvas, check_colours, check_curves, curves_at_once
from binderclip.generate.draw.vector.compositing import composite_over
from binderclip.generate.draw.vector.coverage import stroke_coverage
from binderclip.generate.draw.vector.curves import CurveIndex, curve_index, flatten, pieces_for, pieces_of
from binderclip.generate.draw.vector.svg import hex_colour, path_data, read_svg, svg_document
from binderclip.numeric import check_whole

__all__ = ["BezierStrokes"]

_REFERENCE = 224
"""Side in pixels of CLIPDraw's canvas, whose widths and learning rates are scaled to other canvases."""


class BezierStrokes(Parametrisation):
    """A picture of open strokes of cubic Bezier segments, each with a width and RGBA, drawn in their order.

    Args:
        curves: control points of each stroke, 3 s + 1 for s segments, in pixels, x to the right and y down from the
            upper left corner; they may lie outside.
        widths: full widths in pixels.
        colours: RGBA of each, in [0, 1], straight.
        size: (H, W) of the canvas.
        background: RGB in [0, 1].
        limits: smallest and largest width that `project_` leaves; default (2, 100) for a canvas of 224 px, scaled.
        lr: of points, widths and colours; default 1 and 0.2 for a canvas of 224 px, scaled, and 0.01.
        point_schedule: multiplies the points' rate, as a function of the part of the run that is done.
        pieces: straight pieces a segment is rendered as; default 8 at 64 px to 24 at 224 px.

    Raises:
        UsageError: numbers that do not fit together, are not finite or out of range.

    Paper: CLIPDraw (arXiv 2106.14843).

    Examples:
        >>> strokes = BezierStrokes.random(8, (64, 64), seed=0)
        >>> strokes().shape
        torch.Size([1, 3, 64, 64])
        >>> strokes.to_svg().count("<path")
        8
    """

    index_points: Tensor
    index_owner: Tensor
    background: Tensor

    def __init__(
        self,
        curves: Sequence[Float[Tensor, "_ 2"]],
        widths: Float[Tensor, " n"],
        colours: Float[Tensor, "n 4"],
        size: tuple[int, int],
        *,
        background: Sequence[float] = (1.0, 1.0, 1.0),
        limits: tuple[float, float] | None = None,
        lr: tuple[float, float, float] | None = None,
        point_schedule: Callable[[float], float] | None = None,
        pieces: int | None = None,
    ) -> None:
        super().__init__()
        self.size, scale = check_canvas(size, background), max(size) / _REFERENCE
        self.segments = check_curves(curves, closed=False)
        check_colours(colours, len(curves))
        if widths.shape != (len(curves),) or not bool(((widths > 0) & widths.isfinite()).all()):
            raise UsageError(f"widths must be {len(curves)} finite numbers above 0, got {tuple(widths.shape)}")
        self.limits = limits or (2 * scale, 100 * scale)
        if not 0 < self.limits[0] <= self.limits[1]:
            raise UsageError(f"limits of the width must be 0 < smallest <= largest, got {self.limits}")
        check_whole("pieces", 1 if pieces is None else pieces, least=1)
        self.pieces = pieces or pieces_for(size)
        self.lr, self.point_schedule = lr or (scale, 0.2 * scale, 0.01), point_schedule
        self.points = nn.Parameter(torch.cat([c.detach().float() for c in curves]) if curves else torch.zeros(0, 2))
        self.widths = nn.Parameter(widths.detach().float().clone())
        self.colours = nn.Parameter(colours.detach().float().clone())
        index = curve_index(self.segments, closed=False)
        self.register_buffer("index_points", index.points)
        self.register_buffer("index_owner", index.owner)
        self.register_buffer("background", torch.tensor(background, dtype=torch.float32))

    @classmethod
    def random(cls, count: int, size: tuple[int, int], *, seed: int = 0, **settings: Any) -> BezierStrokes:
        """CLIPDraw's first drawing: short strokes of one to three segments, thin, of random colours.

        Args:
            count: number of strokes.
            size: (H, W) of the canvas.
            seed: of its random numbers.
            settings: of the class.

        Raises:
            UsageError: a negative count, or a setting out of range.
        """
        check_whole("count", count, least=0)
        check_whole("seed", seed)
        height, width = check_canvas(size)
        g = torch.Generator().manual_seed(seed)
        canvas, curves = torch.tensor([width, height], dtype=torch.float32), []
        for segments in torch.randint(1, 4, (count,), generator=g).tolist():
            first = torch.rand(1, 2, generator=g)
            steps = 0.1 * (torch.rand(3 * segments, 2, generator=g) - 0.5)  # each point from the one before
            curves.append(torch.cat([first, first + steps.cumsum(0)]) * canvas)
        widths = torch.full((count,), 2 * max(size) / _REFERENCE)
        return cls(curves, widths, torch.rand(count, 4, generator=g), size, **settings)

    @classmethod
    def from_svg(cls, document: str, **settings: Any) -> BezierStrokes:
        """The strokes of an SVG document such as `to_svg` writes.

        Raises:
            DataError: it is no SVG, or has something that is no stroke of this kind.
        """
        picture = read_svg(document)
        strokes = picture.strokes()
        widths = torch.tensor([stroke.width for stroke in strokes])
        colours = torch.tensor([stroke.colour for stroke in strokes]).reshape(-1, 4)
        curves = [stroke.points for stroke in strokes]
        return cls(curves, widths, colours, picture.size, **{"background": picture.background, **settings})

    def forward(self) -> Float[Tensor, "1 3 H W"]:
        """The drawing; differentiable in points, widths and colours."""
        index = CurveIndex(self.index_points, self.index_owner, len(self.segments))
        coverage = stroke_coverage(flatten(self.points, index, self.pieces), self.widths, self.size)
        alpha = coverage * self.colours[:, 3:]
        picture = composite_over(alpha, self.colours[:, :3, None], self.background[:, None])
        return picture.reshape(1, 3, *self.size)

    def groups(self) -> list[dict[str, Any]]:
        """Points, widths and colours, each with its rate."""
        points, widths, colours = self.lr
        return [
            {"params": [self.points], "lr": points, "schedule": self.point_schedule},
            {"params": [self.widths], "lr": widths},
            {"params": [self.colours], "lr": colours},
        ]

    @torch.no_grad()
    def project_(self) -> None:
        """Widths into their limits, colours into [0, 1]; points are free."""
        self.widths.clamp_(*self.limits)
        self.colours.clamp_(0, 1)

    @torch.no_grad()
    def render(self, size: tuple[int, int]) -> Float[Tensor, "1 3 h w"]:
        """The drawing on a canvas of another size, usually a finer one; without a graph.

        Args:
            size: (H, W) in pixels.

        Raises:
            UsageError: a side out of range.
        """
        check_canvas(size)
        points, widths = self._scaled(size)
        index = CurveIndex(self.index_points, self.index_owner, len(self.segments))
        pieces = flatten(points, index, pieces_for(size))
        picture = self.background[:, None].expand(3, size[0] * size[1])
        step = curves_at_once(size)
        for first in range(0, len(self.segments), step):
            some = range(first, min(first + step, len(self.segments)))
            part = slice(some.start, some.stop)
            alpha = stroke_coverage(pieces_of(pieces, some), widths[part], size) * self.colours[part, 3:]
            picture = composite_over(alpha, self.colours[part, :3, None], picture)
        return picture.reshape(1, 3, *size)

    def to_svg(self, size: tuple[int, int] | None = None) -> str:
        """The drawing as an SVG document, which browsers show as it is rendered here.

        Args:
            size: (H, W) of the document; default the canvas. Widths grow by the mean of both sides' factors.
        """
        paths = []
        size = size or self.size
        scaled, widths = (part.detach().cpu() for part in self._scaled(size))
        points = scaled.split([3 * count + 1 for count in self.segments])
        for curve, width, colour in zip(points, widths.tolist(), self.colours.tolist(), strict=True):
            paths.append(
                f'<path d="{path_data(curve, closed=False)}" fill="none" stroke="{hex_colour(colour)}" '
                f'stroke-opacity="{colour[3]:.4f}" stroke-width="{width:.4f}"/>'
            )
        group = f'<g stroke-linecap="round" stroke-linejoin="round">\n{chr(10).join(paths)}\n</g>'
        return svg_document(size, self.background.tolist(), group)

    def _scaled(self, size: tuple[int, int]) -> tuple[Float[Tensor, "P 2"], Float[Tensor, " n"]]:
        """Points and widths on a canvas of another size."""
        x, y = size[1] / self.size[1], size[0] / self.size[0]
        return self.points * self.points.new_tensor([x, y]), self.widths * math.sqrt(x * y)
