"""Does ZClip remove loss spikes and train better than a fixed clipping norm?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from binderclip.studies import spike
from binderclip.studies.study import Criterion, Row, Study, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIXED = ("norm 1", "norm 0.1")
ALL = tuple(name for name in spike.CLIPPERS if name not in ("norm 0.01", "norm 10"))


def measure(seed: int) -> list[Row]:
    """The shared table: every clipper, in both settings."""
    return spike.spike_rows(ALL, spike.SETTINGS, seed)


def _no_spikes(table: Table) -> tuple[bool, str]:
    ours, none = (table.values("loss spikes", name, "SGD") for name in ("ZClip", "none"))
    return bool(ours.max() <= 1), f"at most {ours.max():.0f} a run; without clipping {none.min():.0f} or more"


def _lower_loss(table: Table) -> tuple[bool, str]:
    ours = table.values("training loss", "ZClip", "SGD")
    others = np.stack([table.values("training loss", name, "SGD") for name in FIXED])
    won = int((ours < others.min(0)).sum())
    means = ", ".join(f"{name} {row.mean():.4f}" for name, row in zip(FIXED, others, strict=True))
    return 3 * won >= 2 * len(ours), f"in {won} of {len(ours)} seeds; ZClip {ours.mean():.4f}, {means}"


def _rarely(table: Table) -> tuple[bool, str]:
    share = table.mean("clean steps clipped", "ZClip", "SGD")
    return (
        share < 0.15,
        f"{100 * share:.1f} % (norm 1: {100 * table.mean('clean steps clipped', 'norm 1', 'SGD'):.1f} %)",
    )


def draw(table: Table, figure: Figure) -> None:
    """Losses over one run, and all clippers side by side."""
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.3, 1, 1])
    shown = ("none", "norm 1", "norm 0.1", "ZClip")
    spike.draw_losses(left, {name: spike.run(name, "SGD", 0) for name in shown}, "SGD, seed 0")
    left.legend(fontsize=7)
    heights = np.arange(len(ALL))[::-1]
    for number, setting in enumerate(spike.SETTINGS):
        shift = 0.15 - 0.3 * number
        for ax, metric in ((middle, "training loss"), (right, "validation loss")):
            values = [table.values(metric, name, setting) for name in ALL]
            ax.plot(
                [v.mean() for v in values], heights + shift, "o", markersize=4, label=setting, color=f"C{number + 4}"
            )
            for height, row in zip(heights, values, strict=True):
                ax.plot([row.min(), row.max()], [height + shift] * 2, color=f"C{number + 4}", linewidth=1)
    for ax, title in ((middle, "training loss, last 50 steps"), (right, "validation loss")):
        ax.set(xscale="log", title=title)
        ax.set_yticks(heights, ALL, fontsize=7)
        ax.grid(axis="y", color="0.9", linewidth=0.6)
        ax.tick_params(axis="x", which="both", labelsize=7)
    right.set_xticks([0.3, 0.5, 1.0, 2.0], ["0.3", "0.5", "1", "2"])
    right.set_xticks([], minor=True)
    middle.legend(fontsize=7)


STUDY = Study(
    paper="p002",
    claim="Clipping gradient norms that are outliers among recent ones removes loss spikes, touches few ordinary steps "
    "and ends at a lower loss than a fixed clipping norm.",
    protocol="The shared spike study: scikit-learn's digits, a perceptron 64-64-64-10, batch 32, 600 steps, SGD with "
    "momentum .9 at .05 (and Adam at .003); at steps 150, 225, ..., 525 the batch's labels are shuffled and its loss "
    "is multiplied by 30. ZClip without its constant cap. A loss spike is a loss above .5 and above the running median "
    "by 8 (median deviations + .001).",
    baseline="No clipping; norms fixed at 1 and .1; the other clippers with the same runs.",
    lower_bound=spike.GUESSING,
    upper_bound="",
    measure=measure,
    criteria=(
        Criterion("at most one loss spike a run (SGD)", _no_spikes, essential=True),
        Criterion("a lower final training loss than both fixed norms in two of three seeds (SGD)", _lower_loss, True),
        Criterion("fewer than 15 % of the clean steps are clipped (SGD)", _rarely),
    ),
    draw=draw,
    stand_in=(
        "a perceptron on 8 x 8 digits instead of language models of a billion parameters",
        "injected disturbances instead of spikes that arise by themselves",
    ),
)
