"""What the studies of dense losses share: scenes with annotators' boundaries, small U-Nets, their scores.

A network is trained once a process for each loss, backbone and seed, so that studies which compare with the same
baselines share them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data import vocabulary
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.fit import fit
from binderclip.losses import DenseLoss, FocalLoss, MarginLabelSmoothingLoss, NeighborPenaltyLoss, SVLSLoss
from binderclip.segment.metrics import CalibrationBins, IoU, Reliability, boundary_band
from binderclip.studies.harness.threads import one_thread

CLASSES = ("flag", "heart", "clock")
#: The colour of each class, and how often it is surely that one.
COLOURS, USUAL = ("blue", "red", "green"), 0.8
GROUNDS = ["plain", "gradient", "noise", "texture"]
SIZE, TRAIN, TEST = 48, 64, 100
STEPS, BATCH, WIDTH, RATE = 200, 8, 16, 1e-2
#: Standard deviation in pixels of the annotators' boundaries, and side of the square that dilates edges.
JITTER, BAND = 1.2, 5
SHOWN = 4

LOSSES: dict[str, Callable[[], DenseLoss]] = {
    "CE": DenseLoss,
    "focal": lambda: FocalLoss(3.0),
    "SVLS": SVLSLoss,
    "margin smoothing": lambda: MarginLabelSmoothingLoss(5.0),
    "mean, l1": NeighborPenaltyLoss,
    "mean, l2": lambda: NeighborPenaltyLoss("mean", "l2"),
    "gaussian, l1": lambda: NeighborPenaltyLoss("gaussian"),
    "gaussian, l2": lambda: NeighborPenaltyLoss("gaussian", "l2"),
    "image, l1": lambda: NeighborPenaltyLoss("image_proportions_l1"),
}


@dataclass(frozen=True)
class Part:
    """Scenes with labels as an annotator would draw them, and exact ones."""

    images: Float[Tensor, "N 3 S S"]
    labels: Int[Tensor, "N S S"]
    exact: Int[Tensor, "N S S"]


def jittered(labels: Int[Tensor, "N S S"], seed: int, amount: float = JITTER) -> Int[Tensor, "N S S"]:
    """Label maps whose boundaries are moved by a smooth random displacement.

    Args:
        labels: exact maps.
        seed: of the displacements.
        amount: their standard deviation in pixels, in either direction.
    """
    n, side = labels.shape[0], labels.shape[-1]
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 2, side // 8, side // 8, generator=g)
    smooth = F.interpolate(coarse, size=(side, side), mode="bicubic")
    moved = smooth * amount / smooth.std(dim=(1, 2, 3), keepdim=True)
    place = torch.arange(side)
    rows = (place[:, None] + moved[:, 0]).round().long().clamp(0, side - 1)
    columns = (place + moved[:, 1]).round().long().clamp(0, side - 1)
    return labels[torch.arange(n)[:, None, None], rows, columns]


@lru_cache(maxsize=6)
def dense_part(seed: int, n: int, amount: float = JITTER, usual: float = USUAL) -> Part:
    """`n` scenes of one to three objects of three classes on plain to textured grounds.

    Args:
        seed: of the scenes and of the annotators.
        n: number of scenes.
        amount: of the annotators' displacements, in pixels.
        usual: share of the objects that surely have the colour of their class; the others have any of the three.
    """

    def colour(name: str, rng: np.random.Generator) -> str:
        return COLOURS[CLASSES.index(name)] if rng.random() < usual else COLOURS[int(rng.integers(3))]

    batch = scenes(
        seed,
        n,
        SIZE,
        vocabulary=vocabulary("scenes15").only(CLASSES),
        objects=(1, 3),
        area=(0.05, 0.25),
        background=GROUNDS,
        factors={"colour": colour},
    )
    labels = jittered(batch.semantic, seed, amount) if amount else batch.semantic
    return Part(batch.images, labels, batch.semantic)


class Gate(nn.Module):
    """Additive attention gate: what comes from below says which places of a skip connection pass."""

    def __init__(self, skip: int, below: int) -> None:
        super().__init__()
        self.of_skip, self.of_below = nn.Conv2d(skip, skip // 2, 1, bias=False), nn.Conv2d(below, skip // 2, 1)
        self.share = nn.Conv2d(skip // 2, 1, 1)

    def forward(self, skip: Float[Tensor, "B C H W"], below: Float[Tensor, "B D H W"]) -> Float[Tensor, "B C H W"]:
        """The skip connection, weighted."""
        return skip * self.share((self.of_skip(skip) + self.of_below(below)).relu()).sigmoid()


class UNet(nn.Module):
    """U-Net of three levels at a half, a quarter and an eighth of the picture, widths w, 2w, 4w; strided convolutions.

    Args:
        classes: number of outputs K.
        width: w; 16 gives 0.12 million parameters.
        attention: gates on the skip connections (Attention U-Net).
        before_stride: makes the module through which each of the two maps goes that are halved between levels.
        in_block: from the number of channels to the module after the second convolution of the blocks of levels 2, 3.
    """

    def __init__(
        self,
        classes: int,
        width: int = WIDTH,
        *,
        attention: bool = False,
        before_stride: Callable[[], nn.Module] = nn.Identity,
        in_block: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        w = width
        self.stem = _block(3, w, 2)
        self.before = nn.ModuleList([before_stride(), before_stride()])
        self.down = nn.ModuleList([_block(w, 2 * w, 2, in_block), _block(2 * w, 4 * w, 2, in_block)])
        self.gates = nn.ModuleList([Gate(2 * w, 4 * w), Gate(w, 2 * w)] if attention else [])
        self.up = nn.ModuleList([_block(6 * w, 2 * w), _block(3 * w, w)])
        self.head = nn.Conv2d(w, classes, 1)

    def stages(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C h w"]]:
        """The maps of the three levels, as they come out of their blocks."""
        found = [self.stem((images - 0.5) / 0.3)]
        for before, block in zip(self.before, self.down, strict=True):
            found.append(block(before(found[-1])))
        return found

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K H W"]:
        """Logits."""
        *skips, x = self.stages(images)
        for index, block in enumerate(self.up):
            x, skip = F.interpolate(x, scale_factor=2, mode="nearest"), skips.pop()
            x = block(torch.cat([self.gates[index](skip, x) if len(self.gates) else skip, x], 1))
        return F.interpolate(self.head(x), size=images.shape[-2:], mode="bilinear")


def _block(before: int, after: int, stride: int = 1, inside: Callable[[int], nn.Module] | None = None) -> nn.Sequential:
    first = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
    second = nn.Conv2d(after, after, 3, padding=1, bias=False)
    mixed = [] if inside is None else [inside(after)]
    return nn.Sequential(first, nn.BatchNorm2d(after), nn.ReLU(), second, *mixed, nn.BatchNorm2d(after), nn.ReLU())


class _Batches:
    """Endless epochs of mirrored scenes for `fit`."""

    def __init__(self, part: Part, seed: int) -> None:
        self.part, self.rng = part, np.random.default_rng(seed)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.from_numpy(self.rng.permutation(len(self.part.images)))
        for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
            images, labels = self.part.images[rows], self.part.labels[rows]
            mirrored = torch.from_numpy(self.rng.random(len(rows)) < 0.5)
            yield (
                torch.where(mirrored[:, None, None, None], images.flip(-1), images),
                torch.where(mirrored[:, None, None], labels.flip(-1), labels),
            )


def trained(net: nn.Module, part: Part, seed: int, *, loss: DenseLoss | None = None, steps: int = STEPS) -> nn.Module:
    """The network after training with a loss (cross-entropy by default), in evaluation mode."""
    cost = loss or DenseLoss()
    with one_thread():
        fit(
            lambda batch: cost(net(batch[0]), batch[1], batch[0]),
            net,
            _Batches(part, seed),
            steps=steps,
            lr=RATE,
            warmup=10,
        )
    return net.eval()


@torch.no_grad()
def predicted(net: nn.Module, images: Float[Tensor, "N 3 S S"]) -> Float[Tensor, "N K S S"]:
    """Logits of many scenes."""
    with one_thread():
        return torch.cat([net(part) for part in images.split(25)])


@dataclass(frozen=True)
class Scores:
    """What logits are worth against labels.

    Attributes:
        values: metric -> number. Dice is the mean over the object classes of all test pixels; calibration errors have
            15 bins and count the pixels they name.
        reliability: bars of the foreground.
        shown: probabilities of the first scenes.
    """

    values: dict[str, float]
    reliability: Reliability
    shown: Float[Tensor, "n K S S"]


def scored(logits: Float[Tensor, "N K S S"], labels: Int[Tensor, "N S S"]) -> Scores:
    """Dice and calibration of logits."""
    classes = logits.shape[1]
    overlap = IoU(classes)
    overlap.update(logits.argmax(1), labels)
    iou = overlap.compute().per_class[1:]
    values = {"Dice": float((2 * iou / (1 + iou)).nanmean())}
    probabilities = logits.softmax(1)
    bins = CalibrationBins(classes, foreground_only=True)
    bins.update(probabilities, labels)
    foreground = bins.compute()
    values |= {
        "ECE, foreground": foreground.ece,
        "class-wise ECE, foreground": foreground.classwise_ece,
        "confidence - accuracy, foreground": foreground.confidence - foreground.accuracy,
    }
    for name, where in (("ECE, all pixels", None), ("ECE, boundary band", boundary_band(labels, width=BAND))):
        bins = CalibrationBins(classes, per_class=False)
        bins.update(probabilities, labels, where=where)
        values[name] = bins.compute().ece
    return Scores(values, foreground.reliability, probabilities[:SHOWN])


def test_part() -> Part:
    """The test scenes of all studies."""
    return dense_part(9000, TEST)


@lru_cache(maxsize=64)
def loss_scores(loss: str, seed: int, backbone: str = "U-Net") -> Scores:
    """Scores of a network trained with the named loss.

    Args:
        loss: a name of `LOSSES`, or `CE, best temperature`: the logits of CE over the temperature that suits the test
            labels best, which no method may know.
        seed: of the training scenes, their annotators and the network.
        backbone: `U-Net` or `Attention U-Net`.
    """
    if loss == "CE, best temperature":
        logits, labels = _logits("CE", seed, backbone), test_part().labels
        scales = [0.5 * 1.08**k for k in range(36)]
        best = min(scales, key=lambda t: float(F.cross_entropy(logits / t, labels)))
        return scored(logits / best, labels)
    return scored(_logits(loss, seed, backbone), test_part().labels)


@lru_cache(maxsize=1)
def _logits(loss: str, seed: int, backbone: str) -> Float[Tensor, "N K S S"]:
    torch.manual_seed(seed)
    net = UNet(len(CLASSES) + 1, attention=backbone == "Attention U-Net")
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return predicted(trained(net, dense_part(seed, TRAIN), seed, loss=LOSSES[loss]()), test_part().images)
