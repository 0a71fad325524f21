"""Do norms of weight gradients point at objects where Grad-CAM fails, and does a meta step part the classes?"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from binderclip.explain import (
    Attribution,
    GradCAM,
    MetaStep,
    NormGrad,
    attribute_all,
    layer_maps,
    map_correlation,
    pointing_game,
    stage_layers,
)
from binderclip.studies.harness import Figure, Row, Table, declared_study, pictures
from binderclip.studies.protocols.data.visual_scenes import cluttered
from binderclip.studies.protocols.photo_classifier import SIDE, own_classes, photo_classifier
from binderclip.studies.protocols.random_maps import random_maps

SCENES, STEPPED = 12, 4
DEPTHS = ("early", "mid", "late")
PLACES = (*DEPTHS, "combined")
NORMGRAD, GRADCAM, UNTRAINED = "NormGrad (conv1x1, norm)", "Grad-CAM", "NormGrad, random weights"
STEPS = (0.001, 0.01)
RANDOM, UNSTEPPED = "random maps", "no step"
POINT, ALIKE = "pointing game", "class correlation"
STEPPED_POINT = "pointing game, highest class at either object"


@lru_cache(maxsize=2)
def _scenes(seed: int) -> Any:
    return cluttered(seed, SCENES, objects=2, size=SIDE, area=(0.05, 0.2))


def _layers(model: Any) -> tuple[str, ...]:
    return tuple(map(str, stage_layers(model, _scenes(0).images[:1], count=len(DEPTHS))))


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    model, found = photo_classifier(), _scenes(seed)
    images, layers = found.images, _layers(model)
    with torch.no_grad():
        logits = model(images[:STEPPED])
    objects = [own_classes(model, images, found.visible[:, which]) for which in range(2)]
    classes = [logits.argmax(1), logits.argmin(1)]
    methods: dict[str, Any] = {NORMGRAD: NormGrad(layers=layers), GRADCAM: GradCAM(layers)}
    rows = [Row(POINT, "a random pixel", float(found.visible.float().mean()))]
    rows += _pointing(model, found, objects, methods)
    rows += _pointing(_untrained(seed), found, objects, {UNTRAINED: NormGrad(layers=layers)})
    ways = {UNSTEPPED: methods[NORMGRAD], GRADCAM: methods[GRADCAM]}
    ways |= {_step(eps): NormGrad(layers=layers, ensemble=MetaStep(eps, "cross-entropy")) for eps in STEPS}
    rows += _alike(model, images[:STEPPED], classes, ways, found.visible[:STEPPED].any(1))
    return rows + _random_rows(seed, found.visible)


def _step(eps: float) -> str:
    return f"meta step {eps}"


def _untrained(seed: int) -> Any:
    """The network with random weights: what its architecture alone points at."""
    net = deepcopy(photo_classifier())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                module.reset_parameters()
    return net.eval()


def _places(attribution: Attribution) -> list[Float[Tensor, "B H W"]]:
    """Maps at each depth, and their product."""
    return [*layer_maps(attribution), replace(attribution, combine="product").maps()]


def _pointing(model: Any, found: Any, objects: list[Tensor], methods: dict[str, Any]) -> list[Row]:
    """How often the maximum lies on the explained object, mean over both."""
    maps = [attribute_all(model, found.images, target.tolist(), methods=methods) for target in objects]
    return [
        Row(POINT, name, sum(float(pointing_game(m[place], found.visible[:, i]).float().mean()) for i, m in drawn) / 2,
            PLACES[place])
        for name in methods
        for drawn in [[(i, _places(each[name])) for i, each in enumerate(maps)]]
        for place in range(len(PLACES))
    ]  # fmt: skip


def _alike(
    model: Any, images: Tensor, classes: list[Tensor], methods: dict[str, Any], objects: Bool[Tensor, "B H W"]
) -> list[Row]:
    """Correlation of the maps of the highest and the lowest class, and how often the first points at an object."""
    maps = [attribute_all(model, images, target.tolist(), methods=methods) for target in classes]
    rows = []
    for name in methods:
        for place, one, other in zip(PLACES, *(_places(each[name]) for each in maps), strict=True):
            rows.append(Row(ALIKE, name, float(map_correlation(one, other).mean()), place))
            rows.append(Row(STEPPED_POINT, name, float(pointing_game(one, objects).float().mean()), place))
    return [*rows, Row(STEPPED_POINT, "a random pixel", float(objects.float().mean()))]


def _random_rows(seed: int, visible: Bool[Tensor, "N O H W"]) -> list[Row]:
    """Random maps of 16 x 16 cells in the place of every map."""
    generator = torch.Generator().manual_seed(seed)

    def maps(count: int) -> Float[Tensor, "n S S"]:
        return random_maps(count, visible.shape[-1], generator)

    rows = []
    for place in PLACES:
        points = [float(pointing_game(maps(SCENES), visible[:, which]).float().mean()) for which in range(2)]
        rows.append(Row(POINT, RANDOM, sum(points) / 2, place))
        one, other = maps(STEPPED), maps(STEPPED)
        rows.append(Row(ALIKE, RANDOM, float(map_correlation(one, other).mean()), place))
        at_either = pointing_game(one, visible[:STEPPED].any(1)).float().mean()
        rows.append(Row(STEPPED_POINT, RANDOM, float(at_either), place))
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Maps of two objects, pointing by depth, and the class correlation with a meta step."""
    halves: Any = figure.subfigures(1, 2, width_ratios=[1, 1.3])
    model, found = photo_classifier(), _scenes(STUDY.seeds[0])
    layers = _layers(model)
    for axes, scene in zip(halves[0].subplots(3, 4), range(3), strict=True):
        image, target = found.images[scene], int(own_classes(model, found.images[scene : scene + 1])[0])
        plain = NormGrad(layers=layers)(model, image, target)
        early = replace(plain, layers=plain.layers[:1], boxes=plain.boxes[:1], combine="sum")
        cam = GradCAM(layers[0])(model, image, target)
        shown = (image.permute(1, 2, 0).numpy() * 255).round().astype("uint8")
        titles = ("scene", "Grad-CAM\nearly", "NormGrad\nearly", "NormGrad\ncombined") if scene == 0 else ()
        pictures(axes, [shown, *(each.overlay(shown) for each in (cam, early, plain))], titles)
    left, right = halves[1].subplots(1, 2)
    for number, name in enumerate((NORMGRAD, GRADCAM, UNTRAINED)):
        values = [table.values(POINT, name, place) for place in PLACES]
        spread = [v.std() for v in values]
        left.errorbar(range(4), [v.mean() for v in values], spread, marker="o", color=f"C{number}", label=name)
    left.axhline(table.mean(POINT, "a random pixel"), color="0.5", linestyle=":", label="a random pixel")
    left.set(title="Points at the object", ylim=(0, 1))
    left.set_xticks(range(4), PLACES)
    left.legend(fontsize=7)
    names = [UNSTEPPED, *map(_step, STEPS)]
    for number, name in enumerate(names):
        alike = table.values(ALIKE, name, PLACES[-1])
        right.plot([number] * len(alike), alike, "o", color=f"C{number}", alpha=0.6)
        right.plot(number + 0.2, alike.mean(), "s", color=f"C{number}")
    right.set(title="Class correlation")
    right.set_xticks(range(3), ["no step", *map(_step, STEPS)], fontsize=7)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 30), registered="ffdcb5258ca3")
