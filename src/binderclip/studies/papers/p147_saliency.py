"""Does the gradient at the pixels find the object, and does a graph cut turn it into a better mask?"""

from __future__ import annotations

from functools import lru_cache
from textwrap import fill
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.explain import ClassModelImage, GradCAM, Saliency, pointing_game
from binderclip.segment import mask_iou, saliency_graph_cut
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots, pictures
from binderclip.studies.protocols.data.visual_scenes import cluttered
from binderclip.studies.protocols.photo_classifier import own_classes, photo_classifier
from binderclip.studies.protocols.random_maps import random_maps

SCENES, SIZE, STEPS = 40, 128, 24
SHARE = 0.14
"""Mean share of an object in the pilot: the area of masks by a threshold and of the centre square."""
# Classes of `lite0` as different as a person would choose them, for the class images.
CLASSES = ("goldfish", "ladybug", "umbrella", "banana", "tennis ball", "mushroom")
SALIENCY, CROPS, CAM = "saliency", "saliency, ten crops", "Grad-CAM"
POINT, IOU, IMAGE = "pointing game", "mask IoU", "class image"
CUT, THRESHOLD, CENTRE, BEST = "graph cut", "threshold", "centre square", "threshold at the true area"
BLIND, MIDDLE_CUT = "graph cut, random map", "graph cut, map of the centre"
PIXEL, MIDDLE, RANDOM = "a random pixel", "the centre", "random map"
RISES, SEEN = "score rises in every quarter", "class seen by another model"


@lru_cache(maxsize=2)
def _scenes(seed: int) -> tuple[Float[Tensor, "N 3 S S"], Bool[Tensor, "N S S"]]:
    found = cluttered(seed, SCENES, objects=1, size=SIZE, area=(0.06, 0.25))
    return found.images, found.visible[:, 0]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    model, (images, masks) = photo_classifier(SIZE), _scenes(seed)
    target = own_classes(model, images).tolist()
    methods: dict[str, Any] = {SALIENCY: Saliency(), CROPS: Saliency(tta=10), CAM: GradCAM()}
    maps = {name: method(model, images, target).maps() for name, method in methods.items()}
    rows = [Row(POINT, PIXEL, float(masks.float().mean()))]
    rows.append(Row(POINT, MIDDLE, float(masks[:, SIZE // 2, SIZE // 2].float().mean())))
    random = random_maps(SCENES, SIZE, seed)
    rows += [
        Row(POINT, name, float(pointing_game(m, masks).float().mean())) for name, m in (maps | {RANDOM: random}).items()
    ]
    return rows + _masks(images, masks, maps[SALIENCY], random) + _class_images(model, seed)


def _middle() -> Float[Tensor, "S S"]:
    """A Gaussian about the picture's centre; the cut reads its order alone, so that its width does not matter."""
    away = (torch.arange(SIZE) - (SIZE - 1) / 2) / SIZE
    return torch.exp(-8 * (away[:, None] ** 2 + away**2))


def _masks(images: Tensor, masks: Tensor, maps: Tensor, other: Tensor) -> list[Row]:
    ious: dict[str, list[float]] = {}
    centre, middle = torch.zeros(SIZE, SIZE, dtype=torch.bool), _middle()
    low = round(SIZE * (1 - SHARE**0.5) / 2)
    centre[low : SIZE - low, low : SIZE - low] = True
    for image, saliency, random, mask in zip(images, maps, other, masks, strict=True):
        guesses = {
            CUT: saliency_graph_cut(image, saliency).mask,
            THRESHOLD: saliency >= torch.quantile(saliency.flatten(), 1 - SHARE),
            BLIND: saliency_graph_cut(image, random).mask,
            MIDDLE_CUT: saliency_graph_cut(image, middle).mask,
            CENTRE: centre,
            BEST: saliency >= torch.quantile(saliency.flatten(), 1 - float(mask.float().mean())),
        }
        for name, guess in guesses.items():
            ious.setdefault(name, []).append(float(mask_iou(guess, mask)))
    return [Row(IOU, name, float(np.mean(values))) for name, values in ious.items()]


def _class_images(model: Any, seed: int) -> list[Row]:
    """Optimise an image for each class; say whether the score rose, and whether `small` sees the class."""
    from binderclip.models import load

    method = ClassModelImage(steps=STEPS, lr=4.0, weight_decay=1e-3, jitter=4, seed=seed)
    risen, images = [], []
    for found in method.many(model, list(CLASSES)):
        quarters = found.scores.numpy()[1:].reshape(4, -1).mean(axis=1)
        risen.append(bool((np.diff(quarters) > 0).all() and found.scores[-1] > found.scores[0]))
        images.append(found.display)
    seen = load("small").classify(torch.stack(images), [f"a {name}" for name in CLASSES]).logits.argmax(dim=-1)
    right = seen == torch.arange(len(CLASSES))
    return [Row(IMAGE, RISES, float(np.mean(risen))), Row(IMAGE, SEEN, float(right.float().mean()))]


def draw(table: Table, figure: Figure) -> None:
    """Some scenes with their maps and masks, and the measured scores."""
    halves: Any = figure.subfigures(1, 2, width_ratios=[1, 1.15])
    images, masks = (part[:3] for part in _scenes(STUDY.seeds[0]))
    model = photo_classifier(SIZE)
    found = Saliency()(model, images, own_classes(model, images).tolist())
    for row, axes in enumerate(halves[0].subplots(3, 4)):
        shown = images[row].permute(1, 2, 0).numpy()
        cut = saliency_graph_cut(images[row], found.maps()[row]).mask
        cells = [np.where(m.numpy()[..., None], shown, 0.15 * shown + 0.85) for m in (cut, masks[row])]
        titles = ("scene", "saliency", "graph cut", "truth") if row == 0 else ()
        pictures(axes, [shown, found.overlay((shown * 255).round().astype(np.uint8), row), *cells], titles)
    for ax, metric, names in zip(
        halves[1].subplots(2, 1),
        (POINT, IOU),
        ((SALIENCY, CROPS, CAM, PIXEL, MIDDLE), (CUT, THRESHOLD, BLIND, MIDDLE_CUT, CENTRE, BEST)),
        strict=True,
    ):
        dots(ax, table, metric, names)
        ax.set_title(metric, fontsize=9)
        ax.set_xticks(range(len(names)), [fill(name, 12) for name in names], fontsize=7)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 30), registered="6b9288abc419")
