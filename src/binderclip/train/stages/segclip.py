"""A segmenter taught by pictures with captions, as a stage of a recipe.

    model = "small"
    data = ["my-folder"]
    batch_size = 32
    epochs = 10
    [[stage]]
    name = "groups"
    kind = {name = "segclip", groups = 6}

The data are pictures with captions, as a contrastive stage takes them; no label map is asked for. The model itself
stays as it is; `stages/00-groups/head` is what `binderclip segment-head` opens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from binderclip.errors import NotSupported
from binderclip.losses import SuperpixelKL
from binderclip.models import ImageTextModel
from binderclip.segment import SegCLIP, SegCLIPObjective
from binderclip.segment.trained.segclip_training import segclip_groups
from binderclip.train.engine.context import StageContext
from binderclip.train.feed.batches import TrainingBatch
from binderclip.train.recipe.passes import OwnCount, SampleCost, side_in, step_operations
from binderclip.train.recipe.registry import PASSES, STAGES, demands, register
from binderclip.train.recipe.stage import Stage
from binderclip.train.tokens.place import short_context

__all__ = ["segclip"]

FOLDER = "head"
LOSSES = ("superpixels", "reconstruction", "ratio", "patch_rule")  # settings of the objective


class SegCLIPStep(nn.Module):
    """One training step: both towers, the groups, the losses.

    Args:
        head: to be trained.
        objective: its losses; superpixels are those of the augmented pictures.
    """

    def __init__(self, head: SegCLIP, objective: SegCLIPObjective) -> None:
        super().__init__()
        self.head, self.objective = head, objective

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        model = self.head.model
        with short_context(model.backbone, batch.tokens.ids.shape[1]):
            text = model.encode_text(batch.tokens)
        regions = None
        if self.objective.superpixels:
            mean, std = (torch.tensor(each).view(3, 1, 1) for each in (model.preprocess.mean, model.preprocess.std))
            images = (batch.images.detach().float().cpu() * std + mean).clamp(0, 1)
            regions = self.objective.superpixels_of(images, model.image_tower.patch)
        loss, parts = self.objective(self.head, batch.images.float(), text, regions)
        return loss, {f"loss/{name}": value for name, value in parts.items()}


@register(STAGES, "segclip")
@demands(one_process=True)
def segclip(
    context: StageContext,
    *,
    groups: int = 8,
    tail: int | None = None,
    layers: int = 2,
    blocks: int | None = None,
    text: bool = True,
    superpixels: float = 1.0,
    reconstruction: float = 1.0,
    ratio: float = 0.75,
    patch_rule: Literal["majority", "mean"] = "majority",
    model_lr: float = 1e-3,
) -> dict[str, Any]:
    """Train a `segment.SegCLIP` on pictures and captions.

    Length, rate, weight decay, clipping and checkpoints are the recipe's, as for every stage; `image_size` of the stage
    is the side at which the head sees pictures. The head is left in the stage's folder as `head/`.

    Args:
        context: of the stage.
        groups, tail, layers, blocks, text: of `segment.SegCLIP`.
        superpixels, reconstruction, ratio, patch_rule: of `segment.SegCLIPObjective`.
        model_lr: see `segment.train_segclip`.

    Raises:
        NotSupported: several processes, or a model that is no image-text pair.
        UsageError: settings that do not fit the model.
    """
    if not isinstance(context.model, ImageTextModel):
        raise NotSupported(f"segclip takes image-text models, not {type(context.model).__name__}")
    head = SegCLIP(
        context.model, groups=groups, tail=tail, layers=layers, blocks=blocks, text=text, size=context.image_size,
        seed=context.seed,
    )  # fmt: skip
    objective = SegCLIPObjective(
        superpixels=superpixels, reconstruction=reconstruction, ratio=ratio, patch_rule=patch_rule
    )
    decay = context.stage.weight_decay
    context.fit(SegCLIPStep(head, objective), context.batches(), groups=lambda _: segclip_groups(head, model_lr, decay))
    head.eval()
    notes: dict[str, Any] = {"head": head.kind, "groups": groups}
    head.save(context.folder("stages") / FOLDER, card={"data": [spec.name for spec in context.stage.data], **notes})
    return notes


@register(PASSES, "segclip")
def _passes(stage: Stage, *, model_lr: float = 1e-3, **settings: Any) -> OwnCount:
    losses = {name: settings.pop(name) for name in LOSSES if name in settings}

    def count(model: Any, stages: Sequence[Stage], index: int) -> SampleCost:
        head = SegCLIP(model, size=side_in(stage, model), **settings).train()
        objective, tower = SegCLIPObjective(**losses), head.model.image_tower
        length, batch = stage.text_length or model.backbone.context_length, 2  # patches are drawn for each picture
        cells = (head.size // tower.patch) ** 2
        pixels = torch.empty(batch, 3, head.size, head.size, device="meta")
        ids, regions = (torch.zeros(batch, n, dtype=torch.long, device="meta") for n in (length, cells))

        def step() -> Tensor:
            with short_context(head.model.backbone, length):
                text = head.model.backbone.encode_text(ids)
            grouped = head(pixels)
            learned = [grouped.pictures.sum(), text.sum()]
            if objective.superpixels:
                learned.append(SuperpixelKL()(grouped.patches.hard, regions))
            if objective.reconstruction:
                learned.append(head.reconstruct(pixels, ratio=objective.ratio))
            return torch.stack(learned)

        again = int(cells * (1 - objective.ratio)) if objective.reconstruction else 0
        seen = cells + again  # those that are not hidden go through once more
        return SampleCost(image_tokens=seen, text_tokens=length, operations=step_operations(step) / batch)

    return OwnCount(count=count)
