"""Training of `OVCamouflage` on masks with names; the frozen features are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses.dense.mask_sets import MaskSetLoss
from binderclip.segment.trained.camouflage.network import OBJECT, OVCamouflage
from binderclip.segment.trained.task import HeadTask, RowBatches, run_task

__all__ = ["CamouflageTraining", "train_ov_camouflage"]


@dataclass(frozen=True)
class CamouflageTraining:
    """What training left: the head in eval mode, and the loss of each step."""

    head: OVCamouflage
    losses: Float[np.ndarray, "steps"]


def train_ov_camouflage(
    head: OVCamouflage,
    images: Float[Tensor, "M 3 H W"],
    classes: Sequence[str],
    labels: Sequence[Int[Tensor, "_"]],
    masks: Sequence[Bool[Tensor, "_ H W"]],
    *,
    texts: Float[Tensor, "C E"] | None = None,
    maps: Sequence[Float[Tensor, "M _ _ _"]] | None = None,
    steps: int = 1000,
    batch: int = 8,
    lr: float = 1e-4,
    weight_decay: float = 0.05,
    seed: int = 0,
) -> CamouflageTraining:
    """Train a head by AdamW: cross-entropy of classes, dice, and alpha = 5 times the cross-entropy of pixels.

    Queries are matched one to one with the objects of a picture (`losses.MaskSetLoss`). The refined masks have the loss
    with the texts' classes, each layer of the generator that of objects without names.

    Args:
        head: to be trained; features and text tower stay as they are.
        images: in [0, 1].
        classes: C names.
        labels, masks: for each picture the classes 0..C-1 and masks of its objects.
        texts: in the place of `head.texts(classes)`, zeros to train without text.
        maps: of `head.maps(images)`, where they are known; default computed once, 16 pictures at a time.
        steps, batch, lr, weight_decay: of AdamW, with a cosine to 0.
        seed: of the batches.

    Raises:
        UsageError: no picture, or pictures, labels, masks, texts and maps that do not belong together.

    Paper: Leveraging Open-Vocabulary Diffusion to Camouflaged Instance Segmentation (arXiv 2312.17505).
    """
    if not len(images) or not len(images) == len(labels) == len(masks):
        raise UsageError(
            f"give labels and masks for each picture, not {len(labels)} and {len(masks)} for {len(images)}"
        )
    device = head.log_temperature.device
    named = head.texts(classes) if texts is None else texts.to(head.log_temperature)
    if len(named) != len(classes):
        raise UsageError(f"{len(named)} texts for {len(classes)} classes")
    if maps is None:
        parts = [head.maps(some.to(device)) for some in images.split(16)]
        maps = [torch.cat(level) for level in zip(*parts, strict=True)]
    if any(len(level) != len(images) for level in maps):
        raise UsageError(f"maps must be of all {len(images)} pictures, got {[len(level) for level in maps]}")
    known, loss = list(maps), MaskSetLoss(class_weight=1.0, mask_weight=5.0, dice_weight=1.0)

    def step(given: tuple[int, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        rows = given[1]
        output = head([level[rows] for level in known], named)
        size = (output.masks.shape[-2], output.masks.shape[-1])
        own = [labels[row].to(device) for row in rows.tolist()]
        drawn = [_at(masks[row].to(device), size) for row in rows.tolist()]
        unnamed = [torch.full_like(each, OBJECT) for each in own]
        costs = [loss(layer.masks, layer.classes, unnamed, drawn) for layer in output.decoded.layers]
        costs.append(loss(output.masks, output.classes, own, drawn))
        return torch.stack(costs).sum(), {}

    task = HeadTask(head, step, RowBatches(len(images), batch, seed), [{"params": list(head.parameters())}])
    result = run_task(task, steps=steps, lr=lr, weight_decay=weight_decay, schedule="cosine")
    return CamouflageTraining(head, np.asarray(result.history["loss"]))


def _at(masks: Bool[Tensor, "G H W"], size: tuple[int, int]) -> Bool[Tensor, "G h w"]:
    """Masks at another size: a place belongs to an object where half of it does."""
    if not len(masks):
        return masks.new_zeros(0, *size)
    return F.interpolate(masks[None].float(), size, mode="area")[0] >= 0.5
