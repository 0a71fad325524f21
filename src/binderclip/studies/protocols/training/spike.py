"""The spike study: training that is disturbed at known steps, once for every clipping method.

scikit-learn's digits and a small perceptron, 600 steps. At every 75th step from 150 on, the labels of that batch are
shuffled and its loss is multiplied by 30 (or, for `spoil="tensor"`, the gradient of one weight matrix is made huge).
Runs are cached, so that the studies of several papers share them. The second setting, the small CLIP, is `spike_clip`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.optim import AGC, AdaGC, AutoClip, Clip, CoordinateClip, NormClip, ZClip
from binderclip.studies.harness.table import Row
from binderclip.studies.harness.threads import one_thread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "CLIPPERS",
    "GUESSING",
    "SETTINGS",
    "SPIKES",
    "SpikeRun",
    "digits",
    "draw_losses",
    "perceptron",
    "run",
    "spike_rows",
    "train",
    "what_was_done",
]

STEPS, BATCH, TRAIN = 600, 32, 1400
SPIKES = tuple(range(150, 526, 75))
"""The disturbed steps, counted from 0."""
FACTOR = 30.0
GUESSING = "Guessing: a loss of 2.30."
"""The lower bound of every study on digits."""
SETTINGS: dict[str, Callable[[Iterable[Tensor]], torch.optim.Optimizer]] = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
    "Adam": lambda params: torch.optim.Adam(params, lr=3e-3),
}
CLIPPERS: dict[str, Callable[[], Clip] | None] = {
    "none": None,
    "norm 0.01": lambda: NormClip(0.01),
    "norm 0.1": lambda: NormClip(0.1),
    "norm 1": lambda: NormClip(1.0),
    "norm 10": lambda: NormClip(10.0),
    "ZClip": lambda: ZClip(max_grad_norm=None),
    "AutoClip 10": lambda: AutoClip(10),
    "AutoClip 50": lambda: AutoClip(50),
    "AdaGC 1.05": lambda: AdaGC(1.05),
    "AdaGC 1.5": lambda: AdaGC(1.5),
    "AGC 0.01": lambda: AGC(0.01),
    "AGC 0.05": lambda: AGC(0.05),
    "coordinate 10 %": lambda: CoordinateClip(0.1),
}


@dataclass(frozen=True)
class SpikeRun:
    """What one disturbed training did.

    Attributes:
        losses: (steps,) of each batch with its true labels, before the step.
        validation: loss on the pictures that were held out.
        norms: (steps,) of the gradient before clipping; NaN without a clip.
        clipped: (steps,) share of blocks that exceeded their limit.
        scales: (steps, tensors) factor of each tensor, the mean over its blocks.
        disturbed: the steps that were, counted from 0.
        tail: how many steps at the end count for the final loss.
    """

    losses: np.ndarray
    validation: float
    norms: np.ndarray
    clipped: np.ndarray
    scales: np.ndarray
    disturbed: tuple[int, ...] = ()
    tail: int = 50

    @property
    def clean(self) -> np.ndarray:
        """Which steps were not disturbed."""
        return ~np.isin(np.arange(len(self.losses)), self.disturbed)

    @property
    def final(self) -> float:
        """Mean training loss of the last steps."""
        return float(self.losses[-self.tail :].mean())

    @property
    def spikes(self) -> int:
        """Steps whose loss exceeds .5 and the running median of 50 steps by 8 (median deviations + .001)."""
        found = 0
        for step in range(50, len(self.losses)):
            past = self.losses[step - 50 : step]
            middle = np.median(past)
            spread = np.median(np.abs(past - middle)) + 1e-3
            found += self.losses[step] > max(0.5, middle + 8 * spread)
        return int(found)


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training pictures and labels, validation pictures and labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.data / 8 - 1, dtype=torch.float32)
    y = torch.tensor(data.target, dtype=torch.int64)
    return x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:]


def perceptron(seed: int) -> nn.Sequential:
    """64-64-64-10 with ReLU, torch's initial weights of this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def train(
    seed: int,
    optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer],
    clip: Clip | None = None,
    *,
    spoil: Literal["batch", "tensor", "nothing"] = "batch",
    after_step: Callable[[nn.Module, Tensor, Tensor], None] | None = None,
) -> SpikeRun:
    """Train once.

    Args:
        seed: of weights, batches and disturbances.
        optimizer: made from the parameters; one that guards itself needs no clip.
        clip: attached to it; None for none.
        spoil: what happens at the disturbed steps: "batch" shuffles labels and multiplies the loss by 30, "tensor"
            replaces the middle weight matrix's gradient by 100 times itself plus noise of deviation .05.
        after_step: called with the model and the batch after every step.
    """
    x, y, held_x, held_y = digits()
    model, generator = perceptron(seed), torch.Generator().manual_seed(seed)
    stepper = optimizer(model.parameters())
    if clip is not None:
        clip.attach(stepper, model.named_parameters())
    losses, order = [], torch.zeros(0, dtype=torch.int64)
    seen: list[tuple[float, float, list[float]]] = []
    for step in range(STEPS):
        if len(order) < BATCH:
            order = torch.randperm(TRAIN, generator=generator)
        batch, order = order[:BATCH], order[BATCH:]
        logits, labels = model(x[batch]), y[batch]
        losses.append(float(F.cross_entropy(logits.detach(), labels)))
        disturbed = step in SPIKES and spoil != "nothing"
        stepper.zero_grad()
        if disturbed and spoil == "batch":
            shuffled = labels[torch.randperm(BATCH, generator=generator)]
            (FACTOR * F.cross_entropy(logits, shuffled)).backward()
        else:
            F.cross_entropy(logits, labels).backward()
        if disturbed and spoil == "tensor":
            grad = model.get_parameter("2.weight").grad
            assert grad is not None
            grad.mul_(100).add_(0.05 * torch.randn(grad.shape, generator=generator))
        stepper.step()
        seen.append(what_was_done(clip, model))
        if after_step is not None:
            after_step(model, x[batch], labels)
    with torch.no_grad():
        validation = float(F.cross_entropy(model(held_x), held_y))
    norms, clipped, scales = (np.array(part) for part in zip(*seen, strict=True))
    disturbed_steps = () if spoil == "nothing" else SPIKES
    return SpikeRun(np.array(losses), validation, norms, clipped, scales, disturbed_steps)


def what_was_done(clip: Clip | None, model: nn.Module) -> tuple[float, float, list[float]]:
    """Norm, share of clipped blocks and factor of each tensor at this step."""
    params = dict(model.named_parameters())
    if clip is None or clip.report is None:
        return float("nan"), 0.0, [1.0] * len(params)
    report = clip.report
    names = report.names
    if len(report.scale) == 1:
        scales = report.scale.expand(len(names))
    elif len(report.scale) == len(names):
        scales = report.scale
    else:
        # units, which follow each other tensor by tensor: rows of a matrix, one for a vector
        sizes = [len(params[name]) if params[name].ndim > 1 else 1 for name in names]
        scales = torch.stack([part.mean() for part in report.scale.split(sizes)])
    known = dict(zip(names, scales.tolist(), strict=True))
    return float(report.norm), float(report.clipped.float().mean()), [known.get(name, 1.0) for name in params]


@lru_cache(maxsize=256)
def run(clipper: str, setting: str, seed: int) -> SpikeRun:
    """The cached run of one of `CLIPPERS` in one of `SETTINGS`."""
    make = CLIPPERS[clipper]
    with one_thread():
        return train(seed, SETTINGS[setting], None if make is None else make())


def spike_rows(clippers: Iterable[str], settings: Iterable[str], seed: int) -> list[Row]:
    """The rows of the shared table: loss spikes, losses, and what was done to undisturbed steps."""
    rows = []
    for setting in settings:
        for name in clippers:
            found = run(name, setting, seed)
            rows += [
                Row("loss spikes", name, found.spikes, setting),
                Row("training loss", name, found.final, setting),
                Row("validation loss", name, found.validation, setting),
                Row("clean steps clipped", name, float(found.clipped[found.clean].mean()), setting),
                Row("mean scale of clean steps", name, float(found.scales[found.clean].mean()), setting),
            ]
    return rows


def draw_losses(ax: Axes, runs: Mapping[str, SpikeRun], title: str, *, over: int = 10) -> None:
    """Training losses over the steps, smoothed, with the disturbed steps in grey.

    Args:
        ax: where to draw.
        runs: by their names in the legend.
        title: above the axes.
        over: how many steps are averaged.
    """
    for number, (name, found) in enumerate(runs.items()):
        smooth = np.convolve(found.losses, np.ones(over) / over, "valid")
        ax.plot(np.arange(over - 1, len(found.losses)), smooth, label=name, color=f"C{number}", linewidth=1)
    for step in {step for found in runs.values() for step in found.disturbed}:
        ax.axvline(step, color="0.85", linewidth=0.8, zorder=0)
    ax.set(yscale="log", xlabel="step (grey: disturbed)", ylabel=f"training loss, mean of {over}", title=title)
