"""A small mask transformer for panoptic segmentation, and its training with or without ReMaX's relaxations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import CheckpointError, UsageError
from binderclip.fit import fit
from binderclip.losses.dense.mask_sets import MaskSetLoss, ReClass, ReMask
from binderclip.models.files.checkpoint import configured, guarded
from binderclip.models.files.folders import read_folder, write_folder

__all__ = [
    "MaskPrediction",
    "PanopticNet",
    "PanopticSegments",
    "PanopticTraining",
    "load_panoptic",
    "save_panoptic",
    "train_panoptic",
]

HEADS, KIND = 4, "panoptic"
AUXILIARY = "semantic."


@dataclass(frozen=True)
class MaskPrediction:
    """Of N queries: logits of masks at the size of the pictures, and of K classes and no object."""

    masks: Float[Tensor, "B N H W"]
    classes: Float[Tensor, "B N K1"]


@dataclass(frozen=True)
class PanopticSegments:
    """Disjoint segments of one picture, with the class of each and its probability."""

    masks: Bool[Tensor, "S H W"]
    labels: Int[Tensor, "S"]
    scores: Float[Tensor, "S"]


class PanopticNet(nn.Module):
    """Queries that look at convolutional features, each for one mask and its class; about 0.3 million parameters.

    Four convolution blocks down to an eighth of the picture, where queries attend; pixels are embedded at a quarter.
    Every decoder layer predicts, so that every one can be trained. The auxiliary semantic head serves training alone:
    weights saved without it (`inference_state`) load with `strict=False`. `save_panoptic` and `load_panoptic` keep a
    trained net in a folder.

    Args:
        classes: K.
        queries: N, at least the objects of a picture.
        width: channels of queries and pixels, a multiple of 8.
        layers: of the decoder.

    Raises:
        UsageError: a width that is no multiple of 8, or fewer than one of the others.
    """

    def __init__(self, classes: int, *, queries: int = 16, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        if width < 8 or width % 8 or min(classes, queries, layers) < 1:
            raise UsageError(
                f"width must be a multiple of 8 and the others at least 1, not width={width}, classes={classes}, "
                f"queries={queries}, layers={layers}"
            )
        self.classes = classes
        self.settings = {"classes": classes, "queries": queries, "width": width, "layers": layers}
        half = width // 2
        self.early = nn.Sequential(_block(3, half, 2), _block(half, width, 2), _block(width, width, 1))
        self.late = nn.Sequential(_block(width, width, 2), _block(width, width, 1))
        self.pixel = nn.Conv2d(width, width, 3, padding=1)
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.place = nn.Linear(2, width)
        self.decoder = nn.ModuleList(
            nn.TransformerDecoderLayer(width, HEADS, 2 * width, dropout=0.0, batch_first=True) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.embed = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.classify = nn.Linear(width, classes + 1)
        self.semantic = nn.Sequential(_block(width, width, 1), nn.Conv2d(width, classes + 1, 1))

    def forward(
        self, images: Float[Tensor, "B 3 H W"]
    ) -> tuple[list[MaskPrediction], Float[Tensor, "B K1 H W"] | None]:
        """The prediction of each decoder layer, last one best, and, in training, logits of the semantic head.

        Args:
            images: in [0, 1], of sides that are multiples of 8.
        """
        early = self.early(images - 0.5)  # (B, D, H / 4, W / 4)
        late = self.late(early)  # (B, D, H / 8, W / 8)
        pixels = self.pixel(early + F.interpolate(late, early.shape[-2:], mode="bilinear", align_corners=False))
        memory = late.flatten(2).mT + self.place(_grid(late))
        x, predictions = self.queries.expand(len(images), -1, -1), []
        for layer in self.decoder:
            x = layer(x, memory)
            out = self.norm(x)
            masks = torch.einsum("bnd,bdhw->bnhw", self.embed(out), pixels)
            predictions.append(MaskPrediction(_full(masks, images), self.classify(out)))
        return predictions, _full(self.semantic(pixels), images) if self.training else None

    def inference_state(self) -> dict[str, Tensor]:
        """The weights without the auxiliary head."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith(AUXILIARY)}

    @torch.no_grad()
    def segments(
        self, images: Float[Tensor, "B 3 H W"], *, score: float = 0.5, overlap: float = 0.8
    ) -> list[PanopticSegments]:
        """Disjoint segments: each pixel goes to the query of the largest class times mask probability.

        Args:
            images: in [0, 1].
            score: least probability of a query's class.
            overlap: least share of a query's own mask that it wins; the rest is hidden, or another's.

        Paper: Per-Pixel Classification is Not All You Need for Semantic Segmentation (arXiv 2107.06278).
        """
        training = self.training
        self.eval()
        last = self(images)[0][-1]
        self.train(training)
        return [
            _segments(masks, classes, score, overlap) for masks, classes in zip(last.masks, last.classes, strict=True)
        ]


def _segments(
    masks: Float[Tensor, "N H W"], classes: Float[Tensor, "N K1"], score: float, overlap: float
) -> PanopticSegments:
    scores, labels = classes.softmax(-1).max(-1)
    kept = torch.nonzero((labels < classes.shape[-1] - 1) & (scores >= score))[:, 0]
    chance = masks[kept].sigmoid()
    if not len(kept):
        return PanopticSegments(chance.bool(), labels[kept], scores[kept])
    winner = (scores[kept][:, None, None] * chance).argmax(0)
    own = chance >= 0.5
    won = own & (winner == torch.arange(len(kept), device=winner.device)[:, None, None])
    area = own.sum((1, 2))
    solid = (area > 0) & (won.sum((1, 2)) >= overlap * area)
    return PanopticSegments(won[solid], labels[kept][solid], scores[kept][solid])


def _block(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, stride=stride, bias=False), nn.GroupNorm(4, after), nn.ReLU()
    )


def _grid(maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "N 2"]:
    """Rows and columns of the cells, in [-1, 1]."""
    y, x = (torch.linspace(-1, 1, side, device=maps.device) for side in maps.shape[-2:])
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).flatten(0, 1)


def _full(maps: Tensor, images: Tensor) -> Tensor:
    return F.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class PanopticTraining:
    """What training left.

    Attributes:
        net: in eval mode.
        losses: of each step.
        false_positives, false_negatives: of each step, see `losses.MaskSetLoss`; of the last decoder layer.
    """

    net: PanopticNet
    losses: Float[np.ndarray, "steps"]
    false_positives: Float[np.ndarray, "steps"]
    false_negatives: Float[np.ndarray, "steps"]


def train_panoptic(
    images: Float[Tensor, "M 3 H W"],
    labels: Sequence[Int[Tensor, "_"]],
    masks: Sequence[Bool[Tensor, "_ H W"]],
    *,
    classes: int,
    remask: bool = False,
    reclass: float = 0.0,
    queries: int = 16,
    width: int = 64,
    layers: int = 3,
    steps: int = 400,
    batch: int = 8,
    lr: float = 1e-3,
    seed: int = 0,
) -> PanopticTraining:
    """Train a `PanopticNet`; every decoder layer has the loss.

    Args:
        images: in [0, 1], of sides that are multiples of 8.
        labels, masks: for each picture the classes 0..K-1 and masks of its objects and grounds.
        classes: K.
        remask: relax masks by the semantic head.
        reclass: eta of relaxed class targets; the paper's is 0.1, and 0 leaves them one-hot.
        queries, width, layers: of the net.
        steps, batch, lr: of AdamW; no gradient is clipped.
        seed: of weights and batches.

    Raises:
        UsageError: no picture, or as `PanopticNet` and `losses.MaskSetLoss`.

    Paper: ReMaX: Relaxing for Better Training on Efficient Panoptic Segmentation (NeurIPS 2023, arXiv 2306.17319).
    """
    if not len(images) or not len(images) == len(labels) == len(masks):
        raise UsageError(
            f"give labels and masks for each picture, not {len(labels)} and {len(masks)} for {len(images)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = PanopticNet(classes, queries=queries, width=width, layers=layers)
    loss = MaskSetLoss(relax_masks=ReMask() if remask else None, relax_classes=ReClass(reclass) if reclass else None)
    wrong: list[tuple[float, float]] = []

    def rows() -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield torch.randint(len(images), (batch,), generator=generator)

    def step(chosen: Tensor) -> Tensor:
        predictions, semantic = net(images[chosen])
        own, drawn = ([part[row] for row in chosen.tolist()] for part in (labels, masks))
        costs = [loss(each.masks, each.classes, own, drawn, semantic if remask else None) for each in predictions]
        wrong.append((float(loss.parts["false positives"]), float(loss.parts["false negatives"])))
        return torch.stack(costs).sum()

    net.train()
    result = fit(step, net, rows(), steps=steps, lr=lr)
    positives, negatives = np.asarray(wrong).T
    return PanopticTraining(net.eval(), np.asarray(result.history["loss"]), positives, negatives)


def save_panoptic(
    net: PanopticNet, folder: str | Path, *, card: dict[str, Any] | None = None, dtype: str = "float32"
) -> Path:
    """Write a net into a folder that `load_panoptic` takes, without the head that serves training alone.

    Args:
        net: such as `train_panoptic(...).net`.
        folder: made where it is missing.
        card: what to say of it, as JSON.
        dtype: of the stored weights: "float32", "float16" or "int8".
    """
    state = net.inference_state()
    return write_folder(folder, kind=KIND, config={"net": net.settings}, state=state, card=card or {}, dtype=dtype)


def load_panoptic(folder: str | Path) -> PanopticNet:
    """Read a folder that `save_panoptic` wrote; the net is in eval mode, its training head untrained.

    Raises:
        CheckpointError: another kind of model, or damaged weights.
    """
    read = read_folder(folder, KIND)
    net = configured(lambda: PanopticNet(**read.config["net"]), Path(folder))
    whole = {**net.state_dict(), **read.state}
    if missing := sorted(net.inference_state().keys() - read.state.keys()):
        raise CheckpointError(f"{folder} lacks weights of the net: {missing[0]} and {len(missing) - 1} more")
    guarded(lambda: net.load_state_dict(whole), Path(folder), "this version")
    return net.eval()
