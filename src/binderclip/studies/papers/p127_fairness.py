"""Do definitions of fairness contradict each other, and do mitigations help the group that is worst off?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.adapt import GroupDRO, GroupThresholds
from binderclip.data import CueGrid, balanced_rows, reweigh
from binderclip.evaluate import worst_group_accuracy
from binderclip.evaluate.fairness import demographic_parity_difference, equal_opportunity_difference
from binderclip.fit import fit
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots

PEOPLE, RATES = 4000, (0.6, 0.25)
GRID, TRAIN, TEST, AGREE = CueGrid(values=2, cues=("shape", "colour")), 800, 800, 0.95
STEPS, BATCH, RATE = 300, 64, 1e-3
PARITY, OPPORTUNITY = "gap in selection rates", "gap in true positive rates"
ONE, SELECTED, FOUND = "one threshold", "one selection rate", "one true positive rate"
WORST, MEAN = "worst-group accuracy", "mean over groups"
PLAIN, WEIGHED, DRAWN, ROBUST, WRONG = (
    "plain",
    "reweighed",
    "balanced sampling",
    "group DRO",
    "reweighed by random groups",
)


def people(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, truth and group of two groups with unequal base rates; the score says the truth equally well in both."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 2, PEOPLE)
    y = (rng.random(PEOPLE) < np.array(RATES)[group]).astype(int)
    return rng.normal(size=PEOPLE) + 1.2 * y, y, group


def definitions(seed: int) -> list[Row]:
    """Gaps on one half after thresholds that close one of them on the other."""
    scores, y, group = people(seed)
    half = PEOPLE // 2
    said = {ONE: scores[half:] > 0.6}
    for name, constraint in ((SELECTED, "demographic_parity"), (FOUND, "true_positive_rate_parity")):
        fitted = GroupThresholds(constraint=constraint)  # type: ignore[arg-type]
        fitted.fit(scores[:half], y[:half], sensitive_features=group[:half])
        said[name] = fitted.predict(scores[half:], sensitive_features=group[half:])
    rows = []
    for name, answer in said.items():
        held: dict[str, Any] = {"y_true": y[half:], "y_pred": answer.astype(int), "sensitive_features": group[half:]}
        rows += [
            Row(PARITY, name, demographic_parity_difference(**held)),
            Row(OPPORTUNITY, name, equal_opportunity_difference(**held)),
            Row("accuracy", name, float((answer == y[half:]).mean())),
        ]
    return rows


def shapes(count: int, agree: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of two shapes; the colour is that of the shape so often. Pictures, shape, colour."""
    rng = np.random.default_rng([seed, round(100 * agree)])
    y = rng.integers(0, 2, count)
    colour = np.where(rng.random(count) < agree, y, 1 - y)
    made = GRID.drawn(torch.from_numpy(np.stack([y, colour], axis=1)), seed)
    return made.images, made.labels("shape"), made.labels("colour")


def trained(method: str, images: Tensor, y: Tensor, colour: Tensor, seed: int) -> nn.Module:
    """A small network; the same start for every method."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 16, 2))
    cell, rng = 2 * y + colour, np.random.default_rng(seed)
    groups = torch.from_numpy(rng.permutation(colour.numpy())) if method == WRONG else colour
    weight = torch.from_numpy(reweigh(y, groups)).float() if method in (WEIGHED, WRONG) else torch.ones(len(y))
    robust = GroupDRO(4, step_size=0.05)
    if method == DRAWN:
        rows = torch.from_numpy(balanced_rows(y, colour, STEPS * BATCH, seed=seed))
    else:
        rows = torch.from_numpy(rng.integers(0, len(y), STEPS * BATCH))

    def step(chosen: Tensor) -> Tensor:
        losses = F.cross_entropy(net(images[chosen]), y[chosen], reduction="none")
        return robust(losses, cell[chosen]) if method == ROBUST else (weight[chosen] * losses).mean()

    fit(step, net, list(rows.split(BATCH)), steps=STEPS, optimizer="adam", lr=RATE)
    return net.eval()


METHODS: tuple[str, ...] = (PLAIN, WEIGHED, DRAWN, ROBUST, WRONG)


def mitigations(seed: int) -> list[Row]:
    """Worst group and mean of networks that were trained where the colour goes with the shape."""
    learned, held = shapes(TRAIN, AGREE, seed), shapes(TEST, 0.5, seed + 5000)
    rows = []
    for method in METHODS:
        net = trained(method, *learned, seed)
        with torch.no_grad():
            said = net(held[0]).argmax(1).numpy()
        found = worst_group_accuracy(held[1].numpy(), said, held[2].numpy())
        rows.append(Row(WORST, method, found.worst))
        rows.append(Row(MEAN, method, float(np.mean(list(found.by_group.values())))))
    return rows


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    return [*definitions(seed), *mitigations(seed)]


def draw(table: Table, figure: Figure) -> None:
    """Both gaps under each rule, and what mitigations do for the worst group."""
    first, second, third = figure.subplots(1, 3, width_ratios=(1, 1, 1.4))
    for ax, metric in ((first, PARITY), (second, OPPORTUNITY)):
        dots(ax, table, metric, (ONE, SELECTED, FOUND))
        ax.set_xticks(range(3), ("one\nthreshold", "one selection\nrate", "one true\npositive rate"), fontsize=7)
        ax.set_title(metric, fontsize=9)
        ax.set_ylim(0)
    dots(third, table, WORST, METHODS)
    third.set_xticks(range(len(METHODS)), METHODS, rotation=40, fontsize=7)
    third.set_title(WORST, fontsize=9)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(30, 38), registered="4144f7fc7bea")
