"""Do captions with an object too many or too few teach a model to prefer the right one, its classes kept?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

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
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.bundled import bundled

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


STUDY = declared_study(
    __name__,
    measure,
    draw=dot_panels((RIGHT, METHODS), (KEPT, METHODS), (MARGIN, METHODS)),
    seeds=range(10, 22),
    registered="d009fdc2f88d",
)
