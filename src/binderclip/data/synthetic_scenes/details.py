"""Thin and small things in scenes: tubes (vessels, cracks) on the background, and defects of objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.interpolate import CubicSpline

DEFECTS = ("scratch", "spot", "hole", "missing")
_FINE = 4  # drawings are made this many times finer and averaged down
_LEAST_VISIBLE = 30  # pixels an object must show, at 64 px, to carry a defect


@dataclass(frozen=True)
class Tube:
    """A tubular structure: alpha (h, w), centre line and radius as (P, 3) rows x, y, r in pixels, and its colour."""

    alpha: np.ndarray
    line: np.ndarray
    colour: np.ndarray


@dataclass(frozen=True)
class Defect:
    """A defect: alpha (h, w), its kind, the object it is on (-1: the background), its colour (None: see through)."""

    alpha: np.ndarray
    kind: str
    target: int
    colour: np.ndarray | None


def tube(rng: np.random.Generator, image: np.ndarray) -> Tube:
    """Draw a smooth random curve of varying radius across the picture, clearly darker or lighter than what is there.

    Args:
        rng: the scene's stream.
        image: (S, S, 3) in [0, 1], only read for the choice of colour.
    """
    side = image.shape[0]
    count = int(rng.integers(4, 7))
    angle = rng.uniform(0, 2 * np.pi)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    reach = np.linspace(-0.46, 0.46, count) + rng.uniform(-0.04, 0.04, count)
    knots = (
        0.5 + reach[:, None] * along + (rng.uniform(-0.22, 0.22) + rng.uniform(-0.13, 0.13, count))[:, None] * across
    )
    knots = knots.clip(0.03, 0.97) * side
    time = np.linspace(0, 1, count)
    fine = np.linspace(0, 1, 6 * side)
    points = CubicSpline(time, knots)(fine).clip(0, side - 1)
    step = np.r_[0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]
    even = np.interp(np.arange(0, step[-1], 0.5), step, fine)
    points = np.stack([np.interp(even, fine, points[:, axis]) for axis in (0, 1)], 1)
    radius = side / 64 * np.interp(even, time, rng.uniform(0.7, 1.9, count))
    sheet = Image.new("L", (side * _FINE, side * _FINE))
    pen = ImageDraw.Draw(sheet)
    for (x, y), r in zip(points * _FINE, radius * _FINE, strict=True):
        pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
    alpha = np.asarray(sheet.resize((side, side), Image.Resampling.BOX)).astype(np.float32) / 255
    ground = image[alpha > 0.5].mean(0)
    shift = -1.0 if ground.mean() > 0.45 else 1.0
    colour = (ground + shift * rng.uniform(0.2, 0.4) + rng.uniform(-0.08, 0.08, 3)).clip(0.02, 0.98)
    line = np.column_stack([points, radius]).astype(np.float32)
    return Tube(alpha, line, colour.astype(np.float32))


def defect(rng: np.random.Generator, image: np.ndarray, visible: np.ndarray) -> Defect:
    """Draw one small local defect on a visible object, or on the background where no object shows enough.

    A scratch is a thin line and a spot a blot, each lighter or darker than what is under it; a hole and a missing part
    let the background through, inside the object and at its rim.

    Args:
        rng: the scene's stream.
        image: (S, S, 3) in [0, 1].
        visible: (K, S, S) bool.
    """
    side = image.shape[0]
    least = _LEAST_VISIBLE * (side / 64) ** 2
    targets = [k for k in range(len(visible)) if visible[k].sum() >= least]
    target = int(targets[int(rng.integers(len(targets)))]) if targets else -1
    area = visible[target] if target >= 0 else np.ones((side, side), dtype=bool)
    extent = float(area.sum()) ** 0.5
    kind = DEFECTS[int(rng.integers(len(DEFECTS) if target >= 0 else 2))]
    y, x = _spot_inside(rng, area, rim=kind == "missing")
    sheet = Image.new("L", (side * _FINE, side * _FINE))
    pen = ImageDraw.Draw(sheet)
    if kind == "scratch":
        _scratch(rng, pen, x, y, min(0.45 * extent, 0.3 * side), side)
    else:
        area_range = {"spot": (0.07, 0.12), "hole": (0.07, 0.12), "missing": (0.16, 0.24)}[kind]
        _blot(rng, pen, x, y, min(rng.uniform(*area_range) * extent, 0.1 * side), side)
    alpha = np.asarray(sheet.resize((side, side), Image.Resampling.BOX)).astype(np.float32) / 255
    alpha = alpha * area
    colour = None
    if kind in ("scratch", "spot"):
        under = image[alpha > 0.3].mean(0) if (alpha > 0.3).any() else image.mean((0, 1))
        shift = rng.uniform(0.3, 0.5) * (-1 if under.mean() > 0.5 else 1)
        colour = (under + shift + rng.uniform(-0.1, 0.1, 3)).clip(0, 1).astype(np.float32)
    return Defect(alpha, kind, target, colour)


def _spot_inside(rng: np.random.Generator, area: np.ndarray, rim: bool) -> tuple[float, float]:
    """A pixel of the area: on its rim, or deep inside it (the deepest of a few)."""
    ys, xs = np.nonzero(area)
    padded = np.pad(area, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    if rim:
        ys, xs = np.nonzero(area & ~inner)
        pick = int(rng.integers(len(ys)))
        return ys[pick] + 0.5, xs[pick] + 0.5
    picks = rng.integers(len(ys), size=12)
    reach = max(1, area.shape[0] // 20)
    around = np.pad(area, reach)
    depth = [around[ys[p] : ys[p] + 2 * reach + 1, xs[p] : xs[p] + 2 * reach + 1].mean() for p in picks]
    best = picks[int(np.argmax(depth))]
    return ys[best] + 0.5, xs[best] + 0.5


def _scratch(rng: np.random.Generator, pen: ImageDraw.ImageDraw, x: float, y: float, length: float, side: int) -> None:
    angle, bend = rng.uniform(0, np.pi), rng.uniform(-0.25, 0.25)
    along = np.linspace(-0.5, 0.5, 24) * length * rng.uniform(0.7, 1.0)
    curve = bend * (1 - (2 * along / length) ** 2) * length * 0.5
    px = (x + along * np.cos(angle) - curve * np.sin(angle)) * _FINE
    py = (y + along * np.sin(angle) + curve * np.cos(angle)) * _FINE
    width = max(1, round(_FINE * side / 64 * rng.uniform(0.9, 1.5)))
    pen.line(list(zip(px.tolist(), py.tolist(), strict=True)), fill=255, width=width, joint="curve")


def _blot(rng: np.random.Generator, pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, side: int) -> None:
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    waves = sum(rng.uniform(-0.12, 0.12) * np.cos(k * turn + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5))
    reach = max(radius, 1.3 * side / 64) * (1 + waves)
    px, py = (x + reach * np.cos(turn)) * _FINE, (y + reach * np.sin(turn)) * _FINE
    pen.polygon(list(zip(px.tolist(), py.tolist(), strict=True)), fill=255)
