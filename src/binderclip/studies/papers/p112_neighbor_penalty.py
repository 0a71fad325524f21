"""Does tying logits to the classes of the neighbours calibrate a segmenter, at no cost in Dice?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from binderclip.segment.metrics import IoU
from binderclip.studies.harness.criteria import Criterion
from binderclip.studies.harness.panels import bare
from binderclip.studies.harness.power import Pilot
from binderclip.studies.harness.quantities import value_of
from binderclip.studies.harness.study import Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.protocols.tables.calibration import (
    BAND,
    CE,
    CLASSWISE,
    COLOURS,
    FIGURED,
    FOREGROUND,
    NAMES,
    ORACLE,
    OURS,
    PILOT,
    reliability,
)
from binderclip.studies.protocols.training.dense_net import (
    BATCH,
    CLASSES,
    JITTER,
    RATE,
    SIZE,
    STEPS,
    TEST,
    TRAIN,
    loss_scores,
    test_part,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


def _lower(text: str, metric: str, other: str, **options: Any) -> Criterion:
    """The penalty's value of a metric lies below another loss's."""
    ours, theirs = value_of(metric, NAMES[OURS]), value_of(metric, other)
    return Criterion.paired(f"{text} {other}", ours, theirs, lower=True, **options)


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


STUDY = Study(
    paper="p112",
    claim="Cross-entropy plus a penalty that ties the logits of each pixel to the class proportions around it is "
    "better calibrated in the foreground than cross-entropy, spatially varying label smoothing and margin smoothing, "
    "at an equal Dice.",
    protocol=f"Scenes of one to three of {len(CLASSES)} clip-art classes at {SIZE} px on plain to textured grounds. A "
    "class has its own colour, save for a fifth of its objects. The boundaries of all label maps, of training and of "
    f"test, are moved by a smooth random displacement (standard deviation {JITTER:g} px), as annotators would. "
    f"{TRAIN} training scenes a seed, {TEST} test scenes of the same drawings. A U-Net of 0.12 million parameters from "
    f"scratch, {STEPS} steps of {BATCH}, AdamW {RATE:g}, mirrors. alpha 0.1 and a 3 x 3 window as in the paper; margin "
    "5, as in its medical runs. ECE has 15 bins; the verdict is about pixels whose label is an object, as in the "
    "paper; errors in a band of 5 px around edges and over all pixels are shown too. The kind of scenes, the network "
    "and the steps were chosen on seed 900 until cross-entropy learned the task; alpha and margin were not touched. "
    "There the penalty was worse than cross-entropy over all pixels, most of which are sure background. The first "
    "measurement, seeds 0 to 2, gives the spread and is not used again; nothing was changed after it but the rule.",
    baseline="Cross-entropy; spatially varying label smoothing; margin-based label smoothing.",
    lower_bound="Dice 0 (everything called background).",
    upper_bound="Dice of the exact masks against the moved labels; calibration has a reference and no bound: the "
    "logits of cross-entropy over the temperature that suits all test labels best, most of them of the ground.",
    measure=measure,
    criteria=(
        *(
            _lower(
                "ECE of the foreground is below that of",
                FOREGROUND,
                other,
                expected=expected,
                pilot=Pilot(spread, PILOT),
                essential=True,
            )
            for other, expected, spread in ((CE, 0.01, 0.0069), (SVLS, 0.01, 0.0029), (MARGIN, 0.006, 0.005))
        ),
        Criterion.paired(
            "at a Dice at most one point below that of CE",
            value_of("Dice", NAMES[OURS]),
            value_of("Dice", CE),
            margin=-0.01,
            pilot=Pilot(0.0064, PILOT),
            essential=True,
        ),
        _lower("class-wise ECE of the foreground is below that of", CLASSWISE, CE),
        _lower("ECE in the boundary band is below that of", BAND, CE),
    ),
    rival=_lower("ECE of the foreground is below that of", FOREGROUND, ORACLE),
    draw=draw,
    seeds=tuple(range(10, 20)),
    registered="eb7026e6dba5",
    stand_in=(
        "clip-art scenes with moved boundaries instead of medical images with several annotators",
        "a small U-Net, 200 steps, instead of 100 epochs",
    ),
)
