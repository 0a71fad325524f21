"""Does adaptive gradient clipping keep a network without normalisation stable at learning rates where it diverges?"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from binderclip.models.layers.nfnet import NFResNet
from binderclip.optim import AGC, Clip, NormClip
from binderclip.studies.harness.criteria import Criterion
from binderclip.studies.harness.study import FIRST_RULES, Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.harness.threads import one_thread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATES = (0.1, 0.3, 1.0, 3.0)
METHODS = ("none", "norm 1.0", "AGC .01", "AGC .04")
TRAIN, EPOCHS, BATCH, TEST = 2000, 2, 64, 1000
TRAINED = 0.6
"""Accuracy above which a learning rate counts as stable."""


def clip_of(method: str) -> Clip | None:
    """What the rows are called. The classifier is not clipped by AGC, as in the official training."""
    return {
        "none": lambda: None,
        "norm 1.0": lambda: NormClip(1.0, nonfinite="propagate"),
        "AGC .01": lambda: AGC(0.01, exclude="head.*", nonfinite="propagate"),
        "AGC .04": lambda: AGC(0.04, exclude="head.*", nonfinite="propagate"),
    }[method]()


@lru_cache(maxsize=1)
def _pictures() -> dict[str, tuple[Tensor, Tensor]]:
    """Fashion-MNIST, standardised: 10,000 pictures to draw the training sets from, and the test pictures."""
    from binderclip.data import load_data

    found = {}
    for split, count in (("train", 10000), ("test", TEST)):
        data = load_data("fashion-mnist", split)
        pixels, data = data.subset(np.arange(count)).pixels(28, mode="RGB")
        found[split] = ((pixels[:, :1] / 255 - 0.286) / 0.353, torch.as_tensor(np.asarray(data.labels)).long())
    return found


def network(seed: int) -> NFResNet:
    """Three NF blocks of widths 32, 64 and 128 behind a stem that brings 28 pixels to 7."""
    torch.manual_seed(seed)
    return NFResNet(
        10,
        in_channels=1,
        widths=(32, 64, 128),
        depths=(1, 1, 1),
        strides=(1, 2, 2),
        stem=(16, 32),
        stem_stride=4,
        final_width=128,
        group_width=16,
    )


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
            loss = nn.functional.cross_entropy(net(images[batch]), labels[batch])
            if not bool(loss.isfinite()):
                return accuracy(net)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cosine.step()
    return accuracy(net)


@torch.no_grad()
def accuracy(net: nn.Module) -> float:
    """On the test pictures."""
    images, labels = _pictures()["test"]
    net.eval()
    right = [(net(x).argmax(1) == y).float() for x, y in zip(images.split(500), labels.split(500), strict=True)]
    net.train()
    return float(torch.cat(right).mean())


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    with one_thread():
        return [
            Row("test accuracy", method, train(method, rate, seed), _setting(rate))
            for method in METHODS
            for rate in RATES
        ]


def _setting(rate: float) -> str:
    return f"learning rate {rate:g}"


def _median(table: Table, method: str, rate: float) -> float:
    return float(np.median(table.values("test accuracy", method, _setting(rate))))


def _largest(table: Table, method: str) -> float:
    """Largest learning rate that trains in the median over seeds; 0 if none does."""
    return max((rate for rate in RATES if _median(table, method, rate) > TRAINED), default=0.0)


def _stable_further(table: Table) -> tuple[bool, str]:
    largest = {method: _largest(table, method) for method in METHODS}
    ours = max(largest["AGC .01"], largest["AGC .04"])
    text = ", ".join(f"{method} {rate:g}" for method, rate in largest.items())
    # a baseline that is merely too slow at the smallest rate is given that rate
    return ours >= 2.999 * max(largest["none"], RATES[0]), f"largest learning rate above 60%: {text}"


def _at_least_as_good(table: Table) -> tuple[bool, str]:
    best = {method: max(_median(table, method, rate) for rate in RATES) for method in METHODS}
    text = ", ".join(f"{method} {value:.3f}" for method, value in best.items())
    return max(best["AGC .01"], best["AGC .04"]) >= best["none"], f"best median accuracy: {text}"


def draw(table: Table, figure: Figure) -> None:
    """Accuracy against the learning rate, one panel a method, every seed a dot."""
    axes = figure.subplots(1, len(METHODS), sharey=True)
    for number, (ax, method) in enumerate(zip(axes, METHODS, strict=True)):
        values = np.stack([table.values("test accuracy", method, _setting(rate)) for rate in RATES])
        ax.plot(RATES, values, ".", color=f"C{number}", alpha=0.6)
        ax.plot(RATES, np.median(values, 1), color=f"C{number}", linewidth=2)
        ax.axhline(TRAINED, color="0.5", linestyle=":", linewidth=1, label="stable above")
        ax.set_xscale("log")
        ax.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
        ax.minorticks_off()
        ax.set(title=method, xlabel="learning rate", ylim=(0, 1))
    axes[0].set_ylabel("test accuracy")
    axes[0].legend(handles=axes[0].lines[-1:], loc="upper right")


STUDY = Study(
    paper="p052",
    claim="A network without normalisation layers diverges at learning rates where adaptive gradient clipping keeps it "
    "stable, and clipping costs no accuracy.",
    protocol=f"NF-ResNet (three blocks of widths 32, 64, 128, scaled weight standardisation, gelu, squeeze-excite, "
    f"SkipInit) on {TRAIN:,} pictures of Fashion-MNIST, {EPOCHS} epochs of batches of {BATCH}, Nesterov momentum 0.9, "
    f"cosine; accuracy on {TEST:,} test pictures. A learning rate counts as stable above 60% in the median over seeds; "
    "AGC counts by the better of its two settings, no clipping by at least the smallest rate. A run whose loss is no "
    "longer finite ends there.",
    baseline="No clipping; global norm clipping at 1.0.",
    lower_bound="Guessing: 0.10.",
    upper_bound="",
    measure=measure,
    criteria=(
        Criterion(
            "the largest stable learning rate is at least 3 times higher with AGC than without clipping",
            _stable_further,
            essential=True,
        ),
        Criterion("AGC's best accuracy is at least that of no clipping", _at_least_as_good),
    ),
    draw=draw,
    remeasure=FIRST_RULES,
    stand_in=(
        "three narrow NF blocks instead of NFNet-F0 to F6",
        f"{TRAIN:,} pictures of Fashion-MNIST and {EPOCHS} epochs instead of ImageNet and 360",
        f"batches of {BATCH} instead of 4,096, and no warm-up, augmentation or weight averaging",
    ),
)
