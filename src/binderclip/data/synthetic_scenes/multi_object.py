"""Scenes of several objects in ordered places, one of them larger than the others."""

from __future__ import annotations

import math
from collections.abc import Sequence

from binderclip.data.synthetic_scenes.batch import Scenes
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import Vocabulary, vocabulary
from binderclip.errors import UsageError

Box = tuple[float, float, float, float]


def object_slots(count: int, *, biased: int | None = None, ratio: float = 2.0) -> list[Box]:
    """Boxes (x0, y0, x1, y1) in [0, 1] of a grid of equal cells, row by row, the last row centred.

    Args:
        count: objects, 2 to 5.
        biased: the slot whose object fills its cell; the others are `ratio` times smaller a side, around the centres of
            theirs. None: all fill their cells.
        ratio: at least 1.

    Raises:
        UsageError: a count, slot or ratio outside.
    """
    if not 2 <= count <= 5 or not ratio >= 1 or not (biased is None or 0 <= biased < count):
        raise UsageError(f"count {count} must be 2 to 5, biased {biased} None or a slot, ratio {ratio} at least 1")
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cell, slots = 1 / columns, []
    for slot in range(count):
        row, column = divmod(slot, columns)
        width = min(columns, count - row * columns)
        x = (1 - width * cell) / 2 + (column + 0.5) * cell
        y = (row + 0.5) / rows
        half = cell / 2 * (1.0 if biased is None or slot == biased else 1 / ratio)
        slots.append((x - half, y - half, x + half, y + half))
    return slots


def multi_object_scenes(
    seed: int,
    n: int,
    size: int = 128,
    *,
    classes: Sequence[str] | Vocabulary,
    count: int = 4,
    biased: int | None = None,
    ratio: float = 2.0,
    background: object = "white",
) -> Scenes:
    """Scenes of several different objects, one a slot, of which one may be larger.

    `Scenes.names` lists the objects of a scene in the order of the slots. Which place is the large one is up to the
    caller: average over all of them, or place and size are confounded.

    Paper: Abbasi et al., CLIP Under the Microscope: A Fine-Grained Analysis of Multi-Object Representation (arXiv
    2502.19842), after its SimCO and ComCO.

    Args:
        seed, n, size, background: as in `scenes`.
        classes: names, read from the training split, or a `Vocabulary`, which fixes the split; more than `count`.
        count, biased, ratio: as in `object_slots`.

    Raises:
        UsageError: as `object_slots`, or not more classes than objects.

    Examples:
        >>> made = multi_object_scenes(0, 2, 32, classes=["cat", "dog", "car", "tree", "house"], biased=0)
        >>> [len(names) for names in made.names]
        [4, 4]
    """
    words = classes if isinstance(classes, Vocabulary) else vocabulary(list(classes))
    slots = object_slots(count, biased=biased, ratio=ratio)
    if len(words) <= count:
        raise UsageError(f"{len(words)} classes for {count} objects a scene: give more, so that some are absent")
    return scenes(seed, n, size, vocabulary=words, objects=count, slots=slots, background=background)
