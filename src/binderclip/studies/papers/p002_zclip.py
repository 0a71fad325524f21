"""Does ZClip remove loss spikes and train better than a fixed clipping norm?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from binderclip.studies.harness.criteria import Criterion
from binderclip.studies.harness.power import Pilot
from binderclip.studies.harness.quantities import combined, value_of
from binderclip.studies.harness.study import Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.protocols.training import spike, spike_clip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PILOT = (0, 1, 2)
FIXED = ("norm 1", "norm 0.1")
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


STUDY = Study(
    paper="p002",
    claim="Clipping gradient norms that are outliers among recent ones removes loss spikes, touches few ordinary steps "
    "and ends at a lower loss than a fixed clipping norm.",
    protocol="The shared spike study: scikit-learn's digits, a perceptron 64-64-64-10, batch 32, 600 steps, SGD with "
    "momentum .9 at .05 (and Adam at .003); at steps 150, 225, ..., 525 the batch's labels are shuffled and its loss "
    "is multiplied by 30. ZClip without its constant cap. A loss spike is a loss above .5 and above the running median "
    "by 8 (median deviations + .001). " + spike_clip.PROTOCOL + " The spreads are those of the first measurement.",
    baseline="No clipping; norms fixed at 1 and .1; the other clippers with the same runs.",
    lower_bound=spike.GUESSING + " " + spike_clip.GUESSING,
    upper_bound="Small CLIP: the run that nothing disturbed.",
    measure=measure,
    criteria=(
        Criterion.below(
            "fewer than two loss spikes a run (SGD)",
            value_of("loss spikes", "ZClip", "SGD"),
            2.0,
            expected=1.0,
            pilot=Pilot(0.0, PILOT),
            essential=True,
        ),
        Criterion.below(
            "a lower final training loss than the better fixed norm (SGD; logarithm of the ratio)",
            value_of("training loss", "ZClip", "SGD").log_over(
                combined("least", *(value_of("training loss", name, "SGD") for name in FIXED))
            ),
            0.0,
            expected=0.5,
            pilot=Pilot(0.0396, PILOT),
            essential=True,
        ),
        Criterion.below(
            "small CLIP: the final training loss is at most 1 % above the undisturbed run's (logarithm of the ratio)",
            value_of("training loss", "ZClip", spike_clip.SETTING).log_over(
                value_of("training loss", spike_clip.UNDISTURBED, spike_clip.SETTING)
            ),
            math.log(1.01),
            expected=0.009,
            pilot=Pilot(0.0027, PILOT),
            essential=True,
        ),
        *spike_clip.recovery({"ZClip": 0.0019}),
        *(
            Criterion.below(
                f"fewer than 15 % of the clean steps are clipped ({setting})",
                value_of("clean steps clipped", "ZClip", setting),
                0.15,
            )
            for setting in ("SGD", spike_clip.SETTING)
        ),
    ),
    rival=Criterion.below(
        "small CLIP: a lower final training loss than with norms fixed at 1 (logarithm of the ratio)",
        value_of("training loss", "ZClip", spike_clip.SETTING).log_over(
            value_of("training loss", "norm 1", spike_clip.SETTING)
        ),
        0.0,
    ),
    draw=draw,
    seeds=tuple(range(10, 18)),
    one_thread=True,
    registered="c5b74381f3f3",
    stand_in=(
        "a perceptron on 8 x 8 digits, and the last block of a small CLIP, instead of language models of a billion "
        "parameters",
        "injected disturbances instead of spikes that arise by themselves",
    ),
)
