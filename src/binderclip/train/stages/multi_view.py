"""Several views of each picture and several texts of it, compared with one another (CLIP rocket, Mammo-CLIP).

[[stage]]
kind = {name = "multi-view", strong = {scale = [0.08, 1.0], grey = 0.2}, text = {stopword = 0.8}}
loss = {name = "clip-rocket", n_local = 2, smoothing = 0.1}
data = ["openclipart"]
epochs = 25
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.data import TextAugment
from binderclip.errors import UsageError
from binderclip.losses import ContrastiveLoss, CrossModalBarlow, CrossModalSimSiam, CrossModalSwAV, clip_rocket
from binderclip.models import TokenIds
from binderclip.models.layers.projection_head import projection_head
from binderclip.models.towers import open_image_tower, open_text_tower
from binderclip.settings import build_part, part_name
from binderclip.train.engine.companions import MomentumCopy
from binderclip.train.engine.context import StageContext
from binderclip.train.feed.batches import TrainingBatch
from binderclip.train.feed.pictures import Pixels, side_by_side
from binderclip.train.recipe.augmentation import make_augment
from binderclip.train.recipe.passes import TowerPasses
from binderclip.train.recipe.registry import PASSES, STAGES, TERMS, demands, register
from binderclip.train.recipe.stage import Stage
from binderclip.train.stages.contrastive import loss_figures, make_loss, nan_of, training_loss
from binderclip.train.tokens.place import short_context

__all__ = ["MultiViewStep", "barlow", "multi_view", "simsiam", "swav"]

STRONG: dict[str, Any] = {
    "scale": (0.08, 1.0), "rotate": 0.0, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "grey": 0.2,
}  # fmt: skip
"""The paper's strong views, but for their blur."""
POOLED = (("pooled_image", "pooled_text"), ("pooled_image_local", "pooled_text_local"))
"""What the towers say before any projection, for terms with projections of their own."""


class MultiViewStep(nn.Module):
    """Forward of one step: the first views and texts through the model, all further ones through heads beside it.

    Args:
        model: the model to train.
        loss: called with `image` and `text` (B, E), or (B, own, E); where there are local views with `image_local` and
            `text_local` (B, n, width); where it has terms, with the pooled features of both towers as well, named as in
            `POOLED`.
        own: views and texts that go through the model's own projections.
        local: further views of each picture, and further texts.
        hidden, width: of the heads.
        momentum: of a copy of both towers, whose pooled features are given as `momentum_...`; None has no copy.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: ContrastiveLoss,
        *,
        own: int = 1,
        local: int = 2,
        hidden: int = 4096,
        width: int = 256,
        momentum: float | None = None,
    ) -> None:
        super().__init__()
        self.model, self.loss, self.own, self.local = model, loss, own, local
        backbone: nn.Module = model.backbone  # type: ignore[assignment]
        self.heads = nn.ModuleDict()
        if local:
            widths = {"image": open_image_tower(backbone).width, "text": open_text_tower(backbone).width}
            self.heads.update({side: projection_head(d, hidden, hidden, width) for side, d in widths.items()})
        self.momentum = None if momentum is None else MomentumCopy(backbone, start=momentum, steps=None)

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        backbone: nn.Module = self.model.backbone  # type: ignore[assignment]
        if self.momentum is not None and self.training:
            self.momentum.follow(backbone)  # before it is used
        views, texts = batch.images.chunk(self.own + self.local, dim=3), [batch.tokens, *batch.texts]
        pooled: dict[str, list[Tensor]] = {}
        if len(self.heads) or len(self.loss.terms):
            pooled = _pooled(backbone, views, texts)
            towers = {"image": open_image_tower(backbone), "text": open_text_tower(backbone)}
            own = {side: [towers[side].project(view) for view in each[: self.own]] for side, each in pooled.items()}
        else:  # nothing looks inside the towers, which may then be of any kind
            pictures = self.model.encode_pixels(torch.cat(list(views)))  # type: ignore[operator]
            with short_context(backbone, batch.tokens.ids.shape[1]):
                words = [self.model.encode_text(tokens) for tokens in texts]  # type: ignore[operator]
            own = {"image": list(pictures.chunk(len(views))), "text": words}
        stacked = {side: torch.stack(each, 1) for side, each in own.items()}  # (B, own, E)
        features = {side: each[:, 0] if self.own == 1 else each for side, each in stacked.items()}
        for side, head in self.heads.items():
            features[f"{side}_local"] = torch.stack([head(view) for view in pooled[side][self.own :]], 1)
        beside = {name: value for name, value in features.items() if name not in ("image", "text")}
        if len(self.loss.terms):
            beside |= _named(pooled)
            if self.momentum is not None:
                with torch.no_grad():
                    beside |= {
                        f"momentum_{name}": value
                        for name, value in _named(_pooled(self.momentum.copied, views, texts)).items()
                    }
        keys = batch.caption_ids if self.loss.targets.needs_keys else None
        try:
            output = self.loss(features["image"], features["text"], keys=keys, **batch.columns, **beside)
        except UsageError as error:
            return nan_of(error, *features.values()), {}
        return output.total, loss_figures(output)


def _pooled(
    backbone: nn.Module, views: tuple[Tensor, ...] | list[Tensor], texts: list[TokenIds]
) -> dict[str, list[Float[Tensor, "B D"]]]:
    """Pooled features of each view and of each text; all views go through the tower together."""
    image, text = open_image_tower(backbone), open_text_tower(backbone)
    pictures = image.pool(image.run(image.embed(torch.cat(list(views)))))
    words = [text.pool(text.run(text.embed(tokens))) for tokens in texts]
    return {"image": list(pictures.chunk(len(views))), "text": words}


def _named(pooled: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
    named = {f"pooled_{side}": parts[0] for side, parts in pooled.items()}
    return named | {f"pooled_{side}_local": torch.stack(p[1:], 1) for side, p in pooled.items() if len(p) > 1}


def _changes(settings: Mapping[str, Any] | None, seed: int) -> TextAugment:
    """How captions are changed."""
    return build_part({"name": "text", "seed": seed, **(settings or {})}, {"text": TextAugment}, "kind")


def _check(stages: Sequence[Stage], index: int, settings: Mapping[str, Any]) -> None:
    make_augment({**STRONG, **(settings.get("strong") or {})}, size=64, seed=0)
    _changes(settings.get("text"), 0)
    make_loss(stages[index].loss)


@register(STAGES, "multi-view")
@demands(check=_check)
def multi_view(
    context: StageContext,
    *,
    strong: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    hidden: int = 4096,
    width: int = 256,
) -> None:
    """Train on several views of each picture and several texts: the caption, and changed ones.

    With loss `clip-rocket` on a weak view and the caption, and on `n_local` strong views and changed captions through
    heads of their own, which are left behind. With loss `mammo-clip` on two weak views, the caption and a changed one.
    The recipe's `augment` makes weak views. With several processes the batch normalisation of heads sees the rows of
    its own process.

    Args:
        context: of the stage.
        strong: settings of `data.Augment` for the strong views; what is left out is the paper's, but for its blur.
        text: settings of `data.TextAugment`; what is left out is the paper's.
        hidden, width: of the heads.

    Raises:
        UsageError: an unknown setting or a value out of range.

    Papers: Fini et al., "Improved baselines for vision-language pre-training", arXiv 2305.08675; Ghosh et al.,
    "Mammo-CLIP", arXiv 2405.12255, whose two views are two pictures of a breast where there are two.
    """
    stage, model = context.stage, context.model
    shape = {"size": context.image_size, "seed": context.seed, "mean": model.preprocess.mean}
    weak, far = make_augment(stage.augment, **shape), make_augment({**STRONG, **(strong or {})}, **shape)
    texts = _changes(text, context.seed)
    own, local = _views(stage)
    with training_loss(context) as loss:
        momentum = next((t.momentum for t in loss.terms if getattr(t, "momentum", None) is not None), None)
        module = MultiViewStep(model, loss, own=own, local=local, hidden=hidden, width=width, momentum=momentum)  # type: ignore[arg-type]

        def views(pixels: Pixels) -> Tensor:
            return side_by_side(pixels, [(pixels.images, each) for each in (*[weak] * own, *[far] * local)])

        context.fit(module, context.batches(augment=views, texts=(texts, own - 1 + local)))


@register(PASSES, "multi-view")
def _passes(stage: Stage, **settings: object) -> TowerPasses:
    several = sum(_views(stage))
    copied = several if any(term.get("momentum") is not None for term in stage.terms) else 0
    return TowerPasses(pictures=several, captions=several, copied_pictures=copied, copied_captions=copied)


def _views(stage: Stage) -> tuple[int, int]:
    """Views of a picture that go through the model's own projections, and through heads beside them."""
    return (2, 0) if part_name(stage.loss) == "mammo-clip" else (1, _n_local(stage.loss))


def _n_local(loss: str | Mapping[str, Any]) -> int:
    """Strong views that the loss of a recipe asks for."""
    usual = inspect.signature(clip_rocket).parameters["n_local"].default
    return usual if isinstance(loss, str) else loss.get("n_local", usual)


def _heads(context: StageContext, *widths: int, **settings: Any) -> dict[str, nn.Module]:
    """A head of each side, from the tower's pooled features to the last of the widths."""
    backbone = context.model.backbone
    towers = {"image": open_image_tower(backbone), "text": open_text_tower(backbone)}
    return {side: projection_head(tower.width, *widths, **settings) for side, tower in towers.items()}


@register(TERMS, "cross-modal-barlow")
def barlow(
    context: StageContext, *, weight: float = 1.0, lam: float = 5e-3, scale: float = 0.025, hidden: int = 3000,
    width: int = 8192,
) -> CrossModalBarlow:  # fmt: skip
    """Barlow Twins between images and texts beside `kind = "multi-view"`, see `losses.CrossModalBarlow`.

    Args:
        context: of the stage.
        weight, lam, scale: of the term.
        hidden, width: of its projectors.
    """
    heads = _heads(context, hidden, hidden, width)
    return CrossModalBarlow(weight, lam=lam, scale=scale, pairs=POOLED, projections=heads)


@register(TERMS, "cross-modal-simsiam")
def simsiam(
    context: StageContext, *, weight: float = 1.0, momentum: float | None = None, hidden: int = 2048, width: int = 128
) -> CrossModalSimSiam:
    """SimSiam, or with a momentum BYOL, between images and texts, see `losses.CrossModalSimSiam`.

    Args:
        context: of the stage.
        weight: of the term.
        momentum: of a copy of towers and projectors that makes the targets; the paper's is 0.99.
        hidden, width: of projectors and predictors.
    """
    heads = _heads(context, hidden, width, end="plain-norm")
    guesses = {side: projection_head(width, hidden, width) for side in heads}
    return CrossModalSimSiam(weight, predictors=guesses, momentum=momentum, pairs=POOLED, projections=heads)


@register(TERMS, "cross-modal-swav")
def swav(context: StageContext, *, weight: float = 0.2, eps: float = 0.05, iters: int = 3) -> CrossModalSwAV:
    """Swapped assignments between strong views and changed texts, see `losses.CrossModalSwAV`.

    Args:
        context: of the stage.
        weight, eps, iters: of the term.
    """
    return CrossModalSwAV(weight, eps=eps, iters=iters)
