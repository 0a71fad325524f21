"""Scenes of p175 (arXiv 2403.11497): how often a class stands on its colour, and that the pixels have it."""

from __future__ import annotations

import numpy as np
import pytest

from binderclip.data import colored_scenes
from binderclip.data.synthetic_scenes.cutouts import COLOURS
from binderclip.errors import UsageError

CLASSES, GROUNDS = ("cat", "dog", "car"), ("red", "green", "blue")


def shares(shift: int = 0, correlation: float = 0.8) -> np.ndarray:
    made = colored_scenes(3, 240, 32, classes=CLASSES, colours=GROUNDS, correlation=correlation, shift=shift)
    counts = np.zeros((3, 3))
    for names, colour in zip(made.names, made.attributes["background"], strict=True):
        counts[CLASSES.index(names[0]), GROUNDS.index(colour)] += 1
    return counts / counts.sum(axis=1, keepdims=True)


def test_a_class_has_its_colour_as_often_as_asked() -> None:
    own = 0.8 + 0.2 / 3
    np.testing.assert_allclose(np.diag(shares()), own, atol=0.12)
    np.testing.assert_allclose([shares(shift=1)[i, (i + 1) % 3] for i in range(3)], own, atol=0.12)
    np.testing.assert_allclose(shares(correlation=0.0), 1 / 3, atol=0.16)
    np.testing.assert_array_equal(shares(correlation=1.0), np.eye(3))


def test_the_ground_is_that_plain_colour() -> None:
    made = colored_scenes(5, 6, 64, classes=CLASSES, colours=GROUNDS)
    for image, map_of_classes, colour in zip(made.images, made.semantic, made.attributes["background"], strict=True):
        ground = image[:, (map_of_classes == 0)].median(dim=1).values.numpy()
        np.testing.assert_allclose(ground, np.array(COLOURS[colour]) / 255, atol=0.02)
    assert all(len(names) == 1 for names in made.names)


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="3 different colours"):
        colored_scenes(0, 1, classes=CLASSES, colours=("red", "green"))
    with pytest.raises(UsageError, match="colour 'mauve' is unknown"):
        colored_scenes(0, 1, classes=CLASSES, colours=("red", "green", "mauve"))
    with pytest.raises(UsageError, match=r"correlation must be in \[0, 1\], got 2"):
        colored_scenes(0, 1, classes=CLASSES, colours=GROUNDS, correlation=2)
