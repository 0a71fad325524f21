"""An image-text model merged into a promptable segmenter (SAM-CLIP), as stages of a recipe.

    model = "small"
    data = ["my-folder"]
    batch_size = 32
    [[stage]]
    name = "probe"
    kind = {name = "sam-clip", part = "probe"}
    epochs = 20
    lr = 8e-4
    [[stage]]
    name = "joint"
    kind = {name = "sam-clip", part = "joint"}
    epochs = 16
    lr = 4e-5

The data are pictures, as a contrastive stage takes them; captions and label maps are not looked at. Each stage goes on
from the head that the one before left. The model itself stays as it is, and `stages/01-joint/head` is what
`binderclip segment-head` opens, `stages/01-joint/head/segmenter` what `binderclip click --model` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.models import ImageTextModel
from binderclip.models.files.folders import folder_kind
from binderclip.numeric import check_number
from binderclip.segment import MERGE_STAGES, MaskRehearsal, MergedEncoder, MergeStage, load_promptable
from binderclip.segment.promptable.drawn import PromptTokens
from binderclip.segment.trained.merging import StemMaps, merge_step, stage_frozen, text_distance
from binderclip.settings import brief, hint, part_name
from binderclip.train.engine.context import StageContext
from binderclip.train.feed.batches import TrainingBatch
from binderclip.train.recipe.bare import without_weights
from binderclip.train.recipe.passes import OwnCount, SampleCost, forward_operations, step_operations
from binderclip.train.recipe.registry import PASSES, STAGES, demands, register
from binderclip.train.recipe.stage import Stage

__all__ = ["sam_clip"]

FOLDER = "head"


def _check(stages: Sequence[Stage], index: int, settings: Mapping[str, Any]) -> None:
    part, rehearsed = settings.get("part", "joint"), settings.get("rehearsed", 4)
    if part not in MERGE_STAGES:
        raise UsageError(f"unknown part {brief(part)} of sam-clip: {hint(part, MERGE_STAGES)}")
    check_number("rehearsed", rehearsed, least=1)


@register(STAGES, "sam-clip")
@demands(check=_check, one_process=True)
def sam_clip(
    context: StageContext,
    *,
    part: str = "joint",
    segmenter: str = "small-sam",
    layers: int = 3,
    hidden: int | None = None,
    encoder_lr: float | None = None,
    rehearsal: float | None = None,
    rehearsed: int = 4,
    prompts: int = 4,
    sides: Sequence[int] = (),
    stem: bool = True,
) -> dict[str, Any]:
    """Train a `segment.MergedEncoder` on pictures, by one of the three stages of `segment.train_merge`.

    Length, rate, weight decay, clipping and checkpoints are the recipe's, as for every stage. Pictures of the batch
    itself are rehearsed, at places where the segmenter of before finds something. The head is left in the stage's
    folder as `head/`.

    Args:
        context: of the stage.
        part: `probe`, `joint` or `resolution`, whose `encoder_lr`, `rehearsal` and sides are taken.
        segmenter: what learns, and what is rehearsed.
        layers, hidden: of `segment.MergedEncoder`; a head that a stage before has left keeps its own.
        encoder_lr, rehearsal, sides: instead of those of the part, see `segment.MergeStage`.
        rehearsed: pictures of each batch that are rehearsed.
        prompts: objects asked for in each.
        stem: see `segment.train_merge`.

    Raises:
        NotSupported: several processes, a model that is no image-text pair, another kind of segmenter.
        UsageError: an unknown part, or settings that do not fit.
    """
    if not isinstance(context.model, ImageTextModel):
        raise NotSupported(f"sam-clip takes image-text models, not {type(context.model).__name__}")
    stage = _merge_stage(context.stage, part, encoder_lr, rehearsal, sides)
    left = _left_before(context)
    if left is None:
        encoder = MergedEncoder(context.model, segmenter, layers=layers, hidden=hidden, seed=context.seed)
    else:
        encoder = MergedEncoder.open(left, context.model)
    original: Any = load_promptable(segmenter, device=context.world.device)
    again = MaskRehearsal(original=original, prompts=prompts)
    mean, std = (
        torch.tensor(each).view(3, 1, 1) for each in (context.model.preprocess.mean, context.model.preprocess.std)
    )

    def step(batch: TrainingBatch, backward: Callable[[Tensor], None]) -> tuple[Tensor, dict[str, Tensor]]:
        device = batch.images.device
        images = (batch.images.detach().float() * std.to(device) + mean.to(device)).clamp(0, 1)
        with torch.no_grad():
            target = encoder.model.encode_image(images)
        generator = torch.Generator().manual_seed(
            (context.seed * 1_000_003 + batch.epoch) * 1_000_003 + int(batch.rows[0])
        )
        seen, rows = StemMaps(encoder, images, kept=False), torch.arange(len(images))
        loss, parts = merge_step(
            encoder,
            stage,
            lambda side: text_distance(encoder, seen.coarse(rows, side), target),
            lambda drawn: again(encoder, images[:rehearsed], drawn),
            generator,
            backward,
        )
        return loss, {f"loss/{name}": value for name, value in parts.items()}

    with stage_frozen(encoder, stage, stem=stem) as (groups, _):
        context.fit(encoder, context.batches(), groups=lambda _: groups, step=step)
    encoder.eval()
    notes: dict[str, Any] = {"head": encoder.kind, "part": part, "segmenter": segmenter}
    encoder.save(context.folder("stages") / FOLDER, card={"data": [spec.name for spec in context.stage.data], **notes})
    return notes


def _merge_stage(
    stage: Stage, part: str, encoder_lr: float | None, rehearsal: float | None, sides: Sequence[int]
) -> MergeStage:
    """The part's own stage with what the recipe says otherwise."""
    own: dict[str, Any] = {"encoder_lr": encoder_lr, "rehearsal": rehearsal, "sides": tuple(sides) or None}
    own = {"lr": stage.lr} | {name: value for name, value in own.items() if value is not None}
    return replace(MERGE_STAGES[part], **own)


def _left_before(context: StageContext) -> Path | None:
    """The head of the nearest stage before that has left one."""
    for index in range(context.index - 1, -1, -1):
        for folder in (context.out / "stages").glob(f"{index:02d}-*/{FOLDER}"):
            if folder_kind(folder) == MergedEncoder.kind:
                return folder
    return None


@register(PASSES, "sam-clip")
def _passes(
    stage: Stage, *, part: str = "joint", segmenter: str = "small-sam", layers: int = 3, hidden: int | None = None,
    encoder_lr: float | None = None, rehearsal: float | None = None, rehearsed: int = 4, prompts: int = 4,
    sides: Sequence[int] = (), stem: bool = True,
) -> OwnCount:  # fmt: skip
    def count(model: Any, stages: Sequence[Stage], index: int) -> SampleCost:
        if segmenter.startswith("hf:"):
            raise NotSupported(f"the structure of {segmenter} is not known before it is fetched")
        merge = _merge_stage(stage, part, encoder_lr, rehearsal, sides)
        promptable, (depth, width) = load_promptable(segmenter), _head_of_the_first(stages, index, layers, hidden)
        encoder = MergedEncoder(model, without_weights(promptable), layers=depth, hidden=width)
        seen, batch = merge.sides_of(encoder), stage.batch_size
        taught = forward_operations(lambda: model.backbone.encode_image(_pixels(1, max(model.preprocess.size))))
        with stage_frozen(encoder, merge, stem=stem):
            each = [step_operations(lambda side=side: encoder(_pixels(1, side))) for side in seen]  # type: ignore[misc]
            again = _rehearsal_operations(encoder, min(rehearsed, batch), prompts) if merge.rehearsal else 0
        return SampleCost(
            image_tokens=round(sum((side // 8) ** 2 for side in seen) / len(seen)),
            operations=taught + sum(each) / len(each) + again / batch,
            left_out="of sides that are drawn it is the mean; every click of the rehearsal is taken to find a mask",
        )

    return OwnCount(count=count)


def _pixels(count: int, side: int) -> Tensor:
    return torch.empty(count, 3, side, side, device="meta")


def _head_of_the_first(stages: Sequence[Stage], index: int, layers: int, hidden: int | None) -> tuple[int, int | None]:
    """Sizes of the head that a stage trains: those of the first one that made it."""
    for stage in stages[:index]:
        kind: dict[str, Any] = stage.kind if isinstance(stage.kind, dict) else {"name": stage.kind}
        if part_name(kind) == "sam-clip":
            return kind.get("layers", 3), kind.get("hidden")
    return layers, hidden


def _rehearsal_operations(encoder: MergedEncoder, pictures: int, prompts: int) -> int:
    """Of `MaskRehearsal` on so many pictures, each click finding a mask: the segmenter of before sees them once and is
    asked twice, that which learns once."""
    network, images = encoder.segmenter.backbone, _pixels(pictures, encoder.size)
    rows = torch.arange(pictures, device="meta").repeat_interleave(prompts)

    def asked(points: int) -> PromptTokens:
        labels = torch.ones(len(rows), points, dtype=torch.long, device="meta")
        return PromptTokens(torch.empty(len(rows), points, 2, device="meta"), labels)

    def before() -> None:
        maps = network.encode(images).rows(rows)
        network.decode(maps, asked(1))
        network.decode(maps, asked(2))  # a click, or the two corners of a box

    learning = step_operations(lambda: network.decode(network.encode(images).rows(rows), asked(2))[0])
    return forward_operations(before) + learning
