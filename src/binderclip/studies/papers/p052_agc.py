"""Does adaptive gradient clipping keep a network without normalisation stable at learning rates where it diverges?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.models.layers.nfnet import NFResNet
from binderclip.optim import AGC, Clip, NormClip
from binderclip.studies.harness import Figure, Row, Table, accuracy, declared_study
from binderclip.studies.protocols.data.clothing import clothing, standardised

RUNS: dict[str, tuple[float, ...]] = {"none": (0.1, 0.3, 1.0), "norm 1.0": (0.3,), "AGC .01": (0.3, 1.0)}
"""Learning rates by method: for each the one that was best in the pilot, and those at which it has to be stable."""
ACCURACY = "test accuracy"
TRAIN, EPOCHS, BATCH, TEST = 2000, 2, 64, 1000


def clip_of(method: str) -> Clip | None:
    """What the rows are called. The classifier is not clipped by AGC, as in the official training."""
    return {
        "none": lambda: None,
        "norm 1.0": lambda: NormClip(1.0, nonfinite="propagate"),
        "AGC .01": lambda: AGC(0.01, exclude="head.*", nonfinite="propagate"),
    }[method]()


@lru_cache(maxsize=1)
def _pictures() -> dict[str, tuple[Tensor, Tensor]]:
    """Fashion-MNIST, standardised: 10,000 pictures to draw the training sets from, and the test pictures."""
    parts = {split: clothing(split, count) for split, count in (("train", 10_000), ("test", TEST))}
    return {split: (standardised(images), labels) for split, (images, labels) in parts.items()}


def network(seed: int) -> NFResNet:
    """Three NF blocks of widths 32, 64 and 128 behind a stem that brings 28 pixels to 7."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"widths": (32, 64, 128), "depths": (1, 1, 1), "strides": (1, 2, 2), "stem": (16, 32)}
    return NFResNet(10, in_channels=1, **shape, stem_stride=4, final_width=128, group_width=16)


def train(method: str, rate: float, seed: int) -> float:
    """Test accuracy after `EPOCHS`; a run whose loss is no longer finite ends at once."""
    images, labels = _pictures()["train"]
    g = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(images), generator=g)[:TRAIN]
    net = network(seed)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=2e-5)
    steps = EPOCHS * (TRAIN // BATCH)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    clip = clip_of(method)
    if clip is not None:
        clip.attach(optimizer, net.named_parameters())
    for _ in range(EPOCHS):
        order = chosen[torch.randperm(TRAIN, generator=g)]
        for batch in order[: TRAIN // BATCH * BATCH].split(BATCH):
            loss = F.cross_entropy(net(images[batch]), labels[batch])
            if not bool(loss.isfinite()):
                return accuracy(net.eval(), *_pictures()["test"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cosine.step()
    return accuracy(net.eval(), *_pictures()["test"])


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    runs = ((method, rate) for method, rates in RUNS.items() for rate in rates)
    return [Row(ACCURACY, method, train(method, rate, seed), _setting(rate)) for method, rate in runs]


def _setting(rate: float) -> str:
    return f"learning rate {rate:g}"


def draw(table: Table, figure: Figure) -> None:
    """Accuracy at every learning rate that was run, one panel a method."""
    axes = figure.subplots(1, len(RUNS), sharey=True, width_ratios=[len(rates) for rates in RUNS.values()])
    for ax, (method, rates) in zip(axes, RUNS.items(), strict=True):
        for number, rate in enumerate(rates):
            values = table.values(ACCURACY, method, _setting(rate))
            ax.plot([number] * len(values), values, "o", markersize=4, alpha=0.5, color="C0")
            ax.plot([number - 0.2, number + 0.2], [values.mean()] * 2, color="C3")
        ax.axhline(0.1, color="0.5", linestyle=":", linewidth=1)
        ax.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
        ax.set(title=method, xlabel="learning rate", ylim=(0, 1), xlim=(-0.5, len(rates) - 0.5))
    axes[0].set_ylabel("test accuracy (dotted: guessing)")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 20), registered="c2d6cb832843")
