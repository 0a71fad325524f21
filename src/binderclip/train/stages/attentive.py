"""Half of the patches, chosen by the attention of a momentum copy, and self-supervision between views (A-CLIP).

[[stage]]
kind = {name = "attentive-mask"}
data = ["openclipart"]
epochs = 25
groups = [{match = "visual.conv1.*", freeze = true}]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.losses import ContrastiveLoss, LogitScale, Pair, prediction_distance
from binderclip.models.layers.projection_head import projection_head
from binderclip.models.towers import Tower, open_image_tower
from binderclip.models.towers.tokens import gather_patches
from binderclip.train.engine.companions import MomentumCopy
from binderclip.train.engine.context import StageContext
from binderclip.train.feed.batches import TrainingBatch
from binderclip.train.feed.pictures import Pixels, side_by_side
from binderclip.train.recipe.augmentation import make_augment
from binderclip.train.recipe.passes import TowerPasses
from binderclip.train.recipe.registry import PASSES, STAGES, demands, register
from binderclip.train.recipe.stage import Stage
from binderclip.train.stages.contrastive import make_loss, nan_of, training_loss
from binderclip.train.tokens.attentive import (
    AttentivePatches,
    EnclosingCrops,
    class_attention,
    crop_resize,
    project_scores,
)

__all__ = ["AttentiveMaskStep", "attentive_mask"]


class AttentiveMaskStep(nn.Module):
    """Forward of one step.

    Args:
        model: the model to train, whose image tower has a class token.
        loss: contrastive loss of images and texts; it is taken of both views, half each.
        mask: which patches of a view stay.
        boxes: of the three crops, from a batch.
        steps: of the whole training.
        momentum: of the copy, at the start.
        simclr, byol: weights of the two terms.
        tau: SimCLR's temperature.
        hidden, width: of the heads.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: ContrastiveLoss,
        *,
        mask: AttentivePatches,
        boxes: Callable[[TrainingBatch], tuple[Tensor, Tensor, Tensor]],
        steps: int,
        momentum: float = 0.996,
        simclr: float = 1.0,
        byol: float = 2.0,
        tau: float = 0.1,
        hidden: int = 4096,
        width: int = 256,
    ) -> None:
        super().__init__()
        self.model, self.loss, self.mask, self.boxes = model, loss, mask, boxes
        self.simclr, self.byol = simclr, byol
        self.views = ContrastiveLoss(
            (Pair("image", "view", same_view_negatives=True),), scales=LogitScale(1 / tau, None, learnable=False),
            metrics=False,
        )  # fmt: skip
        visual: nn.Module = model.backbone.visual  # type: ignore[assignment, union-attr]
        features = open_image_tower(visual).width
        self.contrast = projection_head(features, hidden, hidden, width)
        self.project = projection_head(features, hidden, width)
        self.predict = projection_head(width, hidden, width)
        self.momentum = MomentumCopy(nn.ModuleList([visual, self.project]), start=momentum, steps=steps)

    @property
    def _followed(self) -> nn.ModuleList:
        return nn.ModuleList([self.model.backbone.visual, self.project])  # type: ignore[list-item, union-attr]

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        first, second, around = batch.images.chunk(3, dim=3)  # three crops side by side
        if self.training:
            self.momentum.follow(self._followed)  # before it is used
        boxes = [box.to(around) for box in self.boxes(batch)]
        scores, target = self._attended(around)
        views = [self._view(view, project_scores(scores, boxes[2], box)) for view, box in
                 ((first, boxes[0]), (second, boxes[1]))]  # fmt: skip
        text = self.model.encode_text(batch.tokens)  # type: ignore[operator]
        keys = batch.caption_ids if self.loss.targets.needs_keys else None
        try:
            pairs = [self.loss(image, text, keys=keys).total for _, image in views]
            one, other = (self.contrast(pooled) for pooled, _ in views)
            contrast = self.views(one, view=other).total
        except UsageError as error:
            return nan_of(error, text, *(image for _, image in views)), {}
        predicted = [prediction_distance(self.predict(self.project(pooled)), target) for pooled, _ in views]
        byol = (predicted[0] + predicted[1]) / 2
        total = (pairs[0] + pairs[1]) / 2 + self.simclr * contrast + self.byol * byol
        parts = {"loss/pairs": (pairs[0] + pairs[1]).detach() / 2, "loss/simclr": contrast.detach()}
        return total, {**parts, "loss/byol": byol.detach()}

    @torch.no_grad()
    def _attended(self, around: Float[Tensor, "B 3 S S"]) -> tuple[Float[Tensor, "B h w"], Float[Tensor, "B D"]]:
        """Scores of the enclosing crop's patches, and what its embedding is projected to."""
        copied: Any = self.momentum.copied
        scores, pooled = class_attention(open_image_tower(copied[0]), around)
        return scores, copied[1](pooled)

    def _view(
        self, view: Float[Tensor, "B 3 S S"], scores: Float[Tensor, "B h w"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B E"]]:
        """Pooled features and embedding of a view, by the patches with the highest scores."""
        tower: Tower = open_image_tower(self.model.backbone.visual)  # type: ignore[arg-type, union-attr]
        pooled = tower.pool(tower.run(gather_patches(tower.embed(view), self.mask.select(scores))))
        return pooled, tower.project(pooled)


def _check(stages: Sequence[Stage], index: int, settings: Mapping[str, Any]) -> None:
    AttentivePatches(**{name: settings[name] for name in ("keep", "block") if name in settings})
    make_loss(stages[index].loss)


@register(STAGES, "attentive-mask")
@demands(check=_check)
def attentive_mask(
    context: StageContext,
    *,
    keep: float = 0.5,
    block: int = 2,
    momentum: float = 0.996,
    simclr: float = 1.0,
    byol: float = 2.0,
    tau: float = 0.1,
    hidden: int = 4096,
    width: int = 256,
) -> None:
    """Train on two views of each picture whose patches are chosen by the attention of a momentum copy.

    The copy sees a third crop around both. The recipe's `augment` changes colours and backgrounds; where crops lie is
    this stage's, and nothing is mirrored or turned, as masks have to follow.

    Args:
        context: of the stage.
        keep, block: see `AttentivePatches`.
        momentum: of the copy at the start; it rises to 1 along a cosine.
        simclr, byol: weights of SimCLR's loss between the views, and of BYOL's towards the copy.
        tau: SimCLR's temperature.
        hidden, width: of the heads, which are left behind.

    Raises:
        UsageError: blocks that do not divide the grid, or a tower without class token.

    Paper: Yang et al., "Attentive Mask CLIP", arXiv 2212.08653.
    """
    model = context.model
    mask, crops = AttentivePatches(keep=keep, block=block), EnclosingCrops(seed=context.seed)
    side = context.image_size // open_image_tower(model.backbone).patch
    mask.blocks((side, side))
    made = make_augment(
        context.stage.augment, size=context.image_size, seed=context.seed, mean=model.preprocess.mean
    )  # fmt: skip
    colours = replace(made, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, rotate=0.0)

    def views(pixels: Pixels) -> Tensor:
        premultiplied = pixels.images.float() / 255
        premultiplied[:, :3] *= premultiplied[:, 3:]
        parts = (
            _straight(crop_resize(premultiplied, box.to(premultiplied), context.image_size))
            for box in crops(pixels.keys, pixels.epoch)
        )
        return side_by_side(pixels, ((part, colours) for part in parts))

    def boxes(batch: TrainingBatch) -> tuple[Tensor, Tensor, Tensor]:
        return crops(batch.keys, batch.epoch)

    with training_loss(context) as loss:
        settings = {"momentum": momentum, "simclr": simclr, "byol": byol, "tau": tau, "hidden": hidden, "width": width}
        steps = context.steps * context.stage.accumulate
        module = AttentiveMaskStep(model, loss, mask=mask, boxes=boxes, steps=steps, **settings)  # type: ignore[arg-type]
        context.fit(module, context.batches(augment=views))


@register(PASSES, "attentive-mask")
def _passes(stage: Stage, *, keep: float = 0.5, block: int = 2, **settings: object) -> TowerPasses:
    return TowerPasses(pictures=2, copied_pictures=1, kept=AttentivePatches(keep=keep, block=block).count)


def _straight(premultiplied: Float[Tensor, "B 4 S S"]) -> Float[Tensor, "B 4 S S"]:
    """Colours with straight alpha, in place."""
    premultiplied[:, :3] /= premultiplied[:, 3:].clamp_min(1e-6)
    return premultiplied.clamp_(0, 1)
