"""Do captions with an object too many or too few teach a model to prefer the right one, its classes kept?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data import ObjectStatistics, hallucinated_captions
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import vocabulary
from binderclip.evaluate import ObjectHallucination
from binderclip.losses import ContrastiveLoss, clip, hard_negative
from binderclip.studies.harness.criteria import Criterion
from binderclip.studies.harness.panels import dots
from binderclip.studies.harness.power import Pilot
from binderclip.studies.harness.quantities import value_of
from binderclip.studies.harness.study import Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.protocols.bundled import bundled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POOL, DRAWN, TEST, SINGLE, SIDE = 600, 400, 300, 300, 128
STEPS, BATCH, RATE = 150, 64, 1e-3
BEFORE, CONTRASTIVE, NEGATIVES, BOTH = "small", "captions alone", "hard negatives", "hard negatives and margins"
BELOW = "margins, the second below"
RIGHT, KEPT, MARGIN = "own caption first of 28", "zero-shot accuracy, single objects", "cosine margin to the best other"
LOSSES: dict[str, Callable[[float], ContrastiveLoss]] = {
    CONTRASTIVE: lambda scale: clip(init_scale=scale),
    NEGATIVES: lambda scale: hard_negative(init_scale=scale, pair_margin=0.0, negative_margin=0.0),
    BOTH: lambda scale: hard_negative(init_scale=scale),
    BELOW: lambda scale: hard_negative(init_scale=scale, direction="below"),
}
PILOT = (900, 901, 902)
METHODS = (BEFORE, *LOSSES)


@dataclass(frozen=True)
class Shown:
    """Scenes before the projections: pictures, own captions, other captions, and the probe over them."""

    images: Float[Tensor, "N D"]
    own: Float[Tensor, "N D"]
    others: Float[Tensor, "N K D"]
    valid: Float[Tensor, "N K"]
    probe: ObjectHallucination


@torch.no_grad()
def pooled_images(pictures: Float[Tensor, "N 3 S S"]) -> Float[Tensor, "N D"]:
    """What `small` projects of pictures."""
    clip_model = bundled()
    return torch.cat([clip_model.image_tower.pre_projection(clip_model.preprocess(p)) for p in pictures.split(64)])


@torch.no_grad()
def pooled_texts(texts: list[str]) -> Float[Tensor, "N D"]:
    """What `small` projects of texts; each distinct one is encoded once."""
    clip_model = bundled()
    tower, distinct = clip_model.text_tower, list(dict.fromkeys(texts))
    parts = []
    for start in range(0, len(distinct), 512):
        tokens = clip_model.tokenize(distinct[start : start + 512])
        parts.append(tower.pool(tower.run(tower.embed(tokens))))
    place = {text: row for row, text in enumerate(distinct)}
    return torch.cat(parts)[[place[text] for text in texts]]


@lru_cache(maxsize=2)
def shown(split: str) -> Shown:
    """Scenes of two or three objects of a split, with 27 other captions each."""
    made = scenes(
        7 if split == "train" else 8, POOL if split == "train" else TEST, SIDE,
        vocabulary=vocabulary("scenes15", split=split), objects=(2, 3),
    )  # fmt: skip
    rng = np.random.default_rng(181)
    statistics = ObjectStatistics(made.names)
    others = [
        hallucinated_captions(text, names, statistics.absent(names, rng))
        for text, names in zip(made.captions, made.names, strict=True)
    ]
    flat = pooled_texts([*made.captions, *(text for entry in others for text in entry.captions)])
    count = len(made.captions)
    valid = torch.tensor([entry.valid for entry in others], dtype=torch.float32)
    return Shown(
        pooled_images(made.images), flat[:count], flat[count:].unflatten(0, (count, -1)), valid,
        ObjectHallucination(made.captions, others),
    )  # fmt: skip


@lru_cache(maxsize=1)
def single() -> tuple[Float[Tensor, "N D"], Int[Tensor, "N"], Float[Tensor, "C D"]]:
    """Pictures of one held-out object each, which it is, and the texts of the names."""
    made = scenes(9, SINGLE, SIDE, vocabulary=vocabulary("scenes15", split="val+test"), objects=1)
    texts = pooled_texts([f"a picture of a {name}" for name in made.classes[1:]])
    return pooled_images(made.images), made.labels[:, 0] - 1, texts


class Projections(nn.Module):
    """The last linear map of each tower of `small`."""

    def __init__(self) -> None:
        super().__init__()
        towers = bundled().image_tower, bundled().text_tower
        with torch.no_grad():
            self.image, self.text = (nn.Parameter(t.project(torch.eye(t.width)).clone()) for t in towers)


def tuned(make: Callable[[float], ContrastiveLoss], seed: int) -> Projections:
    """The projections after training on 400 of the scenes; the batches are the same for every loss."""
    from binderclip.fit import fit

    maps, loss, data = Projections(), make(float(bundled().scale().detach())), shown("train")
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(POOL, generator=generator)[:DRAWN]

    def step(chosen: Tensor) -> Tensor:
        beside = {}
        if loss.terms:
            beside = {"negatives": data.others[chosen] @ maps.text, "negatives_valid": data.valid[chosen]}
        return loss(data.images[chosen] @ maps.image, data.own[chosen] @ maps.text, **beside).total

    batches = [rows[torch.randperm(DRAWN, generator=generator)[:BATCH]] for _ in range(STEPS)]
    learned = [*maps.parameters(), *loss.parameters()]
    fit(step, learned, batches, steps=STEPS, lr=RATE, optimizer={"name": "adamw", "weight_decay": 0.1}, warmup=0.1)
    return maps


@torch.no_grad()
def figures(maps: Projections, name: str) -> list[Row]:
    """The probe on held-out scenes, and what is left of the classes."""
    data = shown("val+test")
    found = data.probe.figures(data.images @ maps.image, data.own @ maps.text, data.others @ maps.text)
    images, labels, texts = single()
    scores = F.normalize(images @ maps.image, dim=1) @ F.normalize(texts @ maps.text, dim=1).T
    rows = [Row(RIGHT, name, found.accuracy), Row(MARGIN, name, found.margin)]
    rows += [Row(f"first of its kind: {kind}", name, value) for kind, value in found.by_kind.items()]
    return [*rows, Row(KEPT, name, float((scores.argmax(1) == labels).float().mean()))]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = figures(Projections(), BEFORE)
    for name, make in LOSSES.items():
        rows += figures(tuned(make, seed), name)
    return rows


def draw(table: Table, figure: Figure) -> None:
    """The probe, what is left of the classes, and the margin."""
    panels: Any = figure.subplots(1, 3)
    for ax, metric in zip(panels, (RIGHT, KEPT, MARGIN), strict=True):
        dots(ax, table, metric, METHODS)
        ax.set_title(metric, fontsize=9)
        ax.tick_params(axis="x", labelrotation=60, labelsize=7)


STUDY = Study(
    paper="p181",
    claim="A contrastive model often prefers captions with objects that are not there; fine-tuning with such captions "
    "and margins to them makes it prefer the right one, at little cost to its classes.",
    protocol=f"The last linear maps of both towers of `small`, all else frozen, on {DRAWN} of {POOL} scenes a seed of "
    f"two or three objects of 15 classes, drawings of the training split: {STEPS} steps of {BATCH} scenes (AdamW, "
    f"{RATE:g}, weight decay 0.1), by captions alone or with 27 hallucinated captions each and the paper's margins (5 "
    f"logits, weights 0.2). Measured on {TEST} scenes of held-out drawings, by captions of the same templates "
    f"(objects added; objects left out), and on {SINGLE} held-out drawings alone among the 15 names. `below` is the "
    "sign of the second margin in the first version of the official code. The pilot (three seeds, without `below`) "
    "had 0.14 to 0.17 right with the margins, 0.10 to 0.12 with captions alone, 0.26 to 0.29 with hallucinated "
    "captions and no margins, 0.05 before. Nothing was tuned.",
    baseline="As many steps on the captions alone.",
    lower_bound="Guessing: 1/28, or a little more where a scene has two objects.",
    upper_bound="",
    measure=measure,
    criteria=(
        Criterion.paired("with hallucinated captions and margins the own caption is first more often than with "
                         "captions alone", value_of(RIGHT, BOTH), value_of(RIGHT, CONTRASTIVE), claimed=0.05,
                         pilot=Pilot(0.023, PILOT), essential=True),
        Criterion.paired("and than before", value_of(RIGHT, BOTH), value_of(RIGHT, BEFORE), claimed=0.05,
                         pilot=Pilot(0.015, PILOT), essential=True),
        Criterion.paired("single objects are named at most 0.02 less often than with captions alone",
                         value_of(KEPT, BOTH), value_of(KEPT, CONTRASTIVE), margin=-0.02, expected=0.0,
                         pilot=Pilot(0.016, PILOT), essential=True),
        Criterion.paired("it is first at least 0.2 more often than with captions alone", value_of(RIGHT, BOTH),
                         value_of(RIGHT, CONTRASTIVE), margin=0.2),
        Criterion.paired("the margins help beside hallucinated captions", value_of(RIGHT, BOTH),
                         value_of(RIGHT, NEGATIVES)),
    ),
    rival=Criterion.paired("the own caption is first more often than with hallucinated captions and no margins",
                           value_of(RIGHT, BOTH), value_of(RIGHT, NEGATIVES)),
    draw=draw,
    seeds=tuple(range(10, 22)),
    one_thread=True,
    registered="d009fdc2f88d",
    stand_in=(
        "scenes of 15 classes of drawings and captions from a template instead of COCO, Flickr30K and Nocaps",
        "objects added and left out by templates instead of a large language model; objects occur together at random",
        "the last linear maps of `small` instead of all of CLIP's ViT-B/32 and ViT-L/14",
    ),
)  # fmt: skip
