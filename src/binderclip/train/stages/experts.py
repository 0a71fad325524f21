"""A trained model tuned by captions and by labels of experts (segmentation, depth, normals), as a stage of a recipe.

    model = "small"
    data = ["openclipart"]
    epochs = 2
    [[stage]]
    name = "experts"
    kind = {name = "experts", experts = ["outline", "relief-depth", "relief-normals"]}

An expert is a name of `train.EXPERTS`; one of your own is a function that gives a `data.PseudoLabeler`:

    @register(EXPERTS, "mine")
    def mine(context): return PseudoLabeler("mine", fn, kind="depth", version="1")
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from binderclip.data import PseudoLabeler, decode_labels
from binderclip.data.augment.augment import Augment
from binderclip.errors import NotSupported, UsageError
from binderclip.fit.optimizers import autocast
from binderclip.losses import ContrastiveLoss, expert_losses
from binderclip.models import ImageTextModel, MultiTaskCLIP
from binderclip.settings import build_part, check_part, part_name
from binderclip.train.engine.context import StageContext
from binderclip.train.feed.batches import TrainingBatch
from binderclip.train.recipe.augmentation import make_augment
from binderclip.train.recipe.passes import TowerPasses
from binderclip.train.recipe.registry import DEMANDS, EXPERTS, PASSES, STAGES, demands, register
from binderclip.train.recipe.stage import Stage
from binderclip.train.stages.contrastive import make_loss, nan_of, training_loss
from binderclip.train.tokens.place import short_context

__all__ = ["ExpertStep", "experts"]

Part = str | dict[str, Any]


class ExpertStep(nn.Module):
    """Forward of one step: both towers, the heads, the contrastive loss and those of the tasks.

    Args:
        tasks: the model with a head for each expert.
        loss: of images and texts.
        labelers: task -> its expert, whose stored labels come as the batch's column of that name.
        augment: moved the pictures, and moves the labels with them.
        weights: task -> weight of its loss.
    """

    def __init__(
        self,
        tasks: MultiTaskCLIP,
        loss: ContrastiveLoss,
        labelers: Mapping[str, PseudoLabeler],
        augment: Augment,
        weights: Mapping[str, float],
    ) -> None:
        super().__init__()
        self.tasks, self.loss = tasks, loss
        self.labelers, self.augment, self.weights = dict(labelers), augment, dict(weights)

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        try:
            terms = self.terms(batch)
        except UsageError as error:
            return nan_of(error, *self._embedded(batch)), {}
        total = torch.stack([self.weights.get(name, 1.0) * term for name, term in terms.items()]).sum()
        return total, {f"loss/{name}": term.detach() for name, term in terms.items()}

    def terms(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Each loss by name, unweighted, `pairs` the contrastive one."""
        image, text, outputs = self._encoded(batch)
        keys = batch.caption_ids if self.loss.targets.needs_keys else None
        pairs = self.loss(image, text, keys=keys).total
        return {"pairs": pairs, **expert_losses(outputs, self.labels(batch)).terms}

    def labels(self, batch: TrainingBatch) -> dict[str, Tensor]:
        """Labels of the batch's pictures, moved as they were."""
        return {
            name: self.augment.follow(
                decode_labels(batch.columns[name], each.kind), batch.keys, batch.epoch, kind=each.kind, transparent=True
            )
            for name, each in self.labelers.items()
        }

    def _encoded(self, batch: TrainingBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        model = self.tasks.model
        with short_context(model.backbone, batch.tokens.ids.shape[1]):
            image, outputs = self.tasks(batch.images, (self.augment.size, self.augment.size))
            return image, model.encode_text(batch.tokens), outputs

    def _embedded(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        image, text, _ = self._encoded(batch)
        return image, text


def _check(stages: Sequence[Stage], index: int, settings: Mapping[str, Any]) -> None:
    for part in _chosen(settings["experts"], settings.get("weights") or {}):
        check_part(part, EXPERTS, "experts", given=1)
        demand = DEMANDS.get(EXPERTS[part_name(part)])
        if demand is not None and demand.check is not None:
            demand.check(stages, index, {key: value for key, value in part.items() if key != "name"})
    make_loss(stages[index].loss)


@register(STAGES, "experts")
@demands(check=_check)
def experts(
    context: StageContext,
    *,
    experts: list[Part],
    weights: dict[str, float] | None = None,
    heads_lr: float = 10.0,
) -> dict[str, Any]:
    """Tune the model by its captions and, through linear heads on its patches, by what experts say of its pictures.

    Each expert labels every picture once, as it is before augmentation, and what it said is kept in the cache. The
    contrastive loss stays, so that what the model knows is kept; the heads are left behind. The summary tells how large
    each loss's gradient in the image tower was in the first batch: lower the weight of one that is ten times that of
    the captions.

    Args:
        context: of the stage.
        experts: names of `train.EXPERTS`, with settings where they have some. A task is called like its expert.
        weights: task -> weight of its loss, 1 where it says nothing; 0 leaves the expert out.
        heads_lr: rate of the heads as a multiple of the stage's.

    Raises:
        UsageError: no expert or one twice, a negative weight, or a weight of no expert.
        NotSupported: pictures that do not fit in memory, or a model that is no image-text pair.

    Paper: Salehi et al., "CLIP meets Model Zoo Experts: Pseudo-Supervision for Visual Enhancement", arXiv 2310.14108.
    """
    model = context.model
    if not isinstance(model, ImageTextModel):
        raise NotSupported(f"experts takes image-text models, not {type(model).__name__}")
    chosen = _chosen(experts, weights or {})
    labelers: dict[str, PseudoLabeler] = {
        part_name(part): build_part(part, EXPERTS, "experts", context) for part in chosen
    }
    augment = make_augment(
        context.stage.augment, size=context.input_size, seed=context.seed, mean=model.preprocess.mean
    )  # fmt: skip
    images = context.pictures.images
    if images is None:
        raise NotSupported("experts: the training pictures do not fit in memory (cache_mb); take fewer, or raise it")
    for name, each in labelers.items():
        context.columns[name] = each.stored(images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        tasks = MultiTaskCLIP(model, {name: each.channels for name, each in labelers.items()})
    with training_loss(context) as loss:
        step = ExpertStep(tasks.to(context.world.device), loss, labelers, augment, weights or {})
        batches = context.batches()
        with autocast(context.stage.precision, context.world.device):
            norms = _gradient_norms(step, next(iter(batches)), _learning(context))
        batches.seek(0)
        context.fit(step, batches, groups=lambda module: _groups(context, module, heads_lr))
    return {"gradient norms of the first batch": norms}


@register(PASSES, "experts")
def _passes(stage: Stage, **settings: object) -> TowerPasses:
    return TowerPasses()


def _chosen(parts: Sequence[Part], weights: Mapping[str, float]) -> list[dict[str, Any]]:
    """The experts whose weight is not 0."""
    tables = [{"name": part} if isinstance(part, str) else dict(part) for part in parts]
    names = [part_name(table) for table in tables]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"experts: name at least one of {', '.join(sorted(EXPERTS))}, each once; got {names}")
    if unknown := sorted(set(weights) - set(names)):
        raise UsageError(f"experts: weight of {unknown[0]!r}, and the experts are {', '.join(names)}")
    if negative := [name for name, weight in weights.items() if not weight >= 0]:
        raise UsageError(f"experts: the weight of {negative[0]!r} must be at least 0, got {weights[negative[0]]}")
    return [table for table in tables if weights.get(part_name(table), 1.0)]


def _groups(context: StageContext, module: nn.Module, rate: float) -> list[dict[str, Any]]:
    """The recipe's groups for the model and its loss, and the heads at their rate."""
    step: Any = module
    heads = list(step.tasks.heads.parameters())
    groups = context.groups(nn.ModuleList([step.tasks.model, step.loss]))
    decays = ((2, context.stage.weight_decay), (1, 0.0))
    parts = [([p for p in heads if min(p.ndim, 2) == ndim], decay) for ndim, decay in decays]
    return groups + [{"params": some, "weight_decay": decay, "lr_scale": rate} for some, decay in parts if some]


def _learning(context: StageContext) -> list[nn.Parameter]:
    """Parameters of the image tower that the recipe trains; it freezes the others when the training begins."""
    still = [pattern for group in context.stage.groups if group.freeze for pattern in group.patterns]
    named = context.model.backbone.named_parameters()
    return [
        p for name, p in named
        if p.requires_grad and name.startswith("visual.") and not any(fnmatch.fnmatchcase(name, each) for each in still)
    ]  # fmt: skip


def _gradient_norms(step: ExpertStep, batch: TrainingBatch, shared: list[nn.Parameter]) -> dict[str, float]:
    """Norm of each loss's gradient in some parameters."""
    if not shared:
        return {}
    norms = {}
    for name, term in step.terms(batch).items():
        gradients = torch.autograd.grad(term, shared, retain_graph=True, allow_unused=True)
        norms[name] = float(torch.stack([g.float().norm() for g in gradients if g is not None]).norm())
    return norms
