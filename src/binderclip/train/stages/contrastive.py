"""The ordinary stage: images against captions, with further terms where the recipe names some."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.losses import (
    METHODS,
    AlignmentScale,
    ContrastiveLoss,
    Cosine,
    EmbeddingDistill,
    LossOutput,
    RouterLosses,
    SameKey,
    contrastive_step,
)
from binderclip.models import TokenIds, load
from binderclip.settings import build_part, part_name
from binderclip.similarity import frozen_similarity
from binderclip.train.engine.companions import FrozenCopy
from binderclip.train.engine.context import StageContext
from binderclip.train.feed.batches import TrainingBatch
from binderclip.train.recipe.passes import TowerPasses
from binderclip.train.recipe.registry import PASSES, STAGES, TERMS, demands, register
from binderclip.train.recipe.stage import Stage
from binderclip.train.tokens.place import check_size, short_context

__all__ = ["ContrastiveStep", "build_loss", "contrastive", "distill", "loss_figures", "training_loss"]

TARGETS = {"same-caption": "share", "ignore-same-caption": "ignore"}


class ContrastiveStep(nn.Module):
    """Forward of one training step: both towers, then the loss.

    Args:
        model: the model to train.
        loss: its loss; the main logit scale is the model's own.
        teacher: encodes each batch beside the model, for a loss that compares with `teacher_image` and `teacher_text`.
    """

    def __init__(self, model: nn.Module, loss: ContrastiveLoss, teacher: FrozenCopy | None = None) -> None:
        super().__init__()
        self.model, self.loss, self.teacher = model, loss, teacher

    def encode(self, images: Tensor, tokens: TokenIds) -> tuple[Tensor, Tensor]:
        """Raw features of both sides."""
        with short_context(self.model.backbone, tokens.ids.shape[1]):  # type: ignore[arg-type]
            return self.model.encode_pixels(images), self.model.encode_text(tokens)  # type: ignore[operator]

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        image, text = self.encode(batch.images, batch.tokens)
        keys = batch.caption_ids if self.loss.targets.needs_keys else None
        try:
            output = self.loss(image, text, keys=keys, **self._beside(batch))
        except UsageError as error:
            return nan_of(error, image, text), {}
        return output.total, loss_figures(output)

    def _beside(self, batch: TrainingBatch, at_once: int | None = None) -> dict[str, Tensor]:
        """Further features of the batch: its columns, and what the teacher says."""
        taught = {} if self.teacher is None else self.teacher.outputs(batch.images, batch.tokens, at_once=at_once)
        return {**batch.columns, **taught}

    def in_pieces(self, size: int) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
        """The same step with at most `size` pictures in the towers at once (GradCache)."""

        def encode(part: Mapping[str, Any]) -> dict[str, Tensor]:
            tokens = TokenIds(part["ids"], part["mask"], part["position"])
            image, text = self.encode(part["images"], tokens)
            return {"image": image, "text": text, **{name: part[name] for name in part if name not in _INPUTS}}

        def step(batch: TrainingBatch, *, backward: Callable[[Tensor], Any]) -> tuple[Tensor, dict[str, Tensor]]:
            tokens = batch.tokens
            inputs: dict[str, Any] = {
                "images": batch.images,
                "ids": tokens.ids,
                "mask": tokens.mask,
                "position": tokens.position,
                **self._beside(batch, size),
            }
            keys = batch.caption_ids if self.loss.targets.needs_keys else None
            output = contrastive_step(encode, inputs, self.loss, size, backward=backward, keys=keys)
            return output.total, loss_figures(output)

        return step


def nan_of(error: UsageError, *features: Tensor) -> Float[Tensor, ""]:
    """NaN in place of a loss that refuses features which are not finite, with their graph.

    The loss names bad features; the loop names the step, and its NaN must travel like any other.

    Args:
        error: of the loss; raised again where all features are finite.
        features: that the loss was given.
    """
    if all(bool(each.isfinite().all()) for each in features):
        raise error
    return torch.stack([each.sum() for each in features]).sum() * math.nan


_INPUTS = ("images", "ids", "mask", "position")


def loss_figures(output: LossOutput) -> dict[str, Tensor]:
    """What a step reports of a loss: its terms where there are several, and its metrics."""
    parts = {f"loss/{name}": value for name, value in output.terms.items()} if len(output.terms) > 1 else {}
    return {**parts, **output.metrics}


def make_loss(part: str | Mapping[str, Any]) -> ContrastiveLoss:
    """A loss as a recipe writes it, `targets` by their word.

    Raises:
        UsageError: a bad setting.
    """
    table: dict[str, Any] = {"name": part} if isinstance(part, str) else dict(part)
    word = table.get("targets")
    if isinstance(word, str):
        del table["targets"]
        if word not in TARGETS and word != "diagonal":
            raise UsageError(f"loss targets {word!r} is unknown: diagonal, {', '.join(TARGETS)}")
        if word in TARGETS:
            table["targets"] = SameKey(TARGETS[word])  # type: ignore[arg-type]
    return build_part(table, METHODS, "loss")


def build_loss(context: StageContext) -> ContrastiveLoss:
    """The recipe's loss around the model's own logit scale, with its terms.

    A geometry that the model was trained in goes on from what it learned, if the recipe names the same one. A scale or
    bias that the recipe sets by name holds; otherwise a stage goes on with what the model has, but a model that still
    has CLIP's 1/0.07 untouched starts from what the loss starts from (squared distances from 1), and MACL's temperature
    is always the recipe's.

    Raises:
        UsageError: a bad setting, or a sigmoid loss for a model without a logit bias.
    """
    part = context.stage.loss
    settings = {} if isinstance(part, str) else {key: value for key, value in part.items() if key != "name"}
    loss = make_loss(part)
    _continue_geometry(context.model, loss, settings)
    backbone, own = context.model.backbone, loss.scale
    start, learnable, biased = (
        own.logit_scale.detach().clone(),
        own.logit_scale.requires_grad,
        own.logit_bias is not None,
    )
    own.take(backbone)
    if biased and own.logit_bias is None:
        raise UsageError(f"loss {part_name(part)!r} needs a model with a logit bias; give a new model logit_bias = -10")
    with torch.no_grad():
        untouched = math.isclose(float(own.logit_scale), math.log(1 / 0.07), abs_tol=1e-6)
        other_start = untouched and not isinstance(loss.similarity, Cosine)
        if "init_scale" in settings or isinstance(own, AlignmentScale) or other_start:
            own.logit_scale.copy_(start)
        if "init_bias" in settings and own.logit_bias is not None:
            own.logit_bias.fill_(settings["init_bias"])
    if not learnable:
        own.logit_scale.requires_grad_(False)
    for term in context.stage.terms:
        loss.terms.append(build_part(term, TERMS, "terms", context))
    return loss


def _continue_geometry(model: Any, loss: ContrastiveLoss, settings: Mapping[str, Any]) -> None:
    """Let a loss of the geometry that the model was trained in go on from what it learned, unless the recipe sets c."""
    if type(model.geometry) is not type(loss.similarity) or "curvature" in settings:
        return
    learnable = [parameter.requires_grad for parameter in loss.similarity.parameters()]
    loss.similarity = copy.deepcopy(model.geometry)
    for parameter, learns in zip(loss.similarity.parameters(), learnable, strict=True):
        parameter.requires_grad_(learns)


@contextlib.contextmanager
def training_loss(context: StageContext) -> Iterator[ContrastiveLoss]:
    """The recipe's loss (`build_loss`); on leaving, the model compares as it does, and its scale is as free as before.

    Args:
        context: of the stage.
    """
    model = context.model
    learnable, geometry = model.logit_scale.requires_grad, model.geometry
    try:
        loss = build_loss(context)
        # While it trains the geometry is the loss's.
        model.geometry, context.similarity = None, loss.similarity
        yield loss
        geometry = loss.similarity
        if loss.scale.logit_scale.requires_grad:
            loss.scale.settle()  # the model's own scale knows no bounds
    finally:
        model.geometry = frozen_similarity(geometry)
        model.logit_scale.requires_grad_(learnable)


def _check(stages: Sequence[Stage], index: int, settings: Mapping[str, Any]) -> None:
    make_loss(stages[index].loss)


@register(STAGES, "contrastive")
@demands(check=_check)
def contrastive(context: StageContext) -> None:
    """Train images against captions; the model then compares as the loss did."""
    model = context.model
    check_size(model.backbone, context.stage.positions, context.input_size)
    teacher = None if context.stage.teacher is None else FrozenCopy(model)
    with training_loss(context) as loss:
        module = ContrastiveStep(model, loss, teacher)
        pieces = context.stage.micro_batch
        step = module.in_pieces(pieces) if pieces is not None else None
        context.fit(module, context.batches(), step=step)


@register(PASSES, "contrastive")
def _passes(stage: Stage) -> TowerPasses:
    taught = 0 if stage.teacher is None else 1
    return TowerPasses(copied_pictures=taught, copied_captions=taught)


def _check_whole(stages: Sequence[Stage], index: int, settings: Mapping[str, Any]) -> None:
    if stages[index].micro_batch is not None:
        raise UsageError("router: it looks at the pass that made the embeddings; leave micro_batch out")


@register(TERMS, "router")
@demands(check=_check_whole)
def router(context: StageContext, *, balance: float = 0.01, z: float = 0.001) -> RouterLosses:
    """Keep the experts of an upcycled model in use, see `losses.RouterLosses`.

    Args:
        context: of the stage.
        balance, z: weights of the two losses.
    """
    return RouterLosses(context.model, balance=balance, z=z)


def _check_sides(stages: Sequence[Stage], index: int, settings: Mapping[str, Any]) -> None:
    if not (settings.get("image", True) or settings.get("text", True)):
        raise UsageError("distill: switch on image or text")


@register(TERMS, "distill")
@demands(check=_check_sides)
def distill(
    context: StageContext,
    *,
    teacher: str,
    weight: float = 1.0,
    kind: Literal["cosine", "mse"] = "cosine",
    image: bool = True,
    text: bool = True,
) -> EmbeddingDistill:
    """Follow the embeddings of another model, computed once for every picture and caption (no augmentation).

    With `text`, a picture with several captions is trained with its first one only, as the teacher's features are.

    Args:
        context: of the stage.
        teacher: anything `load` takes.
        weight: of the term.
        kind: "cosine" or "mse".
        image, text: which sides follow it.
    """
    pictures, other = context.pictures, load(teacher, device=context.world.device)
    sides: dict[str, str] = {}
    with torch.no_grad():
        if image:
            sides["image"] = "teacher_image"
            context.columns["teacher_image"] = _teacher_images(other, pictures.images)
        if text:
            sides["text"] = "teacher_text"
            pictures.draw = False
            distinct = list(dict.fromkeys(pictures.captions))
            position = {caption: i for i, caption in enumerate(distinct)}
            rows = torch.tensor([position[caption] for caption in pictures.captions])
            context.columns["teacher_text"] = other.encode_text(distinct, normalize=True).cpu()[rows]
    width = context.model.embed_dim
    projections = {
        side: nn.Linear(width, context.columns[column].shape[1])
        for side, column in sides.items()
        if context.columns[column].shape[1] != width
    }
    return EmbeddingDistill(weight, pairs=sides, kind=kind, projections=projections)


def _teacher_images(teacher: Any, images: Tensor | None) -> Tensor:
    if images is None:
        raise NotSupported("term distill: the training pictures do not fit in memory; distil the text side only")
    parts = []
    for part in images.split(256):
        alpha = part[:, 3:].float() / 255
        pixels = part[:, :3].float() / 255 * alpha + (1 - alpha)
        parts.append(teacher.encode_image(pixels, normalize=True).cpu())
    return torch.cat(parts)
