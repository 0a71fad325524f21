"""Scenes whose plain ground goes with the class more or less often: a spurious feature of known strength."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from binderclip.data.synthetic_scenes.batch import Scenes
from binderclip.data.synthetic_scenes.cutouts import COLOURS
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import Vocabulary, vocabulary
from binderclip.errors import UsageError
from binderclip.numeric import check_number

if TYPE_CHECKING:
    from binderclip.data.synthetic_scenes.layout import Values


def colored_scenes(
    seed: int,
    n: int,
    size: int = 128,
    *,
    classes: Sequence[str] | Vocabulary,
    colours: Sequence[str],
    correlation: float = 0.8,
    shift: int = 0,
    area: tuple[float, float] = (0.08, 0.25),
) -> Scenes:
    """One object a scene on a plain ground: class i on colour i with probability `correlation`, else on any of them.

    Paper: Do CLIPs Always Generalize Better than ImageNet Models? (arXiv 2403.11497), after its ColoredCOCO.

    Args:
        seed, n, size, area: as in `scenes`.
        classes: names, read from the training split, or a `Vocabulary`, which fixes the split.
        colours: names of `COLOURS`, different ones, one a class.
        correlation: in [0, 1]. 0: the ground says nothing; else a class has its own colour in
            correlation + (1 - correlation) / K of its scenes, with K classes.
        shift: class i goes with colour i + shift instead, around the end: a test out of distribution.

    Returns:
        `Scenes`; the ground of each stands in `attributes["background"]`.

    Raises:
        UsageError: as many colours as classes are not given, an unknown or repeated one, or a correlation outside.
    """
    words = classes if isinstance(classes, Vocabulary) else vocabulary(list(classes))
    names = list(words.names)
    if len(colours) != len(names) or len(set(colours)) != len(colours):
        raise UsageError(f"give {len(names)} different colours, one a class, got {list(colours)}")
    unknown = [colour for colour in colours if colour not in COLOURS]
    if unknown:
        raise UsageError(f"colour {unknown[0]!r} is unknown; use {', '.join(COLOURS)}")
    check_number("correlation", correlation, least=0, most=1)

    def ground(name: str, rng: np.random.Generator) -> str:
        own, any_one = (names.index(name) + shift) % len(names), int(rng.integers(len(names)))
        return colours[own if rng.random() < correlation else any_one]

    factors: dict[str, Values] = {"background": ground}
    return scenes(seed, n, size, vocabulary=words, objects=1, area=area, factors=factors)
