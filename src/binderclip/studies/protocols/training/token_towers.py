"""What studies of shorter inputs share: a small ViT from scratch on clip art, trained in stages of different tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data import Augment, load_data
from binderclip.evaluate import retrieval
from binderclip.losses import clip
from binderclip.studies.protocols.training.contrastive_towers import bags
from binderclip.studies.protocols.training.selections import CONCEPTS
from binderclip.train.tokens.image import TokenReduction
from binderclip.train.tokens.place import reduced_tokens

__all__ = [
    "ACCURACY",
    "PATCH",
    "RECALL",
    "SCORE",
    "SIDE",
    "StagePlan",
    "TokenTower",
    "clip_art",
    "judged",
    "scores",
    "shown",
    "train_stages",
    "views_of",
]

SIDE, PATCH, EMBED, BATCH = 48, 8, 64, 64
"""Full pictures are 6 x 6 patches."""
ACCURACY, RECALL, SCORE = "zero-shot accuracy", "R@5, mean of both directions", "mean of accuracy and recall"


@dataclass(frozen=True)
class StagePlan:
    """One stage of training.

    Attributes:
        steps: batches of `BATCH` pairs.
        side: of the pictures in pixels.
        tokens: which patches are kept.
        rate: peak learning rate, with a cosine to zero and a warm-up of a tenth.
    """

    steps: int
    side: int = SIDE
    tokens: TokenReduction | None = None
    rate: float = 1e-3

    @property
    def patches(self) -> int:
        """Patches of a picture that the blocks see."""
        grid = self.side // PATCH, self.side // PATCH
        return grid[0] * grid[1] if self.tokens is None else self.tokens.count(grid)


class TokenTower(nn.Module):
    """open_clip's VisionTransformer beside two layers on bags of words, both new.

    Args:
        seed: of the weights.
        width: of the ViT, a multiple of 32.
        layers: of the ViT.
    """

    def __init__(self, seed: int, *, width: int, layers: int) -> None:
        from open_clip.transformer import VisionTransformer

        super().__init__()
        torch.manual_seed(seed)
        self.visual = VisionTransformer(
            SIDE, PATCH, width, layers, heads=width // 32, mlp_ratio=4.0, pool_type="avg", output_dim=EMBED,
            pos_embed_type="sin_cos_2d",
        )  # fmt: skip
        words = bags(["a"]).shape[1]
        self.text = nn.Sequential(nn.Linear(words, 128), nn.GELU(), nn.Linear(128, EMBED, bias=False))
        self.loss = clip()


@lru_cache(maxsize=2)
def clip_art(held: bool) -> tuple[UInt8[Tensor, "N 4 S S"], Float[Tensor, "N V"], list[str], list[str]]:
    """Pictures, words, captions and keys of the training clip art, or of the two other splits."""
    found = [load_data("openclipart", split, mode="RGBA") for split in (("val", "test") if held else ("train",))]
    pixels = torch.cat([data.pixels(SIDE, mode="RGBA", fit="pad")[0] for data in found])
    captions = [text.lower() for data in found for text in data.captions]
    return pixels, bags(captions), captions, [key for data in found for key in data.keys]


def _normalised(images: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
    return images.float().div_(255).sub_(0.5).div_(0.25)


class CropBatches(NamedTuple):
    """Batches of crops of one seed, which every way of training sees: pixels, and rows of the training pairs."""

    images: UInt8[Tensor, "N 3 S S"]
    rows: Int[Tensor, "N"]


@lru_cache(maxsize=1)
def views_of(seed: int, steps: int) -> CropBatches:
    """Crops of 40 to 100 % of the area, mirrored, colours a little changed, in the order of training."""
    pixels, _, _, keys = clip_art(False)
    augment = Augment(SIDE, scale=(0.4, 1.0), rotate=0, white=1.0, paint=0.0, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.cat([torch.randperm(len(keys), generator=generator)[:BATCH] for _ in range(steps)])
    parts = [
        augment(pixels[part], [keys[row] for row in part.tolist()], epoch).mul_(255).round_().byte()
        for epoch, part in enumerate(rows.split(BATCH))
    ]
    return CropBatches(torch.cat(parts), rows)


def train_stages(
    plans: Sequence[StagePlan],
    seed: int,
    *,
    width: int,
    layers: int,
    most: int,
    start: TokenTower | None = None,
    first: int = 0,
) -> TokenTower:
    """Train a tower through its stages; weights and crops come from the seed and are the same for every plan.

    Optimizer and schedule start anew with each stage; weights and temperature are carried over.

    Args:
        plans: the stages.
        seed: of everything.
        width, layers: of the ViT.
        most: steps of the longest training of the seed, at least those of the plans.
        start: a tower to go on from, which is copied. Default a new one.
        first: steps that `start` was trained for.
    """
    from binderclip.fit import fit

    model = TokenTower(seed, width=width, layers=layers) if start is None else copy.deepcopy(start)
    views, words = views_of(seed, most), clip_art(False)[1]
    for plan in plans:

        def step(start: int, plan: StagePlan = plan) -> Tensor:
            images = _normalised(views.images[start : start + BATCH])
            if plan.side != SIDE:
                images = F.interpolate(images, size=(plan.side, plan.side), mode="bilinear", antialias=True)
            return model.loss(model.visual(images), model.text(words[views.rows[start : start + BATCH]])).total

        starts = iter(range(first * BATCH, (first + plan.steps) * BATCH, BATCH))
        first += plan.steps
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        model.train()
        with reduced_tokens(model, plan.tokens, "sincos", image_size=plan.side):
            fit(step, learned, starts, steps=plan.steps, lr=plan.rate, warmup=0.1)
    return model.eval()


def shown(held: bool = True) -> list[Float[Tensor, "B 3 S S"]]:
    """Clip art whole, held out or that of training, as a tower is given it, in batches."""
    still: dict[str, Any] = dict.fromkeys(
        ("flip", "rotate", "brightness", "contrast", "saturation", "hue", "grey", "paint"), 0.0
    )
    whole = Augment(SIDE, scale=(1, 1), ratio=(1, 1), white=1.0, **still)
    return [
        _normalised(whole(part, [""] * len(part)).mul_(255).round_().byte()) for part in clip_art(held)[0].split(256)
    ]


@torch.no_grad()
def judged(model: TokenTower) -> dict[str, float]:
    """Held-out clip art with all its patches, see `scores`."""
    model.eval()
    image = torch.cat([model.visual(part) for part in shown()])
    return scores(image, model.text(clip_art(True)[1]), model.text(bags(list(CONCEPTS))))


@torch.no_grad()
def scores(image: Float[Tensor, "N E"], text: Float[Tensor, "N E"], names: Float[Tensor, "C E"]) -> dict[str, float]:
    """Zero-shot accuracy among names of concepts, mean R@5, and their mean, of held-out clip art.

    Args:
        image, text: embeddings of pictures and captions.
        names: embeddings of the concepts' names.
    """
    captions = clip_art(True)[2]
    found = retrieval(image, text, captions=captions, ks=(5,))
    named = np.array([[word in text.split() for word in CONCEPTS] for text in captions])
    rows = np.flatnonzero(named.any(1))
    guessed = (image[rows] @ F.normalize(names, dim=1).T).argmax(1).numpy()
    accuracy = float(named[rows, guessed].mean())
    recall = (found["text_to_image/R@5"] + found["image_to_text/R@5"]) / 2
    return {ACCURACY: accuracy, RECALL: recall, SCORE: (accuracy + recall) / 2}
