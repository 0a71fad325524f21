"""The losses of SegCLIP and its training by captions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses import SuperpixelKL, info_nce
from binderclip.losses.contrastive.scale import LogitScale
from binderclip.losses.dense.superpixels import patch_superpixels
from binderclip.models.towers.tokens import Tokens
from binderclip.segment.parts.region_scope import Felzenszwalb, RegionSource
from binderclip.segment.trained.segclip import FROM_CLIP, SegCLIP
from binderclip.segment.trained.task import HeadTask, RowBatches, run_task
from binderclip.segment.trained.tuned import embed_once

__all__ = ["SegCLIPObjective", "SegCLIPTraining", "segclip_groups", "train_segclip"]

PARTS = ("contrast", "superpixels", "reconstruction")


@dataclass(frozen=True)
class SegCLIPObjective:
    """The sum of SegCLIP's three losses.

    Args:
        superpixels: weight of the agreement within superpixels (`losses.SuperpixelKL`), 0 leaves it out.
        reconstruction: weight of the error on hidden patches, 0 leaves it out.
        ratio: share of the patches that is hidden.
        regions: superpixels of a picture; default Felzenszwalb's with the paper's settings, brought to its size.
        patch_rule: of `patch_superpixels`.

    Raises:
        UsageError: a negative weight.
    """

    superpixels: float = 1.0
    reconstruction: float = 1.0
    ratio: float = 0.75
    regions: RegionSource | None = None
    patch_rule: Literal["majority", "mean"] = "majority"

    def __post_init__(self) -> None:
        if min(self.superpixels, self.reconstruction) < 0:
            raise UsageError(f"weights must not be negative, not {self.superpixels} and {self.reconstruction}")

    def superpixels_of(self, images: Float[Tensor, "B 3 S S"], patch: int) -> Int[Tensor, "B N"]:
        """One superpixel a patch.

        Args:
            images: in [0, 1], at the size at which they are seen.
            patch: side in pixels.
        """
        side = images.shape[-1]
        # 224, 0.9 and 224 at 224 px: sigma is a length and min_size an area; scale / area is held against differences
        # of neighbours, which fall as 1 / side.
        source = self.regions or Felzenszwalb(scale=side, sigma=0.9 * side / 224, min_size=round(side**2 / 224))
        ids = torch.stack([torch.as_tensor(source(image)) for image in images.cpu()])
        return patch_superpixels(ids, patch, rule=self.patch_rule)

    def __call__(
        self,
        head: SegCLIP,
        pixels: Float[Tensor, "B 3 S S"],
        text: Float[Tensor, "B E"],
        superpixels: Int[Tensor, "B N"] | None = None,
        tokens: Tokens | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The loss of a batch, and its parts.

        Args:
            head: is trained.
            pixels: of `head.pixels`.
            text: of the captions.
            superpixels: of each patch, unless their weight is 0.
            tokens: of the pixels, where they are known.
        """
        grouped = head(pixels if tokens is None else tokens)
        parts = {"contrast": info_nce(grouped.pictures, text.float(), LogitScale.of(head.model.backbone).value)}
        if self.superpixels and superpixels is not None:
            own = superpixels.to(pixels.device)
            parts["superpixels"] = self.superpixels * SuperpixelKL()(grouped.patches.hard, own)
        if self.reconstruction:
            error = head.reconstruct(pixels, tokens, ratio=self.ratio)
            parts["reconstruction"] = self.reconstruction * error
        return torch.stack(list(parts.values())).sum(), {name: value.detach() for name, value in parts.items()}


@dataclass(frozen=True)
class SegCLIPTraining:
    """What training left: the head in eval mode, and of each step the loss and its parts."""

    head: SegCLIP
    losses: Float[np.ndarray, "steps"]
    parts: dict[str, Float[np.ndarray, "steps"]]


def segclip_groups(head: SegCLIP, model_lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters that learn: new ones and what follows the groups at the full rate, the rest of the model slower.

    Vectors (norms, biases) have no weight decay.
    """
    fast = {id(p) for p in head.after}
    fast |= {id(p) for name, p in head.named_parameters() if not name.startswith(FROM_CLIP)}
    learning = [p for p in head.parameters() if p.requires_grad]
    groups = []
    for quick in (True, False):
        for matrices in (True, False):
            chosen = [p for p in learning if (id(p) in fast) == quick and (p.ndim > 1) == matrices]
            rate = {} if quick else {"lr_scale": model_lr}
            if chosen:
                groups.append({"params": chosen, "weight_decay": weight_decay if matrices else 0.0, **rate})
    return groups


def train_segclip(
    head: SegCLIP,
    images: Float[Tensor, "N 3 H W"],
    captions: Sequence[str],
    *,
    objective: SegCLIPObjective | None = None,
    steps: int = 1000,
    batch: int = 32,
    lr: float = 4e-3,
    model_lr: float = 1e-3,
    weight_decay: float = 0.05,
    warmup: float = 0.15,
    clip: float | None = 1.0,
    seed: int = 0,
) -> SegCLIPTraining:
    """Train on pictures with captions, by AdamW with a linear warm-up and a cosine to 0.

    Args:
        head: to be trained.
        images: in [0, 1].
        captions: one a picture.
        objective: the losses; default `SegCLIPObjective()`.
        steps, batch, lr, weight_decay: of AdamW; the paper has 10 epochs of 768 pictures a step.
        model_lr: what was the model's learns at so many times `lr`, but what follows the groups.
        warmup: share of the steps.
        clip: norm of the gradient at most.
        seed: of the batches, the draws of groups and the hidden patches.

    Raises:
        UsageError: no two pictures, or captions that are not as many.
        MissingDependency: the superpixels are scikit-image's, and it is not installed.

    Paper: SegCLIP: Patch Aggregation with Learnable Centers for Open-Vocabulary Semantic Segmentation (ICML 2023,
    arXiv 2211.14813).
    """
    if images.ndim != 4 or len(images) < 2 or len(captions) != len(images):
        raise UsageError(f"{len(captions)} captions for images {tuple(images.shape)}: one each, two pictures at least")
    losses = objective or SegCLIPObjective()
    seen = [head.pixels(some) for some in images.split(64)]
    pixels, model = torch.cat(seen), head.model
    tokens = embed_once(model, lambda some: some, pixels) if head.blocks is not None else None
    regions = None
    if losses.superpixels:
        squashed = F.interpolate(images, (head.size, head.size), mode="bilinear", antialias=True)
        regions = losses.superpixels_of(squashed.clamp(0, 1), model.image_tower.patch)
    words = model.tokenize(list(captions))
    with torch.no_grad():
        text_features = None if head.text else model.encode_text(words)

    def step(given: tuple[int, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        rows = given[1]
        text = model.encode_text(words[rows]) if text_features is None else text_features[rows]
        own = None if tokens is None else tokens.with_x(tokens.x[rows])
        return losses(head, pixels[rows], text, None if regions is None else regions[rows], own)

    def schedule(progress: float) -> float:
        return progress / warmup if progress < warmup else (1 + math.cos(math.pi * progress)) / 2

    task = HeadTask(
        head, step, RowBatches(len(images), min(batch, len(images)), seed), segclip_groups(head, model_lr, weight_decay)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        result = run_task(task, steps=steps, lr=lr, weight_decay=weight_decay, schedule=schedule, clip=clip)
    history = {name: np.asarray(result.history[name]) for name in ("loss", *PARTS) if name in result.history}
    return SegCLIPTraining(head, history.pop("loss"), history)
