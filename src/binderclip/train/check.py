"""Checks of recipe entries against the rooms that own them; nothing is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from binderclip.errors import UsageError
from binderclip.train.parts import check_part, hint
from binderclip.train.registry import MODELS, STAGES, TERMS

if TYPE_CHECKING:
    from binderclip.train.recipe import Stage

__all__ = ["check_model", "check_stage"]


def check_stage(stage: Stage) -> None:
    """Names and settings of every part of a stage.

    Raises:
        ValueError: `ENTRY: what is wrong`.
    """
    from binderclip import losses, optim
    from binderclip.fit import OPTIMIZERS

    _check_clip(stage.clip)
    _check("kind", stage.kind, STAGES, given=1)
    _check("loss", stage.loss, losses.METHODS, also=losses.ContrastiveLoss)
    for term in stage.terms:
        _check("terms", {key: value for key, value in term.items() if key != "weight"}, TERMS, given=1)
    optimizer = stage.optimizer if isinstance(stage.optimizer, str) else dict(stage.optimizer)
    _check("optimizer", optimizer, OPTIMIZERS, given=1)
    if stage.schedule not in optim.SCHEDULES:
        raise ValueError(f"schedule: unknown schedule {stage.schedule!r}: {hint(stage.schedule, optim.SCHEDULES)}")
    if isinstance(stage.augment, Mapping):
        _check_augment(stage.augment)
    if stage.kind == "contrastive" and not stage.data:
        raise ValueError("data: name what to train on, such as data = ['openclipart', 'noto-emoji', 'icons']")


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


def _check_augment(settings: Mapping[str, Any]) -> None:
    from binderclip.train.augmentation import make_augment

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
    _check("model", {"name": model["arch"], **settings, **given}, MODELS)
