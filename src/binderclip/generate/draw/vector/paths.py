"""A drawing of closed paths with plain or radial fills, which grows by layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.generate.draw.parametrisation import Parametrisation
from binderclip.generate.draw.vector.boxes import PathBoxes, composite_boxes, coverage_in_boxes, path_boxes
from binderclip.generate.draw.vector.canvas import check_canvas, check_colours, check_curves, curves_at_once
from binderclip.generate.draw.vector.curves import CurveIndex, Pieces, curve_index, flatten, pieces_for, pieces_of
from binderclip.generate.draw.vector.svg import RadialFill, hex_colour, path_data, read_svg, svg_document
from binderclip.numeric import check_number, check_whole

__all__ = ["BezierPaths", "PathLayer"]

_GAP = 1e-3
"""The least distance of two stops: at the same place a browser draws a hard edge, which has no gradient."""
_SMALLEST_RADIUS = 0.5
"""Of a gradient, in pixels: it would divide by 0."""

Fills = Sequence[RadialFill] | Tensor


class _Ramp(NamedTuple):
    """Radial gradients as tensors: centre and radii in pixels, offsets and RGBA of two stops."""

    centre: Float[Tensor, "n 2"]
    radii: Float[Tensor, "n 2"]
    offsets: Float[Tensor, "n 2"]
    stops: Float[Tensor, "n 2 4"]


class PathLayer(nn.Module):
    """Closed paths of a drawing that were added together, and their parameters.

    Args:
        curves: 3 s control points of each.
        fills: a `RadialFill` for each, or RGBA (n, 4) of plain ones.

    Raises:
        UsageError: numbers that do not fit together, are not finite or out of range.
    """

    index_points: Tensor
    index_owner: Tensor
    colours: nn.Parameter
    centre: nn.Parameter
    radii: nn.Parameter
    offsets: nn.Parameter
    stops: nn.Parameter

    def __init__(self, curves: Sequence[Float[Tensor, "_ 2"]], fills: Fills) -> None:
        super().__init__()
        self.segments = check_curves(curves, closed=True)
        self.points = nn.Parameter(torch.cat([c.detach().float() for c in curves]) if curves else torch.zeros(0, 2))
        self.plain = isinstance(fills, Tensor)
        if isinstance(fills, Tensor):
            check_colours(fills, len(curves))
            self.colours = nn.Parameter(fills.detach().float().clone())
        else:
            self._take_gradients(fills, len(curves))
        index = curve_index(self.segments, closed=True)
        self.register_buffer("index_points", index.points)
        self.register_buffer("index_owner", index.owner)

    def _take_gradients(self, fills: Sequence[RadialFill], count: int) -> None:
        if len(fills) != count:
            raise UsageError(f"{count} curves need {count} fills, got {len(fills)}")
        stops = torch.tensor([fill.stops for fill in fills], dtype=torch.float32).reshape(-1, 2, 4)
        check_colours(stops, count)
        for fill in fills:
            for value in (*fill.centre, *fill.radii):
                check_number("centre and radii of a fill", value)
            for value in fill.radii:
                check_number("radii of a fill", value, above=0)
            for value in fill.offsets:
                check_number("offsets of a fill", value, least=0, most=1)
        for name in ("centre", "radii", "offsets"):
            values = torch.tensor([getattr(fill, name) for fill in fills], dtype=torch.float32)
            setattr(self, name, nn.Parameter(values.reshape(-1, 2)))
        self.stops = nn.Parameter(stops)

    @property
    def control_points(self) -> list[Float[Tensor, "_ 2"]]:
        """Of each path, differentiable."""
        return list(self.points.split([3 * count for count in self.segments]))

    def chords(self, pieces: int) -> Pieces:
        """Each segment as so many straight pieces."""
        return flatten(self.points, CurveIndex(self.index_points, self.index_owner, len(self.segments)), pieces)

    @torch.no_grad()
    def scaled(self, x: float, y: float) -> PathLayer:
        """The same paths where the canvas is wider and higher by these factors; none of their parameters is shared."""
        factor = self.points.new_tensor([x, y])
        layer = copy.deepcopy(self)
        for name in ("points",) if self.plain else ("points", "centre", "radii"):
            getattr(layer, name).mul_(factor)
        return layer

    def ramp(self) -> _Ramp:
        """The fills; a plain one is a gradient between equal colours."""
        if not self.plain:
            return _Ramp(self.centre, self.radii, self.offsets, self.stops)
        origin = self.colours.new_zeros(len(self.colours), 2)
        offsets = torch.tensor([0.0, 1.0]).to(origin).expand_as(origin)
        return _Ramp(origin, origin + 1, offsets, self.colours[:, None].expand(-1, 2, -1))

    @torch.no_grad()
    def project_(self) -> None:
        """Colours and offsets into [0, 1], offsets in their order, radii to what can be drawn."""
        if self.plain:
            self.colours.clamp_(0, 1)
            return
        self.stops.clamp_(0, 1)
        self.radii.clamp_(min=_SMALLEST_RADIUS)
        self.offsets[:, 0].clamp_(0, 1 - _GAP)
        self.offsets[:, 1] = torch.maximum(self.offsets[:, 1].clamp(max=1), self.offsets[:, 0] + _GAP)


class BezierPaths(Parametrisation):
    """A picture of closed paths of cubic Bezier segments, filled by the non-zero rule, the first lowest.

    Args:
        curves: control points of each path, 3 s for s segments, in pixels, x to the right and y down from the upper
            left corner; none for a drawing that paths are added to.
        fills: a `RadialFill` for each, or RGBA (n, 4) of plain ones, in [0, 1], straight.
        size: (H, W) of the canvas.
        background: RGB in [0, 1].
        lr: of the points, and of colours and gradients.
        pieces: straight pieces a segment is rendered as; default 8 at 64 px to 24 at 224 px.

    Raises:
        UsageError: numbers that do not fit together, are not finite or out of range.

    Paper: Segmentation-guided Layer-wise Image Vectorization with Gradient Fills (arXiv 2408.15741).

    Examples:
        >>> square = torch.tensor([[8.0, 8], [24, 8], [24, 24], [8, 24], [8, 20], [8, 12]])
        >>> paths = BezierPaths([square], torch.tensor([[1.0, 0, 0, 1]]), (32, 32))
        >>> paths()[0, :, 12, 12].tolist()
        [1.0, 0.0, 0.0]
    """

    background: Tensor

    def __init__(
        self,
        curves: Sequence[Float[Tensor, "_ 2"]],
        fills: Fills,
        size: tuple[int, int],
        *,
        background: Sequence[float] = (1.0, 1.0, 1.0),
        lr: tuple[float, float] = (1.0, 0.01),
        pieces: int | None = None,
    ) -> None:
        super().__init__()
        self.size, self.lr = check_canvas(size, background), lr
        check_whole("pieces", 1 if pieces is None else pieces, least=1)
        self.pieces = pieces or pieces_for(size)
        self.stack = nn.ModuleList([PathLayer(curves, fills)] if curves else [])
        self.register_buffer("background", torch.tensor(background, dtype=torch.float32))

    @classmethod
    def from_svg(cls, document: str, **settings: Any) -> BezierPaths:
        """The filled paths of an SVG document such as `to_svg` writes.

        Raises:
            DataError: it is no SVG, or has something that is no such path.
        """
        picture = read_svg(document)
        paths = picture.fills()
        fills: Fills = torch.tensor([path.colour for path in paths]).reshape(-1, 4)
        if any(path.gradient for path in paths):
            plain = ((0.0, 0.0), (1.0, 1.0), (0.0, 1.0))
            fills = [path.gradient or RadialFill(*plain, (path.colour, path.colour)) for path in paths]
        curves = [path.points for path in paths]
        return cls(curves, fills, picture.size, **{"background": picture.background, **settings})

    @property
    def layers(self) -> list[PathLayer]:
        """The paths as they were added, the first lowest."""
        return list(self.stack)  # type: ignore[arg-type]

    def add(self, curves: Sequence[Float[Tensor, "_ 2"]], fills: Fills) -> PathLayer:
        """Lay more paths on top, as one layer with parameters of its own; the others stay as they are.

        Raises:
            UsageError: as the class.
        """
        layer = PathLayer(curves, fills).to(self.background.device)
        self.stack.append(layer)
        return layer

    def forward(self) -> Float[Tensor, "1 3 H W"]:
        """The drawing; differentiable in outlines (through the pixels at them) and fills."""
        return self._over(self.layers, self.pieces, self.size, self.background).reshape(1, 3, *self.size)

    @torch.no_grad()
    def silhouette(self, layer: int = -1) -> Float[Tensor, "H W"]:
        """The part of each pixel that the paths of a layer cover together, drawn opaquely."""
        pieces = self.layers[layer].chords(self.pieces)
        boxes = path_boxes(pieces, self.size)
        coverage, clear = coverage_in_boxes(pieces, boxes), self.background.new_ones(self.size)
        for flat, shape, place in boxes.parts():
            clear[place].mul_(1 - coverage[flat].view(shape))
        return 1 - clear

    def groups(self) -> list[dict[str, Any]]:
        """Two for each layer, in their order: points, then colours and gradients."""
        groups: list[dict[str, Any]] = []
        for layer in self.layers:
            fills = [value for name, value in layer.named_parameters() if name != "points"]
            groups += [{"params": [layer.points], "lr": self.lr[0]}, {"params": fills, "lr": self.lr[1]}]
        return groups

    @torch.no_grad()
    def project_(self) -> None:
        """Every fill into its range; points are free."""
        for layer in self.layers:
            layer.project_()

    @torch.no_grad()
    def render(self, size: tuple[int, int], background: Sequence[float] | None = None) -> Float[Tensor, "1 3 h w"]:
        """The drawing on a canvas of another size; without a graph.

        Args:
            size: (H, W) in pixels.
            background: RGB in [0, 1]; default the drawing's.

        Raises:
            UsageError: a side or a colour out of range.
        """
        check_canvas(size, (1.0, 1.0, 1.0) if background is None else background)
        plain = self.background if background is None else self.background.new_tensor(background)
        return self._over(self._scaled(size), pieces_for(size), size, plain).reshape(1, 3, *size)

    def _over(
        self, layers: Sequence[PathLayer], pieces: int, size: tuple[int, int], background: Float[Tensor, "3"]
    ) -> Float[Tensor, "3 P"]:
        """Layers over a colour, some at once where no gradient is asked for."""
        picture = background[:, None].expand(3, size[0] * size[1])
        counts = [len(layer.segments) for layer in layers]
        if not sum(counts):  # of a drawing that was cancelled before its first path, too
            return picture
        ramp = _Ramp(*(torch.cat(parts) for parts in zip(*(layer.ramp() for layer in layers), strict=True)))
        chords = [layer.chords(pieces) for layer in layers]
        owner = torch.cat([each.owner + sum(counts[:k]) for k, each in enumerate(chords)])
        whole = Pieces(
            torch.cat([each.start for each in chords]), torch.cat([each.end for each in chords]), owner, sum(counts)
        )
        step = sum(counts) if torch.is_grad_enabled() else curves_at_once(size)
        for start in range(0, sum(counts), step):
            some = range(start, min(start + step, sum(counts)))
            own = pieces_of(whole, some) if step < sum(counts) else whole
            boxes = path_boxes(own, size)
            colours = _radial(_Ramp(*(part[some.start : some.stop] for part in ramp)), boxes)  # [4, M]
            picture = composite_boxes(coverage_in_boxes(own, boxes) * colours[3], colours[:3], boxes, picture)
        return picture

    def to_svg(self, size: tuple[int, int] | None = None, *, transparent: bool = False) -> str:
        """The drawing as an SVG document, which browsers show as it is rendered here; a group for each layer.

        Args:
            size: (H, W) of the document, to which the paths are scaled; default the canvas.
            transparent: leave the background out.
        """
        size = size or self.size
        gradients: list[str] = []
        groups: list[str] = []
        count = 0
        for number, layer in enumerate(self._scaled(size), 1):
            fills = [part.detach().cpu() for part in layer.ramp()]
            paths = []
            for curve, *ramp in zip(layer.control_points, *fills, strict=True):
                paint, definition = _paint(count, layer.plain, _Ramp(*ramp))
                gradients += definition
                count += 1
                paths.append(f'<path d="{path_data(curve.detach().cpu(), closed=True)}" {paint}/>')
            groups.append("\n".join([f'<g id="level-{number}">', *paths, "</g>"]))
        content = "\n".join(["<defs>", *gradients, "</defs>", *groups] if gradients else groups)
        return svg_document(size, None if transparent else self.background.tolist(), content)

    def _scaled(self, size: tuple[int, int]) -> list[PathLayer]:
        """The layers on a canvas of another size."""
        return [layer.scaled(size[1] / self.size[1], size[0] / self.size[0]) for layer in self.layers]


def _radial(ramp: _Ramp, boxes: PathBoxes) -> Float[Tensor, "4 M"]:
    """RGBA of every path at the pixels of its box: linear between the stops along the radius, beyond them the same."""
    low, high = ramp.offsets.unbind(1)
    slope = (ramp.stops[:, 1] - ramp.stops[:, 0]).T  # [4, n]
    table = torch.cat([ramp.centre.T, ramp.radii.T, torch.stack([low, (high - low).clamp(min=_GAP)])])
    cx, cy, rx, ry, begin, length = table.index_select(1, boxes.owner)  # each [M]
    across, down = (boxes.x + 0.5 - cx) / rx, (boxes.y + 0.5 - cy) / ry
    radius = (across.square() + down.square()).clamp(min=1e-12).sqrt()
    part = ((radius - begin) / length).clamp(0, 1)
    colours = torch.cat([ramp.stops[:, 0].T, slope]).index_select(1, boxes.owner)
    return colours[:4] + colours[4:] * part


def _paint(number: int, plain: bool, ramp: _Ramp) -> tuple[str, list[str]]:
    """Attributes of a path, and the definitions that they need."""
    first, second = ramp.stops.tolist()
    if plain:
        return f'fill="{hex_colour(first)}" fill-opacity="{first[3]:.4f}"', []
    (x, y), (rx, ry) = ramp.centre.tolist(), ramp.radii.tolist()
    stops = "".join(
        f'<stop offset="{offset:.4f}" stop-color="{hex_colour(colour)}" stop-opacity="{colour[3]:.4f}"/>'
        for offset, colour in zip(ramp.offsets.tolist(), (first, second), strict=True)
    )
    gradient = (
        f'<radialGradient id="fill{number}" gradientUnits="userSpaceOnUse" cx="0" cy="0" r="1" '
        f'gradientTransform="translate({x:.4f} {y:.4f}) scale({rx:.4f} {ry:.4f})">{stops}</radialGradient>'
    )
    return f'fill="url(#fill{number})"', [gradient]
