"""Do heads on a frozen denoiser's features and text find shapes that are painted like their ground?"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.generate import LatentDenoiser
from binderclip.segment import DiffusionFeatures, OVCamouflage, TowerFeatures, train_ov_camouflage
from binderclip.segment.metrics.instances import InstanceMatcher
from binderclip.segment.trained.camouflage.features import CamouflageFeatures
from binderclip.segment.trained.camouflage.network import CamouflageMasks
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.data.hidden_shapes import HiddenShapes, contrasting_regions, hidden_shapes
from binderclip.studies.protocols.plain_shapes import bundled_denoiser
from binderclip.studies.protocols.tables.segment_table import bundled
from binderclip.train.bundled.data.drawings import SHAPES

FULL, SILENT, PLAIN = "denoiser", "denoiser, texts of zeros", "denoiser, no instance norm"
RANDOM, TOWER, OTSU = "random denoiser", "`small`'s tower", "contrast and Otsu"
NAMED = "shapes of known names, met by a mask with IoU above 0.5, that the head names rightly"
PRECISION = "AP of objects of any class, IoU 0.5 to 0.95"
CONTRAST, TRAIN, TEST, STEPS, RATE, NOVEL = 0.15, 80, 48, 120, 3e-3, 2
HEAD: dict[str, Any] = {"queries": 6, "width": 32, "layers": 1, "heads": 4, "hidden": 64}


def measure(seed: int) -> list[Row]:
    """All rows of one seed: the same pictures, first weights and batches for every head."""
    known = SHAPES[:-NOVEL]
    learned = hidden_shapes(TRAIN, 2 * seed, contrast=CONTRAST, shapes=known)
    held_out = hidden_shapes(TEST, 2 * seed + 1, contrast=CONTRAST)
    rows = []
    sources: dict[str, CamouflageFeatures] = {
        FULL: DiffusionFeatures(bundled_denoiser()),
        RANDOM: DiffusionFeatures(untrained(seed)),
        TOWER: tower(),
    }
    for source, features in sources.items():
        maps = standardised(features, learned.images, held_out.images)
        for name in (FULL, SILENT, PLAIN) if source == FULL else (source,):
            head = OVCamouflage(features, bundled(), refine=name != PLAIN, seed=seed, **HEAD)
            texts = head.texts(known) * (name != SILENT)
            options: dict[str, Any] = {"texts": texts, "maps": maps[0], "steps": STEPS, "lr": RATE, "seed": seed}
            train_ov_camouflage(head, learned.images, known, learned.labels, learned.masks, **options)
            output = head.eval()(maps[1], texts)
            rows.append(Row(PRECISION, name, precision(objects(head, output), held_out)))
            rows += [Row(NAMED, name, named(output, held_out))] if name == FULL else []
    regions = [contrasting_regions(image) for image in held_out.images]
    return [*rows, Row(PRECISION, OTSU, precision(regions, held_out))]


def untrained(seed: int) -> LatentDenoiser:
    """The bundled denoiser whose U-Net has random weights; its autoencoder and text encoder are the trained ones."""
    denoiser = copy.deepcopy(bundled_denoiser())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in denoiser.unet.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return denoiser


@lru_cache(maxsize=1)
def tower() -> TowerFeatures:
    """Of `small`, at the 16 x 16 places that the denoiser's finest map has."""
    return TowerFeatures(bundled())


def standardised(features: CamouflageFeatures, learned: Tensor, held_out: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Maps of both, each channel by its moments over the pictures that are learned from."""
    maps = [[torch.cat(level) for level in zip(*map(features, images.split(16)), strict=True)]
            for images in (learned, held_out)]  # fmt: skip
    moments = [(level.mean((0, 2, 3), keepdim=True), level.std((0, 2, 3), keepdim=True)) for level in maps[0]]
    first, second = (
        [(level - mean) / deviation.clamp(min=1e-6) for level, (mean, deviation) in zip(part, moments, strict=True)]
        for part in maps
    )
    return first, second


def objects(head: OVCamouflage, output: CamouflageMasks) -> list[tuple[Tensor, Tensor]]:
    """Masks and scores for each picture; the score is that of an object of whatever name."""
    there = torch.stack([output.classes[..., :-1].logsumexp(-1), output.classes[..., -1]], -1)
    unnamed = head.objects(replace(output, classes=there), ("object",), (64, 64), score=0.0)
    return [(each.masks, each.scores) for each in unnamed]


def named(output: CamouflageMasks, scenes: HiddenShapes) -> float:
    """Share of the shapes that a mask meets whose name is the likeliest of that mask."""
    masks, right = F.interpolate(output.masks, (64, 64), mode="bilinear") > 0, []
    for drawn, classes, true, labels in zip(masks, output.classes, scenes.masks, scenes.labels, strict=True):
        for mask, label in zip(true, labels.tolist(), strict=True):
            overlap = (drawn & mask).sum((1, 2)) / (drawn | mask).sum((1, 2))
            if label < len(SHAPES) - NOVEL and overlap.max() > 0.5:
                right.append(int(classes[overlap.argmax(), :-1].argmax()) == label)
    return sum(right) / max(len(right), 1)


def precision(found: Sequence[tuple[Tensor, Tensor]], scenes: HiddenShapes) -> float:
    """COCO's average precision without classes."""
    matcher = InstanceMatcher()
    for (masks, scores), true in zip(found, scenes.masks, strict=True):
        matcher.update(masks, true, scores=scores)
    return matcher.coco_average_precision().map


SHOWN = (FULL, SILENT, PLAIN, RANDOM, TOWER, OTSU)
PANELS = dot_panels((PRECISION, SHOWN), rotation=25)
STUDY = declared_study(__name__, measure, draw=PANELS, seeds=range(10, 18), registered="878e1b9c2110")
