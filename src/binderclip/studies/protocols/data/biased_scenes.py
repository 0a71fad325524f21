"""Scenes whose ground goes with the class: the planted bias that group-robustness studies share."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from binderclip.data import Scenes

Pair = tuple[tuple[str, str], tuple[str, str]]

GROUNDS = ("green", "blue", "grey", "texture", "noise", "gradient")


@cache
def class_pairs(count: int) -> tuple[Pair, ...]:
    """That many pairs of different classes, each with two different grounds, drawn once and for all."""
    from binderclip.data import vocabulary

    rng = np.random.default_rng(85)
    pairs = list(combinations(vocabulary("scenes15", split="train").names, 2))
    chosen = rng.permutation(len(pairs))[:count]
    grounds = [rng.choice(GROUNDS, 2, replace=False).tolist() for _ in chosen]
    return tuple((pairs[row], (one, other)) for row, (one, other) in zip(chosen, grounds, strict=True))


def biased_scenes(seed: int, count: int, pair: Pair, *, rate: float, size: int = 128, split: str = "train") -> Scenes:
    """One object a scene, on its own class's ground with probability `rate`, else on the other's.

    Args:
        seed: of the scenes.
        count: how many.
        pair: (classes, grounds they mostly stand on), see `class_pairs`; the ground of each scene stands in
            `attributes["background"]`.
        rate: 0.5 is no bias.
        size: side in pixels.
        split: of the pictures that occur.
    """
    from binderclip.data import vocabulary
    from binderclip.data.synthetic_scenes.stream import scenes

    classes, grounds = pair

    def ground(name: str, rng: np.random.Generator) -> str:
        return grounds[(classes.index(name) + int(rng.random() > rate)) % 2]

    words = vocabulary("scenes15", split=split).only(classes)
    return scenes(seed, count, size, vocabulary=words, objects=1, area=(0.08, 0.25), factors={"background": ground})
