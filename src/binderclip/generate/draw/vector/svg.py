"""SVG documents of strokes and filled paths: written so that browsers show them as they are rendered, and read.

What is read is a part of SVG: paths of lines and Bezier curves with a plain stroke or a plain or radial fill, in user
units, on a plain background. Anything else is refused by name, so that nothing is left out silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import torch
from jaxtyping import Float
from PIL import ImageColor
from torch import Tensor

from binderclip.errors import DataError
from binderclip.generate.draw.vector.canvas import MOST_PIXELS
from binderclip.generate.draw.vector.path_data import parse_path

__all__ = ["RadialFill", "SvgPath", "SvgPicture", "hex_colour", "path_data", "read_svg", "svg_document"]

_SILENT = {"title", "desc", "metadata", "defs", "radialGradient", "stop", "svg", "g"}
_HARMLESS = {
    "xmlns",
    "version",
    "id",
    "class",
    "stroke-linecap",
    "stroke-linejoin",
    "fill-rule",
    "width",
    "height",
    "viewBox",
}
_INHERITED = {"fill", "stroke", "stroke-width", "fill-opacity", "stroke-opacity", "stroke-linecap", "stroke-linejoin"}
_TRANSFORM = re.compile(r"translate\(([^)]*)\)\s*scale\(([^)]*)\)\s*")


@dataclass(frozen=True)
class RadialFill:
    """A radial gradient of two stops, in pixels.

    Args:
        centre, radii: of its ellipse, x and y.
        offsets: of the stops, along the radius.
        stops: their RGBA.
    """

    centre: tuple[float, float]
    radii: tuple[float, float]
    offsets: tuple[float, float]
    stops: tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class SvgPath:
    """A path with its one paint.

    Args:
        points: control points, 3 s + 1 where it is open, 3 s where it is closed.
        closed: whether it was closed.
        width: of its stroke; 0 for a filled path.
        colour: RGBA of stroke or fill, where that is plain.
        gradient: the fill, where it is not.
    """

    points: Float[Tensor, "_ 2"]
    closed: bool
    width: float
    colour: tuple[float, ...]
    gradient: RadialFill | None = None


@dataclass(frozen=True)
class SvgPicture:
    """A document that was read: (H, W), RGB, and the paths in their order."""

    size: tuple[int, int]
    background: tuple[float, ...]
    paths: list[SvgPath]

    def strokes(self) -> list[SvgPath]:
        """The paths.

        Raises:
            DataError: one of them is filled.
        """
        if any(path.width == 0 for path in self.paths):
            raise DataError("the SVG has a filled path: read it as BezierPaths, which have no strokes")
        return self.paths

    def fills(self) -> list[SvgPath]:
        """The paths.

        Raises:
            DataError: one of them is stroked.
        """
        if any(path.width > 0 for path in self.paths):
            raise DataError("the SVG has a stroke: read it as BezierStrokes, which have no fills")
        return self.paths


# -- written ---------------------------------------------------------------------------------------------------------


def svg_document(size: tuple[int, int], background: Sequence[float] | None, content: str) -> str:
    """A document of (H, W) pixels, with its content over a plain background, or over nothing where that is None."""
    height, width = size
    below = "" if background is None else f'<rect width="{width}" height="{height}" fill="{hex_colour(background)}"/>\n'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" version="1.1" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">\n{below}{content}\n</svg>\n'
    )


def hex_colour(colour: Sequence[float]) -> str:
    """`#rrggbb` of a colour in [0, 1]; what comes after blue is left out."""
    return "#" + "".join(f"{round(255 * min(max(value, 0), 1)):02x}" for value in colour[:3])


def path_data(points: Float[Tensor, "_ 2"], closed: bool) -> str:
    """The attribute `d` of a curve of cubic segments."""
    places = [f"{x:.3f} {y:.3f}" for x, y in points.tolist()]
    if closed:
        places.append(places[0])
    curves = [f"C{' '.join(places[k : k + 3])}" for k in range(1, len(places), 3)]
    return f"M{places[0]}{''.join(curves)}{'Z' if closed else ''}"


# -- read ------------------------------------------------------------------------------------------------------------


def read_svg(document: str) -> SvgPicture:
    """The paths of a document, in user units.

    Raises:
        DataError: it is no SVG, or holds something that has no counterpart here: what and where.
    """
    if "<!DOCTYPE" in document or "<!ENTITY" in document:
        raise DataError("the SVG declares a document type: save it as plain SVG")
    try:
        root = ElementTree.fromstring(document)
    except ElementTree.ParseError as error:
        raise DataError(f"this is no SVG document: {error}") from None
    if _name(root) != "svg":
        raise DataError(f"this is no SVG document: its root is <{_name(root)}>")
    size = _size(root)
    gradients = {e.get("id", ""): _gradient(e) for e in root.iter() if _name(e) == "radialGradient"}
    background: tuple[float, ...] = (1.0, 1.0, 1.0)
    paths: list[SvgPath] = []
    for element, style in _walk(root, {}):
        if _name(element) == "rect":
            if paths or _number(element, "x", 0) or _number(element, "y", 0) or not _covers(element, size):
                raise DataError("the SVG has a <rect> that is not its background: turn shapes into paths")
            background = _rgba(style.get("fill", "black"), 1.0)[:3]
        elif _name(element) == "path":
            paths.append(_path(element, style, gradients))
        elif _name(element) not in _SILENT:
            raise DataError(f"the SVG has <{_name(element)}>: only paths are read, turn other shapes into paths")
    return SvgPicture(size, background, paths)


def _name(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _walk(
    element: ElementTree.Element, style: Mapping[str, str]
) -> Iterator[tuple[ElementTree.Element, dict[str, str]]]:
    """Every element with the paint that it has or inherits, in document order."""
    own = {key: value for key, value in element.attrib.items() if "}" not in key}
    for rule in own.pop("style", "").split(";"):
        key, _, value = rule.partition(":")
        if key.strip():
            own[key.strip()] = value.strip()
    unknown = own.keys() - _INHERITED - _HARMLESS - {"d", "x", "y"}
    if _name(element) in ("svg", "g", "path", "rect") and unknown:
        raise DataError(f"<{_name(element)}> has {', '.join(sorted(unknown))}, which is not read")
    painted = {**style, **{key: value for key, value in own.items() if key in _INHERITED}}
    yield element, painted
    if _name(element) not in ("defs", "radialGradient"):
        for child in element:
            yield from _walk(child, painted)


def _size(root: ElementTree.Element) -> tuple[int, int]:
    box = [float(v) for v in root.get("viewBox", "").replace(",", " ").split()]
    width, height = box[2:] if len(box) == 4 else (_number(root, "width", 0), _number(root, "height", 0))
    if len(box) == 4 and any(box[:2]):
        raise DataError(f"the SVG's viewBox starts at {box[0]:g} {box[1]:g}, not at 0 0")
    if not (1 <= width <= MOST_PIXELS and 1 <= height <= MOST_PIXELS):
        raise DataError(f"the SVG is {width:g} x {height:g}; its sides must be 1 to {MOST_PIXELS}")
    return round(height), round(width)


def _covers(rect: ElementTree.Element, size: tuple[int, int]) -> bool:
    sides = (rect.get("height", ""), rect.get("width", ""))
    return all(side == "100%" or _parsed(side or "0", "side") >= most for side, most in zip(sides, size, strict=True))


def _number(element: ElementTree.Element, key: str, default: float) -> float:
    return _parsed(element.get(key, str(default)), key)


def _parsed(text: str, key: str) -> float:
    try:
        value = float(text.strip().removesuffix("px"))
    except ValueError:
        raise DataError(f"the SVG's {key}={text!r} is no number of pixels") from None
    if not abs(value) < 1e6:
        raise DataError(f"the SVG's {key}={text!r} is out of range")
    return value


def _rgba(colour: str, opacity: float) -> tuple[float, ...]:
    try:
        red, green, blue, *alpha = ImageColor.getrgb(colour)
    except ValueError:
        raise DataError(f"the SVG's colour {colour!r} is not known") from None
    return (red / 255, green / 255, blue / 255, min(max(opacity, 0.0), 1.0) * (alpha[0] / 255 if alpha else 1.0))


def _gradient(element: ElementTree.Element) -> RadialFill:
    label = f"the gradient {element.get('id', '')!r}"
    if element.get("gradientUnits") != "userSpaceOnUse" or element.get("fx") or element.get("fy"):
        raise DataError(f"{label} must be in user units, with its focus at its centre")
    transform = _TRANSFORM.fullmatch(element.get("gradientTransform", "translate(0 0) scale(1 1)"))
    stops = [child for child in element if _name(child) == "stop"]
    if transform is None or len(stops) != 2:
        raise DataError(f"{label} must have two stops, and a transform that is translate(x y) scale(x y)")
    (tx, ty), (sx, sy) = ([_parsed(v, "transform") for v in t.replace(",", " ").split()] for t in transform.groups())
    x, y, r = (_number(element, key, 0) for key in ("cx", "cy", "r"))
    offsets = tuple(_parsed(stop.get("offset", "0"), "offset") for stop in stops)
    colours = tuple(_rgba(stop.get("stop-color", "black"), _number(stop, "stop-opacity", 1)) for stop in stops)
    return RadialFill((tx + sx * x, ty + sy * y), (sx * r, sy * r), offsets, colours)  # type: ignore[arg-type]


def _path(element: ElementTree.Element, style: Mapping[str, str], gradients: Mapping[str, RadialFill]) -> SvgPath:
    points, closed = parse_path(element.get("d", ""))
    fill, stroke = style.get("fill", "black"), style.get("stroke", "none")
    if (fill == "none") == (stroke == "none"):
        raise DataError(f"a path of the SVG has fill {fill!r} and stroke {stroke!r}: it must have one of them")
    if stroke != "none":
        if style.get("stroke-linecap") != "round" or style.get("stroke-linejoin") != "round":
            raise DataError("a stroke of the SVG has ends or joins that are not round")
        points = torch.cat([points, points[:1]]) if closed else points
        colour = _rgba(stroke, _parsed(style.get("stroke-opacity", "1"), "stroke-opacity"))
        return SvgPath(points, False, _parsed(style.get("stroke-width", "1"), "stroke-width"), colour)
    if not closed:  # a fill closes its path by a straight line, whether it says so or not
        first, last = points[0], points[-1]
        points = torch.cat([points, last + (first - last) * torch.tensor([[1 / 3], [2 / 3]])])
    if link := re.fullmatch(r"url\(\s*['\"]?#([^)'\"]+)['\"]?\s*\)", fill):
        if link[1] not in gradients:
            raise DataError(f"the SVG has no gradient {link[1]!r}")
        return SvgPath(points, True, 0.0, (0.0, 0.0, 0.0, 1.0), gradients[link[1]])
    return SvgPath(points, True, 0.0, _rgba(fill, _parsed(style.get("fill-opacity", "1"), "fill-opacity")))
