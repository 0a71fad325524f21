"""Does clipping by tensor remove a spike in one tensor without shrinking the others?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from binderclip.optim import AdaGC, Clip, NormClip
from binderclip.studies.harness import Criterion, Figure, Pilot, Row, Table, declared_study, value_of
from binderclip.studies.protocols.training import spike_clip
from binderclip.studies.protocols.training.spike import SETTINGS, SpikeRun, draw_losses, train

METHODS: dict[str, Callable[[], Clip] | None] = {
    "none": None,
    "global norm 1": lambda: NormClip(1.0),
    "AdaGC 1.05": lambda: AdaGC(1.05),
    "AdaGC 1.5": lambda: AdaGC(1.5),
}
DIGITS, ADAMW, CLIP = "digits, SGD", "digits, AdamW", spike_clip.SETTING
OPTIMIZERS: dict[str, Callable[[Iterable[Tensor]], torch.optim.Optimizer]] = {
    DIGITS: SETTINGS["SGD"],
    ADAMW: lambda params: torch.optim.AdamW(params, lr=3e-3),
}
OTHERS, CLEAN = "scale of the other tensors at disturbed steps", "scale of all tensors at clean steps"
LOSS = "training loss"
SPOILT = 2
"""Place of the middle weight matrix among the parameters."""


@lru_cache(maxsize=32)
def run(method: str, seed: int, setting: str = ADAMW) -> SpikeRun:
    """One training on digits with the middle matrix's gradient spoilt at the disturbed steps."""
    make = METHODS[method]
    return train(seed, OPTIMIZERS[setting], None if make is None else make(), spoil="tensor")


def run_clip(method: str, seed: int) -> SpikeRun:
    """The same on the small CLIP, where the spoilt tensor is a matrix of the block's MLP."""
    return spike_clip.run({"global norm 1": "norm 1"}.get(method, method), seed, "tensor")


def measure(seed: int) -> list[Row]:
    """Losses, and what clipping did to the tensors that nothing was wrong with."""
    rows = []
    for setting in OPTIMIZERS:
        for method in METHODS:
            rows += _rows(run(method, seed, setting), method, SPOILT, setting)
    for method in METHODS:
        rows += _rows(run_clip(method, seed), method, spike_clip.spoilt_place(), CLIP)
    whole = spike_clip.run(spike_clip.UNDISTURBED, seed)
    rows.append(Row(LOSS, spike_clip.UNDISTURBED, whole.final, CLIP))
    return rows


def _rows(found: SpikeRun, method: str, spoilt: int, setting: str) -> list[Row]:
    others = np.delete(found.scales[list(found.disturbed)], spoilt, axis=1)
    return [
        Row(LOSS, method, found.final, setting),
        Row("validation loss", method, found.validation, setting),
        Row(OTHERS, method, float(others.mean()), setting),
        Row(CLEAN, method, float(found.scales[found.clean].mean()), setting),
    ]


def _criteria() -> Iterator[Criterion]:
    """The same two of every setting, for either multiple; the published one decides, where the design can."""
    spreads = {(OTHERS, ADAMW): 0.278, (OTHERS, CLIP): 0.15, (LOSS, CLIP): 0.0135}
    for setting in (ADAMW, CLIP, DIGITS):
        for method in ("AdaGC 1.05", "AdaGC 1.5"):
            multiple, published = method.removeprefix("AdaGC "), method == "AdaGC 1.05"
            for metric, text, bound, expected, lower in (
                (OTHERS, "healthy tensors keep twice global clipping's scale", math.log(2), math.log(4), False),
                (LOSS, "the final training loss is at most 1.05 of global clipping's", math.log(1.05), 0.05, True),
            ):
                spread = spreads.get((metric, setting))
                yield Criterion.paired(
                    f"{setting}, {multiple}: {text} (logarithm of the ratio)",
                    value_of(metric, method, setting).log_over(value_of(metric, "global norm 1", setting)),
                    bound,
                    lower=lower,
                    expected=expected,
                    pilot=None if spread is None else Pilot(spread, (0, 1, 2)),
                    essential=published and spread is not None,
                )


def draw(table: Table, figure: Figure) -> None:
    """Scales of the undamaged tensors and the losses; digits above, the small CLIP below."""
    figure.set_size_inches(10, 6.8)
    names = list(METHODS)
    axes = figure.subplots(2, 2)
    for (left, right), setting in zip(axes, (ADAMW, CLIP), strict=True):
        for number, metric in enumerate((OTHERS, CLEAN)):
            values = [table.mean(metric, name, setting) for name in names]
            left.bar(np.arange(len(names)) + 0.4 * number - 0.2, values, 0.38, label=metric, color=f"C{number}")
        left.set_xticks(range(len(names)), names, fontsize=8)
        left.set(ylabel="mean factor", ylim=(0, 1.35), title=f"What clipping does to healthy gradients, {setting}")
        runs = {name: run(name, 0) if setting == ADAMW else run_clip(name, 0) for name in names}
        if setting == CLIP:
            runs[spike_clip.UNDISTURBED] = spike_clip.run(spike_clip.UNDISTURBED, 0)
        draw_losses(right, runs, f"Training loss, {setting}, seed 0", over=10 if setting == ADAMW else 3)
        right.legend(fontsize=7)
    axes[1, 1].set(yscale="linear", ylim=(0, None))
    axes[0, 0].legend(fontsize=7, loc="upper center")


STUDY = declared_study(
    __name__, measure, criteria=tuple(_criteria()), draw=draw, seeds=range(20, 30), registered="6016015e8a9d"
)
