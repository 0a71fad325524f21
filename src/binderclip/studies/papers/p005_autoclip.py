"""Does clipping at a percentile of past norms replace the search for a threshold?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.optim import AutoClip, Clip
from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.studies.protocols.training import spike, spike_clip

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIXED = ("norm 0.01", "norm 0.1", "norm 1", "norm 10")
OURS = ("AutoClip 10", "AutoClip 50")
FIXED_CLIP = FIXED[1:]
"""On the small CLIP .01 is left out, which would be one more of the limits that every step exceeds."""
SMOOTH_STEPS = 300


def measure(seed: int) -> list[Row]:
    """The rows of the spike study, and the correlation of norm and smoothness in undisturbed training."""
    rows = spike.spike_rows(("none", *FIXED, *OURS), ("SGD",), seed)
    rows += spike_clip.spike_rows((spike_clip.UNDISTURBED, "none", *FIXED_CLIP, *OURS), seed)
    for name, clip in (("none", None), ("AutoClip 10", AutoClip(10))):
        norms, smoothness = smoothness_along(seed, clip)
        value = float(np.corrcoef(norms, smoothness)[0, 1])
        rows.append(Row("correlation of norm and smoothness (information)", name, value, "SGD, undisturbed"))
    return rows


def smoothness_along(seed: int, clip: Clip | None) -> tuple[np.ndarray, np.ndarray]:
    """Gradient norm and ||g(x') - g(x)|| / ||x' - x|| on the same batch, at every step of plain SGD."""
    x, y, _, _ = spike.digits()
    model, generator = spike.perceptron(seed), torch.Generator().manual_seed(seed)
    params = list(model.parameters())
    optimizer = torch.optim.SGD(params, lr=0.05)

    def flat(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([tensor.detach().flatten() for tensor in tensors]).double()

    norms, smoothness = [], []
    for _ in range(SMOOTH_STEPS):
        batch = torch.randint(len(x), (spike.BATCH,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        raw, start = flat([p.grad for p in params if p.grad is not None]), flat(params)
        if clip is not None:
            clip(params)
        optimizer.step()
        after = flat(list(torch.autograd.grad(F.cross_entropy(model(x[batch]), y[batch]), params)))
        norms.append(float(raw.norm()))
        smoothness.append(float((after - raw).norm() / (flat(params) - start).norm()))
    return np.array(norms), np.array(smoothness)


def draw(table: Table, figure: Figure) -> None:
    """Validation loss by method, and the limit that AutoClip chose; digits above, the small CLIP below."""
    figure.set_size_inches(10, 6.8)
    (left, right), (below, under) = figure.subplots(2, 2)
    _validation(left, table, ("none", *FIXED, *OURS), "SGD", "Digits, eight seeds each")
    for name in ("none", *FIXED, *OURS):
        values, spikes = (table.values(metric, name, "SGD") for metric in ("validation loss", "loss spikes"))
        height = (*OURS[::-1], *FIXED[::-1], "none").index(name)
        text = f"{spikes.mean():.0f} spikes"
        left.annotate(text, (values.max(), height), (6, -3), textcoords="offset points", fontsize=7)
    left.set(xscale="log", xlim=(0.2, 4.5))
    left.set_xticks([0.3, 0.5, 1.0, 2.0], ["0.3", "0.5", "1", "2"])
    left.set_xticks([], minor=True)
    names = (spike_clip.UNDISTURBED, "none", *FIXED_CLIP, *OURS)
    _validation(below, table, names, spike_clip.SETTING, "Small CLIP, eight seeds each")
    for ax, found in ((right, spike.run("AutoClip 10", "SGD", 0)), (under, spike_clip.run("AutoClip 10", 0))):
        limits = [np.percentile(found.norms[: step + 1], 10) for step in range(len(found.norms))]
        ax.plot(found.norms, ".", markersize=2 if ax is right else 4, color="0.6", label="gradient norm")
        ax.plot(limits, color="C1", label="10th percentile so far")
        ax.set(yscale="log", xlabel="step")
    right.set_title("The limit chooses itself (digits, seed 0)")
    under.set_title("Small CLIP, seed 0")
    right.legend(fontsize=7)


def _validation(ax: Axes, table: Table, names: Sequence[str], setting: str, title: str) -> None:
    for height, name in enumerate(reversed(names)):
        values = table.values("validation loss", name, setting)
        ax.plot(values, [height] * len(values), "o", markersize=4, color="C1" if name in OURS else "C0")
    ax.set_yticks(range(len(names)), list(reversed(names)), fontsize=8)
    ax.set(xlabel="validation loss", title=title)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), null=None, registered="44fe26681780")
