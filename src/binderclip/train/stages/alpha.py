"""An alpha channel that says which part of a picture is meant, trained on label maps, as a stage of a recipe.

    model = "small"
    data = ["my-folder"]
    batch_size = 24
    epochs = 20
    lr = 1e-2
    [[stage]]
    name = "alpha"
    kind = {name = "alpha-clip"}

The data are folders as `segmentation-head` takes them (VOC, ADE), or made scenes. A region is all of a class in a
picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.data.synthetic_scenes.captions import article
from binderclip.errors import NotSupported, UsageError
from binderclip.losses import ContrastiveLoss, SameKey, clip
from binderclip.models import AlphaCLIP, ImageTextModel
from binderclip.train.engine.context import StageContext
from binderclip.train.feed.regions import RegionBatch, RegionBatches, is_region
from binderclip.train.recipe.passes import OwnCount, SampleCost, side_in, step_operations, with_frozen_groups
from binderclip.train.recipe.registry import PASSES, STAGES, demands, register
from binderclip.train.recipe.stage import Stage
from binderclip.train.stages.contrastive import nan_of
from binderclip.train.stages.segmentation import label_tables, named_label_maps, open_label_maps

__all__ = ["AlphaStep", "alpha_clip"]


class AlphaStep(nn.Module):
    """Forward of one step: pictures with their regions against the texts of these, which stay as they are.

    Args:
        model: with an alpha channel.
        loss: of images and texts, with keys.
        text: features of all texts.
    """

    def __init__(self, model: AlphaCLIP, loss: ContrastiveLoss, text: Float[Tensor, "Q E"]) -> None:
        super().__init__()
        self.alpha_clip, self.loss, self.text = model, loss, text

    def forward(self, batch: RegionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        image = self.alpha_clip.encode_image(batch.images, batch.alpha)
        try:
            return self.loss(image, self.text[batch.texts], keys=batch.texts).total, {}
        except UsageError as error:
            return nan_of(error, image), {}


def _check(stages: Sequence[Stage], index: int, settings: Mapping[str, Any]) -> None:
    if len(stages[index].data) != 1:
        raise UsageError(f"alpha-clip needs one data set, got {len(stages[index].data)}")
    if stages[index].batch_size < 2:
        raise UsageError("alpha-clip compares the regions of a batch: batch_size must be at least 2")
    full, tower = settings.get("full", 0.1), settings.get("tower", 0.01)
    if not 0 <= full <= 1:
        raise UsageError(f"alpha-clip: full must lie in [0, 1], got {full}")
    if not tower >= 0:
        raise UsageError(f"alpha-clip: tower must be at least 0, got {tower}")
    if settings.get("template", "{}").count("{}") != 1:
        raise UsageError(f"alpha-clip: template needs one {{}}, got {settings['template']!r}")


@register(STAGES, "alpha-clip")
@demands(check=_check)
def alpha_clip(
    context: StageContext, *, full: float = 0.1, tower: float = 0.01, smoothing: float = 0.1,
    template: str = "a picture of {}",
) -> dict[str, Any]:  # fmt: skip
    """Give the image tower an alpha channel and train it on regions of label maps and the names of their classes.

    The alpha channel learns at the recipe's rate, the rest of the image tower at `tower` times that; the text tower and
    the logit scale stay as they are. The loss is CLIP's with label smoothing, whatever the recipe's entry `loss`.
    `models.AlphaCLIP(load(RUN))` encodes with it.

    Args:
        context: of the stage.
        full: probability of a whole picture with alpha of all ones, which keeps what the model knew.
        tower: factor of the rate of all but the alpha channel.
        smoothing: label smoothing of both directions, in [0, 1).
        template: sentence around the name of a class.

    Raises:
        UsageError: several data sets, or a setting out of range.
        NotSupported: a model that takes no alpha channel.
        DataError: no picture can be read, or none has a region.

    Paper: Alpha-CLIP: A CLIP Model Focusing on Wherever You Want, arXiv 2312.03818.
    """
    if not isinstance(context.model, ImageTextModel):
        raise NotSupported(f"alpha-clip takes image-text models, not {type(context.model).__name__}")
    stage, spec = context.stage, context.stage.data[0]
    data = open_label_maps(spec)
    images, labels, held = label_tables(data, context.image_size, spec)
    context.outcome.skipped = list(data.skipped)
    batches = RegionBatches(
        images, labels, data.classes, batch_size=stage.batch_size, full=full, seed=context.seed, template=template,
        world=context.world,
    )  # fmt: skip
    model = AlphaCLIP(context.model)
    context.model = model.model
    with torch.no_grad():
        text = model.encode_text(batches.texts)
    scale = float(model.model.scale().detach())
    loss = clip(init_scale=scale, max_scale=None, learnable=False, smoothing=smoothing, targets=SameKey())
    each = stage.batch_size * stage.accumulate
    steps = max(1, round((stage.samples or (stage.epochs or 0) * len(batches.images)) / each))
    resting = _resting(model.model)
    for parameter in resting:
        parameter.requires_grad_(False)
    try:
        step = AlphaStep(model, loss, text)
        context.fit(step, batches, steps=steps, groups=lambda module: _groups(context, module, tower))
    finally:
        for parameter in resting:
            parameter.requires_grad_(True)
    notes: dict[str, Any] = {"pictures": len(batches.images), "classes": list(data.classes)}
    if held is not None:
        notes["held out regions"], named = _naming(model, *held, classes=data.classes, template=template)
        notes["held out"] = {"pictures": len(held[0]), **named}
    return notes


def _resting(model: ImageTextModel) -> list[nn.Parameter]:
    """What of a model asks for a gradient and is not of its image tower."""
    named = model.backbone.named_parameters()
    return [parameter for name, parameter in named if not name.startswith("visual.") and parameter.requires_grad]


def _groups(context: StageContext, module: nn.Module, tower: float) -> list[dict[str, Any]]:
    """The groups of the recipe, the alpha channel apart from what learns at `tower` times its rate."""
    made, alpha = [], module.alpha_clip.conv.alpha_weight  # type: ignore[union-attr]
    for group in context.groups(module):
        slow = [parameter for parameter in group["params"] if parameter is not alpha]
        plain = {key: value for key, value in group.items() if key != "names"}
        if slow:
            made.append({**plain, "params": slow, "lr_scale": tower * group.get("lr_scale", 1.0)})
        if len(slow) < len(group["params"]):
            made.append({**plain, "params": [alpha]})
    return made


@torch.no_grad()
def _naming(
    model: AlphaCLIP, images: Float[Tensor, "N 3 S S"], labels: Int[Tensor, "N S S"], *, classes: Sequence[str],
    template: str,
) -> tuple[int, dict[str, float]]:  # fmt: skip
    """How many regions some pictures have, and which share is named right among all classes, with alpha and without."""
    model.eval()
    regions = [index for index, name in enumerate(classes) if is_region(name)]
    text = model.encode_text([template.format(article(classes[index])) for index in regions], normalize=True)
    with_alpha, without = "regions named right with alpha", "regions named right without"
    right = {with_alpha: 0, without: 0}
    count = 0
    for image, truth in zip(images.to(text.device), labels.to(text.device), strict=True):
        whole = int((model.encode_image(image[None], normalize=True) @ text.T).argmax())
        present = [place for place, index in enumerate(regions) if bool((truth == index).any())]
        for place in present:
            alpha = (truth == regions[place]).float()[None, None]
            named = int((model.encode_image(image[None], alpha, normalize=True) @ text.T).argmax())
            right[with_alpha] += named == place
            right[without] += whole == place
        count += len(present)
    return count, {name: round(number / max(count, 1), 4) for name, number in right.items()}


@register(PASSES, "alpha-clip")
def _passes(stage: Stage, **settings: object) -> OwnCount:
    def count(model: Any, stages: Sequence[Stage], index: int) -> SampleCost:
        other, side = AlphaCLIP(model).model.train(), side_in(stage, model)
        tower, pixels = other.image_tower, torch.empty(1, 3, side, side, device="meta")
        for parameter in _resting(other):
            parameter.requires_grad_(False)
        with with_frozen_groups(stage, other.backbone):
            operations = step_operations(lambda: other.encode_pixels(pixels))
        return SampleCost(
            image_tokens=(side // tower.patch) ** 2 + tower.prefix,
            operations=operations,
            left_out="texts, each encoded once, are not counted",
        )

    return OwnCount(count=count, pictures=lambda: named_label_maps(stage.data[0])[1])
