"""Does the gradient at the pixels find the object, and does a graph cut turn it into a better mask?"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from binderclip.explain import ClassModelImage, GradCAM, Saliency, pointing_game
from binderclip.segment import mask_iou, saliency_graph_cut
from binderclip.studies.harness.criteria import Criterion
from binderclip.studies.harness.quantities import value_of
from binderclip.studies.harness.study import FIRST_RULES, Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.harness.threads import one_thread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCENES = 40
SIZE = 128
STEPS = 32
MAPS: dict[str, Any] = {"saliency": Saliency(), "saliency, ten crops": Saliency(tta=10), "Grad-CAM": GradCAM()}
# Ten classes as different as the packs have them, for the class images.
CLASSES = ("apple", "car", "cat", "clock", "flower", "heart", "house", "moon", "tree", "flag")


@lru_cache(maxsize=1)
def _models() -> tuple[Any, Any]:
    """The explained model, and another one that judges its class images (None where there is no other)."""
    from binderclip.models import list_models, load

    names = [str(getattr(model, "name", model)) for model in list_models()]
    return load("small"), load("small-b") if "small-b" in names else None


def _scenes(seed: int) -> Any:
    from binderclip.data.scenes.stream import scenes
    from binderclip.data.scenes.vocabulary import vocabulary

    return scenes(
        seed, SCENES, SIZE, vocabulary=vocabulary("scenes15", split="val"), objects=1, area=(0.06, 0.25),
        background=["plain", "gradient", "noise", "texture"],
    )  # fmt: skip


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    model, judge = _models()
    found = _scenes(seed)
    masks = found.visible[:, 0]
    texts = [f"a {names[0]}" for names in found.names]
    maps = {name: method(model, found.images, texts).maps() for name, method in MAPS.items()}
    area = float(masks.float().mean())
    rows = [Row("pointing game", "a random pixel", area)]
    rows += [Row("pointing game", "the centre", float(masks[:, SIZE // 2, SIZE // 2].float().mean()))]
    rows += [Row("pointing game", name, float(pointing_game(m, masks).float().mean())) for name, m in maps.items()]
    with one_thread():
        rows += _masks(found.images, maps["saliency"], masks)
    return rows + _class_images(model, judge, seed)


def _masks(images: Tensor, maps: Tensor, masks: Tensor) -> list[Row]:
    ious: dict[str, list[float]] = {}
    side = round((SIZE**2 * float(masks.float().mean())) ** 0.5)
    centre = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    low = (SIZE - side) // 2
    centre[low : low + side, low : low + side] = True
    for image, saliency, mask in zip(images, maps, masks, strict=True):
        best = torch.quantile(saliency.flatten(), 1 - float(mask.float().mean()))
        guesses = {
            "graph cut": saliency_graph_cut(image, saliency).mask,
            "95 % quantile": saliency >= torch.quantile(saliency.flatten(), 0.95),
            "quantile of the true area": saliency >= best,
            "centre square of the mean area": centre,
        }
        for name, guess in guesses.items():
            ious.setdefault(name, []).append(float(mask_iou(guess, mask)))
    return [Row("mask IoU", name, float(np.mean(values))) for name, values in ious.items()]


def _class_images(model: Any, judge: Any, seed: int) -> list[Row]:
    """Optimise an image for each class; say whether the score rose, and whether another model sees the class."""
    method = ClassModelImage(steps=STEPS, lr=4.0, weight_decay=1e-3, jitter=4, seed=seed)
    texts = [f"a {name}" for name in CLASSES]
    risen, images = [], []
    for found in method.many(model, texts):
        quarters = found.scores.numpy()[1:].reshape(4, -1).mean(axis=1)
        risen.append(bool((np.diff(quarters) > 0).all() and found.scores[-1] > found.scores[0]))
        images.append(found.display)
    rows = [Row("class image", "score rises in every quarter", float(np.mean(risen)))]
    if judge is not None:
        right = judge.classify(torch.stack(images), texts).logits.argmax(dim=-1) == torch.arange(len(texts))
        rows.append(Row("class image", "class seen by the second model", float(right.float().mean())))
    return rows


def _cut_beats_centre(table: Table) -> tuple[bool, str]:
    cut, centre = table.mean("mask IoU", "graph cut"), table.mean("mask IoU", "centre square of the mean area")
    return cut > centre, f"{cut:.2f} against {centre:.2f}"


def _scores_rise(table: Table) -> tuple[bool, str]:
    share = table.mean("class image", "score rises in every quarter")
    return share >= 0.9, f"{share:.0%} of the class images"


def _judge_agrees(table: Table) -> tuple[bool, str]:
    if not table.has("class image", "class seen by the second model", ""):
        return False, "not measured: no second model is bundled"
    hits = [round(len(CLASSES) * value) for value in table.values("class image", "class seen by the second model")]
    # 30 images at chance 0.1: more than 6 hits has probability 0.03.
    total = len(CLASSES) * len(hits)
    return 5 * sum(hits) > total, f"{sum(hits)} of {total}, chance 0.10"


def draw(table: Table, figure: Figure) -> None:
    """Some scenes with their maps and masks, and the measured bars."""
    halves: Any = figure.subfigures(1, 2, width_ratios=[1, 1.15])
    pictures, bars = halves
    model, _ = _models()
    found = _scenes(0)
    axes = pictures.subplots(3, 4)
    for row in range(3):
        image, mask = found.images[row], found.visible[row, 0]
        attribution = Saliency()(model, image, f"a {found.names[row][0]}")
        shown = image.permute(1, 2, 0).numpy()
        cut = saliency_graph_cut(image, attribution.maps()[0]).mask
        picture = attribution.overlay((shown * 255).round().astype(np.uint8))
        for ax, cell in zip(axes[row], (shown, picture, _cutout(shown, cut), _cutout(shown, mask)), strict=True):
            ax.imshow(cell)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        axes[row, 0].set_ylabel(found.names[row][0], fontsize=9)
    for ax, title in zip(axes[0], ("scene", "saliency", "graph cut", "truth"), strict=True):
        ax.set_title(title, fontsize=9)
    top, bottom = bars.subplots(2, 1)
    _bars(top, table, "pointing game")
    _bars(bottom, table, "mask IoU")


def _cutout(image: np.ndarray, mask: Tensor) -> np.ndarray:
    return np.where(mask.numpy()[..., None], image, 0.15 * image + 0.85)


def _bars(ax: Any, table: Table, metric: str) -> None:
    methods = table.names("method", metric)
    values = [table.values(metric, method) for method in methods]
    ax.barh(methods, [v.mean() for v in values], xerr=[v.std() for v in values], color="C0", alpha=0.8, height=0.65)
    ax.invert_yaxis()
    ax.set_title(metric, fontsize=9)
    ax.tick_params(labelsize=8)
    ax.grid(axis="y", visible=False)


STUDY = Study(
    paper="p147",
    claim="The gradient of a class score at the pixels points at the object; a graph cut seeded by it gives a better "
    "mask than the map's threshold; images that maximise a score are recognised by another network.",
    protocol=f"{SCENES} scenes of one held-out clip-art object (15 classes, 6 to 25 % of a {SIZE} px picture, plain to "
    "textured grounds) with exact masks; the cosine of the bundled `small` with 'a CLASS'. Class images: ten classes, "
    f"{STEPS} steps of normalised ascent with jitter.",
    baseline="The 95 % quantile of the map as a mask; a centre square of the mean area.",
    lower_bound="A random pixel (the object's share of the picture); 0.10 for the class images.",
    upper_bound="The quantile at the object's true area, for masks from the map alone.",
    measure=measure,
    criteria=(
        Criterion.at_least(
            "saliency points at the object at least twice as often as chance (ratio)",
            value_of("pointing game", "saliency") / value_of("pointing game", "a random pixel"),
            2.0,
            essential=True,
        ),
        Criterion.paired(
            "graph cut has a higher IoU than the 95 % quantile",
            value_of("mask IoU", "graph cut"),
            value_of("mask IoU", "95 % quantile"),
            essential=True,
        ),
        Criterion("graph cut has a higher IoU than a centre square", _cut_beats_centre),
        Criterion("the score of a class image rises in every quarter, for 90 % of them", _scores_rise),
        Criterion("another model sees the class in more than 6 of 30 class images", _judge_agrees),
    ),
    draw=draw,
    remeasure=FIRST_RULES,
    stand_in=(
        "`small` and a text instead of a convolutional ImageNet classifier",
        "composite clip-art scenes instead of ILSVRC-2013",
        "scipy's maximum flow instead of the authors' graph cut",
    ),
)
