"""Scenes of drawings of twelve classes with the class of each pixel, and how well a scene's classes were found."""

from __future__ import annotations

from functools import lru_cache

from jaxtyping import Int
from torch import Tensor, tensor

from binderclip.data.synthetic_scenes.batch import Scenes
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import SCENES15, vocabulary
from binderclip.segment.metrics import boundary_iou

CLASSES = ("background", *tuple(SCENES15)[:12])
HELD_OUT = "val+test+shift"


@lru_cache(maxsize=4)
def class_scenes(seed: int, count: int, side: int, split: str) -> tuple[Scenes, Int[Tensor, "N S S"]]:
    """Scenes of 2 to 4 drawings on plain, gradient, noisy or textured grounds, and the class of each pixel.

    Args:
        seed: of the scenes.
        count: of scenes.
        side: in pixels.
        split: of the drawings; `HELD_OUT` are those that no training has seen.
    """
    words = vocabulary({name: SCENES15[name] for name in CLASSES[1:]}, split=split)
    found = scenes(
        seed, count, side, vocabulary=words, objects=(2, 4), area=(0.06, 0.25),
        background=["plain", "gradient", "noise", "texture"],
    )  # fmt: skip
    place = tensor([0, *(CLASSES.index(name) for name in found.classes[1:])])
    return found, place[found.semantic]


def scene_ious(
    found: Int[Tensor, "N S S"], truth: Int[Tensor, "N S S"], *, ground: bool = True
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each scene the mean IoU of the classes that are there, and the mean boundary IoU of those but the ground.

    Args:
        found, truth: indices into `CLASSES`.
        ground: whether the ground is a class; else its pixels do not count.
    """
    areas, edges = [], []
    for guess, real in zip(found, truth, strict=True):
        kinds = [kind for kind in real.unique().tolist() if kind or ground]
        counted = real >= (0 if ground else 1)
        pairs = [((guess == kind) & counted, real == kind) for kind in kinds]
        areas.append(sum(float((a & b).sum() / (a | b).sum()) for a, b in pairs) / len(pairs))
        objects = [pair for kind, pair in zip(kinds, pairs, strict=True) if kind]
        edges.append(sum(float(boundary_iou(a, b)) for a, b in objects) / max(1, len(objects)))
    return tuple(areas), tuple(edges)
