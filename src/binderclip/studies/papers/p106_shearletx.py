"""Does a mask on shearlets explain without inventing edges, and say more with less than a smooth mask?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.explain import MaskAttribution, PixelMask, ShearletX, conciseness_preciseness, hallucination_score
from binderclip.fit import fit
from binderclip.studies.harness import Figure, Row, Table, bare, declared_study, one_thread, random_rows
from binderclip.vision import ShearletTransform

SIDE, TRAIN, EPOCHS, BATCH, WIDTH = 64, 2000, 10, 50, 16
IMAGES, STEPS, SAMPLES = 6, 100, 8
DIRECTIONS = (4, 8, 8)
SHEARLETS, PIXELS = "ShearletX", "pixel mask"
SMOOTH, SMOOTHER = "smooth pixel mask", "smoother pixel mask"
HALF, WHOLE = "a random half of the pixels", "the picture itself"
HS, CP, PLAIN = "hallucination score", "conciseness-preciseness", "conciseness-preciseness, as dark as it is"
KEPT, SHOWN = "probability of the explanation", "share of grey levels shown"


def _methods(seed: int) -> dict[str, Any]:
    common: dict[str, Any] = {"steps": STEPS, "samples": SAMPLES, "seed": seed}
    return {
        SHEARLETS: ShearletX(ShearletTransform(3, DIRECTIONS), **common),
        PIXELS: PixelMask(**common),
        SMOOTH: PixelMask(variation=2.0, **common),
        SMOOTHER: PixelMask(variation=20.0, **common),
    }


def _scenes(seed: int, count: int, split: str) -> tuple[Tensor, Tensor, list[str]]:
    from binderclip.data.synthetic_scenes.stream import scenes
    from binderclip.data.synthetic_scenes.vocabulary import vocabulary

    words = vocabulary("scenes15", split=split)
    found = scenes(
        seed, count, SIDE, vocabulary=words, objects=1, area=(0.15, 0.45),
        background=["plain", "gradient", "noise", "texture"],
    )  # fmt: skip
    names = list(words.names)
    return found.images, torch.tensor([names.index(name[0]) for name in found.names]), names


class _MirroredBatches:
    """Batches in random order, mirrored with probability one half."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels, self.draw = images, labels, torch.Generator().manual_seed(0)

    def __iter__(self) -> Any:
        for rows in torch.randperm(len(self.labels), generator=self.draw).split(BATCH):
            mirror = torch.rand(len(rows), 1, 1, 1, generator=self.draw) < 0.5
            images = self.images[rows]
            yield torch.where(mirror, images.flip(-1), images), self.labels[rows]


@lru_cache(maxsize=1)
def network() -> nn.Module:
    """A network of four strided convolutions that knows fifteen kinds of clip-art objects."""
    images, labels, names = _scenes(0, TRAIN, "train")
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((3, WIDTH), (WIDTH, 2 * WIDTH), (2 * WIDTH, 4 * WIDTH), (4 * WIDTH, 8 * WIDTH)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * WIDTH, len(names)))
    fit(
        lambda batch: F.cross_entropy(net(batch[0]), batch[1]),
        net,
        _MirroredBatches(images, labels),
        steps=EPOCHS * (TRAIN // BATCH),
        optimizer={"name": "adamw", "weight_decay": 0.05},
        lr=4e-3,
    )
    return net.eval()


@lru_cache(maxsize=1)
def _accuracy() -> float:
    images, labels, _ = _scenes(10_000, 300, "val")
    net = network()
    with torch.no_grad():
        return float((net(images).argmax(dim=1) == labels).float().mean())


@lru_cache(maxsize=16)
def _explained(seed: int) -> tuple[Tensor, dict[str, MaskAttribution]]:
    """The first held-out pictures of the seed that the network gets right, and every method's explanation."""
    images, labels, _ = _scenes(seed + 1, 8 * IMAGES, "val")
    net = network()
    with torch.no_grad():
        right = (net(images).argmax(dim=1) == labels).nonzero().flatten()[:IMAGES]
    chosen = images[right]
    return chosen, {name: method(net, chosen) for name, method in _methods(seed).items()}


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    with one_thread():
        images, found = _explained(seed)
        draw = torch.Generator().manual_seed(seed)
        half = images * (torch.rand(len(images), 1, SIDE, SIDE, generator=draw) < 0.5)
        rows = [Row("accuracy of the network", "held-out pictures", _accuracy())]
        shown = {name: result.explanation for name, result in found.items()}
        for name, pictures in {**shown, HALF: half, WHOLE: images}.items():
            rows += _scores(name, pictures, images)
    return rows


def _scores(name: str, shown: Tensor, images: Tensor) -> list[Row]:
    bright = shown / shown.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
    target = network()(images).argmax(dim=1).tolist()
    with torch.no_grad():
        kept = network()(bright).softmax(dim=1)[torch.arange(len(images)), target]
    return [
        Row(HS, name, float(hallucination_score(shown, images).nanmean())),
        Row(
            CP, name, float(conciseness_preciseness(network(), shown, target, images=images, brighten=True).nanmedian())
        ),
        Row(PLAIN, name, float(conciseness_preciseness(network(), shown, target, images=images).nanmedian())),
        Row(KEPT, name, float(kept.mean())),
        Row(SHOWN, name, float((shown.sum(dim=(1, 2, 3)) / images.sum(dim=(1, 2, 3))).mean())),
    ]


def null(seed: int) -> list[Row]:
    """Explanations at random: scores of all methods from one distribution."""
    return random_rows(STUDY.criteria, seed, 0.1, 2.0)


def draw(table: Table, figure: Figure) -> None:
    """Pictures with what each method leaves of them, and the two scores."""
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.7, 1))
    left, right = halves
    images, found = _explained(STUDY.seeds[0])
    axes = left.subplots(3, 1 + len(found))
    for row in range(3):
        shown = [images[row], *(_bright(result.explanation[row]) for result in found.values())]
        for ax, picture in zip(axes[row], shown, strict=True):
            ax.imshow(picture.permute(1, 2, 0).numpy())
            bare(ax, frame=False)
    for ax, title in zip(axes[0], ("picture", *found), strict=True):
        ax.set_title(title.replace(" pixel", "\npixel"), fontsize=8, fontweight="normal")
    top, bottom = right.subplots(2, 1)
    _bars(top, table, HS, "hallucination score (lower is better)")
    _bars(bottom, table, CP, "conciseness-preciseness (higher is better)")


def _bright(picture: Tensor) -> Tensor:
    return picture / picture.max().clamp(min=1e-6)


def _bars(ax: Any, table: Table, metric: str, title: str) -> None:
    methods = [SHEARLETS, PIXELS, SMOOTH, SMOOTHER]
    for number, method in enumerate(methods):
        values = table.values(metric, method)
        ax.barh([method], [values.mean()], xerr=[values.std()], color=f"C{number}", alpha=0.8, height=0.65)
        ax.plot(values, np.full(len(values), number), "k.", markersize=3)
    ax.invert_yaxis()
    ax.set_title(title, fontsize=8, fontweight="normal")
    ax.tick_params(labelsize=8)
    ax.grid(axis="y", visible=False)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 20), null=null, registered="a0fa3dab2420")
