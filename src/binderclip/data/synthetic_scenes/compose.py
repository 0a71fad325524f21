"""Paint one scene: background, tubes, objects, defects, with the exact masks of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from binderclip.data.synthetic_scenes.background import Painter, painter
from binderclip.data.synthetic_scenes.details import Defect, Tube, defect, tube
from binderclip.data.synthetic_scenes.layout import (
    BACKGROUND,
    CAMOUFLAGE,
    DEFECTS,
    TUBES,
    Placed,
    SceneLayout,
    draw_value,
    stream,
)
from binderclip.data.synthetic_scenes.paste import paste


@dataclass
class Painted:
    """One scene as arrays: image (S, S, 3) float32, masks (K, S, S) bool, semantic (S, S), details."""

    image: np.ndarray
    visible: np.ndarray
    amodal: np.ndarray
    semantic: np.ndarray
    background: object
    tubes: list[Tube]
    tube_masks: np.ndarray
    defects: list[Defect]
    defect_mask: np.ndarray


def count_of(rng: np.random.Generator, limits: tuple[int, int]) -> int:
    """A number between two limits, both included."""
    return int(rng.integers(limits[0], limits[1] + 1))


def paint_ground(layout: SceneLayout, placed: Sequence[Placed], seed: int, index: int) -> tuple[np.ndarray, object]:
    """The background of scene `index`, and the drawn value of the factor `background` (else None)."""
    rng = stream(seed, index, BACKGROUND)
    options = layout.factors.get("background")
    if options is None:
        paint: Painter = layout.painters[int(rng.integers(len(layout.painters)))]
        return paint(rng, layout.side), None
    first = layout.source.names[placed[0].owner] if placed else ""
    value = draw_value(options, first, rng)
    return painter(value)(rng, layout.side), value


def compose(
    layout: SceneLayout,
    placed: Sequence[Placed],
    seed: int,
    index: int,
    *,
    camouflage: float = 0.0,
    tubes: tuple[int, int] = (0, 0),
    defects: tuple[int, int] = (0, 0),
) -> Painted:
    """Paint the objects of a scene from back to front over its background."""
    image, background = paint_ground(layout, placed, seed, index)
    lines, line_masks = _add_tubes(image, stream(seed, index, TUBES), tubes)
    ground = image.copy()
    side = layout.side
    amodal = np.zeros((len(placed), side, side), dtype=bool)
    visible = np.zeros_like(amodal)
    owner = np.zeros((side, side), dtype=np.int64)
    hide = stream(seed, index, CAMOUFLAGE)
    for k, one in enumerate(placed):
        window, cut = one.window, one.cutout
        if camouflage > 0:
            mixed = _elsewhere(ground, one, hide) * cut.alpha[..., None] - cut.colour
            cut = replace(cut, colour=cut.colour + np.float32(camouflage) * mixed)
        paste(image, visible[:k], cut, one.y, one.x)
        amodal[k][window] = cut.mask
        visible[k][window] = cut.mask
        owner[window][cut.mask] = one.owner + 1
    placed_defects, damage = _add_defects(image, ground, visible, owner, stream(seed, index, DEFECTS), defects)
    np.clip(image, 0, 1, out=image)
    return Painted(image, visible, amodal, owner, background, lines, line_masks, placed_defects, damage)


def _elsewhere(ground: np.ndarray, one: Placed, rng: np.random.Generator) -> np.ndarray:
    """The background seen at another place near by: the same texture, but not the very pixels that are hidden."""
    side = ground.shape[0]
    shift = rng.integers(side // 16, side // 5 + 1, 2) * rng.choice([-1, 1], 2)
    height, width = one.cutout.mask.shape
    rows = np.abs(np.arange(one.y, one.y + height) + shift[0])
    columns = np.abs(np.arange(one.x, one.x + width) + shift[1])
    rows = np.where(rows >= side, 2 * side - 2 - rows, rows)  # reflected at the border
    columns = np.where(columns >= side, 2 * side - 2 - columns, columns)
    return ground[np.ix_(rows, columns)]


def _add_tubes(image: np.ndarray, rng: np.random.Generator, limits: tuple[int, int]) -> tuple[list[Tube], np.ndarray]:
    lines = []
    masks = np.zeros((limits[1], *image.shape[:2]), dtype=bool)
    if limits[1]:
        for k in range(count_of(rng, limits)):
            one = tube(rng, image)
            image += one.alpha[..., None] * (one.colour - image)
            masks[k] = one.alpha >= 0.5
            lines.append(one)
    return lines, masks


def _add_defects(
    image: np.ndarray,
    ground: np.ndarray,
    visible: np.ndarray,
    owner: np.ndarray,
    rng: np.random.Generator,
    limits: tuple[int, int],
) -> tuple[list[Defect], np.ndarray]:
    placed_defects = []
    mask = np.zeros(image.shape[:2], dtype=bool)
    if limits[1]:
        for _ in range(count_of(rng, limits)):
            one = defect(rng, image, visible)
            fill = ground if one.colour is None else one.colour
            image += one.alpha[..., None] * (fill - image)
            here = one.alpha >= 0.5
            mask |= here
            if one.colour is None:
                visible[one.target] &= ~here
                owner[here] = 0
            placed_defects.append(one)
    return placed_defects, mask
