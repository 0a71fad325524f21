"""Do patches that a momentum copy attends to lie on what captions name, and is training on them better than on any?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data.synthetic_scenes.batch import Scenes
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import SCENES15, vocabulary
from binderclip.losses import ContrastiveLoss, SameKey
from binderclip.models.towers import open_image_tower
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.train.feed.batches import TrainingBatch
from binderclip.train.stages.attentive import AttentiveMaskStep
from binderclip.train.tokens.attentive import AttentivePatches, EnclosingCrops, class_attention, crop_resize

PATCH, WIDTH, LAYERS, EMBED = 8, 64, 2, 64
TRAIN, TEST, SIDE = 2000, 500, 64
STEPS, BATCH, RATE, MOMENTUM = 200, 64, 1e-3, 0.9
HEADS: dict[str, int] = {"hidden": 256, "width": 64}
PLAIN, RANDOM, ATTENTIVE = "all patches, one view", "random half", "attended half"
ACLIP = "attended half, self-supervised"
METHODS = (PLAIN, RANDOM, ATTENTIVE, ACLIP)
ACCURACY = "zero-shot accuracy"
KEPT = "share of the drawing's patches that is kept"
START, HELD_OUT = "before training", "val+test+shift"


class CaptionedViT(nn.Module):
    """open_clip's ViT with a class token beside a vector for each caption, both new, as a stage expects a model."""

    def __init__(self, seed: int) -> None:
        from open_clip.transformer import VisionTransformer

        super().__init__()
        torch.manual_seed(seed)
        self.visual = VisionTransformer(
            SIDE, PATCH, WIDTH, LAYERS, heads=2, mlp_ratio=4.0, pool_type="tok", output_dim=EMBED
        )
        self.visual.conv1.requires_grad_(False)
        self.text = nn.Embedding(len(SCENES15), EMBED)

    @property
    def backbone(self) -> CaptionedViT:
        """What a stage finds `visual` in."""
        return self

    def encode_text(self, concepts: Int[Tensor, "B"]) -> Float[Tensor, "B E"]:
        return self.text(concepts)  # type: ignore[no-any-return]


class RandomMaskStep(AttentiveMaskStep):
    """The same step with scores that know nothing."""

    def _attended(self, around: Tensor) -> tuple[Tensor, Tensor]:
        scores, target = super()._attended(around)
        return torch.rand_like(scores), target


@lru_cache(maxsize=2)
def made(seed: int, count: int, split: str) -> Scenes:
    """Scenes of one drawing on textures, clouds of noise and crops of photographs."""
    return scenes(
        seed, count, SIDE, vocabulary=vocabulary("scenes15", split=split), objects=1, area=(0.12, 0.3),
        background=["texture", "noise", "photo"],
    )  # fmt: skip


def captions(data: Scenes) -> Int[Tensor, "N"]:
    """The class of each scene's drawing."""
    return data.semantic.flatten(1).amax(1) - 1


def normalised(images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
    """Pictures in [0, 1] as the tower takes them."""
    return (images - 0.5) / 0.25


def trained(name: str, seed: int) -> tuple[CaptionedViT, nn.Module]:
    """A model trained in one of the ways, and the copy whose attention chose the patches (or itself)."""
    from binderclip.fit import fit

    data, model, crops = made(1_590 + seed, TRAIN, "train"), CaptionedViT(seed), EnclosingCrops(seed=seed)
    named = captions(data)
    loss = ContrastiveLoss(targets=SameKey("ignore"))
    simclr, byol = (1.0, 2.0) if name == ACLIP else (0.0, 0.0)
    kind = AttentiveMaskStep if name in (ATTENTIVE, ACLIP) else RandomMaskStep
    module = kind(
        model, loss, mask=AttentivePatches(), boxes=lambda batch: crops(batch.keys, batch.epoch), steps=STEPS,
        momentum=MOMENTUM, simclr=simclr, byol=byol, **HEADS,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randperm(TRAIN, generator=generator)[:BATCH] for _ in range(STEPS)]

    def step(number: int) -> Tensor:
        rows = batches[number]
        keys = [str(row) for row in rows.tolist()]
        views = [crop_resize(normalised(data.images[rows]), box.float(), SIDE) for box in crops(keys, number)]
        concepts = named[rows]
        if name == PLAIN:
            return loss(model.visual(views[0]), model.encode_text(concepts), keys=concepts).total
        batch = TrainingBatch(torch.cat(views, 3), concepts, rows, concepts, keys=keys, epoch=number)  # type: ignore[arg-type]
        return module(batch)[0]  # type: ignore[no-any-return]

    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    torch.manual_seed(seed)
    fit(step, learned, list(range(STEPS)), steps=STEPS, lr=RATE, warmup=0.1)
    looking: Any = model.visual if name == PLAIN else module.momentum.copied[0]  # type: ignore[index]
    return model.eval(), looking.eval()


@torch.no_grad()
def kept_share(tower: nn.Module, data: Scenes) -> float:
    """Of the patches that the drawing mostly covers, the mean share that the mask keeps."""
    covered = F.avg_pool2d((data.semantic[:, None] > 0).float(), PATCH)[:, 0].flatten(1) > 0.5  # (N, 64)
    shares = []
    for rows in torch.arange(len(covered))[covered.any(1)].split(256):
        scores, _ = class_attention(open_image_tower(tower), normalised(data.images[rows]))
        kept = torch.zeros_like(covered[rows]).scatter_(1, AttentivePatches().select(scores), True)
        shares.append((kept & covered[rows]).sum(1) / covered[rows].sum(1))
    return float(torch.cat(shares).mean())


@torch.no_grad()
def accuracy(model: CaptionedViT, data: Scenes) -> float:
    """Share of held-out scenes, with all their patches, that are nearest to their own caption."""
    image = torch.cat([model.visual(normalised(part)) for part in data.images.split(256)])
    names = F.normalize(model.encode_text(torch.arange(len(SCENES15))), dim=1)
    return float(((image @ names.T).argmax(1) == captions(data)).float().mean())


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    held = made(15_900 + seed, TEST, HELD_OUT)
    rows = [Row(KEPT, START, kept_share(CaptionedViT(seed).eval().visual, held))]  # type: ignore[arg-type]
    for name in METHODS:
        model, looking = trained(name, seed)
        rows += [Row(ACCURACY, name, accuracy(model, held)), Row(KEPT, name, kept_share(looking, held))]
    return rows


def null(seed: int) -> list[Row]:
    """What a mask that knows nothing keeps, and accuracies of no model."""
    rng = np.random.default_rng([seed, 159])
    covered = F.avg_pool2d((made(15_900 + seed, TEST, HELD_OUT).semantic[:, None] > 0).float(), PATCH)[:, 0] > 0.5
    some = covered[covered.flatten(1).any(1)]
    chosen = AttentivePatches().select(torch.from_numpy(rng.random(some.shape)).float())
    kept = torch.zeros_like(some.flatten(1)).scatter_(1, chosen, True).view_as(some)
    share = float(((kept & some).sum((1, 2)) / some.sum((1, 2))).mean())
    rows = [Row(KEPT, name, share) for name in (START, *METHODS)]
    return rows + [Row(ACCURACY, name, float(rng.random())) for name in METHODS]


STUDY = declared_study(
    __name__,
    measure,
    draw=dot_panels((ACCURACY, METHODS), (KEPT, (START, *METHODS)), rotation=30),
    seeds=range(10, 18),
    null=null,
    registered="1397619b0f41",
)
