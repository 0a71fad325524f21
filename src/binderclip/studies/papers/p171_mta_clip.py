"""Are class boundaries sharper where whole masks, not pixels, are aligned with the texts of classes?"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data.synthetic_scenes.batch import Scenes
from binderclip.fit import fit
from binderclip.models.layers.fast_gradients import fast_gradients
from binderclip.models.towers.tokens import Tokens
from binderclip.segment import MTACLIP, train_mta_clip
from binderclip.segment.metrics import IoU
from binderclip.segment.parts.context import dense_tower
from binderclip.segment.trained.task import RowBatches
from binderclip.segment.trained.tuned import embed_once, squashed
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots, segmentations
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.class_scenes import CLASSES, HELD_OUT, class_scenes, scene_ious

SCENE, SIDE, TRAIN, TEST, STEPS, BATCH, LR = 96, 160, 400, 70, 600, 4, 1e-3
SEEDS = tuple(range(10, 16))
ONE, LINEAR, PIXELS, MASKS = "one class everywhere", "linear probe of the patches", "pixels to text", "MTA-CLIP"
HEAD: dict[str, Any] = {
    "queries": 16, "width": 32, "layers": 3, "heads": 4, "hidden": 256, "n_ctx": 4, "blocks": 0, "size": SIDE,
}  # fmt: skip
#: The finest maps have as many pixels.
MASK_SIDE = SIDE // 4
METHODS = (LINEAR, PIXELS, MASKS)
MIOU, IOU, BOUNDARY = "mIoU of all scenes", "mIoU of a scene", "boundary IoU of a scene"
Scores = Callable[[Tokens], Tensor]


def train_set(seed: int) -> tuple[Scenes, Tensor]:
    """Scenes of training drawings and their label maps."""
    return class_scenes(17_100 + seed, TRAIN, SCENE, "train")


def test_set(seed: int) -> tuple[Scenes, Tensor]:
    """Scenes of held-out drawings and their label maps."""
    return class_scenes(171_000 + seed, TEST, SCENE, HELD_OUT)


def embedded(images: Float[Tensor, "N 3 S S"]) -> Tokens:
    """What the tower makes of pictures, of which no block learns: the same for every head."""
    model = bundled()
    depth = dense_tower(model).depth
    return embed_once(model, lambda some: squashed(model, some, SIDE), images, blocks=depth)


@torch.no_grad()
def patch_maps(tokens: Tokens) -> Float[Tensor, "B D h w"]:
    """The normed patches that all heads start from."""
    assert tokens.grid is not None
    return dense_tower(bundled()).norm(tokens.patches).mT.unflatten(2, tokens.grid)


class PixelTextAlignment(nn.Module):
    """The same pyramid; each pixel's vector is compared with the class texts, by cross-entropy."""

    def __init__(self, head: MTACLIP) -> None:
        super().__init__()
        self.head, self.out = head, nn.Linear(HEAD["width"], head.model.embed_dim)

    def forward(self, tokens: Tokens) -> Float[Tensor, "B K h w"]:
        """Logits at a quarter of the patch's side."""
        maps = self.head.maps(tokens, dense_tower(self.head.model).depth)
        pixels = F.normalize(self.out(maps[-1].movedim(1, -1)), dim=-1)
        return (pixels @ self.head.texts()[:, 0].T).movedim(-1, 1) / 0.07


class PatchProbe(nn.Module):
    """A linear classifier of each standardised patch, without pyramid, decoder or text."""

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        maps = patch_maps(tokens)
        self.mean, self.deviation = maps.mean((0, 2, 3), keepdim=True), maps.std((0, 2, 3), keepdim=True)
        self.out = nn.Conv2d(maps.shape[1], len(CLASSES), 1)

    def forward(self, tokens: Tokens) -> Float[Tensor, "B K h w"]:
        """Logits of each patch."""
        return self.out((patch_maps(tokens) - self.mean) / self.deviation)


def train_logits(net: nn.Module, tokens: Tokens, labels: Tensor, seed: int, lr: float = LR) -> Scores:
    """Steps, batches and optimizer of `train_mta_clip`, with the cross-entropy of each pixel."""
    small = F.interpolate(labels[:, None].double(), (MASK_SIDE, MASK_SIDE), mode="nearest-exact")[:, 0].long()

    def step(given: tuple[int, Tensor]) -> Tensor:
        logits = net(tokens.with_x(tokens.x[given[1]]))
        return F.cross_entropy(F.interpolate(logits, small.shape[1:], mode="bilinear"), small[given[1]])

    with fast_gradients(net):
        learned = [p for p in net.parameters() if p.requires_grad]
        fit(
            step, learned, RowBatches(TRAIN, BATCH, seed), steps=STEPS, lr=lr,
            optimizer={"name": "adamw", "weight_decay": 0.05},
        )  # fmt: skip
    return net.eval()


@lru_cache(maxsize=1)
def trained(seed: int) -> dict[str, Scores]:
    """Tokens -> scores for each method."""
    (found, labels), model, depth = train_set(seed), bundled(), dense_tower(bundled()).depth
    tokens, nets = embedded(found.images), {}
    torch.manual_seed(seed)
    nets[LINEAR] = train_logits(PatchProbe(tokens), tokens, labels, seed, lr=3e-3)
    pixels = PixelTextAlignment(MTACLIP(model, CLASSES, prompts=1, seed=seed, **HEAD))
    nets[PIXELS] = train_logits(pixels, tokens, labels, seed)
    head = MTACLIP(model, CLASSES, prompts=3, seed=seed, **HEAD)
    with fast_gradients(head):
        train_mta_clip(
            head, found.images, labels, steps=STEPS, batch=BATCH, lr=LR, mask_side=MASK_SIDE, tokens=tokens, seed=seed
        )
    nets[MASKS] = partial(head.class_scores, start=depth)
    return nets


@torch.no_grad()
def label_maps(net: Scores, tokens: Tokens) -> Int[Tensor, "N S S"]:
    """The class of each pixel."""
    parts = [F.interpolate(net(tokens.with_x(some)), (SCENE, SCENE), mode="bilinear") for some in tokens.x.split(16)]
    return torch.cat([part.argmax(1) for part in parts])


def scored(name: str, found: Int[Tensor, "N S S"], truth: Int[Tensor, "N S S"]) -> list[Row]:
    """mIoU of all scenes together, and scene by scene the means over the classes that are there."""
    metric = IoU(len(CLASSES))
    metric.update(found, truth)
    areas, edges = scene_ious(found, truth)
    return [
        Row(MIOU, name, float(metric.compute().miou)),
        Row(IOU, name, sum(areas) / len(areas), items=areas),
        Row(BOUNDARY, name, sum(edges) / len(edges), items=edges),
    ]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    found, truth = test_set(seed)
    rows, tokens = scored(ONE, torch.zeros_like(truth), truth), embedded(found.images)
    for name, net in trained(seed).items():
        rows += scored(name, label_maps(net, tokens), truth)
    return rows


def null(seed: int) -> list[Row]:
    """Random numbers under every name, scene by scene."""
    draw = np.random.default_rng([seed, 171]).uniform
    rows = [Row(MIOU, MASKS, 1.0)]
    for metric in (IOU, BOUNDARY):
        for name in METHODS:
            values = tuple(draw(0, 1, TEST).tolist())
            rows.append(Row(metric, name, sum(values) / TEST, items=values))
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Test scenes with the label maps, and both figures."""
    seed = table.rows[-1].seed  # whose heads are at hand
    found, truth = test_set(seed)
    images, tokens = found.images[:3], embedded(found.images[:3])
    maps = {"truth": truth[:3]} | {name: label_maps(net, tokens) for name, net in trained(seed).items()}
    halves: Any = figure.subfigures(1, 2, width_ratios=[2, 1])
    segmentations(halves[0], images, maps, classes=len(CLASSES))
    for ax, metric in zip(halves[1].subplots(2, 1), (IOU, BOUNDARY), strict=True):
        dots(ax, table, metric, METHODS)
        ax.set_title(metric, fontsize=9)
        ax.tick_params(axis="x", labelrotation=20, labelsize=6)


STUDY = declared_study(__name__, measure, null=null, seeds=SEEDS, draw=draw, registered="24e817f058d3")
