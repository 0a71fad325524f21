"""Does a promptable segmenter that learns an image-text model's embeddings keep its masks, if it rehearses them?"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.segment import MergedEncoder, MergeStage, train_merge
from binderclip.segment.promptable import next_click
from binderclip.segment.promptable.drawn import PromptTokens
from binderclip.segment.trained.merging import StemMaps
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots, segmentations
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.class_scenes import CLASSES, HELD_OUT, class_scenes, scene_ious
from binderclip.studies.protocols.data.click_scenes import click_samples
from binderclip.studies.protocols.data.visual_scenes import cluttered

PICTURES, REHEARSED, CLICKED, NAMED, SEGMENTED = 640, 40, 24, 120, 24
SIDE, STEPS, BATCH, PROMPTS = 64, {"probe": 160, "joint": 100, "resolution": 24}, 32, 2
PROBE = MergeStage(lr=2e-3, sides=(SIDE,))
JOINT = MergeStage(lr=5e-3, encoder_lr=0.1, rehearsal=10.0, sides=(SIDE,))
ARMS = {"joint": JOINT, "no rehearsal": replace(JOINT, rehearsal=0.0)}
MERGED, ALONE = ARMS
BEFORE, PROBED = "segmenter before", "head alone"
ALPHAS = (0.4, 0.7)
KEPT, CLICK, SAME, ACCURACY, INTERPOLATED, MIOU = (
    "share of the mIoU after a click",
    "mIoU after a click",
    "mIoU after a click with the masks of before",
    "zero-shot accuracy",
    "what the best interpolation has more in the worse of both",
    "mIoU of a scene",
)
PATCHES, BOTH, TEACHER = "cells alone", "both heads", "the image-text model itself"


def mixed(alpha: float) -> str:
    """The name of an interpolation."""
    return f"interpolated, {alpha:g}"


@lru_cache(maxsize=1)
def unlabelled() -> tuple[Tensor, Tensor]:
    """Pictures of one or two training drawings, and what the image-text model says of them."""
    images = cluttered(1_440, PICTURES, objects=(1, 2), size=96, split="train", area=(0.1, 0.4)).images
    with torch.no_grad():
        return images, bundled().encode_image(images).float()


@lru_cache(maxsize=1)
def clicked(seed: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Pictures of held-out drawings, their masks and the first click into each, (x, y) in [0, 1]."""
    found = []
    for image, masks in click_samples(144_000 + seed, CLICKED):
        points = []
        for mask in masks:
            click = next_click(torch.zeros_like(mask), mask)
            assert click is not None
            points.append([click.x / mask.shape[1], click.y / mask.shape[0]])
        found.append((image, masks, torch.tensor(points)))
    return found


@torch.no_grad()
def masks_of(encoder: MergedEncoder, seed: int) -> list[Bool[Tensor, "M S S"]]:
    """The single mask of each click."""
    network, found = encoder.segmenter.backbone, []
    for image, masks, points in clicked(seed):
        levels = network.encode(encoder.pixels(image))
        asked = PromptTokens(points[:, None], torch.ones(len(points), 1, dtype=torch.long))
        logits = network.decode(levels, asked)[0][:, :1]
        found.append(F.interpolate(logits, masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0] > 0)
    return found


def mean_iou(found: list[Tensor], truth: list[Tensor]) -> float:
    """Mean over all objects."""
    ious = [(a & b).sum((1, 2)) / (a | b).sum((1, 2)).clamp(min=1) for a, b in zip(found, truth, strict=True)]
    return float(torch.cat(ious).mean())


@lru_cache(maxsize=1)
def named(seed: int) -> tuple[Tensor, list[str], Tensor]:
    """Pictures of one held-out drawing each, the names of fifteen classes, and which it is."""
    made = cluttered(14_400 + seed, NAMED, objects=1, size=96, split=HELD_OUT, area=(0.15, 0.4))
    names = list(made.classes[1:] if made.classes[0] == "background" else made.classes)
    return made.images, names, torch.tensor([names.index(each[0]) for each in made.names])


@torch.no_grad()
def accuracy(encoder: MergedEncoder, seed: int) -> float:
    """Top-1 among fifteen classes at the side of the training."""
    images, names, truth = named(seed)
    level = StemMaps(encoder, images, kept=False).coarse(torch.arange(NAMED), SIDE)
    found = F.normalize(encoder.pooled(encoder.segmenter.backbone.coarse(level)), dim=-1) @ encoder.text_of(names).T
    return float((found.argmax(1) == truth).float().mean())


@torch.no_grad()
def teacher_accuracy(seed: int) -> float:
    """The same of the image-text model, which sees pictures at its own side."""
    images, names, truth = named(seed)
    text = F.normalize(bundled().text_bank(names).prototypes(), dim=-1)
    found = bundled().encode_image(images, normalize=True).float() @ text.T
    return float((found.argmax(1) == truth).float().mean())


@lru_cache(maxsize=1)
def merged_encoders(seed: int) -> dict[str, MergedEncoder]:
    """The head alone, each arm of the joint stage after it, and the interpolations of weights."""
    images, embeddings = unlabelled()
    samples = click_samples(1_440 + seed, REHEARSED, split="train")
    kept, objects = torch.stack([image for image, _ in samples]), [masks for _, masks in samples]

    def trained(encoder: MergedEncoder, name: str, stage: MergeStage, steps: int) -> MergedEncoder:
        return train_merge(
            encoder, images, embeddings=embeddings, rehearsed=kept, objects=objects, stages={name: stage}, steps=steps,
            batch=BATCH, rehearsal_batch=2, prompts=PROMPTS, stem=False, seed=seed,
        ).encoder  # fmt: skip

    first = trained(MergedEncoder(bundled(), layers=1, seed=seed), "probe", PROBE, STEPS["probe"])
    found = {PROBED: first}
    for name, stage in ARMS.items():
        found[name] = trained(copy.deepcopy(first), "joint", stage, STEPS["joint"])
    for alpha in ALPHAS:
        between = copy.deepcopy(first)
        with torch.no_grad():
            for own, other in zip(between.parameters(), found[ALONE].parameters(), strict=True):
                own.lerp_(other, alpha)
        found[mixed(alpha)] = between
    return found


@lru_cache(maxsize=1)
def resolved(seed: int) -> MergedEncoder:
    """After the last stage, so that one pass at the segmenter's side serves both heads."""
    encoder, (images, embeddings) = copy.deepcopy(merged_encoders(seed)[MERGED]), unlabelled()
    stage = MergeStage(lr=PROBE.lr, sides=(SIDE,), whole=True)
    return train_merge(
        encoder, images, embeddings=embeddings, stages={"resolution": stage}, steps=STEPS["resolution"], batch=8,
        seed=seed,
    ).encoder  # fmt: skip


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    encoders, truth = merged_encoders(seed), [masks for _, masks, _ in clicked(seed)]
    before = masks_of(encoders[PROBED], seed)
    whole = mean_iou(before, truth)
    rows, figures = [Row(CLICK, BEFORE, whole), Row(ACCURACY, TEACHER, teacher_accuracy(seed))], {}
    for name, encoder in encoders.items():
        found = masks_of(encoder, seed)
        figures[name] = (mean_iou(found, before), accuracy(encoder, seed))
        rows += [Row(CLICK, name, mean_iou(found, truth)), Row(KEPT, name, mean_iou(found, truth) / whole)]
        rows += [Row(SAME, name, figures[name][0]), Row(ACCURACY, name, figures[name][1])]
    others = [figures[name] for name in (PROBED, *map(mixed, ALPHAS), ALONE)]
    best = max(min(a - b for a, b in zip(each, figures[MERGED], strict=True)) for each in others)
    return [*rows, Row(INTERPOLATED, MERGED, best), *segmented(resolved(seed), seed)]


def segmented(encoder: MergedEncoder, seed: int) -> list[Row]:
    """Label maps of held-out scenes by the cells, by both heads, and by the image-text model's values."""
    made, truth = class_scenes(1_440 + seed, SEGMENTED, 128, HELD_OUT)
    names, rows = list(CLASSES[1:]), []
    for name, refine in ((PATCHES, False), (BOTH, True)):
        found = torch.stack([encoder.segment(image, names, refine=refine).labels + 1 for image in made.images])
        areas, _ = scene_ious(found, truth, ground=False)
        rows.append(Row(MIOU, name, sum(areas) / len(areas)))
    areas, _ = scene_ious(teacher_labels(made.images, names) + 1, truth, ground=False)
    return [*rows, Row(MIOU, TEACHER, sum(areas) / len(areas))]


@torch.no_grad()
def teacher_labels(images: Float[Tensor, "N 3 S S"], names: list[str]) -> Tensor:
    """MaskCLIP: the values of the image-text model's last block, compared with the texts."""
    model = bundled()
    text = F.normalize(model.text_bank(names).prototypes(), dim=-1)
    dense = F.normalize(model.image_tower.dense_images(model.preprocess.normalize(images), path="value"), dim=1)
    logits = torch.einsum("behw,ce->bchw", dense, text)
    return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False).argmax(1)


def draw(table: Table, figure: Figure) -> None:
    """What is kept and what is named, and label maps of both kinds."""
    seed = table.rows[-1].seed  # whose encoder is at hand
    encoder = resolved(seed)
    made, truth = class_scenes(1_440 + seed, SEGMENTED, 128, HELD_OUT)
    images, names = made.images[:3], list(CLASSES[1:])
    maps = {"truth": truth[:3] - 1} | {
        name: torch.stack([encoder.segment(image, names, refine=refine).labels.long() for image in images])
        for name, refine in ((PATCHES, False), (BOTH, True))
    }
    halves: Any = figure.subfigures(1, 2, width_ratios=[1.3, 1])
    segmentations(halves[0], images, maps, classes=len(names))
    shown = (PROBED, *map(mixed, ALPHAS), *ARMS)
    for ax, metric in zip(halves[1].subplots(2, 1), (SAME, ACCURACY), strict=True):
        dots(ax, table, metric, shown)
        ax.set_title(metric, fontsize=9)
        ax.tick_params(axis="x", labelrotation=30, labelsize=7)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 28), registered="e3eec47f734b")
