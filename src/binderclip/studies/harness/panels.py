"""Panels of a study's figure, most of them one matplotlib axis: lines, dots, bars, pictures, label maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.studies.harness.check import Check
from binderclip.studies.harness.power import t_interval
from binderclip.studies.harness.table import Table

if TYPE_CHECKING:
    import matplotlib.figure
    from PIL.Image import Image

Figure: TypeAlias = "matplotlib.figure.Figure"
"""What studies draw on, by its name alone: matplotlib is loaded when something is drawn."""


NAME = 18
"""Characters of a line of a method's name under a panel."""


def effects(figure: Figure, checks: Sequence[Check]) -> None:
    """A forest plot: the effect of each essential part, and of the method against its rival, with its 95 % interval.

    They measure different things, so each has its own axis; what has no interval is left out.

    Args:
        figure: its axes are made here.
        checks: after the measurement.

    Raises:
        UsageError: no condition has an interval.
    """
    judged = [check for check in checks if check.role == "rival" or (check.role == "criterion" and check.essential)]
    shown = [
        (check, check.effect, check.low, check.high)
        for check in judged
        if check.effect is not None and check.low is not None and check.high is not None
    ]
    if not shown:
        raise UsageError("no essential part has an interval: give the study a `draw` of its own")
    axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
    for ax, (check, effect, low, high) in zip(axes, shown, strict=True):
        colour = "C0" if check.role == "criterion" else "C7"
        ax.axvline(0, color="0.3", lw=1, ls=":")
        ax.errorbar([effect], [0], xerr=[[effect - low], [high - effect]], marker="s", capsize=3, color=colour)
        ax.set(yticks=[], ylim=(-1, 1))
        ax.set_title(f"{check.text}: {check.word}", fontsize=8, loc="left")
        ax.tick_params(labelsize=7)


def lines(
    ax: Any, table: Table, metric: str, settings: Sequence[str], x: Sequence[float], methods: Sequence[str]
) -> None:
    """One line a method with a band of one standard deviation over seeds."""
    for number, method in enumerate(methods):
        values = np.stack([table.values(metric, method, setting) for setting in settings])
        mean, deviation = values.mean(axis=1), values.std(axis=1)
        ax.plot(x, mean, marker="o", markersize=4, label=method, color=f"C{number}")
        ax.fill_between(x, mean - deviation, mean + deviation, alpha=0.15, color=f"C{number}", linewidth=0)


def bars(ax: Any, table: Table, metrics: Sequence[str], methods: Sequence[str], setting: str = "") -> None:
    """A group of bars a metric, one bar a method with the standard deviation over seeds."""
    width = 0.8 / len(methods)
    for number, method in enumerate(methods):
        values = [table.values(metric, method, setting) for metric in metrics]
        place = np.arange(len(metrics)) + width * (number - (len(methods) - 1) / 2)
        errors = [v.std() for v in values]
        means = [v.mean() for v in values]
        ax.bar(place, means, 0.92 * width, yerr=errors, label=method, color=f"C{number}", error_kw={"lw": 1})
    ax.set_xticks(range(len(metrics)), metrics)


def dots(ax: Any, table: Table, metric: str, methods: Sequence[str], setting: str = "") -> None:
    """One dot a seed for each method, and the mean with its 95 % interval beside them."""
    for number, method in enumerate(methods):
        values = table.values(metric, method, setting)
        ax.plot(np.full(len(values), number), values, "o", markersize=4, alpha=0.5, color=f"C{number}")
        found = t_interval(values)
        half = found.high - found.effect if len(values) > 1 else 0.0
        ax.errorbar(
            [number + 0.2], [found.effect], yerr=[half], marker="s", markersize=5, color=f"C{number}", capsize=3
        )
    ax.set_xticks(range(len(methods)), methods)
    ax.set_xlim(-0.5, len(methods) - 0.3)


def dot_panels(
    *shown: tuple[str, Sequence[str]] | tuple[str, Sequence[str], str],
    widths: Sequence[float] | None = None,
    rotation: float = 60,
    size: float = 9,
    ticks: float = 7,
    wrap: int | None = None,
) -> Callable[[Table, Figure], None]:
    """A study's `draw` of one panel beside the other, each with the dots of one metric.

    Args:
        shown: metric, methods, and the setting where there is one.
        widths: of the panels, relative; default equal.
        rotation: of the methods' names, in degrees.
        size: of the titles, in points.
        ticks: of the methods' names, in points.
        wrap: characters of a title's line; default as many as a panel is wide.
    """
    relative = widths or [1.0] * len(shown)
    metrics = [metric for metric, *_ in shown]
    titles = [  # of several panels of one metric each says its setting
        ", ".join([metric, *setting]) if metrics.count(metric) > 1 else metric for metric, _, *setting in shown
    ]
    # A figure is 720 points wide, of which titles may have nine tenths, and a bold character .65 of its size.
    characters = [int(720 * 0.9 * width / sum(relative) / (0.65 * size)) for width in relative]

    def draw(table: Table, figure: Figure) -> None:
        axes: Any = figure.subplots(1, len(shown), squeeze=False, width_ratios=widths)
        for ax, (metric, methods, *setting), title, line in zip(axes[0], shown, titles, characters, strict=True):
            dots(ax, table, metric, methods, *setting)
            ax.set_title(fill(title, wrap or max(10, line)), fontsize=size)
            ax.set_xticks(range(len(methods)), [fill(method, NAME) for method in methods])
            ax.tick_params(axis="x", labelrotation=rotation, labelsize=ticks)

    return draw


def bare(ax: Any, *, frame: bool = True) -> None:
    """Nothing but the picture on an axis: no ticks and no grid, and no frame either where it is not wanted."""
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    if not frame:
        ax.spines[:].set_visible(False)


def pictures(axes: Sequence[Any], images: Sequence[Tensor | np.ndarray | Image], titles: Sequence[str] = ()) -> None:
    """One picture an axis, without ticks.

    Args:
        axes: as many as pictures.
        images: (3, H, W) or (1, H, W) tensors in [0, 1], or (H, W) and (H, W, 3) arrays, or PIL images.
        titles: over the pictures; empty for none.
    """
    for number, (ax, image) in enumerate(zip(axes, images, strict=True)):
        array = image.detach().numpy() if isinstance(image, Tensor) else np.asarray(image)
        if array.ndim == 3 and array.shape[0] in (1, 3):
            array = array.transpose(1, 2, 0).squeeze(-1) if array.shape[0] == 1 else array.transpose(1, 2, 0)
        ax.imshow(array, cmap="gray" if array.ndim == 2 else None)
        ax.set_title(titles[number] if titles else "")
        bare(ax)


def segmentations(
    figure: Any, images: Float[Tensor, "N 3 H W"], maps: Mapping[str, Int[Tensor, "N H W"]], *, classes: int
) -> None:
    """A row for each picture, with its label maps beside it, one colour a class.

    Args:
        figure: a figure or a part of one; its axes are made here.
        images: in [0, 1].
        maps: title -> labels from 0; -1 for pixels that do not count.
        classes: how many there are.
    """
    for row, axes in enumerate(figure.subplots(len(images), 1 + len(maps), squeeze=False)):
        axes[0].imshow(images[row].permute(1, 2, 0))
        for ax, (name, labels) in zip(axes[1:], maps.items(), strict=True):
            ax.imshow(labels[row], cmap="tab20", vmin=-1, vmax=classes - 1, interpolation="nearest")
            ax.set_title(name if row == 0 else "", fontsize=6)
        for ax in axes:
            bare(ax)
