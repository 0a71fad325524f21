"""A new image tower taught by a trained one, which it has to predict at hidden patches (EVA), as a stage of a recipe.

model = {arch = "new-image-tower", base = "small", vision = {image_size = 128, patch_size = 16, width = 512}}
data = ["openclipart"]
epochs = 10
[[stage]]
name = "features"
kind = {name = "masked-feature", teacher = "small"}
[[stage]]
name = "contrastive"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from binderclip.errors import NotSupported
from binderclip.losses import FeatureMaskedModeling
from binderclip.models import ImageTextModel, load
from binderclip.models.towers import Tower, open_image_tower
from binderclip.train.engine.companions import FrozenCopy
from binderclip.train.engine.context import StageContext
from binderclip.train.feed.batches import TrainingBatch
from binderclip.train.recipe.passes import TowerPasses
from binderclip.train.recipe.registry import PASSES, STAGES, demands, register
from binderclip.train.recipe.stage import Stage

__all__ = ["MaskedFeatureStep", "masked_feature"]


class MaskedFeatureStep(nn.Module):
    """Forward of one step: the teacher's features of whole pictures, the student's of pictures with hidden patches.

    Args:
        model: its image tower is the student.
        objective: the loss.
        teacher: the trained model.
    """

    def __init__(self, model: ImageTextModel, objective: FeatureMaskedModeling, teacher: FrozenCopy) -> None:
        super().__init__()
        self.model, self.objective, self.teacher = model, objective, teacher

    @property
    def tower(self) -> Tower:
        """The student's tower."""
        return open_image_tower(self.model.backbone.visual)  # type: ignore[arg-type]

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self.of(batch.images)
        return loss, {"cosine": -loss.detach()}

    def of(self, images: Tensor) -> Tensor:
        """The loss of normalised pixels."""
        tower = self.tower
        return self.objective(tower, images, self.teacher.patches(images, self.model, tower.grid_of(images)))


def _check(stages: Sequence[Stage], index: int, settings: Mapping[str, Any]) -> None:
    with torch.random.fork_rng(devices=[]):
        FeatureMaskedModeling(8, 8, **{name: settings[name] for name in ("ratio", "masking") if name in settings})


@register(STAGES, "masked-feature")
@demands(check=_check)
def masked_feature(
    context: StageContext,
    *,
    teacher: str,
    ratio: float = 0.4,
    masking: Literal["block", "random"] = "block",
) -> None:
    """Train the image tower to predict a trained tower's features at hidden patches; captions are not looked at.

    Both towers see the same crop, the teacher at the size that gives it the student's grid. Texts, logit scale and what
    of the image tower the loss does not reach (its projection) stay as they are; the prediction layer is left behind.

    Args:
        context: of the stage.
        teacher: anything `load` takes; it is frozen.
        ratio, masking: of `losses.FeatureMaskedModeling`.

    Raises:
        NotSupported: a model that is no image-text pair.
        UsageError: settings that do not fit the grid.

    Paper: Sun et al., "EVA-CLIP-18B: Scaling CLIP to 18 Billion Parameters", arXiv 2402.04252.
    """
    model, device = context.model, context.world.device
    if not isinstance(model, ImageTextModel):
        raise NotSupported(f"masked-feature takes image-text models, not {type(model).__name__}")
    known, tower = load(teacher, device=device), open_image_tower(model.backbone.visual)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        objective = FeatureMaskedModeling(tower.width, known.image_tower.width, ratio=ratio, masking=masking)
    step = MaskedFeatureStep(model, objective.to(device), FrozenCopy(known))
    untouched = _unreached(step, context.image_size)
    for parameter in untouched:
        parameter.requires_grad_(False)
    try:
        context.fit(step, context.batches())
    finally:
        for parameter in untouched:
            parameter.requires_grad_(True)


@register(PASSES, "masked-feature")
def _passes(stage: Stage, *, teacher: str, **settings: object) -> TowerPasses:
    return TowerPasses(captions=0, teacher=teacher)


def _unreached(step: MaskedFeatureStep, size: int) -> list[nn.Parameter]:
    """Trainable parameters of the model through which no gradient comes back."""
    asked = [parameter for parameter in step.model.parameters() if parameter.requires_grad]
    with torch.random.fork_rng(devices=[]):
        loss = step.of(torch.randn(2, 3, size, size, device=asked[0].device))
    gradients = torch.autograd.grad(loss, asked, allow_unused=True)
    return [parameter for parameter, gradient in zip(asked, gradients, strict=True) if gradient is None]
