"""Two instances of one class: does Grad-CAM++, and its smoothed form, show both of them?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.explain import GradCAM, GradCAMPlusPlus, SmoothGradCAMPlusPlus, attribute_all, energy_inside
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots, pictures
from binderclip.studies.protocols.photo_classifier import SIDE, own_classes, photo_classifier
from binderclip.studies.protocols.random_maps import random_maps

# Classes with ten held-out drawings at least.
CLASSES = ("flag", "heart", "folder", "cat", "moon", "woman", "flower", "cloud")
EACH = 2
COPIES = (5, 20)
CAM, PLUS, RANDOM = "Grad-CAM", "Grad-CAM++", "random map"
CELLS = 10
"""Of a side of the explained maps."""
# Not the last map: before average pooling and a linear head the gradient does not depend on the image. After a ReLU:
# Grad-CAM++ weighs maps that are not negative.
LAYER = "module.blocks.5.0.bn1"
WEAKER, INSIDE, RECALL = "density on the weaker instance", "share inside", "instance recall (half of the maximum)"
FIGURED = (1, 3, 6)


def _smooth(n: int) -> str:
    return f"Smooth Grad-CAM++, n = {n}"


SMOOTH = _smooth(COPIES[-1])
METHODS = (CAM, PLUS, *map(_smooth, COPIES), RANDOM)


def _methods(seed: int) -> dict[str, Any]:
    smooth = {_smooth(n): SmoothGradCAMPlusPlus(LAYER, n_samples=n, seed=seed) for n in COPIES}
    return {CAM: GradCAM(LAYER), PLUS: GradCAMPlusPlus(LAYER), **smooth}


@lru_cache(maxsize=4)
def _pairs(seed: int) -> tuple[Float[Tensor, "N 3 S S"], Bool[Tensor, "N 2 S S"]]:
    """Scenes of every class with two drawings of it, and the masks of both."""
    from binderclip.data.synthetic_scenes.stream import scenes
    from binderclip.data.synthetic_scenes.vocabulary import vocabulary

    words = vocabulary("scenes15", split="val+test")
    parts = [
        scenes(
            100 * seed + number, EACH, SIDE, vocabulary=words.only((name,)), objects=2, area=(0.04, 0.12),
            occlusion=0.0,
            background=["plain", "gradient", "noise", "texture"],
        )
        for number, name in enumerate(CLASSES)
    ]  # fmt: skip
    return torch.cat([part.images for part in parts]), torch.cat([part.visible for part in parts])


def weaker_density(maps: Float[Tensor, "B H W"], masks: Bool[Tensor, "B K H W"]) -> Float[Tensor, "B"]:
    """The least over instances of the map's mean inside over its mean: 1 for an even map, or a random one at most."""
    inside = (maps[:, None] * masks).sum(dim=(2, 3)) / masks.sum(dim=(2, 3))
    return inside.amin(dim=1) / maps.mean(dim=(1, 2)).clamp(min=1e-12)


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    model, (images, masks) = photo_classifier(), _pairs(seed)
    drawn = attribute_all(model, images, own_classes(model, images).tolist(), methods=_methods(seed))
    maps = {name: attribution.maps(normalize=True) for name, attribution in drawn.items()}
    return _scored(maps | {RANDOM: random_maps(len(images), SIDE, seed, cells=CELLS)}, masks)


def _scored(maps: dict[str, Tensor], masks: Tensor) -> list[Row]:
    rows = []
    for name, drawn in maps.items():
        found = ((drawn > 0.5)[:, None] & masks).flatten(2).any(dim=2)
        rows += [
            Row(WEAKER, name, float(weaker_density(drawn, masks).mean())),
            Row(INSIDE, name, float(energy_inside(drawn, masks.any(dim=1)).mean())),
            Row(RECALL, name, float(found.float().mean())),
        ]
    return rows


def null(seed: int) -> list[Row]:
    """A random map under every name."""
    masks = _pairs(seed)[1]
    return _scored(
        {name: random_maps(len(masks), SIDE, seed + 1000 * place, cells=CELLS) for place, name in enumerate(METHODS)},
        masks,
    )


def draw(table: Table, figure: Figure) -> None:
    """Scenes with maps, and the two measures."""
    halves: Any = figure.subfigures(1, 2, width_ratios=[1, 1.2])
    images, model, methods = (
        _pairs(STUDY.seeds[0])[0][[EACH * place for place in FIGURED]],
        photo_classifier(),
        _methods(STUDY.seeds[0]),
    )
    shown = {name: methods[name] for name in (CAM, PLUS, SMOOTH)}
    maps = attribute_all(model, images, own_classes(model, images).tolist(), methods=shown)
    titles = ("scene", "CAM", "CAM++", f"Smooth, n = {COPIES[-1]}")
    for row, axes in enumerate(halves[0].subplots(3, 4)):
        picture = (images[row].permute(1, 2, 0).numpy() * 255).round().astype("uint8")
        pictures(axes, [picture, *(m.overlay(picture, row) for m in maps.values())], titles if row == 0 else ())
        axes[0].set_ylabel(CLASSES[FIGURED[row]], fontsize=8)
    for ax, metric in zip(halves[1].subplots(2, 1), (WEAKER, INSIDE), strict=True):
        dots(ax, table, metric, METHODS)
        ax.set_title(metric, fontsize=9)
        ax.set_xticks(range(len(METHODS)), [n.replace("Smooth Grad-CAM++, ", "smooth,\n") for n in METHODS], fontsize=7)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(34, 58), null=null, registered="660e2416367d")
