"""Does a decoder for each group of blocks find unseen classes better than one for the last block, or for all mixed?"""

from __future__ import annotations

from functools import lru_cache
from textwrap import fill
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.data.synthetic_scenes.batch import Scenes
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import SCENES15, vocabulary
from binderclip.models.towers.tokens import Tokens
from binderclip.segment import CascadeCLIP, train_cascade
from binderclip.segment.metrics import IoU
from binderclip.segment.trained.cascade import default_groups, seen_penalised
from binderclip.segment.trained.tuned import embed_once, squashed
from binderclip.studies.harness import Figure, Precondition, Row, Table, declared_study, dots, segmentations, value_of
from binderclip.studies.protocols.bundled import bundled

UNSEEN = ("cat", "tree", "apple", "car")
SEEN = tuple(name for name in SCENES15 if name not in UNSEEN)
CLASSES = (*SEEN, *UNSEEN)
SCENE, SIDE, TRAIN, TEST = 64, 128, 400, 80
TRAINING: dict[str, Any] = {"steps": 200, "batch": 8, "lr": 1e-2}
HEAD: dict[str, Any] = {"prompts": 0, "layers": 1, "size": SIDE}
LEARNED = 0.1
LAST, MIXED, CASCADE = "last block", "all blocks in one decoder", "cascade of groups"
VALUES, NULL = "values of the last block, untrained", "one class everywhere"
METHODS = (NULL, VALUES, LAST, MIXED, CASCADE)
SEEN_IOU, UNSEEN_IOU, HARMONIC = "mIoU of seen classes", "mIoU of unseen classes", "harmonic mean of both"


def groups(name: str, depth: int) -> tuple[tuple[int, ...], ...]:
    """The blocks of each decoder."""
    cascade = default_groups(depth)
    every = tuple(block for group in cascade for block in group)
    return {LAST: ((depth - 1,),), MIXED: (every,), CASCADE: cascade}[name]


def scene_labels(made: Scenes) -> Int[Tensor, "N S S"]:
    """Indices into `CLASSES` and -1 for the ground, which is no class."""
    place = torch.tensor([-1, *(CLASSES.index(name) for name in made.classes[1:])])
    return place[made.semantic]


@lru_cache(maxsize=2)
def _made(seed: int, count: int, split: str) -> Scenes:
    return scenes(
        seed, count, SCENE, vocabulary=vocabulary({name: SCENES15[name] for name in CLASSES}, split=split),
        objects=(2, 4), area=(0.06, 0.25), background=["plain", "gradient", "noise", "texture"],
    )  # fmt: skip


def train_scenes(seed: int) -> Scenes:
    """Scenes of training drawings; unseen classes occur in them without a label."""
    return _made(7_700 + seed, TRAIN, "train")


def test_scenes(seed: int) -> Scenes:
    """Scenes of held-out drawings."""
    return _made(77_000 + seed, TEST, "val+test+shift")


@lru_cache(maxsize=1)
def _trained(seed: int) -> dict[str, CascadeCLIP]:
    made, model, found = train_scenes(seed), bundled(), {}
    tokens = embedded(made.images)
    for name in (LAST, MIXED, CASCADE):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = CascadeCLIP(model, groups=groups(name, model.image_tower.depth), **HEAD)
            found[name] = train_cascade(
                head, made.images, scene_labels(made), CLASSES, unseen=UNSEEN, tokens=tokens, seed=seed, **TRAINING
            ).head
    return found


@torch.no_grad()
def head_labels(head: CascadeCLIP, tokens: Tokens) -> Int[Tensor, "N S S"]:
    """The class at each pixel, seen ones with the paper's penalty."""
    text, seen = head.text_of(CLASSES), torch.tensor([name in SEEN for name in CLASSES])
    parts = []
    for batch in tokens.x.split(8):
        logits = F.interpolate(head(tokens.with_x(batch), text), (SCENE, SCENE), mode="bilinear", align_corners=False)
        parts += [seen_penalised(each, seen) for each in logits]
    return torch.stack(parts)


def embedded(images: Float[Tensor, "N 3 S S"]) -> Tokens:
    """What the tower's first block is given of pictures, the same for every head."""
    return embed_once(bundled(), lambda some: squashed(bundled(), some, SIDE), images)


@torch.no_grad()
def value_labels(images: Float[Tensor, "N 3 S S"]) -> Int[Tensor, "N S S"]:
    """The same by MaskCLIP's values, without training."""
    model = bundled()
    text = F.normalize(model.text_bank(list(CLASSES)).prototypes(), dim=-1)
    parts = []
    for batch in images.split(8):
        pixels = squashed(model, batch, SIDE)
        dense = F.normalize(model.image_tower.dense_images(pixels, path="value"), dim=1)
        logits = torch.einsum("behw,ce->bchw", dense, text)
        parts.append(F.interpolate(logits, batch.shape[-2:], mode="bilinear", align_corners=False).argmax(1))
    return torch.cat(parts)


def class_rows(name: str, found: Int[Tensor, "N S S"], truth: Int[Tensor, "N S S"]) -> list[Row]:
    """mIoU over seen and over unseen classes, pixels of the ground left out, and their harmonic mean."""
    metric = IoU(len(CLASSES))
    metric.update(found, truth)
    per_class = metric.compute().per_class.numpy()
    seen, unseen = (float(np.nanmean(part)) for part in (per_class[: len(SEEN)], per_class[len(SEEN) :]))
    harmonic = 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0
    return [Row(SEEN_IOU, name, seen), Row(UNSEEN_IOU, name, unseen), Row(HARMONIC, name, harmonic)]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    made = test_scenes(seed)
    truth = scene_labels(made)
    rows = class_rows(NULL, torch.zeros_like(truth), truth)
    rows += class_rows(VALUES, value_labels(made.images), truth)
    tokens = embedded(made.images)
    for name, head in _trained(seed).items():
        rows += class_rows(name, head_labels(head, tokens), truth)
    return rows


def null(seed: int) -> list[Row]:
    """Numbers that no head made."""
    draw = np.random.default_rng([seed, 77])
    return [Row(m, name, float(draw.random())) for m in (SEEN_IOU, UNSEEN_IOU, HARMONIC) for name in METHODS]


def draw(table: Table, figure: Figure) -> None:
    """Test scenes with the label maps of the three heads, and the figures of all."""
    seed = STUDY.seeds[0]
    made = test_scenes(seed).select([0, 1, 2])
    maps = {"truth": scene_labels(made)} | {n: head_labels(h, embedded(made.images)) for n, h in _trained(seed).items()}
    halves: Any = figure.subfigures(1, 2, width_ratios=[1.6, 1])
    shown = {name: found.masked_fill(maps["truth"] < 0, -1) for name, found in maps.items()}
    segmentations(halves[0], made.images, shown, classes=len(CLASSES))
    for ax, metric in zip(halves[1].subplots(2, 1), (HARMONIC, UNSEEN_IOU), strict=True):
        dots(ax, table, metric, METHODS)
        ax.set_title(metric, fontsize=9)
        ax.set_xticks(range(len(METHODS)), [fill(name, 11) for name in METHODS], fontsize=7)


STUDY = declared_study(
    __name__,
    measure,
    preconditions=tuple(
        Precondition(
            f"{name} has learned: its mIoU of seen classes is above {LEARNED:g}, one class everywhere has about 0.01",
            value_of(SEEN_IOU, name),
            LEARNED,
        )
        for name in (LAST, MIXED, CASCADE)
    ),
    draw=draw,
    seeds=range(10, 18),
    null=null,
    registered="7998413475ba",
)
