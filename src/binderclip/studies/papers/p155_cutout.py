"""Does taking a random square out of every training picture help a small network that has few pictures?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data import Cutout
from binderclip.data.uniform import uniform
from binderclip.studies.harness import Figure, Row, Table, accuracy, declared_study, lines, pictures, train_classifier
from binderclip.studies.protocols.data.clothing import clothing, standardised

LENGTHS = (0, 8)
TRAIN, VALIDATION, TEST = 2000, 2000, 4000
EPOCHS, BATCH, WIDTH, RATE = 100, 64, 16, 0.05
SHIFT, HIDDEN = 2, 12
BLACK = -0.286 / 0.353
METHOD, COVERED = "with Cutout", "test accuracy, a square hidden"
CHOSEN = LENGTHS[-1]
"""About the share of the side that the paper takes for few pictures."""


@lru_cache(maxsize=1)
def _pictures() -> dict[str, tuple[Tensor, Tensor]]:
    """Fashion-MNIST, standardised: 12,000 training pictures to draw from (2,000 for validation), and test pictures."""
    found = {split: clothing(split, count) for split, count in (("train", 10_000 + VALIDATION), ("test", TEST))}
    images, labels = found["train"]
    found["train"] = images[VALIDATION:], labels[VALIDATION:]
    found["validation"] = images[:VALIDATION], labels[:VALIDATION]
    return {part: (standardised(images), labels) for part, (images, labels) in found.items()}


def network(seed: int) -> nn.Sequential:
    """Two convolutions with batch normalisation and pooling, and one hidden layer."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in ((1, WIDTH), (WIDTH, 2 * WIDTH)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(2 * WIDTH * 49, 128), nn.ReLU(), nn.Linear(128, 10)]
    return nn.Sequential(*layers, *head).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def shifted(images: Tensor, keys: list[str], epoch: int, seed: int) -> Tensor:
    """The standard augmentation: padded by two pixels, cropped at random, mirrored with probability one half."""
    u = torch.from_numpy(uniform(seed, keys, epoch, 3))
    padded = F.pad(images, (SHIFT,) * 4, value=BLACK)
    y, x = ((u[:, i] * (2 * SHIFT + 1)).long()[:, None] + torch.arange(28) for i in (0, 1))
    x = torch.where(u[:, 2:] < 0.5, x.flip(1), x)
    return padded[torch.arange(len(images))[:, None, None], :, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


def train(length: int, seed: int) -> nn.Module:
    """A network trained on the seed's 2,000 pictures with holes of one length."""
    images, labels = _pictures()["train"]
    cut = Cutout(length, seed=seed)
    return train_classifier(
        lambda: network(seed),
        images,
        labels,
        seed,
        rows=torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:TRAIN],
        epochs=EPOCHS,
        batch=BATCH,
        augment=lambda views, keys, epoch: cut(shifted(views, keys, epoch, seed), keys, epoch),
        optimizer={"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
        lr=RATE,
    )


@lru_cache(maxsize=1)
def _hidden() -> Tensor:
    """The test pictures with a square of `HIDDEN` pixels hidden in each."""
    images = _pictures()["test"][0]
    return Cutout(HIDDEN, inside=True, seed=777)(images, [str(row) for row in range(len(images))])


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    (images, labels), validation = _pictures()["test"], _pictures()["validation"]
    rows = []
    for length in LENGTHS:
        net, setting = train(length, seed), _setting(length)
        rows += [
            Row("validation accuracy", METHOD, accuracy(net, *validation), setting),
            Row("test accuracy", METHOD, accuracy(net, images, labels), setting),
            Row(COVERED, METHOD, accuracy(net, _hidden(), labels), setting),
        ]
    return rows


def _setting(length: int) -> str:
    return f"length {length}"


def draw(table: Table, figure: Figure) -> None:
    """Accuracy against the side of the hole, whole and hidden, and examples of the holes."""
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.5, 1))
    left, right = halves
    axes = left.subplots(1, 2)
    settings, x = [_setting(n) for n in LENGTHS], [float(n) for n in LENGTHS]
    for number, (metric, title) in enumerate(
        (("test accuracy", "Whole test pictures"), ("test accuracy, a square hidden", "A 12 px square hidden"))
    ):
        lines(axes[number], table, metric, settings, x, [METHOD])
        axes[number].axhline(table.mean(metric, METHOD, _setting(0)), color="C7", linestyle=":", label="without")
        axes[number].set(title=title, xlabel="side of the training holes (pixels)", xticks=LENGTHS)
    axes[0].set_ylabel("accuracy")
    axes[1].legend(loc="lower right")
    images = _pictures()["train"][0][:4]
    keys = [str(row) for row in range(4)]
    cells = right.subplots(2, 4)
    for row, length in zip(cells, (0, 8), strict=True):
        pictures(row, list((Cutout(length)(images, keys) - BLACK) / (2 - BLACK)))
        row[0].set_ylabel(_setting(length), fontsize=9)
    right.suptitle("What the network sees", fontsize=11, fontweight="bold")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 28), registered="c59c001bd91d")
