"""Which prior and which distance of the neighbour penalty calibrate best, and does it depend on the network?"""

from __future__ import annotations

from typing import Any

import numpy as np

from binderclip.studies.harness import Figure, Row, Table, bare, declared_study
from binderclip.studies.protocols.tables.calibration import CE, FIGURED, FOREGROUND, reliability
from binderclip.studies.protocols.training.dense_net import loss_scores, test_part

FOCAL, DEFAULT = "focal", "mean, l1"
CHOSEN = "gaussian, l1"
"""The setting with the lowest ECE of the foreground over both backbones in the pilot."""
UNET, GATED = "U-Net", "Attention U-Net"
NACL = {UNET: (DEFAULT, "mean, l2", "gaussian, l1", "image, l1"), GATED: (DEFAULT, "gaussian, l1")}


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    return [
        Row(metric, method, value, backbone)
        for backbone, ours in NACL.items()
        for method in (CE, FOCAL, *ours)
        for metric, value in loss_scores(method, seed, backbone).values.items()
    ]


def draw(table: Table, figure: Figure) -> None:
    """Calibration error and Dice by prior and distance, reliability, and what two priors look like."""
    parts: Any = figure.subfigures(1, 3, width_ratios=(1.5, 0.85, 0.85))
    left, middle, right = parts
    axes = left.subplots(2, 2, sharex="col", height_ratios=(6, 4))
    for row, (backbone, ours) in zip(axes, NACL.items(), strict=True):
        names = (CE, FOCAL, *ours)
        for ax, metric in zip(row, (FOREGROUND, "Dice"), strict=True):
            values = [table.values(metric, name, backbone) for name in names]
            ax.barh(names, [v.mean() for v in values], color=["C7", "C7", *["C0"] * len(ours)], alpha=0.8, height=0.65)
            for place, each in enumerate(values):
                ax.plot(each, [place] * len(each), "k.", markersize=3)
            ax.set_title(f"{backbone}: {metric}", fontsize=8)
            ax.tick_params(labelsize=7)
            ax.grid(axis="y", visible=False)
            ax.invert_yaxis()
        row[1].set(yticks=[], xlim=(0.6, 0.9))
    reliability(middle, {name: loss_scores(name, FIGURED).reliability for name in (CE, FOCAL, DEFAULT)})
    _priors(right)


def _priors(figure: Any) -> None:
    """The share of the true class that three priors give on one test scene."""
    from binderclip.losses import neighbor_prior

    part = test_part()
    images, labels = part.images[:2], part.labels[:2]
    axes = figure.subplots(2, 4)
    kinds: tuple[Any, ...] = ("mean", "gaussian", "image_proportions_l1")
    maps = [neighbor_prior(labels, 4, prior=kind, images=images).gather(1, labels[:, None])[:, 0] for kind in kinds]
    for row, cells in enumerate(axes):
        cells[0].imshow(images[row].permute(1, 2, 0).numpy())
        for ax, found in zip(cells[1:], maps, strict=True):
            ax.imshow(np.asarray(found[row]), cmap="viridis", vmin=0.2, vmax=1)
        for ax in cells:
            bare(ax)
    for ax, title in zip(axes[0], ("scene", "mean", "gaussian", "image"), strict=True):
        ax.set_title(title, fontsize=7)
    figure.suptitle("Prior of the true class", fontsize=9)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 19), registered="32d8ac50e75c")
