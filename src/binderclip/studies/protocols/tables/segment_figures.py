"""The figures of the segmentation table: scenes with label maps, bars of presets, lines of the bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from binderclip.segment import Parts, Segmentation, parts_of, segment_all
from binderclip.studies.harness.panels import bare
from binderclip.studies.harness.table import Table
from binderclip.studies.harness.threads import one_thread
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.tables.segment_table import (
    CHANCE,
    GROUND_METRIC,
    ONE_LABEL,
    ORACLE,
    SCENES,
    SETS,
    Asked,
    mean_miou,
    scene_set,
    segmenter_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_SEED = 0
"""Of the scenes that figures show; nothing is measured on them."""


def draw_table(
    table: Table, figure: Figure, *, sets: Sequence[str] = SETS, shown: Asked = (), model: str = "small"
) -> None:
    """Bars of every method on every set, with the bounds as lines; to their left, scenes with their label maps.

    Args:
        table: with the rows of `table_rows`.
        figure: to fill.
        sets: of `SETS`.
        shown: at most four segmenters whose label maps are shown, one scene a set; none leaves the pictures out.
        model: a bundled model.
    """
    methods = [m for m in table.names("method", "mIoU") if m not in (CHANCE, ONE_LABEL, ORACLE)]
    figure.set_size_inches(10, max(3.6, 0.5 + len(sets) * max(0.45 + 0.15 * len(methods), 1.2 if shown else 0)))
    area: Any = figure
    if shown:
        halves: Any = figure.subfigures(1, 2, width_ratios=[1.1, 1])
        pictures, area = halves
        _draw_scenes(pictures, shown, sets, model)
    axes = np.atleast_1d(area.subplots(len(sets), 1, sharex=True))
    for ax, name in zip(axes, sets, strict=True):
        values = [100 * table.values("mIoU", method, name) for method in methods]
        ax.barh(methods, [v.mean() for v in values], xerr=[v.std() for v in values], color="C0", alpha=0.8, height=0.65)
        for bound, style in ((CHANCE, ":"), (ONE_LABEL, "--"), (ORACLE, "-")):
            ax.axvline(100 * table.mean("mIoU", bound, name), color="0.3", linestyle=style, linewidth=1, label=bound)
        ax.invert_yaxis()
        ax.set_title(name, fontsize=9, loc="left")
        ax.tick_params(labelsize=7)
        ax.grid(axis="y", visible=False)
    axes[-1].set_xlabel("mIoU (%); bars: mean and deviation over seeds", fontsize=8)
    handles, labels = axes[0].get_legend_handles_labels()
    area.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=7)


def _draw_scenes(figure: Any, shown: Asked, sets: Sequence[str], model: str) -> None:
    wanted = dict(shown) if isinstance(shown, Mapping) else {each: each for each in shown}
    segmenters = [
        segmenter_of(bundled(model), parts_of(of) if isinstance(of, str) else of) for of in list(wanted.values())[:4]
    ]
    axes = figure.subplots(len(sets), 2 + len(segmenters), squeeze=False)
    for row, name in zip(axes, sets, strict=True):
        data = scene_set(name, SHOWN_SEED)
        sample = next(iter(data))
        with one_thread():
            found = segment_all(segmenters, sample.image, list(data.classes))
        true = Segmentation(tuple(data.classes), sample.labels.int(), found[0].scores, sample.image)
        maps = [each.overlay(legend=False) for each in (true, *found)]
        for ax, picture in zip(row, (sample.image, *maps), strict=True):
            ax.imshow(np.asarray(picture))
            bare(ax, frame=False)
        row[0].set_ylabel(name, fontsize=7)
    for ax, title in zip(axes[0], ("scene", "truth", *list(wanted)[:4]), strict=True):
        ax.set_title(title, fontsize=8)


def draw_grounds(
    figure: Figure,
    table: Table,
    shown: Mapping[str, tuple[str | Parts, Sequence[str]]],
    sets: Sequence[str],
    methods: tuple[Sequence[str], Sequence[str]],
    *,
    n: int = SCENES,
    height: float = 4.2,
    ratios: tuple[float, float] = (1.2, 1),
) -> None:
    """Scenes with label maps above; below bars with the ground left out, and with the ground a class.

    Args:
        figure: to fill.
        table: with rows of both metrics.
        shown: as in `draw_small`.
        sets: whose first scene is shown.
        methods: of the two rows of bars.
        n: number of scenes of the sets.
        height: of the figure in inches.
        ratios: of the heights above and below.
    """
    figure.set_size_inches(7.6, height)
    halves: Any = figure.subfigures(2, 1, height_ratios=list(ratios))
    above, below = halves
    draw_small(above, shown, sets, n=n)
    left, right = below.subplots(1, 2)
    draw_bars(left, table, "mIoU", methods[0], "ground left out")
    draw_bounds(left, table)
    below.legend(fontsize=6, loc="outside lower left", ncols=3)
    draw_bars(right, table, GROUND_METRIC, methods[1], "ground a class")


def draw_small(
    figure: Any,
    shown: Mapping[str, tuple[str | Parts, Sequence[str]]],
    sets: Sequence[str],
    *,
    n: int = SCENES,
    model: str = "small",
) -> None:
    """Small overlays of the first scene of some sets, for figures of a study's own.

    Args:
        figure: to fill.
        shown: title -> a segmenter, and words for the ground, none where it is no class.
        sets: one a row.
        n: number of scenes of the sets.
        model: a bundled model.
    """
    axes = figure.subplots(len(sets), 1 + len(shown), squeeze=False)
    for row, name in zip(axes, sets, strict=True):
        data = scene_set(name, 0, n)
        sample = next(iter(data))
        pictures = [sample.image]
        with one_thread():
            for of, words in shown.values():
                made = segmenter_of(bundled(model), parts_of(of) if isinstance(of, str) else of, words)
                pictures.append(made(sample.image, list(data.classes)).overlay(legend=False))
        for ax, picture in zip(row, pictures, strict=True):
            ax.imshow(np.asarray(picture.resize((100, 100))))
            bare(ax, frame=False)
        row[0].set_ylabel(name, fontsize=7)
    for ax, title in zip(axes[0], ("scene", *shown), strict=True):
        ax.set_title(title, fontsize=7)


def draw_bars(
    ax: Any, table: Table, metric: str, methods: Sequence[str], title: str, sets: Sequence[str] = SETS
) -> None:
    """Bars of the mean over sets, on a matplotlib axis."""
    values = [100 * np.mean([table.values(metric, method, name) for name in sets], axis=0) for method in methods]
    ax.barh(methods, [v.mean() for v in values], xerr=[v.std() for v in values], color="C0", alpha=0.8, height=0.65)
    ax.invert_yaxis()
    ax.set_xlabel("mIoU (%), mean of sets ± seeds", fontsize=7)
    ax.set_title(title, fontsize=9, loc="left")
    ax.tick_params(labelsize=7)


def draw_bounds(ax: Any, table: Table, sets: Sequence[str] = SETS) -> None:
    """Lines of the bounds, over sets and seeds."""
    for bound, style in ((CHANCE, ":"), (ONE_LABEL, "--"), (ORACLE, "-")):
        ax.axvline(100 * mean_miou(table, bound, sets), color="0.3", linestyle=style, linewidth=1, label=bound)
