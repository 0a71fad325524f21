"""Does tying logits to the classes of the neighbours calibrate a segmenter, at no cost in Dice?"""

from __future__ import annotations

from typing import Any

import numpy as np

from binderclip.segment.metrics import IoU
from binderclip.studies.harness import Figure, Row, Table, bare, declared_study
from binderclip.studies.protocols.tables.calibration import (
    BAND,
    CE,
    COLOURS,
    FIGURED,
    FOREGROUND,
    NAMES,
    ORACLE,
    OURS,
    reliability,
)
from binderclip.studies.protocols.training.dense_net import CLASSES, loss_scores, test_part

SVLS, MARGIN = "SVLS", "margin smoothing"
METHODS = (CE, ORACLE, SVLS, MARGIN, OURS)  # the second uses the network of the first
ALL = "ECE, all pixels"


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = [
        Row(metric, NAMES.get(method, method), value)
        for method in METHODS
        for metric, value in loss_scores(method, seed).values.items()
    ]
    overlap, part = IoU(len(CLASSES) + 1), test_part()
    overlap.update(part.exact, part.labels)
    iou = overlap.compute().per_class[1:]
    return [*rows, Row("Dice", "exact masks", float((2 * iou / (1 + iou)).mean()))]


def draw(table: Table, figure: Figure) -> None:
    """Calibration errors by loss, reliability diagrams and maps of confidence."""
    parts: Any = figure.subfigures(1, 3, width_ratios=(1.25, 0.85, 1.15))
    left, middle, right = parts
    _bars(left, table)
    reliability(middle, {name: loss_scores(name, FIGURED).reliability for name in (CE, OURS)})
    _maps(right)


def _bars(figure: Any, table: Table) -> None:
    axes = figure.subplots(2, 2, sharey=True)
    names = [NAMES.get(m, m) for m in METHODS]
    for ax, metric in zip(axes.flat, (FOREGROUND, BAND, ALL, "Dice"), strict=True):
        values = [table.values(metric, name) for name in names]
        ax.barh(names, [v.mean() for v in values], color=[COLOURS[m] for m in METHODS], alpha=0.8, height=0.65)
        for place, each in enumerate(values):
            ax.plot(each, [place] * len(each), "k.", markersize=3)
        ax.set_title(metric, fontsize=7.5)
        ax.tick_params(labelsize=7)
        ax.grid(axis="y", visible=False)
    axes[0, 0].invert_yaxis()
    axes[1, 1].set_xlim(0.5, 0.9)


def _maps(figure: Any) -> None:
    part, rows = test_part(), (0, 1)
    axes = figure.subplots(len(rows), 4)
    shown = {name: loss_scores(name, FIGURED).shown for name in (CE, OURS)}
    for row, cells in zip(rows, axes, strict=True):
        cells[0].imshow(part.images[row].permute(1, 2, 0).numpy())
        cells[1].imshow(np.ma.masked_equal(part.labels[row].numpy(), 0), cmap="tab10", vmin=0, vmax=9)
        for ax, probabilities in zip(cells[2:], shown.values(), strict=True):
            ax.imshow(probabilities[row].amax(0).numpy(), cmap="viridis", vmin=0.4, vmax=1)
        for ax in cells:
            bare(ax)
    for ax, title in zip(axes[0], ("scene", "labels", "confidence,\nCE", "confidence,\npenalty"), strict=True):
        ax.set_title(title, fontsize=7)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 20), registered="eb7026e6dba5")
