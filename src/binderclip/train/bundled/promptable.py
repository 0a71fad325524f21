"""The stage that trains the bundled promptable segmenter on scenes, whose masks are exact.

    [model]      arch = "promptable"
    [[stage]]    kind = "promptable"

Each scene is cropped and stretched at random; some of its objects are asked for, first by a click or a box, then by
clicks into what is still wrong, with the previous logits fed back (SAM, arXiv 2304.02643, section 3 and appendix A).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from binderclip.data.sets.packs import TRAINING_PACKS, pack_hash
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import vocabulary
from binderclip.errors import NotSupported
from binderclip.losses.dense.mask_sets import dice_loss, soft_focal_loss
from binderclip.models import load
from binderclip.segment.promptable.drawn import PromptTokens
from binderclip.segment.promptable.network import PromptNetwork
from binderclip.segment.promptable.object_prompts import correction, first_prompts
from binderclip.segment.promptable.small import PromptModel
from binderclip.train.bundled.data.batches import Numbered
from binderclip.train.bundled.data.maps import frozen_depthwise
from binderclip.train.bundled.vision import BACKGROUNDS
from binderclip.train.engine.context import StageContext
from binderclip.train.recipe.passes import OwnCount, SampleCost, side_in, step_operations, with_frozen_groups
from binderclip.train.recipe.registry import BARE, MODELS, PASSES, STAGES, register
from binderclip.train.recipe.stage import Stage

__all__ = ["PromptStep", "SceneTargets", "new_promptable", "promptable", "promptable_loss"]


@register(MODELS, "promptable")
def new_promptable(
    *,
    seed: int,
    captions: Callable[[], Sequence[str]],
    side: int = 128,
    width: int = 96,
    heads: int = 4,
    blocks: int = 2,
    layers: int = 2,
    stem: str = "small",
) -> PromptModel:
    """A new promptable segmenter.

    Args:
        seed: of the weights.
        captions: not used.
        side: of the square input in pixels. width: of tokens. heads: of all attention.
        blocks: transformer blocks of the encoder. layers: two-way layers of the decoder.
        stem: the model whose lower convolutions are the start (built like `small`); "none" starts at random.
    """
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"side": side, "width": width, "heads": heads, "blocks": blocks, "layers": layers}
    network = PromptNetwork(**settings)
    if stem != "none":
        trunk = load(stem).backbone.visual.trunk.patch_embed.backbone
        network.stem.load_trunk(trunk.state_dict())
    return PromptModel(network, settings=settings)


@register(BARE, "promptable")
def _bare_promptable(**settings: Any) -> PromptModel:
    return new_promptable(seed=0, captions=list, **{**settings, "stem": "none"})


@dataclass(frozen=True)
class SceneTargets:
    """Batches by number: pictures and P objects of them, each with its mask.

    Attributes:
        batch: scenes a batch. objects: asked for in each. side: of the pictures in pixels. seed: of everything.
        names: classes of the scenes, as `vocabulary` takes them; "captions" is everything there is.
        backgrounds: kinds, as `scenes` takes them.
        zoom: least share of a side that a crop keeps; each side has its own, so shapes are stretched, too.
        least: pixels of the smallest object that is asked for.
    """

    batch: int
    objects: int
    side: int
    seed: int
    names: str | tuple[str, ...] = "captions"
    backgrounds: tuple[str, ...] = BACKGROUNDS
    zoom: float = 0.55
    least: int = 24

    def __call__(self, number: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        made = scenes(
            self.seed,
            self.batch,
            self.side,
            vocabulary=vocabulary(self.names, split="train"),
            objects=(1, 5),
            area=(0.01, 0.3),
            occlusion=0.5,
            background=list(self.backgrounds),
            first=number * self.batch,
        )
        images, masks = self._views(made.images, made.visible, generator)
        rows, slots = self._choose(masks.flatten(2).sum(2), generator)
        return {"images": images, "rows": rows, "masks": masks[rows, slots], "number": number}

    def _views(
        self, images: Float[Tensor, "B 3 S S"], masks: Bool[Tensor, "B K S S"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "B 3 S S"], Bool[Tensor, "B K S S"]]:
        """Crop, stretch, mirror and tint."""
        count = len(images)
        extent = self.zoom + (1 - self.zoom) * torch.rand(count, 2, generator=generator)
        centre = (2 * torch.rand(count, 2, generator=generator) - 1) * (1 - extent)
        sign = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = extent[:, 0] * sign, extent[:, 1], centre
        grid = functional.affine_grid(theta, [count, 3, self.side, self.side], align_corners=False)
        views = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
        cut = functional.grid_sample(masks.float(), grid, mode="nearest", align_corners=False) > 0.5
        gain = 1 + 0.3 * (2 * torch.rand(count, 3, 1, 1, generator=generator) - 1)
        shift = 0.15 * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1)
        noise = 0.02 * torch.randn(views.shape, generator=generator) * torch.rand(count, 1, 1, 1, generator=generator)
        return (views * gain + shift + noise).clamp(0, 1), cut

    def _choose(
        self, areas: Int[Tensor, "B K"], generator: torch.Generator
    ) -> tuple[Int[Tensor, "P"], Int[Tensor, "P"]]:
        """Image and slot of the objects to ask for; a picture without any large enough takes none."""
        weights = (areas >= self.least).float()
        there = weights.sum(1).nonzero()[:, 0]
        drawn = torch.multinomial(weights[there], self.objects, replacement=True, generator=generator)
        return there.repeat_interleave(self.objects), drawn.flatten()


def promptable_loss(
    logits: Float[Tensor, "P K h w"], target: Float[Tensor, "P h w"]
) -> tuple[Float[Tensor, "P K"], Float[Tensor, "P K"]]:
    """20 x focal + dice of each candidate, and its IoU at the threshold.

    Args:
        logits: candidates.
        target: share of each cell that the object covers, in [0, 1]; the focal term is the one for soft targets
            (arXiv 2006.04388).
    """
    target_probs = target[:, None].expand_as(logits)
    cost = 20 * soft_focal_loss(logits, target_probs) + dice_loss(logits, target_probs)
    predicted, truth = logits > 0, target_probs > 0.5
    union = (predicted | truth).sum((2, 3)).clamp(min=1)
    return cost, (predicted & truth).sum((2, 3)) / union


class PromptStep(nn.Module):
    """Loss of a batch of `SceneTargets`: a first prompt and `rounds` corrections.

    Args:
        model: the segmenter.
        rounds: (least, most) clicks after the first prompt.
        seed: of prompts.
    """

    def __init__(self, model: PromptModel, *, rounds: tuple[int, int] = (1, 4), seed: int = 0) -> None:
        super().__init__()
        self.model, self.rounds, self.seed = model, rounds, seed

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        network, masks = self.model.backbone, batch["masks"]
        generator = torch.Generator().manual_seed(self.seed * 7_368_787 + batch["number"])
        levels = network.encode(self.model.preprocess.normalize(batch["images"])).rows(batch["rows"])
        target = functional.adaptive_avg_pool2d(masks.float(), masks.shape[-1] // 2)
        points, labels = first_prompts(masks, generator)
        previous, losses, ious = None, [], []
        low, high = self.rounds
        for _ in range(1 + int(torch.randint(low, high + 1, (1,), generator=generator))):
            logits, scores = network.decode(levels, PromptTokens(points, labels, previous))
            loss, iou = promptable_loss(logits, target)
            # Of the three candidates the best one learns; the single one always does.
            losses.append((loss[:, 0] + loss[:, 1:].amin(1) + (scores - iou).square().sum(1)).mean())
            ious.append(iou[:, 0].mean())
            previous = logits[:, :1].detach()
            point, label = correction(previous[:, 0] > 0, target > 0.5, generator)
            points, labels = torch.cat([points, point], 1), torch.cat([labels, label], 1)
        return torch.stack(losses).mean(), {"iou_first": ious[0], "iou_last": ious[-1]}


@register(STAGES, "promptable")
def promptable(
    context: StageContext,
    *,
    objects: int = 3,
    rounds: Sequence[int] = (1, 4),
    names: str | Sequence[str] = "captions",
    backgrounds: Sequence[str] = BACKGROUNDS,
) -> dict[str, Any]:
    """Train a promptable segmenter on scenes of the training split; a batch is `batch_size` scenes.

    Args:
        context: of the stage; its `image_size` may be smaller than the model's, for speed: nothing in the network
            depends on it.
        objects: asked for in each scene.
        rounds: (least, most) corrections after the first prompt.
        names: classes of the scenes; "captions" is every picture there is.
        backgrounds: kinds of `data.scenes`; "photo" needs scikit-image.
    """
    if context.world.size > 1:
        raise NotSupported("promptable runs in one process")
    model: Any = context.model
    if not isinstance(model, PromptModel):
        raise NotSupported("stage kind 'promptable' trains a model of arch = 'promptable'")
    chosen = names if isinstance(names, str) else tuple(names)
    targets = SceneTargets(
        context.stage.batch_size, objects, context.image_size, context.seed, chosen, tuple(backgrounds)
    )
    step = PromptStep(model, rounds=(rounds[0], rounds[1]), seed=context.seed)
    data_hash = "-".join(pack_hash(name)[:8] for name in TRAINING_PACKS)
    with frozen_depthwise(model.backbone.stem.stages):
        result = context.fit(step, Numbered(targets, data_hash))
    return {"scenes": result.steps * context.stage.batch_size * context.stage.accumulate}


@register(PASSES, "promptable")
def _passes(stage: Stage, *, objects: int = 3, rounds: Sequence[int] = (1, 4), **settings: object) -> OwnCount:
    def count(model: Any, stages: Sequence[Stage], index: int) -> SampleCost:
        network, side, batch = model.backbone, side_in(stage, model), stage.batch_size
        pixels = torch.empty(batch, 3, side, side, device="meta")
        rows = torch.arange(batch, device="meta").repeat_interleave(objects)

        def asked(clicks: int) -> PromptTokens:
            """A first prompt of two points and so many clicks, with the mask of the round before."""
            labels = torch.ones(len(rows), 2 + clicks, dtype=torch.long, device="meta")
            before = torch.empty(len(rows), 1, side // 2, side // 2, device="meta") if clicks else None
            return PromptTokens(torch.empty(len(rows), 2 + clicks, 2, device="meta"), labels, before)

        def step(corrections: int) -> Tensor:
            levels = network.encode(pixels).rows(rows)
            outputs = [network.decode(levels, asked(clicks)) for clicks in range(1 + corrections)]
            return torch.stack([logits.sum() + scores.sum() for logits, scores in outputs])

        low, high = rounds
        with with_frozen_groups(stage, network), frozen_depthwise(network.stem.stages):
            each = [step_operations(lambda n=n: step(n)) for n in range(low, high + 1)]  # type: ignore[misc]
        return SampleCost(
            image_tokens=(side // 8) ** 2, operations=sum(each) / len(each) / batch,
            left_out="of numbers of corrections, which are drawn, it is the mean",
        )  # fmt: skip

    return OwnCount(count=count)
