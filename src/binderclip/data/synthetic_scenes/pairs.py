"""The second picture of a pair: the same scene with one object removed, replaced, recoloured or moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from binderclip.data.synthetic_scenes.cutouts import COLOURS, render_cutout, turned
from binderclip.data.synthetic_scenes.layout import PAIR, Placed, SceneLayout, cut_object, stream
from binderclip.errors import UsageError

PAIRS = ("defect", "remove", "replace", "colour", "move")
_TRIES = 30


@dataclass(frozen=True)
class Difference:
    """What differs between a scene and its twin.

    Args:
        kind: one of "defect", "remove", "replace", "colour", "move".
        object: index of the object in the scene (-1: none, as for defects).
        before: the value in the scene: class name, colour (None: its own), box, or the kinds of the defects.
        after: the value in the twin.
    """

    kind: str
    object: int
    before: object
    after: object


def check_pairs(pairs: bool | str, defects: tuple[int, int], least: int) -> tuple[str, ...]:
    """The kinds of difference to draw from; empty for no pairs.

    Raises:
        UsageError: an unknown kind, or one that these scenes cannot have.
    """
    if pairs is False:
        return ()
    if pairs is not True and pairs not in PAIRS:
        raise UsageError(f"pairs {pairs!r} is neither True, False nor one of {', '.join(PAIRS)}")
    if pairs == "defect" or (pairs is True and defects[1] > 0):
        if defects[0] < 1:
            raise UsageError(
                f"pairs of damaged and sound scenes need at least one defect a scene, got defects={defects}"
            )
        return ("defect",)
    if least < 1:
        raise UsageError("pairs change an object, so every scene needs one: objects=(1, ...)")
    return PAIRS[1:] if pairs is True else (str(pairs),)


def twin(
    layout: SceneLayout, placed: Sequence[Placed], kinds: Sequence[str], seed: int, index: int
) -> tuple[list[Placed], Difference]:
    """The objects of the second picture, and how they differ.

    The layout of everything else stays. Where no replacement or place respects the occlusion limits, the object is
    recoloured, and the difference says so.
    """
    rng = stream(seed, index, PAIR)
    kind = str(kinds[int(rng.integers(len(kinds)))])
    k = int(rng.integers(len(placed)))
    old = placed[k]
    names = layout.source.names
    rest = list(placed)
    if kind == "remove":
        return rest[:k] + rest[k + 1 :], Difference(kind, k, names[old.owner], None)
    for _ in range(_TRIES):
        if kind == "colour":
            break
        new = _replaced(layout, rng, old) if kind == "replace" else _elsewhere(layout, rng, old)
        if new is not None and _within(layout, [*rest[:k], new, *rest[k + 1 :]]):
            values = (names[old.owner], names[new.owner]) if kind == "replace" else (_box(old), _box(new))
            return [*rest[:k], new, *rest[k + 1 :]], Difference(kind, k, *values)
    before = old.values.get("colour")
    options = [colour for colour in COLOURS if colour != before]
    colour = options[int(rng.integers(len(options)))]
    painted = {**old.values, "colour": colour}
    height, width = old.cutout.mask.shape
    image = turned(layout.source, old.row, float(painted.get("rotation", 0.0)), bool(painted.get("flip", False)))  # type: ignore[arg-type]
    new = replace(old, values=painted, cutout=render_cutout(image, (height, width), colour))
    return [*rest[:k], new, *rest[k + 1 :]], Difference("colour", k, before, colour)


def _box(one: Placed) -> tuple[int, int, int, int]:
    rows, columns = one.window
    return columns.start, rows.start, columns.stop, rows.stop


def _replaced(layout: SceneLayout, rng: np.random.Generator, old: Placed) -> Placed | None:
    """An object of another class, about as large, around the same centre."""
    others = [owner for owner in layout.usable if owner != old.owner]
    if not others:
        return None
    owner = others[int(rng.integers(len(others)))]
    style = old.values.get("style")
    members = layout.source.members(owner, None if style is None else str(style))
    if not len(members):
        return None
    row = int(members[int(rng.integers(len(members)))])
    height, width = old.cutout.mask.shape
    middle = (old.y + height / 2, old.x + width / 2)
    room = tuple(2 * min(place, layout.side - place) for place in middle)
    cutout = cut_object(layout, row, old.values, float(old.cutout.mask.sum()), (room[0], room[1]))
    y, x = (round(place - length / 2) for place, length in zip(middle, cutout.mask.shape, strict=True))
    y, x = (min(max(p, 0), layout.side - n) for p, n in zip((y, x), cutout.mask.shape, strict=True))
    return replace(old, owner=owner, row=row, y=y, x=x, cutout=cutout)


def _elsewhere(layout: SceneLayout, rng: np.random.Generator, old: Placed) -> Placed | None:
    """The same object at a place at least a quarter of the scene away."""
    height, width = old.cutout.mask.shape
    y, x = round(rng.random() * (layout.side - height)), round(rng.random() * (layout.side - width))
    far = max(abs(y - old.y), abs(x - old.x)) >= layout.side / 4
    return replace(old, y=y, x=x, slot=-1) if far else None


def _within(layout: SceneLayout, placed: Sequence[Placed]) -> bool:
    """Whether no object loses more of its view than the limit allows."""
    owner = np.full((layout.side, layout.side), -1)
    for k, one in enumerate(placed):
        owner[one.window][one.cutout.mask] = k
    seen = np.bincount(owner[owner >= 0], minlength=len(placed))
    most = layout.occlusion[1]
    return all(seen[k] >= (1 - most) * one.cutout.mask.sum() for k, one in enumerate(placed))
