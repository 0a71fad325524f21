"""Does pasting objects between training pictures help where few are labelled, beyond strong changes of scale?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data import CopyPaste, InstanceSample, LargeScaleJitter
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import SCENES15
from binderclip.fit import fit
from binderclip.segment.metrics import IoU
from binderclip.studies.harness import Figure, Row, Table, bare, declared_study

COMMON = ("flag", "heart", "clock", "house", "moon", "flower")
RARE = ("jigsaw", "cloud")
CLASSES = (*COMMON, *RARE)
SIZE, TRAIN, FEW, TEST = 64, 60, 4, 200
STEPS, BATCH, WIDTH, RATE = 250, 16, 24, 3e-3
STANDARD, LARGE = (0.8, 1.25), (0.1, 2.0)
SETTINGS = ("standard jitter", "standard jitter + Copy-Paste", "large-scale jitter", "large-scale jitter + Copy-Paste")
METRIC, METRIC_RARE = "mean IoU of 8 classes", "mean IoU of the 2 rare classes"
METRIC_COMMON = "mean IoU of the 6 common classes"


def _words(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {name: SCENES15[name] for name in names}


@lru_cache(maxsize=3)
def _train_set(seed: int) -> list[InstanceSample]:
    """60 scenes: the rare classes occur in four of them, both in each."""
    parts = [
        scenes(100 + seed, TRAIN - FEW, SIZE, vocabulary=_words(COMMON), objects=(1, 4), background="photo"),
        scenes(200 + seed, FEW, SIZE, vocabulary=_words(RARE), objects=2, background="photo"),
    ]
    found = []
    for part in parts:
        for sample in part.samples():
            labels = [CLASSES.index(name) + 1 for name in sample.attributes["names"]]
            found.append(InstanceSample.from_sample(sample, labels))
    return found


@lru_cache(maxsize=1)
def _test_set() -> tuple[Tensor, Tensor]:
    """200 other scenes, whose classes are equally frequent: pictures and label maps."""
    batch = scenes(300, TEST, SIZE, vocabulary=_words(CLASSES), objects=(1, 4), background="photo")
    assert batch.classes[1:] == CLASSES
    return batch.images, batch.semantic


class ConvSegmenter(nn.Module):
    """Five convolution blocks: three that halve the picture, one at an eighth, one back at a quarter."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width, 4 * width)
        self.down = nn.ModuleList([_block(a, b, 2 if i < 3 else 1) for i, (a, b) in enumerate(pairwise(widths))])
        self.narrow = nn.Conv2d(4 * width, 2 * width, 1)
        self.up = _block(2 * width, 2 * width, 1)
        self.head = nn.Conv2d(2 * width, len(CLASSES) + 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 9, H, W)."""
        x, kept = images - 0.5, []
        for block in self.down:
            x = block(x)
            kept.append(x)
        x = F.interpolate(self.narrow(x), scale_factor=2, mode="bilinear") + kept[1]
        return F.interpolate(self.head(self.up(x)), size=images.shape[-2:], mode="bilinear")


def _block(before: int, after: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())


def augmentation(setting: str, seed: int) -> Callable[..., list[InstanceSample]]:
    """The named augmentation: (samples, pool, epoch) -> views."""
    scale = LARGE if setting.startswith("large") else STANDARD
    jitter = LargeScaleJitter(SIZE, scale=scale, seed=seed)
    mix = CopyPaste(jitter, seed=seed, p=1.0 if setting.endswith("Copy-Paste") else 0.0)
    return lambda samples, pool, epoch: mix(samples, pool, epoch)


class _PastedBatches:
    """Batches of augmented pictures and label maps for `fit`."""

    def __init__(self, setting: str, seed: int) -> None:
        self.pool, self.augment, self.seed, self.epoch = _train_set(seed), augmentation(setting, seed), seed, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.pool))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            views = self.augment([self.pool[row] for row in order[start : start + BATCH]], self.pool, epoch)
            yield torch.stack([view.image for view in views]), torch.stack([view.semantic for view in views])


def train(setting: str, seed: int) -> ConvSegmenter:
    """A network trained from scratch with one augmentation."""
    torch.manual_seed(seed)
    net = ConvSegmenter().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fit(
        lambda batch: F.cross_entropy(net(batch[0]), batch[1]),
        net,
        _PastedBatches(setting, seed),
        steps=STEPS,
        lr=RATE,
        warmup=20,
    )
    return net.eval()


@torch.no_grad()
def predicted(net: nn.Module) -> Tensor:
    """Label maps of the test scenes."""
    return torch.cat([net(images).argmax(1) for images in _test_set()[0].split(50)])


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = []
    for setting in SETTINGS:
        score = IoU(len(CLASSES) + 1)
        score.update(predicted(train(setting, seed)), _test_set()[1])
        each = score.compute().per_class[1:]
        rows += [
            Row(METRIC, setting, float(each.mean())),
            Row(METRIC_RARE, setting, float(each[len(COMMON) :].mean())),
            Row(METRIC_COMMON, setting, float(each[: len(COMMON)].mean())),
        ]
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Mean IoU by augmentation, and four training views with the outlines of their objects."""
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.5, 1))
    left, right = halves
    axes = left.subplots(1, 2, sharey=True)
    for ax, metric in zip(axes, (METRIC, METRIC_RARE), strict=True):
        values = [table.values(metric, setting) for setting in SETTINGS]
        errors = [v.std(ddof=1) if len(v) > 1 else 0.0 for v in values]
        colours = ["C7", "C0", "C7", "C0"]
        ax.barh(SETTINGS, [v.mean() for v in values], xerr=errors, color=colours, alpha=0.85, height=0.65)
        ax.set_title(metric.replace("mean IoU of ", "Mean IoU, "), fontsize=10)
        ax.grid(axis="y", visible=False)
        ax.margins(x=0.1)
    axes[0].invert_yaxis()
    axes[0].set_yticks(range(4), [setting.replace(" + ", "\n+ ") for setting in SETTINGS], fontsize=9)
    pool = _train_set(0)
    cells = right.subplots(2, 4)
    for row, (setting, name) in zip(cells, ((SETTINGS[2], "large jitter"), (SETTINGS[3], "+ pasted")), strict=True):
        views = augmentation(setting, 0)(pool[6:10], pool, 1)
        for ax, view in zip(row, views, strict=True):
            ax.imshow(view.image.permute(1, 2, 0).numpy())
            for mask in view.masks.numpy():
                ax.contour(mask, levels=[0.5], colors="#ff2d95", linewidths=1.0)
            bare(ax)
        row[0].set_ylabel(name, fontsize=9)
    right.suptitle("Training views of the same four scenes", fontsize=11, fontweight="bold")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), registered="2af6a78c4215")
