"""Do relaxed masks and classes spare a small mask transformer false positives, and help it at a high learning rate?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import SCENES15
from binderclip.segment import PanopticTraining, train_panoptic
from binderclip.segment.metrics import InstanceMatcher
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots

THINGS = ("flag", "heart", "clock", "house", "moon", "flower")
STUFF = ("plain", "noise", "texture")
SIDE, TRAIN, TEST, STEPS, BATCH = 64, 160, 80, 400, 8
RATES = {"1e-3": 1e-3, "4e-3": 4e-3}
PLAIN, REMAX = "plain targets", "ReMaX"
METHODS: dict[str, dict[str, Any]] = {PLAIN: {}, REMAX: {"remask": True, "reclass": 0.1}}
PQ, RATIO, EMPTY = "panoptic quality", "log of false-positive over false-negative loss", "nothing found"


@lru_cache(maxsize=4)
def panoptic_scenes(seed: int, count: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Pictures of one to four things on a ground of three kinds, with classes and disjoint masks of all segments."""
    made = scenes(
        seed, count, SIDE, vocabulary={name: SCENES15[name] for name in THINGS}, objects=(1, 4), area=(0.04, 0.2),
        factors={"background": list(STUFF)},
    )  # fmt: skip
    labels, masks = [], []
    for visible, kinds, ground in zip(made.visible, made.labels, made.attributes["background"], strict=True):
        seen = visible.flatten(1).sum(1) >= 8
        rest = ~visible.any(0)
        labels.append(torch.cat([kinds[seen] - 1, torch.tensor([len(THINGS) + STUFF.index(ground)])]))
        masks.append(torch.cat([visible[seen], rest[None]]))
    return made.images, labels, masks


def quality(training: PanopticTraining, seed: int) -> float:
    """Panoptic quality on test scenes."""
    images, labels, masks = panoptic_scenes(180_000 + seed, TEST)
    matcher = InstanceMatcher()
    for found, own, drawn in zip(training.net.segments(images), labels, masks, strict=True):
        matcher.update(
            found.masks.numpy(), drawn.numpy(), classes=found.labels.numpy() + 1, target_classes=own.numpy() + 1
        )
    return matcher.panoptic_quality().pq


@lru_cache(maxsize=1)
def _trained(seed: int) -> dict[tuple[str, str], PanopticTraining]:
    images, labels, masks = panoptic_scenes(1_800 + seed, TRAIN)
    classes = len(THINGS) + len(STUFF)
    return {
        (name, rate): train_panoptic(
            images, labels, masks, classes=classes, steps=STEPS, batch=BATCH, lr=lr, seed=seed, **options
        )
        for rate, lr in RATES.items()
        for name, options in METHODS.items()
    }


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = []
    for (name, rate), training in _trained(seed).items():
        # A mean over the whole training: the claim is about what training spends its loss on.
        ratio = np.log(training.false_positives.mean() / training.false_negatives.mean())
        found = quality(training, seed)
        rows += [Row(PQ, name, found, rate), Row(RATIO, name, float(ratio), rate)]
        rows.append(Row(EMPTY, name, float(found == 0), rate))
    return rows


def null(seed: int) -> list[Row]:
    """Numbers that no training made."""
    draw = np.random.default_rng([seed, 180])
    return [
        Row(metric, name, float(draw.random()), rate)
        for metric in (PQ, RATIO, EMPTY)
        for rate in RATES
        for name in METHODS
    ]


def draw(table: Table, figure: Figure) -> None:
    """Panoptic quality and the ratio of losses of all methods, at both learning rates."""
    for row, metric in zip(figure.subplots(2, len(RATES)), (PQ, RATIO), strict=True):
        for ax, rate in zip(row, RATES, strict=True):
            dots(ax, table, metric, tuple(METHODS), rate)
            ax.set_title(f"{metric}, rate {rate}", fontsize=8)
            ax.tick_params(axis="x", labelrotation=20, labelsize=7)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), null=null, registered="09e006b1450d")
