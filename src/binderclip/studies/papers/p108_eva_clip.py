"""Does a larger image tower begin better when a smaller CLIP's tower has taught it at hidden patches?"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.losses import FeatureMaskedModeling, patch_features
from binderclip.models.towers import open_image_tower
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.training.token_towers import (
    ACCURACY,
    RECALL,
    SIDE,
    TokenTower,
    clip_art,
    judged,
    shown,
)
from binderclip.train.tokens.image import RandomPatches
from binderclip.train.tokens.place import reduced_tokens

TAUGHT, LEARNED, BATCH, RATE, TEXT = 100, 200, 32, 1e-3, 0.1
STEPS, LONGER = TAUGHT + LEARNED, 3
WEAK, STRONG = (32, 1), (64, 2)
TEACHER, SCRATCH, MASKED, PULLED = (
    "the smaller CLIP",
    "contrastive alone",
    "hidden patches, then contrastive",
    "the smaller CLIP's embeddings, then contrastive",
)
METHODS = (TEACHER, SCRATCH, MASKED, PULLED)
COSINE, CONSTANT = "cosine at hidden patches, held out", "the best constant"


@lru_cache(maxsize=1)
def whole() -> Float[Tensor, "N 3 S S"]:
    """The training clip art as towers are given it."""
    return torch.cat(shown(held=False))


def rows_of(seed: int) -> Int[Tensor, "N"]:
    """The order of training, the same for every way."""
    generator, count = torch.Generator().manual_seed(seed), len(whole())
    return torch.cat([torch.randperm(count, generator=generator)[:BATCH] for _ in range(LONGER * STEPS)])


def trained(
    groups: list[dict[str, Any]], loss: Callable[[Int[Tensor, "B"]], Tensor], seed: int, first: int, steps: int
) -> None:
    """Take `steps` steps, from step `first` of the seed's order on."""
    from binderclip.fit import fit

    rows = rows_of(seed)
    batches = (rows[number * BATCH : (number + 1) * BATCH] for number in range(first, first + steps))
    fit(loss, groups, batches, steps=steps, lr=RATE, warmup=0.1)


def contrastive(model: TokenTower, seed: int, first: int, steps: int, *, text: float = TEXT) -> TokenTower:
    """Pictures with half of their patches against their captions, whose side learns at a share of the rate."""
    words = clip_art(False)[1]
    sides = ([*model.visual.parameters(), *model.loss.parameters()], [*model.text.parameters()])
    groups = [
        {"params": [p for p in side if p.requires_grad], "lr_scale": share}
        for side, share in zip(sides, (1.0, text), strict=True)
    ]

    def loss(here: Int[Tensor, "B"]) -> Tensor:
        return model.loss(model.visual(whole()[here]), model.text(words[here])).total

    with reduced_tokens(model.train(), RandomPatches(keep=0.5), "sincos", image_size=SIDE):
        trained(groups, loss, seed, first, steps)
    return model.eval()


def begun(seed: int, teacher: TokenTower) -> TokenTower:
    """A larger CLIP: a new image tower, and the smaller one's texts and temperature."""
    model = TokenTower(seed, width=STRONG[0], layers=STRONG[1])
    model.text.load_state_dict(teacher.text.state_dict())
    model.loss.load_state_dict(teacher.loss.state_dict())
    return model


def taught(model: TokenTower, loss: Callable[[Tensor], Tensor], seed: int, beside: nn.Module | None = None) -> None:
    """Train the image tower by a loss of whole pictures alone."""
    params = [*model.visual.parameters(), *(() if beside is None else beside.parameters())]
    groups = [{"params": [p for p in params if p.requires_grad]}]
    trained(groups, lambda here: loss(whole()[here]), seed, 0, TAUGHT)


def by_masks(seed: int, teacher: TokenTower) -> tuple[TokenTower, FeatureMaskedModeling]:
    """The paper's first stage."""
    model = begun(seed, teacher)
    tower, known = open_image_tower(model.visual), open_image_tower(teacher.visual)
    objective, generator = FeatureMaskedModeling(STRONG[0], WEAK[0]), torch.Generator().manual_seed(seed)

    def loss(images: Tensor) -> Tensor:
        with torch.no_grad():
            targets = patch_features(known, images)
        return objective(tower, images, targets, generator=generator)

    taught(model, loss, seed, objective)
    return model, objective


def by_embeddings(seed: int, teacher: TokenTower) -> TokenTower:
    """The cheap rival: the cosine of the two towers' embeddings of whole pictures."""
    model = begun(seed, teacher)

    def loss(images: Tensor) -> Tensor:
        with torch.no_grad():
            target = teacher.visual(images)
        return -F.cosine_similarity(model.visual(images), target).mean()

    taught(model, loss, seed)
    return model


@torch.no_grad()
def cosines(model: TokenTower, objective: FeatureMaskedModeling, teacher: TokenTower) -> tuple[float, float]:
    """On held-out pictures: the student's cosine at hidden patches, and that of the best constant direction."""
    tower, known = open_image_tower(model.visual.eval()), open_image_tower(teacher.visual)
    found, targets = [], []
    for images in shown():
        features = patch_features(known, images)
        found.append(-objective(tower, images, features, generator=torch.Generator().manual_seed(0)) * len(images))
        targets.append(F.normalize(features, dim=-1).flatten(0, 1))
    every = torch.cat(targets)
    return float(torch.stack(found).sum() / len(clip_art(True)[2])), float(every.mean(0).norm())


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    small = TokenTower(seed, width=WEAK[0], layers=WEAK[1])
    teacher = contrastive(small, seed, 0, LONGER * STEPS, text=1.0)
    masked, objective = by_masks(seed, teacher)
    found = cosines(masked, objective, teacher)
    models = {
        TEACHER: teacher,
        SCRATCH: contrastive(begun(seed, teacher), seed, 0, STEPS),
        MASKED: contrastive(masked, seed, TAUGHT, LEARNED),
        PULLED: contrastive(by_embeddings(seed, teacher), seed, TAUGHT, LEARNED),
    }
    rows = [Row(metric, name, value) for name, model in models.items() for metric, value in judged(model).items()]
    return [*rows, *(Row(COSINE, name, each) for name, each in zip((MASKED, CONSTANT), found, strict=True))]


STUDY = declared_study(
    __name__,
    measure,
    draw=dot_panels((ACCURACY, METHODS), (RECALL, METHODS)),
    seeds=range(10, 18),
    registered="e23ae9568eaf",
)
