"""Does it matter where in the error one clicks? The worst and the best honest click against the robot's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from binderclip.segment.clicks import (
    AdversarialClicker,
    BaselineClicker,
    Clicker,
    GridClicker,
    InteractiveEvaluation,
    ObjectClicks,
    RandomClicker,
    click_values,
    error_region,
)
from binderclip.studies.harness import Figure, Row, Table, bare, declared_study
from binderclip.studies.protocols.data.click_scenes import click_samples, clicked_model

SCENES, SIZE, CLICKS = 2, 96, 3
STEPS, RESTARTS = 20, 2
TRIES = (1 + RESTARTS) * (1 + STEPS)
"""Masks that the search looks at for each click; random search gets as many."""
BASE, WORST, BEST = "robot", "worst", "best"
RANDOM, BEST_RANDOM = "worst of random clicks", "best of random clicks"
ANY, OTHER = "a random click", "another random click"
STRIDE = 3
GRID = f"worst of every {STRIDE}rd pixel"


def _auc(segmenter: Any, samples: Any, clicker: Any, clicks: int = CLICKS) -> float:
    return InteractiveEvaluation(segmenter, clicker, clicks)(samples).auc()


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    model, samples = clicked_model(), click_samples(seed, SCENES, size=SIZE)
    clickers: dict[str, Clicker] = {
        BASE: BaselineClicker(),
        WORST: AdversarialClicker("min", STEPS, restarts=RESTARTS, seed=seed),
        BEST: AdversarialClicker("max", STEPS, restarts=RESTARTS, seed=seed),
        RANDOM: AdversarialClicker("min", 0, restarts=TRIES - 1, seed=seed),
        BEST_RANDOM: AdversarialClicker("max", 0, restarts=TRIES - 1, seed=seed),
        ANY: RandomClicker(2 * seed),
        OTHER: RandomClicker(2 * seed + 1),
    }
    rows = []
    for name, clicker in clickers.items():
        curves = InteractiveEvaluation(model, clicker, CLICKS)(samples)
        rows.append(Row("AuC", name, curves.auc()))
        rows += [Row(f"IoU after {k + 1}", name, float(curves.iou[:, k].mean())) for k in range(CLICKS)]
    rows.append(Row("IoU after 1", GRID, _auc(model, samples, GridClicker("min", STRIDE), 1)))
    return rows


def draw(table: Table, figure: Figure) -> None:
    """IoU by click for three trajectories, and the landscape of a first click on four objects."""
    halves: Any = figure.subfigures(1, 2, width_ratios=(1, 1.5))
    left, right = halves
    ax = left.subplots()
    for name, colour in ((BEST, "C2"), (BASE, "C0"), (ANY, "C4"), (RANDOM, "C1"), (WORST, "C3")):
        values = np.array([table.values(f"IoU after {k + 1}", name) for k in range(CLICKS)])
        ax.plot(range(1, CLICKS + 1), values.mean(1), "o-", color=colour, label=name)
        ax.fill_between(range(1, CLICKS + 1), values.min(1), values.max(1), color=colour, alpha=0.15)
    ax.set(xlabel="click", ylabel="IoU", xticks=range(1, CLICKS + 1))
    ax.legend(fontsize=7)
    model, samples = clicked_model(), click_samples(STUDY.seeds[0], 4, size=SIZE)
    axes: Any = right.subplots(2, 4)
    for column, (image, masks) in enumerate(samples[:4]):
        objects = ObjectClicks(model, model.encode(image), masks)
        row = int(masks.flatten(1).sum(1).argmax())
        region = error_region(objects, row)
        assert region is not None
        points, found = click_values(objects, row, region)
        heat = torch.full(masks.shape[1:], torch.nan)
        heat[points[1:, 1].long(), points[1:, 0].long()] = found[1:]
        axes[0, column].imshow(image.permute(1, 2, 0).numpy())
        axes[0, column].contour(masks[row].numpy(), [0.5], colors="w", linewidths=1)
        axes[1, column].imshow(heat.numpy(), vmin=0, vmax=1, cmap="viridis")
        axes[1, column].plot(region.click.x - 0.5, region.click.y - 0.5, "r+", markersize=7)
        axes[1, column].set_title(f"{float(found.min()):.2f} to {float(found.max()):.2f}", fontsize=7)
        for ax in axes[:, column]:
            bare(ax)


STUDY = declared_study(__name__, measure, seeds=range(20, 30), draw=draw, registered="b425c655ecb2")
