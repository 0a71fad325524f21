"""Does clipping by tensor remove a spike in one tensor without shrinking the others?"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from binderclip.optim import AdaGC, Clip, NormClip
from binderclip.studies.spike import GUESSING, SETTINGS, SPIKES, SpikeRun, draw_losses, train
from binderclip.studies.study import Criterion, Row, Study, Table
from binderclip.studies.threads import one_thread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS: dict[str, Callable[[], Clip] | None] = {
    "none": None,
    "global norm 1": lambda: NormClip(1.0),
    "AdaGC 1.05": lambda: AdaGC(1.05),
    "AdaGC 1.5": lambda: AdaGC(1.5),
}
SPOILT = 2
"""Place of the middle weight matrix among the parameters."""


@lru_cache(maxsize=32)
def run(method: str, seed: int) -> SpikeRun:
    """One training with the middle matrix's gradient spoilt at the disturbed steps."""
    make = METHODS[method]
    with one_thread():
        return train(seed, SETTINGS["SGD"], None if make is None else make(), spoil="tensor")


def measure(seed: int) -> list[Row]:
    """Losses, and what clipping did to the tensors that nothing was wrong with."""
    rows = []
    for method in METHODS:
        found = run(method, seed)
        others = np.delete(found.scales[list(SPIKES)], SPOILT, axis=1)
        rows += [
            Row("training loss", method, found.final),
            Row("validation loss", method, found.validation),
            Row("scale of the other tensors at disturbed steps", method, float(others.mean())),
            Row("scale of all tensors at clean steps", method, float(found.scales[found.clean].mean())),
        ]
    return rows


def _confined(method: str) -> Callable[[Table], tuple[bool, str]]:
    def test(table: Table) -> tuple[bool, str]:
        ours, whole = (
            table.values("scale of the other tensors at disturbed steps", name) for name in (method, "global norm 1")
        )
        least = (ours / whole).min()
        return bool(least >= 8), f"{ours.mean():.3f} against {whole.mean():.3f}; in the worst seed {least:.1f} times"

    return test


def _no_worse(method: str) -> Callable[[Table], tuple[bool, str]]:
    def test(table: Table) -> tuple[bool, str]:
        ours, whole, none = (table.mean("training loss", name) for name in (method, "global norm 1", "none"))
        return ours <= 1.05 * whole, f"{ours:.4f} against {whole:.4f} (none {none:.4f})"

    return test


def draw(table: Table, figure: Figure) -> None:
    """Scales of the undamaged tensors and the losses."""
    left, right = figure.subplots(1, 2)
    names = list(METHODS)
    for number, metric in enumerate(
        ("scale of the other tensors at disturbed steps", "scale of all tensors at clean steps")
    ):
        values = [table.mean(metric, name) for name in names]
        left.bar(np.arange(len(names)) + 0.4 * number - 0.2, values, 0.38, label=metric, color=f"C{number}")
    left.set_xticks(range(len(names)), names, fontsize=8)
    left.set(ylabel="mean factor", ylim=(0, 1.35), title="What clipping does to healthy gradients")
    left.legend(fontsize=7, loc="upper center")
    draw_losses(right, {name: run(name, 0) for name in names}, "Seed 0")
    right.legend(fontsize=7)


STUDY = Study(
    paper="p004",
    claim="Clipping every tensor relative to its own past norms removes a spike that is confined to one tensor "
    "without shrinking the others, as global clipping does.",
    protocol="The perceptron of the spike study (digits, SGD with momentum .9 at .05, 600 steps); at steps 150, 225, "
    "..., 525 the gradient of the middle weight matrix alone becomes 100 times itself plus noise of deviation .05. "
    "AdaGC with its published settings, and with 1.5 in place of 1.05.",
    baseline="No clipping, and the whole gradient clipped to norm 1.",
    lower_bound=GUESSING,
    upper_bound="A scale of 1: healthy tensors untouched.",
    measure=measure,
    criteria=(
        Criterion("1.05: healthy tensors keep at least 8 times global clipping's scale", _confined("AdaGC 1.05"), True),
        Criterion("1.05: the final training loss is at most 1.05 of global clipping's", _no_worse("AdaGC 1.05"), True),
        Criterion("1.5: healthy tensors keep at least 8 times global clipping's scale", _confined("AdaGC 1.5")),
        Criterion("1.5: the final training loss is at most 1.05 of global clipping's", _no_worse("AdaGC 1.5")),
    ),
    draw=draw,
    stand_in=(
        "a perceptron on 8 x 8 digits instead of language models and CLIP ViT-B",
        "an injected spike instead of one that arises by itself",
        "SGD instead of AdamW",
    ),
)
