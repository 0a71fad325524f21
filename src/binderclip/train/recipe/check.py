"""Checks of recipe entries against the rooms that own them; nothing is built."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from binderclip.errors import NotSupported, UsageError
from binderclip.settings import brief, check_part, hint, part_name
from binderclip.train.recipe.registry import DEMANDS, MODELS, STAGES, TERMS, Demands

if TYPE_CHECKING:
    from binderclip.train.recipe.stage import Stage

__all__ = ["check_model", "check_name", "check_parts", "check_processes", "check_stage"]

# The largest whole number that any setting may be; what is larger is a slip of the finger.
MOST = 10**15
_LONGEST_NAME = 80
# Losses that need a teacher beside the model.
TAUGHT = ("clip-refine",)
# Losses that compare several views of a picture.
SEVERAL_VIEWS = ("clip-rocket", "mammo-clip")
# The loss of captions that are nearly right, and the kind of stage that makes them.
NEARLY_RIGHT = "hard-negatives"
# Entry -> (what it is where it says nothing, packaged kinds that heed it): others make their own batches, or see the
# tower from within.
_HEEDED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "image_tokens": (None, ("contrastive",)),
    "patch_dropout": (0.0, ("contrastive",)),
    "positions": ("fixed", ("contrastive",)),
    "text_tokens": ("truncate", ("contrastive", "attentive-mask", "experts", "multi-view", "segclip")),
    "teacher": (None, ("contrastive",)),
    "micro_batch": (None, ("contrastive",)),
}
_INSTEAD = {"micro_batch": "; use accumulate, or a smaller batch_size"}


def check_stage(stage: Stage) -> None:
    """Names and settings of every part of a stage.

    Raises:
        ValueError: `ENTRY: what is wrong`.
    """
    from binderclip import losses, optim
    from binderclip.fit import OPTIMIZERS

    check_name(stage.name)
    for entry in ("kind", "loss", "terms", "optimizer", "augment"):
        _check_numbers(entry, getattr(stage, entry))
    for index, spec in enumerate(stage.data):
        _check_numbers(f"data.{index}.options", spec.options)
    _check_clip(stage.clip)
    if stage.grad_transform is not None:
        _check_numbers("grad_transform", stage.grad_transform)
        _check("grad_transform", stage.grad_transform, optim.GRAD_TRANSFORMS, given=1)
    _check("kind", stage.kind, STAGES, given=1)
    _check("loss", stage.loss, losses.METHODS, also=losses.ContrastiveLoss)
    if part_name(stage.loss) in TAUGHT and stage.teacher is None:
        raise ValueError('loss: it compares with the model as the stage finds it: add teacher = "start"')
    _check_views(stage)
    _check_negatives(stage)
    for term in stage.terms:
        _check("terms", {key: value for key, value in term.items() if key != "weight"}, TERMS, given=1)
    optimizer = stage.optimizer if isinstance(stage.optimizer, str) else dict(stage.optimizer)
    _check("optimizer", optimizer, OPTIMIZERS, given=1)
    if stage.schedule not in optim.SCHEDULES:
        raise ValueError(f"schedule: unknown schedule {brief(stage.schedule)}: {hint(stage.schedule, optim.SCHEDULES)}")
    _check_heeded(stage)
    if stage.image_tokens is not None:
        _check_tokens(stage)
    if isinstance(stage.augment, Mapping):
        _check_augment(stage.augment)
    if part_name(stage.kind) in ("contrastive", "experts", "masked-feature") and not stage.data:
        raise ValueError("data: name what to train on, such as data = ['openclipart', 'noto-emoji', 'icons']")


def check_parts(stages: Sequence[Stage]) -> None:
    """What kinds, terms and experts demand of the whole recipe, so that no stage refuses it after hours of another.

    Raises:
        ValueError: `stage.NUMBER.ENTRY: what is wrong`.
    """
    for index, stage in enumerate(stages):
        for entry, part, demand in _demands(stage):
            if demand.check is None:
                continue
            settings = {} if isinstance(part, str) else {k: v for k, v in part.items() if k not in ("name", "weight")}
            try:
                demand.check(stages, index, settings)
            except UsageError as error:
                raise ValueError(f"stage.{index}.{entry}: {error}") from error


def check_processes(stages: Sequence[Stage], processes: int, parallel: str) -> None:
    """What stages cannot do in several processes.

    Args:
        stages: of the recipe.
        processes: how many there are.
        parallel: `ddp` or `fsdp`.

    Raises:
        NotSupported: a kind that runs in one process, `micro_batch`, or `ema` or `grad_transform` with `fsdp`.
    """
    if processes == 1:
        return
    for stage in stages:
        kind = part_name(stage.kind)
        if any(demand.one_process for _, _, demand in _demands(stage)):
            raise NotSupported(f"stage {stage.name!r}: {kind} runs in one process, and these are {processes}")
        if stage.micro_batch is not None and kind == "contrastive":
            raise NotSupported(
                f"stage {stage.name!r}: micro_batch runs in one process, and these are {processes}: use accumulate, or "
                "a smaller batch_size"
            )
        if stage.ema is not None and parallel == "fsdp":
            raise NotSupported(f"stage {stage.name!r}: ema together with fsdp: train with ddp, or without ema")
        if stage.grad_transform is not None and parallel == "fsdp":
            raise NotSupported(f"stage {stage.name!r}: grad_transform needs whole gradients: train with ddp, not fsdp")


def _demands(stage: Stage) -> Iterator[tuple[str, str | Mapping[str, Any], Demands]]:
    """(entry, part, what it demands) of the parts of a stage that demand something."""
    parts = [("kind", stage.kind, STAGES), *(("terms", term, TERMS) for term in stage.terms)]
    for entry, part, table in parts:
        demand = DEMANDS.get(table[part_name(part)])
        if demand is not None:
            yield entry, part, demand


def _check_views(stage: Stage) -> None:
    """Whether the loss that compares several views has them, and the kind that makes them such a loss."""
    several, made = part_name(stage.loss) in SEVERAL_VIEWS, part_name(stage.kind) == "multi-view"
    if several and not made:
        raise ValueError('loss: it compares several views of a picture: write kind = "multi-view"')
    if made and not several:
        raise ValueError(f"loss: kind multi-view needs a loss of several views, one of {', '.join(SEVERAL_VIEWS)}")


def _check_negatives(stage: Stage) -> None:
    """Whether the loss of nearly right captions has them, and the kind that makes them such a loss."""
    asked, made = part_name(stage.loss) == NEARLY_RIGHT, part_name(stage.kind) == NEARLY_RIGHT
    if asked and not made:
        raise ValueError(f'loss: it needs captions that are nearly right: write kind = "{NEARLY_RIGHT}"')
    if made and not asked:
        raise ValueError(f'loss: kind {NEARLY_RIGHT} goes with one loss: write loss = "{NEARLY_RIGHT}"')


def _check_heeded(stage: Stage) -> None:
    """Whether the stage's kind heeds what is said of its batches."""
    kind = part_name(stage.kind)
    if not STAGES[kind].__module__.startswith("binderclip."):
        return
    for name, (usual, kinds) in _HEEDED.items():
        if getattr(stage, name) != usual and kind not in kinds:
            raise ValueError(f"{name}: stages of kind {kind!r} take no such entry{_INSTEAD.get(name, '')}")


def check_name(name: str) -> None:
    """The name of a stage, which is that of its folders.

    Raises:
        ValueError: `name: what is wrong`.
    """
    if not name or len(name) > _LONGEST_NAME or name.startswith(".") or any(c in "/\\" or ord(c) < 32 for c in name):
        raise ValueError(
            f"name: a stage's folders are called like it: 1 to {_LONGEST_NAME} characters, no slash and no dot in "
            f"front, got {name[:_LONGEST_NAME]!r}"
        )


def _numbers(entry: str, value: Any) -> Iterator[tuple[str, float]]:
    """(path, number) of every number in a part."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(f"{entry}.{key}", inner)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _numbers(f"{entry}.{index}", inner)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield entry, value


def _check_numbers(entry: str, value: Any) -> None:
    for path, number in _numbers(entry, value):
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(f"{path}: must be a finite number, got {number}")
        if abs(number) > MOST and isinstance(number, int):
            raise ValueError(
                f"{path}: must be a whole number of at most {MOST:.0e}, got one of {_digits(number)} digits"
            )


def _digits(number: int) -> int:
    return int(number.bit_length() * math.log10(2)) + 1


def _check_clip(clip: Any) -> None:
    from binderclip import optim
    from binderclip.fit.loop import make_clip

    for part in clip if isinstance(clip, list) else [clip]:
        if isinstance(part, (str, dict)):
            _check("clip", part, optim.METHODS, also=optim.Clip)
    try:
        # a clip is nothing but settings until its first step, so that its values can be checked by making it
        make_clip(clip)
    except UsageError as error:
        raise ValueError(f"clip: {error}") from error


def _check_tokens(stage: Stage) -> None:
    _check_numbers("image_tokens", stage.image_tokens)
    if stage.patch_dropout:
        raise ValueError("patch_dropout: give image_tokens or patch_dropout, not both")
    try:
        stage.reduction()
    except UsageError as error:
        raise ValueError(f"image_tokens: {error}") from error


def _check_augment(settings: Mapping[str, Any]) -> None:
    from binderclip.train.recipe.augmentation import make_augment

    try:
        make_augment(settings, size=64, seed=0)  # nothing but settings until it is called
    except UsageError as error:
        raise ValueError(f"augment: {error}") from error


def _check(entry: str, part: Any, methods: Mapping[str, Any], given: int = 0, also: Any = None) -> None:
    try:
        check_part(part, methods, entry, given=given, also=also)
    except UsageError as error:
        raise ValueError(f"{entry}: {error}") from error


def check_model(model: str | dict[str, Any]) -> None:
    """A table must name a builder of `train.MODELS` as `arch` and give it settings it knows.

    Raises:
        ValueError: `model: what is wrong`.
    """
    if isinstance(model, str):
        return
    if "arch" not in model:
        raise ValueError(f"model: a table needs arch, one of {', '.join(sorted(MODELS))}; or write model = 'small'")
    settings = {key: value for key, value in model.items() if key != "arch"}
    given = {"seed": 0, "captions": ()}
    clash = sorted(set(settings) & set(given))
    if clash:
        raise ValueError(f"model: {clash[0]} is not set here: the recipe's own seed and captions are used")
    _check_numbers("model", settings)
    if model["arch"] == "open_clip":
        _check_sizes(settings)
    _check("model", {"name": model["arch"], **settings, **given}, MODELS)


# Sizes of open_clip's parts: the least and the most of each.
_SIZES: dict[str, tuple[int, int]] = {
    "embed_dim": (1, 65_536),
    "vocabulary": (8, 10_000_000),
    "context": (3, 65_536),
    "vision.image_size": (1, 8_192),
    "vision.layers": (1, 1_000),
    "vision.width": (1, 65_536),
    "vision.head_width": (1, 65_536),
    "vision.patch_size": (1, 8_192),
    "text.width": (1, 65_536),
    "text.heads": (1, 4_096),
    "text.layers": (1, 1_000),
}


def _check_sizes(settings: Mapping[str, Any]) -> None:
    """Sizes of a new open_clip model: whole numbers within reason, lists where open_clip takes lists."""
    for path, (least, most) in _SIZES.items():
        table, _, key = path.rpartition(".")
        inner = settings.get(table, {}) if table else settings
        if not isinstance(inner, Mapping):
            raise ValueError(f"model.{table}: must be a table of open_clip's settings, got {brief(inner)}")
        if key not in inner:
            continue
        value = inner[key]
        sizes = value if isinstance(value, list) and path in ("vision.layers", "vision.image_size") else [value]
        expected = "four numbers, a stage each, or one" if path == "vision.layers" else "one number or two"
        if isinstance(value, list) and sizes is value and len(value) != (4 if path == "vision.layers" else 2):
            raise ValueError(f"model.{path}: must be {expected}, got {brief(value)}")
        if not all(isinstance(size, int) and not isinstance(size, bool) and least <= size <= most for size in sizes):
            raise ValueError(f"model.{path}: must be a whole number from {least} to {most}, got {brief(value)}")
    vision = settings.get("vision", {})
    sides = vision.get("image_size", 224)
    if vision.get("patch_size", 0) > min(sides if isinstance(sides, list) else [sides]):
        raise ValueError(f"model.vision.patch_size: {vision['patch_size']} is more than a side of the picture, {sides}")
    scale = settings.get("logit_scale")
    if scale is not None and not (isinstance(scale, (int, float)) and scale > 0):
        raise ValueError(f"model.logit_scale: must be a number above 0, got {brief(scale)}")
