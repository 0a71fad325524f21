"""Which heads and neurons of a text tower may go: by the task's metric, gradients, size, or chance?"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from binderclip.compress import (
    GradientScore,
    MagnitudeScore,
    ModulePruningError,
    PairedSample,
    PruneBudget,
    RandomScore,
    masked,
    merged_groups,
    tower_groups,
)
from binderclip.compress.weights.groups import PruneGroups
from binderclip.compress.weights.module_error import mean_recall, pair_loss
from binderclip.studies.harness import Row, declared_study
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.pack_embeddings import clip_art

CALIBRATION, TEST, AMOUNT, SETS, DRAWS = 192, 400, 0.5, 8, 4
RECALL = "mean recall of the test pairs"
WHOLE, MOPE, GRADIENT, MAGNITUDE, CHANCE = "whole", "MoPE", "gradient", "magnitude", "random"
SUMMED = "gradient, all texts summed"
WIDTH, DEPTH = "half of the heads and neurons", "one block fewer"
MEDIAN = "the median block"


class _KnownPictures:
    """Pixels that are row numbers: the pictures of the pack are embedded once, and only the text tower is judged."""

    def __init__(self, images: Tensor) -> None:
        self.model = copy.copy(bundled())
        self.model.encode_image = lambda pixels, **_: images[pixels[:, 0, 0, 0].long()]  # type: ignore[method-assign]


def _draw(split: str, count: int, seed: int) -> tuple[Tensor, list[str]]:
    """Image embeddings and captions of some pairs of a split."""
    embedded = clip_art(split)
    rows = np.random.default_rng([seed, 46]).permutation(len(embedded.texts))[:count]
    return embedded.images[torch.from_numpy(rows)], [embedded.texts[row] for row in rows]


@lru_cache(maxsize=2)
def _calibration(seed: int) -> tuple[Any, PairedSample]:
    images, texts = _draw("train", CALIBRATION, seed)
    numbers = torch.arange(CALIBRATION, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 1, 1)
    return _KnownPictures(images).model, PairedSample(pixels=numbers, texts=texts)


def recall(groups: list[PruneGroups], keep: dict[str, Tensor], seed: int) -> float:
    """Mean recall of test pairs without some groups of the text tower."""
    images, texts = _draw("test", TEST, seed)
    model = bundled()
    with torch.no_grad(), masked(groups, keep):
        return mean_recall(model.similarity(images, model.encode_text(texts)))


def scores(seed: int) -> tuple[list[PruneGroups], dict[str, dict[str, Tensor]]]:
    """Heads and sets of neurons of the text tower, and what each method gives them."""
    model, sample = _calibration(seed)
    neurons = tower_groups(model.text_tower, ("neuron",), side="text")

    def losses() -> list[Tensor]:
        logits = model.scale() * model.similarity(model.encode_image(sample.pixels), model.encode_text(sample.texts))
        return [pair_loss(logits, None)]

    summed = GradientScore(losses=losses, per_example=False)
    order = summed(model, neurons)
    sets = [merged_groups(one, order[one.name].argsort(descending=True), SETS) for one in neurons]
    groups = [*tower_groups(model.text_tower, ("head",), side="text"), *sets]
    methods: dict[str, Any] = {
        MOPE: ModulePruningError(sample=sample, batch_size=CALIBRATION), GRADIENT: GradientScore(losses=losses),
        SUMMED: summed, MAGNITUDE: MagnitudeScore(),
    }  # fmt: skip
    return groups, {name: method(model, groups) for name, method in methods.items()}


def by_chance(groups: list[PruneGroups], budget: PruneBudget, seed: int) -> float:
    """Mean over several draws of random scores."""
    drawn = [RandomScore(seed=seed * DRAWS + draw)(bundled(), groups) for draw in range(DRAWS)]
    return float(np.mean([recall(groups, budget.select(own), seed) for own in drawn]))


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    groups, ranked = scores(seed)
    budget = PruneBudget(amount=AMOUNT)
    rows = [Row(RECALL, WHOLE, recall(groups, {}, seed), setting) for setting in (WIDTH, DEPTH)]
    rows += [Row(RECALL, name, recall(groups, budget.select(own), seed), WIDTH) for name, own in ranked.items()]
    rows.append(Row(RECALL, CHANCE, by_chance(groups, budget, seed), WIDTH))
    model, sample = _calibration(seed)
    blocks = tower_groups(model.text_tower, ("block",), side="text")
    errors = ModulePruningError(sample=sample, batch_size=CALIBRATION)(model, blocks)
    order = sorted(blocks, key=lambda one: float(errors[one.name]))
    for name, block in ((MOPE, order[0]), (MEDIAN, order[len(order) // 2])):
        rows.append(Row(RECALL, name, recall(blocks, {block.name: torch.tensor([False])}, seed), DEPTH))
    return rows


STUDY = declared_study(__name__, measure, seeds=range(20, 28), registered="5d5169b643e0")
