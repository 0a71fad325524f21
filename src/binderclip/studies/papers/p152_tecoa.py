"""Does adversarial training against class texts protect classes that it has not seen, unlike training with a head?"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from binderclip.adapt import PixelPrompt, PromptedModel
from binderclip.fit import fit
from binderclip.robust import PGD, TeCoA, adversarial_step
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots, pictures, random_rows
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.visual_scenes import cluttered

SIDE, TRAIN, TEST, EPOCHS, BATCH, TEMPLATE = 64, 96, 48, 2, 16, "a {}"
EPS, STEPS, TOWER_RATE, PROMPT_RATE = 1 / 255, 5, 1e-4, 0.01
NONE, HEAD, TOWER, PROMPT = "no training", "with a head", "TeCoA, image tower", "TeCoA, prompts"
ATTACKED, CLEAN = "accuracy under attack", "accuracy"
METHODS = (NONE, HEAD, TOWER, PROMPT)


@cache
def named(seed: int, split: str, count: int, unseen: bool) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Pictures of one drawing each, of every other class of fifteen: eight are trained on, seven are not."""
    found = cluttered(
        seed, 3 * count, objects=1, size=SIDE, area=(0.3, 0.7), background=["plain", "gradient"], split=split
    )
    classes = tuple(found.classes)[int(unseen) :: 2]
    rows = [row for row, names in enumerate(found.names) if names[0] in classes][:count]
    return found.images[rows], torch.tensor([classes.index(found.names[row][0]) for row in rows]), classes


def recipe(seed: int, rate: float) -> TeCoA:
    """What all trained models share: attack, batches and steps."""
    return TeCoA(eps=EPS, alpha=EPS, attack_steps=2, epochs=EPOCHS, batch_size=BATCH, lr=rate, warmup=0.1, seed=seed)


class WithHead(nn.Module):
    """Features of pictures, and a linear layer that starts at zero."""

    def __init__(self, model: PromptedModel, classes: int) -> None:
        super().__init__()
        self.model, self.head = model, nn.Linear(model.model.embed_dim, classes)
        nn.init.zeros_(self.head.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.head(nn.functional.normalize(self.model.encode_image(images), dim=1) * self.model.model.scale())


def with_head(seed: int) -> PromptedModel:
    """The image tower after adversarial training with a new head, which is then dropped."""
    images, labels, classes = named(seed, "train", TRAIN, unseen=False)
    net = WithHead(copy.deepcopy(PromptedModel(bundled(), size=SIDE)), len(classes))
    how = recipe(seed, TOWER_RATE)
    generator = torch.Generator().manual_seed(seed)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            for rows in torch.randperm(TRAIN, generator=generator).split(BATCH):
                yield images[rows], labels[rows]

    groups: Any = [
        {"params": list(net.model.model.visual.parameters())},
        {"params": list(net.head.parameters()), "lr": 0.1},
    ]
    step = adversarial_step(net, how.attack(net), seed=seed)
    optimizer = {"name": "sgd", "momentum": how.momentum}
    fit(step, groups, batches(), steps=EPOCHS * TRAIN // BATCH, optimizer=optimizer, lr=TOWER_RATE, warmup=0.1)
    return net.model.eval()


def trained(method: str, seed: int) -> PromptedModel:
    """One of the four models of a seed."""
    plain = PromptedModel(bundled(), size=SIDE)
    data = named(seed, "train", TRAIN, unseen=False)
    if method == NONE:
        return plain
    if method == HEAD:
        return with_head(seed)
    if method == TOWER:
        return recipe(seed, TOWER_RATE)(plain, *data, templates=TEMPLATE)
    frame = PixelPrompt(SIDE, space="normalised", std=bundled().preprocess.std)
    return recipe(seed, PROMPT_RATE)(PromptedModel(bundled(), frame, tokens=10, size=SIDE), *data, templates=TEMPLATE)


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    images, labels, classes = named(seed, "val", TEST, unseen=True)
    rows = []
    for method in METHODS:
        predictor = trained(method, seed).predictor(classes, templates=TEMPLATE)
        with torch.no_grad():
            rows.append(Row(CLEAN, method, float((predictor(images).argmax(1) == labels).float().mean())))
        found = PGD(predictor, EPS, steps=STEPS)(images, labels)
        rows.append(Row(ATTACKED, method, 1 - float(found.success.float().mean())))
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Accuracies, clean and attacked, and what the pictures look like."""
    halves: Any = figure.subfigures(2, 1, height_ratios=(2.2, 1))
    for ax, metric in zip(halves[0].subplots(1, 2, sharey=True), (CLEAN, ATTACKED), strict=True):
        dots(ax, table, metric, METHODS)
        ax.set(title=f"{metric}, unseen classes", ylim=(-0.02, 1.02))
        ax.tick_params(axis="x", rotation=20, labelsize=7)
    images, labels, classes = named(table.rows[0].seed, "val", TEST, unseen=True)
    pictures(halves[1].subplots(1, 8), list(images[:8]), [classes[label] for label in labels[:8]])


def null(seed: int) -> list[Row]:
    """Random numbers under every name."""
    return [*random_rows(STUDY.criteria, seed), Row(CLEAN, NONE, 0.9)]


STUDY = declared_study(__name__, measure, null=null, seeds=range(8), draw=draw, registered="cdfab44fae94")
