"""Does a decoder for each group of blocks find unseen classes better than one for the last block, or for all mixed?"""

from __future__ import annotations

from functools import lru_cache
from textwrap import fill
from typing import TYPE_CHECKING, Any

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
from binderclip.studies.harness.criteria import Criterion, Precondition
from binderclip.studies.harness.panels import dots, segmentations
from binderclip.studies.harness.power import Pilot
from binderclip.studies.harness.quantities import value_of
from binderclip.studies.harness.study import Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.protocols.bundled import bundled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNSEEN = ("cat", "tree", "apple", "car")
SEEN = tuple(name for name in SCENES15 if name not in UNSEEN)
CLASSES = (*SEEN, *UNSEEN)
GROUND = "background"
SCENE, SIDE, TRAIN, TEST = 64, 128, 400, 80
TRAINING: dict[str, Any] = {"steps": 200, "batch": 8, "lr": 1e-2}
HEAD: dict[str, Any] = {"prompts": 0, "layers": 1, "size": SIDE}
PILOT_SEEDS, LEARNED = (900, 901, 902), 0.1
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


CRITERIA = (
    Criterion.paired(
        "the cascade's harmonic mean is above that of the last block alone",
        value_of(HARMONIC, CASCADE), value_of(HARMONIC, LAST), expected=0.03, pilot=Pilot(0.023, PILOT_SEEDS),
        essential=True,
    ),
    Criterion.paired(
        "and above that of all blocks in one decoder",
        value_of(HARMONIC, CASCADE), value_of(HARMONIC, MIXED), expected=0.03, pilot=Pilot(0.023, PILOT_SEEDS),
        essential=True,
    ),
    Criterion.paired(
        "unseen classes gain over the last block", value_of(UNSEEN_IOU, CASCADE), value_of(UNSEEN_IOU, LAST)
    ),
    Criterion.paired("mixing all blocks hurts unseen classes", value_of(UNSEEN_IOU, LAST), value_of(UNSEEN_IOU, MIXED)),
)  # fmt: skip


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


STUDY = Study(
    paper="p077",
    claim="A decoder for each group of blocks segments seen and unseen classes better, in the harmonic mean, than one "
    "for the last block or for a mixture of all.",
    protocol=f"{TRAIN} made scenes of {SCENE} px, seen at {SIDE} px, with {len(SEEN)} seen classes and {len(UNSEEN)} "
    f"whose pixels have no label, {TEST} of held-out drawings to test on; the frozen bundled `small` without prompts, "
    f"so that its features are computed once, decoders of one layer, {TRAINING['steps']} steps of {TRAINING['batch']} "
    f"at {TRAINING['lr']:g} for every arm. Pixels of the ground are no class and are left out, in training as well. "
    "Seen classes have 0.1 taken off. Chosen on pilot seed 900 by the mIoU of seen classes alone, all that was tried: "
    "scenes of 128 px, where three layers need more than 1,500 steps, and after 200 two layers have 0.05 at 1e-3 and "
    "one 0.00, or 0.12 at 3e-3; scenes of 64 px and one layer at 3e-3, 0.01 and 0.03 for the cascade and the last "
    "block, at 3e-3 and 0.01 for the mixture, partly with four prompts a block, of which 0.01 is best for each. After "
    "400 steps seen classes are no better than after 200. No head reaches the untrained values (0.3) on seen classes: "
    "what is compared are heads that have learnt a part, which the preconditions hold above ten times one class "
    "everywhere. The pilot (three seeds) has the cascade 0.02 above either in the harmonic mean, 0.11 on seen classes "
    "and 0.01 to 0.02 below on unseen ones.",
    baseline="The same head with one decoder, for the last block or for a learned mixture of all blocks.",
    lower_bound="One class everywhere; and the values of the last block, untrained.",
    upper_bound="",
    measure=measure,
    criteria=CRITERIA,
    rival=Criterion.paired(
        "better on unseen classes than the values of the last block, which are not trained",
        value_of(UNSEEN_IOU, CASCADE), value_of(UNSEEN_IOU, VALUES),
    ),
    preconditions=tuple(
        Precondition(f"{name} has learned: its mIoU of seen classes is above {LEARNED:g}, one class everywhere has "
                     "about 0.01", value_of(SEEN_IOU, name), LEARNED)
        for name in (LAST, MIXED, CASCADE)
    ),
    draw=draw,
    seeds=tuple(range(10, 18)),
    null=null,
    one_thread=True,
    registered="7998413475ba",
    stand_in=(
        "scenes of drawings, 11 seen and 4 unseen classes, instead of VOC, COCO-Stuff and Pascal Context",
        "the bundled `small` of four blocks instead of CLIP ViT-B/16 of twelve: groups are of 2, 1 and 1 blocks",
        "no learned prompts in the tower, decoders of one layer instead of three",
        f"{TRAINING['steps']} steps instead of 20,000",
    ),
)  # fmt: skip
