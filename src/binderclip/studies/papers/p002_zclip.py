"""Does ZClip remove loss spikes and train better than a fixed clipping norm?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.studies.protocols.training import spike, spike_clip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALL = tuple(name for name in spike.CLIPPERS if name not in ("norm 0.01", "norm 10"))
ALL_CLIP = (spike_clip.UNDISTURBED, *spike_clip.CLIPPERS)


def measure(seed: int) -> list[Row]:
    """The shared table: every clipper, on digits with two optimizers and on the small CLIP."""
    return spike.spike_rows(ALL, spike.SETTINGS, seed) + spike_clip.spike_rows(ALL_CLIP, seed)


def draw(table: Table, figure: Figure) -> None:
    """Losses over one run, and all clippers side by side; digits above, the small CLIP below."""
    figure.set_size_inches(10, 7.4)
    (left, middle, right), (below, under, share) = figure.subplots(2, 3, width_ratios=[1.3, 1, 1])
    shown = ("none", "norm 1", "norm 0.1", "ZClip")
    spike.draw_losses(left, {name: spike.run(name, "SGD", 0) for name in shown}, "Digits, SGD, seed 0")
    left.legend(fontsize=7)
    for number, setting in enumerate(spike.SETTINGS):
        look: Any = {"colour": f"C{number + 4}", "shift": 0.15 - 0.3 * number, "label": setting}
        _dots(middle, table, "training loss", ALL, setting, **look)
        _dots(right, table, "validation loss", ALL, setting, **look)
    middle.set(xscale="log", title="Training loss, last 50 steps")
    right.set(xscale="log", title="Validation loss")
    right.set_xticks([0.3, 0.5, 1.0, 2.0], ["0.3", "0.5", "1", "2"])
    right.set_xticks([], minor=True)
    middle.legend(fontsize=7)
    runs = {name: spike_clip.run(name, 0) for name in (*shown, spike_clip.UNDISTURBED)}
    spike.draw_losses(below, runs, "Small CLIP, AdamW, seed 0", over=3)
    below.set(yscale="linear", ylim=(0, None))
    below.legend(fontsize=7)
    _dots(under, table, "loss after a disturbance", ALL_CLIP, spike_clip.SETTING)
    _dots(share, table, "clean steps clipped", ALL_CLIP, spike_clip.SETTING)
    under.set(title="Loss after a disturbance")
    share.set(title="Clean steps clipped", xlabel="share", xlim=(-0.03, 1.03))


def _dots(
    ax: Axes,
    table: Table,
    metric: str,
    names: Sequence[str],
    setting: str,
    *,
    colour: str = "C6",
    shift: float = 0.0,
    label: str | None = None,
) -> None:
    """The mean of each clipper, and its range over seeds."""
    values = [table.values(metric, name, setting) for name in names]
    heights = np.arange(len(names))[::-1]
    ax.plot([v.mean() for v in values], heights + shift, "o", markersize=4, label=label, color=colour)
    for height, row in zip(heights + shift, values, strict=True):
        ax.plot([row.min(), row.max()], [height] * 2, color=colour, linewidth=1)
    ax.set_yticks(heights, names, fontsize=7)
    ax.grid(axis="y", color="0.9", linewidth=0.6)
    ax.tick_params(axis="x", which="both", labelsize=7)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), null=None, registered="c5b74381f3f3")
