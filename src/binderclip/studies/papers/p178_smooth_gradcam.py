"""Two instances of one class: does Grad-CAM++, and its smoothed form, show both of them?"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from binderclip.explain import GradCAM, GradCAMPlusPlus, SmoothGradCAMPlusPlus, attribute_all, energy_inside
from binderclip.studies.harness.criteria import Criterion
from binderclip.studies.harness.quantities import value_of
from binderclip.studies.harness.study import FIRST_RULES, Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.papers.p008_smoothgrad import roughness
from binderclip.studies.protocols.scene_classifier import MEAN, STD, scene_classifier

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from binderclip.data import Scenes

SIZE = 128
# Classes with ten held-out drawings at least.
CLASSES = ("flag", "heart", "folder", "cat", "moon", "woman", "flower", "cloud")
EACH, EACH_CLIP = 3, 1
COPIES = (5, 10, 20)
NETWORK, CLIP = "classifier", "small"
CAM, PLUS = "Grad-CAM", "Grad-CAM++"
# Not the last map: before average pooling and a linear head the gradient does not depend on the image.
LAYER = "module.act5"


def _smooth(n: int) -> str:
    return f"Smooth Grad-CAM++, n = {n}"


def _methods(layer: Any) -> dict[str, Any]:
    smooth = {_smooth(n): SmoothGradCAMPlusPlus(layer, n_samples=n) for n in COPIES}
    return {CAM: GradCAM(layer), PLUS: GradCAMPlusPlus(layer), **smooth}


@lru_cache(maxsize=1)
def _network() -> Any:
    """The classifier on twice its training side: objects keep their pixels, its last maps have 16 x 16 cells."""
    from binderclip.models import classifier

    small = scene_classifier()
    return classifier(small.module, list(small.classes), (MEAN,) * 3, (STD,) * 3, SIZE)


@lru_cache(maxsize=1)
def _clip() -> Any:
    from binderclip.models import load

    return load("small")


def _pairs(seed: int, name: str, n: int) -> Scenes:
    from binderclip.data.scenes.stream import scenes
    from binderclip.data.scenes.vocabulary import vocabulary

    words = vocabulary("scenes15", split="val+test").only((name,))
    return scenes(
        100 * seed + CLASSES.index(name), n, SIZE, vocabulary=words, objects=2, area=(0.04, 0.12), occlusion=0.0,
        background=["plain", "gradient", "noise", "texture"],
    )  # fmt: skip


def instance_recall(maps: Tensor, masks: Tensor) -> float:
    """Share of the instances (B, K, H, W) that hold a pixel above half of the map's largest value."""
    high = maps > 0.5
    return float((high[:, None] & masks).flatten(2).any(dim=2).float().mean())


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = []
    for setting, model, layer, each in ((NETWORK, _network(), LAYER, EACH), (CLIP, _clip(), _layer(), EACH_CLIP)):
        parts = [_pairs(seed, name, each) for name in CLASSES]
        images, masks = torch.cat([p.images for p in parts]), torch.cat([p.visible for p in parts])
        names = [name for name in CLASSES for _ in range(each)]
        target = names if setting == NETWORK else [f"a {name}" for name in names]
        found = attribute_all(model, images, target, methods=_methods(layer))
        both = masks.any(dim=1)
        chance = torch.rand(len(images), 8, 8, generator=torch.Generator().manual_seed(seed))
        noise = torch.nn.functional.interpolate(chance[:, None], size=(SIZE, SIZE), mode="bilinear")[:, 0]
        maps = {"random 8 x 8 map": noise} | {name: a.maps(normalize=True) for name, a in found.items()}
        for method, drawn in maps.items():
            rows.append(Row("instance recall", method, instance_recall(drawn, masks), setting))
            rows.append(Row("share inside", method, float(energy_inside(drawn, both).mean()), setting))
            rows.append(Row("roughness (TV / mean)", method, roughness(drawn), setting))
        if setting == NETWORK:
            with torch.no_grad():
                guesses = model(images).argmax(dim=-1).tolist()
            right = [model.classes[guess] == name for guess, name in zip(guesses, names, strict=True)]
            rows.append(Row("accuracy", "the classifier on these scenes", sum(right) / len(right)))
    return rows


def _layer() -> int:
    # The last block of `small` attends uniformly: gradients before it are the same at every place.
    return int(_clip().image_tower.depth) - 2


def _recall(setting: str) -> Any:
    def test(table: Table) -> tuple[bool, str]:
        cam, plus = (table.mean("instance recall", name, setting) for name in (CAM, PLUS))
        smooth = table.mean("instance recall", _smooth(COPIES[-1]), setting)
        return smooth >= plus >= cam - 0.01, f"{smooth:.3f}, {plus:.3f}, {cam:.3f}"

    return test


def _inside(setting: str) -> Any:
    def test(table: Table) -> tuple[bool, str]:
        cam, smooth = (table.mean("share inside", name, setting) for name in (CAM, _smooth(COPIES[-1])))
        return smooth >= cam, f"{smooth:.3f} against {cam:.3f}"

    return test


def draw(table: Table, figure: Figure) -> None:
    """Scenes with maps of the classifier, and both measures on both models."""
    halves: Any = figure.subfigures(1, 2, width_ratios=[1, 1.2])
    pictures, bars = halves
    names = ("heart", "cat", "flower")
    found = [_pairs(0, name, 1) for name in names]
    images = torch.cat([f.images for f in found])
    shown = {n: m for n, m in _methods(LAYER).items() if n in (CAM, PLUS, _smooth(COPIES[-1]))}
    maps = attribute_all(_network(), images, list(names), methods=shown)
    axes = pictures.subplots(3, 4)
    for row, name in enumerate(names):
        picture = (images[row].permute(1, 2, 0).numpy() * 255).round().astype("uint8")
        cells = [picture, *(attribution.overlay(picture, row) for attribution in maps.values())]
        for ax, cell in zip(axes[row], cells, strict=True):
            ax.imshow(cell)
            for mask in found[row].visible[0].numpy():
                ax.contour(mask, levels=[0.5], colors="white", linewidths=0.6)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        axes[row, 0].set_ylabel(name, fontsize=8)
    for ax, title in zip(axes[0], ("scene", "CAM", "CAM++", f"Smooth, n = {COPIES[-1]}"), strict=True):
        ax.set_title(title, fontsize=8)
    for ax, metric in zip(bars.subplots(2, 1, sharex=False), ("instance recall", "share inside"), strict=True):
        _bars(ax, table, metric)


def _bars(ax: Any, table: Table, metric: str) -> None:
    methods = table.names("method", metric)
    for index, setting in enumerate((NETWORK, CLIP)):
        values = [table.values(metric, method, setting) for method in methods]
        places = [row + 0.36 * (index - 0.5) for row in range(len(methods))]
        ax.barh(places, [v.mean() for v in values], xerr=[v.std() for v in values], height=0.34, label=setting)
    ax.set_yticks(range(len(methods)), labels=methods)
    ax.invert_yaxis()
    ax.set_title(metric, fontsize=9)
    ax.tick_params(labelsize=8)
    ax.grid(axis="y", visible=False)
    if metric == "share inside":
        ax.set_xlim(right=1.5 * max(table.mean(metric, method, NETWORK) for method in methods))
        ax.legend(fontsize=7, loc="lower right")


SMOOTH = _smooth(COPIES[-1])

STUDY = Study(
    paper="p178",
    claim="Grad-CAM++ shows more of several instances of a class than Grad-CAM, and averaging its powers of the "
    "gradient over noisy copies more still, with more of the map on the objects.",
    protocol=f"Scenes of two held-out drawings of one class ({len(CLASSES)} classes, {SIZE} px, each 4 to 12 % of the "
    f"picture, none hidden) with exact masks; a seed has {EACH} scenes a class for a convolutional classifier trained "
    f"on clip-art scenes and {EACH_CLIP} for the bundled `small`. Maps of 16 x 16 before the classifier's last "
    "convolution, of 8 x 8 before the last block but one of `small`; right before average pooling the gradient is the "
    "head's weights, whatever the noise, and a first run there had, as it must, Smooth Grad-CAM++ equal to Grad-CAM++ "
    "(recall 0.944, Grad-CAM 0.854; inside 0.399, Grad-CAM 0.430). An instance is found where the map passes half of "
    f"its maximum in it. Noise level 0.15; the verdict reads n = {COPIES[-1]}.",
    baseline="Grad-CAM, and Grad-CAM++ without noise.",
    lower_bound="A random 8 x 8 map.",
    upper_bound="",
    measure=measure,
    criteria=(
        Criterion.paired(
            "classifier: recall of instances, Smooth at most .01 below CAM++",
            value_of("instance recall", SMOOTH, NETWORK),
            value_of("instance recall", PLUS, NETWORK),
            margin=-0.01,
            essential=True,
        ),
        Criterion.paired(
            "classifier: recall of instances, CAM++ at most .01 below CAM",
            value_of("instance recall", PLUS, NETWORK),
            value_of("instance recall", CAM, NETWORK),
            margin=-0.01,
            essential=True,
        ),
        Criterion.paired(
            "classifier: recall of instances above that of a random map",
            value_of("instance recall", SMOOTH, NETWORK),
            value_of("instance recall", "random 8 x 8 map", NETWORK),
            essential=True,
        ),
        Criterion.paired(
            "classifier: Smooth Grad-CAM++ has more of its map inside than Grad-CAM",
            value_of("share inside", SMOOTH, NETWORK),
            value_of("share inside", CAM, NETWORK),
            essential=True,
        ),
        Criterion("`small`: recall of instances Smooth >= CAM++ >= CAM - 0.01", _recall(CLIP)),
        Criterion("`small`: Smooth Grad-CAM++ has at least Grad-CAM's share inside", _inside(CLIP)),
    ),
    draw=draw,
    remeasure=FIRST_RULES,
    stand_in=(
        "six convolutions trained on clip-art scenes for a minute instead of VGG-16 on ImageNet",
        "clip-art scenes with exact masks instead of photographs judged by eye",
    ),
)
