"""A segmentation head trained on label maps, as a stage of a recipe.

    model = "small"
    data = ["my-folder"]
    batch_size = 8
    epochs = 40
    [[stage]]
    name = "head"
    kind = {name = "segmentation-head", head = {name = "mta-clip", queries = 32}}

The data are folders as `binderclip segment-evaluate` takes them (VOC, ADE), or made scenes (`{name = "label-maps",
options = {source = "scenes"}}`). The model itself stays as
it is; `stages/00-head/head` is what `binderclip segment-head` opens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from binderclip.data.images import to_tensor
from binderclip.data.labelled.label_maps import SCENES, LabelFolder, LabelledScenes, label_maps
from binderclip.errors import BinderclipError, DataError, NotSupported, UsageError
from binderclip.models import ImageTextModel
from binderclip.models.layers.freezing import frozen
from binderclip.segment import MTACLIP, CascadeCLIP
from binderclip.segment.metrics import IoU
from binderclip.segment.parts.context import dense_tower
from binderclip.segment.trained.cascade import cascade_task
from binderclip.segment.trained.heads import TrainedHead
from binderclip.segment.trained.mta_clip import mta_clip_task
from binderclip.segment.trained.task import HeadTask
from binderclip.settings import brief, check_part, hint, part_name
from binderclip.train.engine.context import StageContext
from binderclip.train.recipe.passes import OwnCount, SampleCost, step_operations
from binderclip.train.recipe.recipe import DataSpec, Stage
from binderclip.train.recipe.registry import PASSES, SOURCES, STAGES, demands, register

__all__ = ["label_tables", "named_label_maps", "open_label_maps", "segmentation_head"]

FOLDER = "head"


@dataclass(frozen=True)
class HeadKind:
    """A kind of head: the class whose settings a recipe may give (after `given` arguments), and its parts.

    `steps` gives the forward passes of a batch whose cost is that of a step, or of several whose mean it is.
    """

    settings: Callable[..., Any]
    given: int
    build: Callable[[ImageTextModel, list[str], int, dict[str, Any]], TrainedHead]
    task: Callable[..., HeadTask]
    steps: Callable[..., list[Callable[[], Tensor]]]


def _cascade(model: ImageTextModel, classes: list[str], seed: int, settings: dict[str, Any]) -> TrainedHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CascadeCLIP(model, **settings)


def _cascade_task(
    head: CascadeCLIP, images: Tensor, labels: Tensor, classes: list[str], steps: int, **given: Any
) -> HeadTask:
    return cascade_task(head, images, labels, classes, steps=steps, **given)


def _mta_clip(model: ImageTextModel, classes: list[str], seed: int, settings: dict[str, Any]) -> TrainedHead:
    return MTACLIP(model, classes, **{"seed": seed, **settings})


def _mta_clip_task(
    head: MTACLIP, images: Tensor, labels: Tensor, classes: list[str], steps: int, **given: Any
) -> HeadTask:
    return mta_clip_task(head, images, labels, **given)


def _cascade_steps(
    head: CascadeCLIP, pixels: Tensor, classes: list[str], training: Mapping[str, Any]
) -> list[Callable[[], Tensor]]:
    """Half of the steps of a transductive training see the unseen classes, too."""
    with torch.no_grad():
        tokens = head.model.image_tower.embed(pixels)
        given = tokens if head.prompts.numel() else head.outputs(tokens)
    seen = len(classes) - len(training.get("unseen", ()))
    counts = [seen, len(classes)] if training.get("transductive") else [seen]
    texts = [pixels.new_empty(count, head.model.embed_dim) for count in counts]
    return [lambda text=text: head(given, text) for text in texts]  # type: ignore[misc]


def _mta_clip_steps(
    head: MTACLIP, pixels: Tensor, classes: list[str], training: Mapping[str, Any]
) -> list[Callable[[], Tensor]]:
    tower, start = dense_tower(head.model), 0
    given: Any = pixels
    if head.blocks is not None:
        start = tower.depth - head.blocks
        with torch.no_grad():
            given = tower.run(tower.embed(pixels), stop=start)

    def step() -> Tensor:
        output = head(given, start)
        layers = [part for each in output.decoded.layers for part in (each.masks, each.classes)]
        learned = [output.masks, output.texts, *layers]
        return torch.stack([part.sum() for part in learned]).sum()

    return [step]


HEADS = {
    "cascade": HeadKind(CascadeCLIP, 1, _cascade, _cascade_task, _cascade_steps),
    "mta-clip": HeadKind(MTACLIP, 2, _mta_clip, _mta_clip_task, _mta_clip_steps),
}
TRAINING = {
    "cascade": ("unseen", "transductive", "released"),
    "mta-clip": ("negatives", "alignment", "tower_lr", "mask_side"),
}


def _check(stages: Sequence[Stage], index: int, settings: Mapping[str, Any]) -> None:
    if len(stages[index].data) != 1:
        raise UsageError(f"segmentation-head needs one data set, got {len(stages[index].data)}")
    head, training = settings.get("head", "mta-clip"), settings.get("training") or {}
    part = {"name": head} if isinstance(head, str) else dict(head)
    name = part_name(part)
    if name not in HEADS:
        raise UsageError(f"unknown head {brief(name)}: {hint(name, HEADS)}")
    check_part(part, {name: HEADS[name].settings}, "head", given=HEADS[name].given)
    if unknown := [key for key in training if key not in TRAINING[name]]:
        raise UsageError(f"training of {name!r} has no setting {brief(unknown[0])}: {hint(unknown[0], TRAINING[name])}")


@register(STAGES, "segmentation-head")
@demands(check=_check, one_process=True, keeps_model=True)
def segmentation_head(
    context: StageContext,
    *,
    head: str | Mapping[str, Any] = "mta-clip",
    training: Mapping[str, Any] | None = None,
    side: int | None = None,
) -> dict[str, Any]:
    """Train a head of `segment` on label maps and measure it on the pictures that `hold_out` of the data leaves out.

    Length, rate, weight decay, clipping and checkpoints are the recipe's, as for every stage. Pictures are squashed to
    one size. The head is left in the stage's folder as `head/`.

    Args:
        context: of the stage.
        head: `cascade` or `mta-clip`, with settings of `segment.CascadeCLIP` or `segment.MTACLIP`.
        training: settings of `segment.train_cascade` (`unseen`, `transductive`, `released`) or `segment.train_mta_clip`
            (`negatives`, `alignment`, `tower_lr`, `mask_side`).
        side: of pictures and label maps in training, in pixels; default that at which the head sees pictures.

    Raises:
        UsageError: no data or several, another head, a setting it has not.
        NotSupported: several processes, or a model that is no image-text pair.
        DataError: no picture can be read.
    """
    if not isinstance(context.model, ImageTextModel):
        raise NotSupported(f"segmentation-head takes image-text models, not {type(context.model).__name__}")
    part = {"name": head} if isinstance(head, str) else dict(head)
    name, options = part_name(part), dict(training or {})
    kind = HEADS[name]
    spec, stage = context.stage.data[0], context.stage
    data = open_label_maps(spec)
    settings = {key: value for key, value in part.items() if key != "name"}
    made = kind.build(context.model, list(data.classes), context.seed, settings)
    images, labels, held = label_tables(data, side or made.size, spec)
    context.outcome.skipped = list(data.skipped)
    each = stage.batch_size * stage.accumulate
    steps = max(1, round((stage.samples or (stage.epochs or 0) * len(images)) / each))
    task = kind.task(
        made, images, labels, list(data.classes), steps, batch=stage.batch_size, seed=context.seed, **options
    )
    with frozen(*task.frozen):
        context.fit(made, task.batches, steps=steps, groups=lambda _: task.groups, step=task.step)
    made.eval()
    notes: dict[str, Any] = {"head": name, "pictures": len(images), "classes": list(data.classes)}
    if held is not None:
        notes["held out"] = {"pictures": len(held[0]), "mIoU": _miou(made, *held, classes=list(data.classes))}
    made.save(context.folder("stages") / FOLDER, card={"data": spec.name, **notes})
    return notes


@register(SOURCES, "label-maps")
def label_map_source(
    spec: DataSpec, *, source: str, ignore: int | None = None, zero_ignored: bool = False
) -> LabelFolder | LabelledScenes:
    """Pictures with label maps: a folder, or a made set whose drawings are those of `split`.

    Args:
        spec: the entry of the recipe; `limit` is the number of made scenes.
        source: as `data.labelled.label_maps` takes it.
        ignore, zero_ignored: of a folder, see `LabelFolder`.

    Raises:
        UsageError, DataError: see `LabelFolder` and `LabelledScenes`.
    """
    split = spec.split or "train"
    if source in SCENES:
        return label_maps(source, n=spec.limit or 200, background=True, split=split)
    return label_maps(source, split=split, ignore=ignore, zero_ignored=zero_ignored)


def open_label_maps(spec: DataSpec) -> LabelFolder | LabelledScenes:
    """The label maps of an entry: `label-maps` with its options, or a folder by its name."""
    return label_map_source(spec, **({"source": spec.name} | spec.options))


def label_tables(
    data: LabelFolder | LabelledScenes, side: int, spec: DataSpec
) -> tuple[Float[Tensor, "N 3 S S"], Int[Tensor, "N S S"], tuple[Tensor, Tensor] | None]:
    """Pictures and label maps of one size, and those that are held out, chosen by their names."""
    parts: dict[bool, list[tuple[Tensor, Tensor]]] = {False: [], True: []}
    for sample in islice(data, spec.limit):
        picture = to_tensor(sample.image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))
        labels = F.interpolate(sample.labels[None, None].float(), (side, side), mode="nearest")[0, 0].long()
        parts[_held_out(sample.key, spec)].append((picture, labels))
    if not parts[False]:
        raise DataError(
            f"label maps: {spec.name} leaves no picture to learn from: {len(data.skipped)} cannot be read and "
            f"{len(parts[True])} are held out"
        )
    kept, held = (tuple(torch.stack(each) for each in zip(*parts[key], strict=True)) for key in (False, True))
    return kept[0], kept[1], (held[0], held[1]) if held else None


def named_label_maps(spec: DataSpec) -> tuple[list[str], int]:
    """The classes of an entry, and how many pictures it leaves to learn from, as if all could be read."""
    options = {"source": spec.name} | spec.options
    if options["source"] in SCENES:
        data: LabelFolder | LabelledScenes = label_map_source(spec.model_copy(update={"limit": 1}), **options)
        keys = [f"scene {number}" for number in range(spec.limit or 200)]
    else:
        data = label_map_source(spec, **options)
        keys = [image.stem for image, _ in data.pairs][: spec.limit]  # type: ignore[union-attr]
    return list(data.classes), sum(not _held_out(key, spec) for key in keys)


def _held_out(key: str, spec: DataSpec) -> bool:
    """Whether a picture is left for measuring, by its name."""
    return int(hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:8], 16) / 2**32 < spec.hold_out


@torch.no_grad()
def _miou(
    head: TrainedHead, images: Float[Tensor, "N 3 S S"], labels: Int[Tensor, "N S S"], *, classes: list[str]
) -> float:
    """Mean IoU of the classes that occur, of what the head says of pictures one by one."""
    metric = IoU(len(classes))
    for image, truth in zip(images, labels, strict=True):
        metric.update(head.segment(image, classes).labels[None].long(), truth[None])
    return round(float(metric.compute().miou), 4)


@register(PASSES, "segmentation-head")
def _passes(
    stage: Stage, *, head: str | Mapping[str, Any] = "mta-clip", training: Mapping[str, Any] | None = None,
    side: int | None = None,
) -> OwnCount:  # fmt: skip
    part = {"name": head} if isinstance(head, str) else dict(head)
    settings = {key: value for key, value in part.items() if key != "name"}

    def count(model: Any, stages: Sequence[Stage], index: int) -> SampleCost:
        try:
            classes, _ = named_label_maps(stage.data[0])
        except BinderclipError as error:
            raise NotSupported(f"it goes by the classes of its data, and {error}") from error
        kind, batch = HEADS[part_name(part)], stage.batch_size
        made = kind.build(model, classes, 0, settings).train()
        tower, pixels = made.model.image_tower, torch.empty(batch, 3, made.size, made.size, device="meta")
        with frozen(*([model] if isinstance(made, CascadeCLIP) else [])):
            each = [step_operations(step) for step in kind.steps(made, pixels, classes, training or {})]
        return SampleCost(
            image_tokens=(made.size // tower.patch) ** 2 + tower.prefix,
            operations=sum(each) / len(each) / batch,
            left_out="what no step changes is computed once for each picture, and not counted",
        )

    return OwnCount(count=count, pictures=lambda: named_label_maps(stage.data[0])[1])
