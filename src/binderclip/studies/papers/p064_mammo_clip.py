"""Do two views and two texts teach more than one of each, and do labels of whole images teach where a concept is?"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import SCENES15, vocabulary
from binderclip.explain import ConceptMapper, pointing_game
from binderclip.losses import ContrastiveLoss, Cosine, clip, mammo_clip
from binderclip.models import load_vision
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.training import contrastive_towers as towers
from binderclip.studies.protocols.training.view_towers import ViewDraw, held_out_pictures

PICTURES, FEW, PASSES, BATCH, RATE, POOL = 4235, 1152, 15, 128, 1e-3, 100
"""All training pictures or a quarter of them; as many passes over all as in the paper; held-out pairs that compete."""
STEPS = PASSES * PICTURES // BATCH
PLAIN, MULTI, ACROSS, LONGER = (
    "one view, one text",
    "Mammo-CLIP",
    "Mammo-CLIP, across alone",
    "one view, twice the steps",
)
LOSSES = (PLAIN, LONGER, ACROSS, MULTI)
ALL, QUARTER = "all pictures", "a quarter of the pictures"
ACCURACY, RECALL = "zero-shot accuracy", "R@1 among 100 pairs, both directions"
MAPPER, UNTRAINED, CAM, CENTRE, RANDOM = "mapper", "mapper, untrained", "class activation", "centre", "random map"
MAPS = (RANDOM, CENTRE, CAM, UNTRAINED, MAPPER)
POINTING, TOLD = "pointing game", "AUC: which scenes have a concept"
CONCEPTS = ("cat", "tree", "car", "flower")
NAMES = (*CONCEPTS, *[name for name in SCENES15 if name not in CONCEPTS][:4])
GROUNDS = ["plain", "gradient", "noise"]
SIDE, TRAINING, TESTED, EPOCHS = 256, 1000, 200, 25


# --- the loss -----------------------------------------------------------------------------------------------------


def trained(
    seed: int, loss: ContrastiveLoss, *, several: bool, steps: int = STEPS, pictures: int = PICTURES
) -> towers.Towers:
    """Towers from scratch on one weak view and the caption, or on two views, the caption and a changed one."""
    from binderclip.fit import fit

    model, draw, words = towers.Towers(seed), ViewDraw(seed, BATCH, pictures), towers.training().words

    def step(rows: Tensor) -> Tensor:
        views = draw.pictures(rows, "weak", 2)
        if not several:
            return loss(model.image(views[:, 0]), model.text(words[rows])).total
        texts = torch.stack([words[rows], draw.texts(rows, 1)[:, 0]], 1)
        return loss(model.image(views), model.text(texts)).total

    learned: list[nn.Parameter] = [*model.parameters(), *loss.parameters()]
    fit(step, learned, (draw.rows() for _ in range(steps)), steps=steps, lr=RATE, warmup=1 / PASSES)
    return model.eval()


def recall(model: towers.Towers) -> float:
    """Recall at 1 of held-out pairs, each among `POOL` of them in a fixed order, mean of both directions."""
    pairs = towers.held_out()._replace(pictures=held_out_pictures())
    image, text = (F.normalize(side, dim=1) for side in model.embed(pairs))
    order = torch.randperm(len(image), generator=torch.Generator().manual_seed(0))
    first = []
    for part in order[: len(order) // POOL * POOL].split(POOL):
        logits = image[part] @ text[part].T
        first += [(each > each.diagonal()[:, None]).any(1).logical_not() for each in (logits, logits.T)]
    return float(torch.cat(first).float().mean())


def of_losses(seed: int) -> list[Row]:
    """Rows of the losses."""
    made = {
        (PLAIN, ALL): trained(seed, clip(), several=False),
        (LONGER, ALL): trained(seed, clip(), several=False, steps=2 * STEPS),
        (ACROSS, ALL): trained(seed, mammo_clip(i2i=0, t2t=0), several=True),
        (MULTI, ALL): trained(seed, mammo_clip(), several=True),
        (PLAIN, QUARTER): trained(seed, clip(), several=False, pictures=FEW),
        (MULTI, QUARTER): trained(seed, mammo_clip(), several=True, pictures=FEW),
    }
    rows = []
    for (name, setting), model in made.items():
        found = towers.accuracy(model, Cosine(), pictures=held_out_pictures())
        rows += [Row(ACCURACY, name, found, setting), Row(RECALL, name, recall(model), setting)]
    return rows


# --- the mapper ---------------------------------------------------------------------------------------------------


class MappedScenes(NamedTuple):
    """Maps of a frozen net, labels of whole scenes, and where each concept is."""

    maps: Float[Tensor, "N C h w"]
    labels: Bool[Tensor, "N A"]
    where: Bool[Tensor, "N A S S"]


@torch.no_grad()
def mapped(seed: int, count: int, split: str) -> MappedScenes:
    """Scenes of two drawings by the last 320 channels of `lite0` before its head."""
    words = vocabulary({name: SCENES15[name] for name in NAMES}, split=split)
    network = load_vision("lite0")
    pixels, net, parts = replace(network.preprocess, size=(SIDE, SIDE)), network.module, []
    for first in range(0, count, 50):
        made = scenes(seed, 50, SIDE, vocabulary=words, objects=2, area=(0.06, 0.2), background=GROUNDS, first=first)
        where = torch.stack([made.semantic == made.classes.index(name) for name in CONCEPTS], 1)
        maps = net.blocks(net.bn1(net.conv_stem(pixels(made.images))))  # type: ignore[operator]
        parts.append(MappedScenes(maps.contiguous(), where.flatten(2).any(2), where))
    return MappedScenes(*map(torch.cat, zip(*parts, strict=True)))


@lru_cache(maxsize=1)
def pool(number: int) -> tuple[MappedScenes, MappedScenes]:
    """Scenes to train on and scenes of held-out drawings, the same for all seeds of a hundred; over one number."""
    first = mapped(9_000 + 2 * number, TRAINING, "train")
    spread = first.maps.std()  # one for all channels: by their means the mapper knows them
    second = mapped(9_001 + 2 * number, TESTED, "val+test+shift")
    return first._replace(maps=first.maps / spread), second._replace(maps=second.maps / spread)


@lru_cache(maxsize=1)
@torch.no_grad()
def concept_texts() -> Float[Tensor, "A E"]:
    """Mean of the unit embeddings of some sentences about each concept."""
    model = bundled()
    sentences = [[f"a {name}", f"a drawing of a {name}", f"clip art of a {name}"] for name in CONCEPTS]
    return torch.stack([model.encode_text(texts, normalize=True).mean(0) for texts in sentences])


@torch.no_grad()
def of_maps(seed: int) -> list[Row]:
    """Rows of the maps: does the strongest place of a concept that is there lie on it?"""
    (maps, labels, _), (tested, has, where) = pool(seed // 100)
    texts, (h, w) = concept_texts(), maps.shape[2:]
    mapper, start = (ConceptMapper(len(CONCEPTS), h * w, texts.shape[1], seed=seed) for _ in range(2))
    with torch.enable_grad():
        mapper.fit(maps, labels, texts, epochs=EPOCHS)
    generator = torch.Generator().manual_seed(seed)
    half = torch.randperm(len(maps), generator=generator)[: round(0.8 * len(maps))]  # as many as the mapper trains on
    probe = _probe(maps[half].mean((2, 3)), labels[half], seed)
    line = torch.linspace(-1, 1, SIDE).square()
    found = {
        MAPPER: _large(mapper.heatmap(tested, texts)[has]),
        UNTRAINED: _large(start.heatmap(tested, texts)[has]),
        CAM: _large(torch.einsum("ac,nchw->nahw", probe, tested)[has]),
        CENTRE: -(line[:, None] + line).expand(int(has.sum()), -1, -1),
        RANDOM: _large(torch.rand(*has.shape, h, w, generator=generator)[has]),
    }
    rows = [
        Row(POINTING, name, float(pointing_game(each.contiguous(), where[has]).float().mean()))
        for name, each in found.items()
    ]
    told = {
        MAPPER: mapper.scores(tested, texts),
        UNTRAINED: start.scores(tested, texts),
        CAM: tested.mean((2, 3)) @ probe.T,
        RANDOM: torch.rand(has.shape, generator=generator),
    }
    return [*rows, *(Row(TOLD, name, _auc(scores, has)) for name, scores in told.items())]


def _large(maps: Float[Tensor, "M h w"]) -> Float[Tensor, "M S S"]:
    return F.interpolate(maps[None], size=(SIDE, SIDE), mode="bilinear")[0]


def _probe(pooled: Float[Tensor, "N C"], labels: Bool[Tensor, "N A"], seed: int) -> Float[Tensor, "A C"]:
    """Weights of a logistic regression a concept on pooled features."""
    from sklearn.linear_model import LogisticRegression

    fitted = [
        LogisticRegression(C=0.1, max_iter=500, random_state=seed).fit(pooled.numpy(), labels[:, a].numpy())
        for a in range(labels.shape[1])
    ]
    return torch.stack([torch.from_numpy(one.coef_[0]).float() for one in fitted])


def _auc(scores: Float[Tensor, "N A"], has: Bool[Tensor, "N A"]) -> float:
    """Area under the curve, mean of the concepts."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(has.numpy(), scores.numpy(), average="macro"))


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    return [*of_losses(seed), *of_maps(seed)]


STUDY = declared_study(
    __name__,
    measure,
    draw=dot_panels(
        (ACCURACY, LOSSES, ALL),
        (RECALL, LOSSES, ALL),
        (POINTING, MAPS),
        (TOLD, (RANDOM, CAM, UNTRAINED, MAPPER)),
        wrap=22,
    ),
    seeds=range(10, 20),
    registered="316e34e32b90",
)
