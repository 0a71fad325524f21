"""Does grouping patches by learned centres, taught by captions, segment better than patches one by one?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.data.synthetic_scenes.batch import Scenes
from binderclip.models.layers.fast_gradients import fast_gradients
from binderclip.segment import SegCLIP, SegCLIPObjective, train_segclip
from binderclip.segment.trained.segclip import region_probabilities
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots, segmentations
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.class_scenes import CLASSES, HELD_OUT, class_scenes, scene_ious

SIDE, TRAIN, TEST, STEPS, BATCH, GROUPS, LR, MODEL_LR = 128, 400, 80, 80, 16, 6, 1e-3, 0.1
SEEDS = tuple(range(10, 18))
PATCHES, VALUES, CONTRAST, ALL = "patches", "patches by their values", "groups by captions alone", "SegCLIP"
ONE, METHODS = "one class everywhere", (PATCHES, VALUES, CONTRAST, ALL)
WEIGHTS = {CONTRAST: (0.0, 0.0), ALL: (1.0, 1.0)}
IOU, USED, FOUND, SMALL = "mIoU of a scene", "groups in use", "captions found among 80", "small"


def test_set(seed: int) -> tuple[Scenes, Tensor]:
    """Scenes of held-out drawings and their label maps."""
    return class_scenes(161_000 + seed, TEST, SIDE, HELD_OUT)


@lru_cache(maxsize=1)
def trained(seed: int) -> dict[str, SegCLIP]:
    """Heads taught by the captions of scenes of training drawings."""
    found, _ = class_scenes(16_100 + seed, TRAIN, SIDE, "train")
    heads = {}
    for name, (superpixels, reconstruction) in WEIGHTS.items():
        head = SegCLIP(bundled(), groups=GROUPS, blocks=0, text=False, seed=seed)
        objective = SegCLIPObjective(superpixels=superpixels, reconstruction=reconstruction)
        with fast_gradients(head):
            heads[name] = train_segclip(
                head, found.images, found.captions, objective=objective, steps=STEPS, batch=BATCH, lr=LR,
                model_lr=MODEL_LR, seed=seed,
            ).head  # fmt: skip
    return heads


def texts() -> Float[Tensor, "K E"]:
    """Unit vectors of the classes but the ground."""
    return F.normalize(bundled().text_bank(list(CLASSES[1:])).prototypes(), dim=-1)


@torch.no_grad()
def grouped(head: SegCLIP, images: Float[Tensor, "N 3 S S"]) -> tuple[Int[Tensor, "N S S"], float]:
    """The class of each pixel, never the ground, and the mean number of groups that have a patch."""
    parts, used, text = [], [], texts()
    for some in images.split(16):
        found = head(head.pixels(some))
        soft = found.patches.soft.unflatten(2, (SIDE // 16, SIDE // 16))
        group = F.interpolate(soft, (SIDE, SIDE), mode="bilinear", align_corners=False).argmax(1)
        kinds = head.class_probabilities(found, text).argmax(2) + 1  # (B, G)
        parts.append(kinds.gather(1, group.flatten(1)).view_as(group))
        used.append((found.patches.hard.sum(2) > 0.5).float().sum(1))
    return torch.cat(parts), float(torch.cat(used).mean())


@torch.no_grad()
def single(images: Float[Tensor, "N 3 S S"], path: Any) -> Int[Tensor, "N S S"]:
    """The same of patches one by one, by the same rule for classes, without training."""
    model, parts, text = bundled(), [], texts()
    for some in images.split(16):
        pixels = model.preprocess(some)
        dense = model.image_tower.dense_images(pixels, path=path)
        each = region_probabilities(dense.flatten(2).mT, model.encode_pixels(pixels), text, float(model.scale()))
        maps = each.mT.unflatten(2, (dense.shape[-2], dense.shape[-1]))
        parts.append(F.interpolate(maps, (SIDE, SIDE), mode="bilinear", align_corners=False).argmax(1) + 1)
    return torch.cat(parts)


@torch.no_grad()
def captions_found(seed: int) -> dict[str, float]:
    """Share of test scenes whose own caption is the nearest of all, by each head and by the tower as it was."""
    found, _ = test_set(seed)
    said, shares = F.normalize(bundled().encode_text(found.captions), dim=1), {}
    seen = {name: head(head.pixels(found.images)).pictures for name, head in trained(seed).items()}
    for name, pictures in {**seen, SMALL: bundled().encode_image(found.images)}.items():
        nearest = (F.normalize(pictures, dim=1) @ said.T).argmax(1)
        shares[name] = float((nearest == torch.arange(len(nearest))).float().mean())
    return shares


def label_maps(seed: int, count: int = TEST) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Of each method the classes at the pixels of the first test scenes, and the groups in use."""
    images = test_set(seed)[0].images[:count]
    maps = {PATCHES: single(images, "plain"), VALUES: single(images, "value")}
    used = {}
    for name, head in trained(seed).items():
        maps[name], used[name] = grouped(head, images)
    return maps, used


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    truth = test_set(seed)[1]
    maps, used = label_maps(seed)
    common = truth[truth > 0].mode().values
    rows = []
    for name, found in {ONE: torch.full_like(truth, int(common)), **maps}.items():
        values = scene_ious(found, truth, ground=False)[0]
        rows.append(Row(IOU, name, sum(values) / len(values), items=values))
    rows += [Row(USED, name, value) for name, value in used.items()]
    return [*rows, *(Row(FOUND, name, value) for name, value in captions_found(seed).items())]


def null(seed: int) -> list[Row]:
    """Random numbers under every name, scene by scene."""
    draw = np.random.default_rng([seed, 161]).uniform
    rows = [Row(USED, name, float(GROUPS)) for name in WEIGHTS]
    rows += [Row(FOUND, ALL, 1.0), Row(FOUND, SMALL, 0.0)]
    for name in METHODS:
        values = tuple(draw(0, 1, TEST).tolist())
        rows.append(Row(IOU, name, sum(values) / TEST, items=values))
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Test scenes with the label maps, and the scores."""
    seed = table.rows[-1].seed  # whose heads are at hand
    found, truth = test_set(seed)
    maps = {"truth": truth[:3], **label_maps(seed, 3)[0]}
    shown = {name: labels.where(truth[:3] > 0, 0) for name, labels in maps.items()}
    halves: Any = figure.subfigures(1, 2, width_ratios=[2.4, 1])
    segmentations(halves[0], found.images[:3], shown, classes=len(CLASSES))
    ax = halves[1].subplots()
    dots(ax, table, IOU, METHODS)
    ax.set_title(IOU, fontsize=9)
    ax.tick_params(axis="x", labelrotation=30, labelsize=6)


STUDY = declared_study(__name__, measure, null=null, seeds=SEEDS, draw=draw, registered="9f18fbbc43b5")
