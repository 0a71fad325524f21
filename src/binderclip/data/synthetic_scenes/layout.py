"""Where the objects of a scene go: classes, sizes, places and depth, under the limits on occlusion.

Each scene draws from its own counter-based random streams, keyed by (seed, index): it is the same alone, in a batch of
any length and in any worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from binderclip.data.synthetic_scenes.background import Painter, painters
from binderclip.data.synthetic_scenes.cutouts import COLOURS, fit_shape, render_cutout, turned
from binderclip.data.synthetic_scenes.paste import Piece
from binderclip.data.synthetic_scenes.vocabulary import Vocabulary
from binderclip.errors import UsageError
from binderclip.settings import check_choice

LAYOUT, BACKGROUND, TUBES, DEFECTS, PAIR, CAMOUFLAGE = range(6)  # the random streams of a scene
FACTORS = ("background", "colour", "flip", "position", "rotation", "size", "style")
SIZES = {"small": 0.03, "medium": 0.08, "large": 0.2}
_THIRDS = {"left": 1 / 6, "centre": 0.5, "right": 5 / 6}
_ROWS = {"top": 1 / 6, "middle": 0.5, "bottom": 5 / 6}
POSITIONS: dict[str, tuple[float, float]] = {
    **{f"{row} {column}": (x, y) for row, y in _ROWS.items() for column, x in _THIRDS.items()},
    **{"left": (1 / 6, 0.5), "right": (5 / 6, 0.5), "top": (0.5, 1 / 6), "bottom": (0.5, 5 / 6), "centre": (0.5, 0.5)},
}
SLOTS: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "left-right": ((0, 0, 0.5, 1), (0.5, 0, 1, 1)),
    "top-bottom": ((0, 0, 1, 0.5), (0, 0.5, 1, 1)),
    "row": tuple((k / 3, 0, (k + 1) / 3, 1) for k in range(3)),
    "grid": tuple((c / 2, r / 2, (c + 1) / 2, (r + 1) / 2) for r in range(2) for c in range(2)),
    "grid3": tuple((c / 3, r / 3, (c + 1) / 3, (r + 1) / 3) for r in range(3) for c in range(3)),
}
_TRIES, _RESTARTS, _MARGIN = 12, 40, 0.02

Values = Sequence | Mapping[object, float] | Callable[[str, np.random.Generator], object]


def stream(seed: int, index: int, which: int) -> np.random.Generator:
    """Random numbers number `which` of scene `index` under `seed`."""
    return np.random.Generator(np.random.Philox(key=[seed, index], counter=[0, 0, which, 0]))


@dataclass(frozen=True)
class SceneLayout:
    """The checked arguments of `scenes` that decide the layout."""

    side: int
    source: Vocabulary
    objects: tuple[int, int]
    area: tuple[float, float] | None
    occlusion: tuple[float, float]
    places: tuple[tuple[float, float, float, float], ...] | None
    factors: Mapping[str, Values]
    usable: tuple[int, ...]
    painters: Sequence[Painter]


@dataclass(frozen=True)
class Placed:
    """One object: what it is, how it looks, and where its cut-out lies (top-left corner `y`, `x`)."""

    owner: int
    row: int
    y: int
    x: int
    cutout: Piece
    slot: int
    values: Mapping[str, object]
    pixels: float

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the scene that the cut-out covers."""
        height, width = self.cutout.mask.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


def draw_value(values: Values, name: str, rng: np.random.Generator) -> object:
    """One value of a factor: uniform from a sequence, by weight from a mapping, or what a callable returns."""
    if callable(values):
        return values(name, rng)
    if isinstance(values, Mapping):
        weights = np.asarray(list(values.values()), dtype=np.float64)
        return list(values)[int(rng.choice(len(weights), p=weights / weights.sum()))]
    return values[int(rng.integers(len(values)))]


def check_value(factor: str, value: object) -> object:
    """`value` where `factor` can take it.

    Raises:
        UsageError: it cannot; the message lists what it can.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if factor == "colour" and value is not None and value not in COLOURS:
        raise UsageError(f"factors: colour {value!r} is unknown; use {', '.join(COLOURS)}, or None for its own")
    if factor == "size" and not (value in SIZES or (number and 0 < float(value) < 1)):  # type: ignore[arg-type]
        raise UsageError(f"factors: size {value!r} is neither {', '.join(SIZES)} nor a fraction of the scene in (0, 1)")
    if factor == "position" and not isinstance(value, tuple) and value not in POSITIONS:
        raise UsageError(
            f"factors: position {value!r} is neither an (x, y) in [0, 1] nor one of {', '.join(POSITIONS)}"
        )
    if factor == "rotation" and not number:
        raise UsageError(f"factors: rotation {value!r} is not a number of degrees")
    if factor == "flip" and not isinstance(value, bool):
        raise UsageError(f"factors: flip {value!r} is neither True nor False")
    return value


def check_layout(
    side: int,
    source: Vocabulary,
    objects: tuple[int, int] | int,
    area: tuple[float, float] | None,
    occlusion: tuple[float, float] | float,
    background: object,
    slots: object,
    factors: Mapping[str, Values],
) -> SceneLayout:
    """Check the arguments that `scenes` shares with its layout and put them in one form."""
    if not 16 <= side <= 2048:
        raise UsageError(f"size {side} is not a side in pixels from 16 to 2048")
    low, high = (objects, objects) if isinstance(objects, int) else objects
    places = _places(slots)
    if not 0 <= low <= high or (places is not None and high > len(places)):
        room = f" of at most the {len(places)} slots" if places is not None else ""
        raise UsageError(f"objects {objects!r} is not (least, most){room}")
    if area is not None and not 0 < area[0] <= area[1] <= 0.9:
        raise UsageError(f"area {area!r} is not (least, most) as fractions of the scene, 0 < least <= most <= 0.9")
    limits = (
        (0.0, float(occlusion)) if isinstance(occlusion, (int, float)) else (float(occlusion[0]), float(occlusion[1]))
    )
    if not 0 <= limits[0] <= limits[1] <= 1:
        raise UsageError(f"occlusion {occlusion!r} is neither the largest share hidden nor (least, most), in [0, 1]")
    if places is not None and "position" in factors:
        raise UsageError("slots and the factor position both fix the places; give one of them")
    if area is None and places is None:
        area = (0.04, 0.2)
    usable = _check_factors(factors, source)
    paint = background if "background" not in factors else "white"
    return SceneLayout(side, source, (low, high), area, limits, places, factors, usable, painters(paint))  # type: ignore[arg-type]


def _places(slots: object) -> tuple[tuple[float, float, float, float], ...] | None:
    if slots is None:
        return None
    if isinstance(slots, str):
        if slots not in SLOTS:
            raise UsageError(f"slots {slots!r} is unknown; use {', '.join(SLOTS)}, or boxes (x0, y0, x1, y1) in [0, 1]")
        return SLOTS[slots]
    boxes = tuple(tuple(float(value) for value in box) for box in slots)  # type: ignore[attr-defined]
    for box in boxes:
        if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
            raise UsageError(f"slot {box!r} is not a box (x0, y0, x1, y1) in [0, 1]")
    return boxes  # type: ignore[return-value]


def _check_factors(factors: Mapping[str, Values], source: Vocabulary) -> tuple[int, ...]:
    for factor, values in factors.items():
        check_choice("factor", factor, FACTORS)
        if callable(values):
            continue
        if isinstance(values, str) or not len(values):
            raise UsageError(f"factors[{factor!r}] must be a sequence of values, value -> weight, or a callable")
        if factor == "background":
            for value in values:
                painters([value])
        for value in values:
            check_value(factor, value)
    given = factors.get("style", ())
    styles: list = [] if callable(given) else list(given)
    styles_or_any = styles or [None]
    usable = tuple(
        owner for owner in range(len(source)) if all(len(source.members(owner, style)) for style in styles_or_any)
    )
    if not usable:
        known = ", ".join(sorted(set(source.styles)))
        raise UsageError(f"no class of the vocabulary has pictures in every style of {styles}; styles: {known}")
    return usable


def place_objects(layout: SceneLayout, seed: int, index: int) -> list[Placed]:
    """Draw the objects of scene `index`, listed from back to front.

    Raises:
        UsageError: the objects do not fit under the limits.
    """
    rng = stream(seed, index, LAYOUT)
    count = int(rng.integers(layout.objects[0], layout.objects[1] + 1))
    for _ in range(_RESTARTS):
        owners = _draw_owners(layout, rng, count)
        placed = _in_slots(layout, rng, owners) if layout.places is not None else _scattered(layout, rng, owners)
        if placed is not None:
            return placed
    raise UsageError(
        f"scene {index}: {count} objects of area {layout.area} do not fit with occlusion {layout.occlusion}; "
        "lower the area, take fewer objects, or allow more occlusion"
    )


def _draw_owners(layout: SceneLayout, rng: np.random.Generator, count: int) -> list[int]:
    """Distinct classes while they last, then repeats."""
    owners: list[int] = []
    while len(owners) < count:
        pool = layout.usable
        fresh = min(count - len(owners), len(pool))
        drawn: dict[int, None] = {}
        while len(drawn) < fresh:
            drawn[pool[int(rng.integers(len(pool)))]] = None
        owners += drawn
    return owners


def _look(layout: SceneLayout, rng: np.random.Generator, owner: int) -> tuple[int, dict[str, object]]:
    name = layout.source.names[owner]
    values = {
        factor: check_value(factor, draw_value(options, name, rng))
        for factor, options in layout.factors.items()
        if factor != "background"
    }
    style = values.get("style")
    members = layout.source.members(owner, None if style is None else str(style))
    if not len(members):
        raise UsageError(f"factors: {name!r} has no picture in style {style!r}")
    return int(members[int(rng.integers(len(members)))]), values


def _pixels(layout: SceneLayout, rng: np.random.Generator, values: Mapping[str, object]) -> float:
    """Opaque pixels wanted; sides (roots of areas) are uniform between the limits."""
    size = values.get("size")
    if size is not None:
        return float(SIZES.get(size, size)) * layout.side**2  # type: ignore[call-overload, arg-type]
    if layout.area is None:
        return float("inf")
    return float(rng.uniform(layout.area[0] ** 0.5, layout.area[1] ** 0.5) * layout.side) ** 2


def cut_object(
    layout: SceneLayout, row: int, values: Mapping[str, object], pixels: float, limit: tuple[float, float]
) -> Piece:
    """The cut-out of sprite `row` under the factor `values`, of `pixels` opaque pixels where `limit` (h, w) allows."""
    rotation = float(values.get("rotation", 0.0))  # type: ignore[arg-type]
    image = turned(layout.source, row, rotation, bool(values.get("flip", False)))
    colour = values.get("colour")
    return render_cutout(image, fit_shape(image, pixels, limit), None if colour is None else str(colour))


def _in_slots(layout: SceneLayout, rng: np.random.Generator, owners: list[int]) -> list[Placed]:
    assert layout.places is not None
    chosen = sorted(rng.permutation(len(layout.places))[: len(owners)].tolist())
    placed = []
    for slot, owner in zip(chosen, owners, strict=True):
        x0, y0, x1, y1 = (value * layout.side for value in layout.places[slot])
        row, values = _look(layout, rng, owner)
        pixels = _pixels(layout, rng, values)
        cutout = cut_object(layout, row, values, pixels, (0.86 * (y1 - y0), 0.86 * (x1 - x0)))
        height, width = cutout.mask.shape
        y, x = round((y0 + y1 - height) / 2), round((x0 + x1 - width) / 2)
        placed.append(Placed(owner, row, y, x, cutout, slot, values, pixels))
    return placed


def _scattered(layout: SceneLayout, rng: np.random.Generator, owners: list[int]) -> list[Placed] | None:
    placed: list[Placed] = []
    ground = np.full((layout.side, layout.side), -1, dtype=np.int8 if len(owners) < 127 else np.int32)
    sizes: list[int] = []
    hidden: list[int] = []
    for owner in owners:
        for _ in range(_TRIES):
            one = _try_object(layout, rng, owner, placed)
            loss = _loss(ground, one, len(placed))
            if _allowed(layout.occlusion, loss, hidden, sizes):
                break
        else:
            return None
        hidden = [old + new for old, new in zip(hidden, loss, strict=True)] + [0]
        sizes.append(int(one.cutout.mask.sum()))
        ground[one.window][one.cutout.mask] = len(placed)
        placed.append(one)
    return placed


def _try_object(layout: SceneLayout, rng: np.random.Generator, owner: int, placed: list[Placed]) -> Placed:
    row, values = _look(layout, rng, owner)
    side = layout.side
    margin = round(_MARGIN * side)
    room = side - 2 * margin
    pixels = _pixels(layout, rng, values)
    cutout = cut_object(layout, row, values, pixels, (room, room))
    height, width = cutout.mask.shape
    position = values.get("position")
    if position is not None:
        centre: tuple[float, float] = POSITIONS[position] if isinstance(position, str) else position  # type: ignore[assignment]
        top, left = round(centre[1] * side - height / 2), round(centre[0] * side - width / 2)
    elif layout.occlusion[0] > 0 and placed:  # aim at an object that is already there
        other = placed[int(rng.integers(len(placed)))]
        h, w = other.cutout.mask.shape
        top = round(rng.uniform(other.y - 0.8 * height, other.y + h - 0.2 * height))
        left = round(rng.uniform(other.x - 0.8 * width, other.x + w - 0.2 * width))
    else:
        top = margin + round(rng.random() * (room - height))
        left = margin + round(rng.random() * (room - width))
    top = min(max(top, margin), side - margin - height)
    left = min(max(left, margin), side - margin - width)
    return Placed(owner, row, top, left, cutout, -1, values, pixels)


def _loss(ground: np.ndarray, one: Placed, count: int) -> list[int]:
    """Pixels that `one` would take from the view of each object behind it."""
    if not count:
        return []
    under = ground[one.window][one.cutout.mask]
    return np.bincount(under[under >= 0], minlength=count).tolist()


def _allowed(limits: tuple[float, float], loss: list[int], hidden: list[int], sizes: list[int]) -> bool:
    least, most = limits
    if any(old + new > most * size for old, new, size in zip(hidden, loss, sizes, strict=True)):
        return False
    return least == 0 or not sizes or any(new >= least * size for new, size in zip(loss, sizes, strict=True))
