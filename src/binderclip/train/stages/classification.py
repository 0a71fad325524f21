"""An image tower taught by the labels of pictures, before captions: the first stage of BASIC.

[[stage]]
kind = {name = "classification"}
data = ["openclipart"]
samples = 100_000
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.losses import SampledClassifier
from binderclip.losses.contrastive.share import share_of
from binderclip.train.engine.context import StageContext
from binderclip.train.feed.batches import TrainingBatch
from binderclip.train.recipe.passes import TowerPasses
from binderclip.train.recipe.registry import PASSES, STAGES, demands, register
from binderclip.train.recipe.stage import Stage
from binderclip.train.stages.contrastive import nan_of

__all__ = ["ClassificationStep", "classification"]


class ClassificationStep(nn.Module):
    """Forward of one step: the image tower, then the classifier; pictures without a label do not count.

    Args:
        model: whose image tower is trained.
        classifier: of its features.
    """

    def __init__(self, model: nn.Module, classifier: SampledClassifier) -> None:
        super().__init__()
        self.model, self.classifier = model, classifier

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        labels = batch.columns["label"]
        image = self.model.encode_pixels(batch.images)  # type: ignore[operator]
        known = labels >= 0
        share = share_of(int(known.sum()), labels.device)
        # A process without labels computes like the others, which wait for it, and counts nothing.
        rows = known if share.counts[share.rank] else torch.arange(len(labels), device=labels.device) < 1
        try:
            output = self.classifier(image[rows], labels[rows].clamp_min(0))
        except UsageError as error:
            return nan_of(error, image), {}
        if not share.total:
            return 0.0 * output.total, {}
        # Means over the rows of this process become, averaged over the processes, the mean over all rows.
        weight = share.counts[share.rank] * share.size / share.total
        return weight * output.total, {**output.metrics, "accuracy": weight * output.metrics["accuracy"]}


def _check(stages: Sequence[Stage], index: int, settings: Mapping[str, Any]) -> None:
    if (settings.get("size") or 0) < 0:
        raise UsageError(f"classification: size must be at least 0, got {settings['size']}")


@register(STAGES, "classification")
@demands(check=_check)
def classification(
    context: StageContext, *, size: int | None = None, weight: Literal["linear", "sqrt", "uniform"] = "linear"
) -> dict[str, int]:
    """Train the image tower to name the labels of its pictures, by a cosine classifier that is left behind.

    The text tower and the logit scale stay as they are; `groups` of the recipe may hold parts of the image tower, too.

    Args:
        context: of the stage; its data has labels (a folder with one sub-folder a class, or a pack).
        size: classes that compete in a step; default all. Fewer make frequent classes push rare ones down less
            (`losses.SampledClassifier`).
        weight: of the draw of further classes by their frequency.

    Raises:
        UsageError: data with fewer than two classes.

    Paper: Pham et al., "Combined Scaling for Zero-shot Transfer Learning", arXiv 2111.10050.
    """
    model, data = context.model, context.pictures.dataset
    labels = torch.as_tensor(data.labels).long()
    freq = labels[labels >= 0].bincount(minlength=len(data.classes))
    if int((freq > 0).sum()) < 2:
        names = ", ".join(spec.name for spec in context.stage.data)
        raise UsageError(f"classification: {names} has no two classes; give a folder with a sub-folder for each class")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)  # every process starts from the same head
        classifier = SampledClassifier(
            model.embed_dim, len(freq), size=len(freq) if size is None else size, weight=weight, freq=freq
        )
    tower = {id(parameter) for parameter in model.backbone.visual.parameters()}
    resting = [p for p in model.parameters() if p.requires_grad and id(p) not in tower]
    for parameter in resting:
        parameter.requires_grad_(False)
    try:
        context.fit(ClassificationStep(model, classifier), context.batches(columns={"label": labels}))
    finally:
        for parameter in resting:
            parameter.requires_grad_(True)
    return {"classes": len(freq)}


@register(PASSES, "classification")
def _passes(stage: Stage, **settings: object) -> TowerPasses:
    return TowerPasses(captions=0)
