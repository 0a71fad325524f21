"""The entry `augment` of a recipe, as an `Augment`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from binderclip.data.augment.augment import PLAIN, Augment
from binderclip.data.augment.cutout import Cutout
from binderclip.errors import UsageError
from binderclip.settings import hint

__all__ = ["make_augment"]


def make_augment(
    settings: Mapping[str, Any] | bool, *, size: int, seed: int, mean: Sequence[float] = (0.5, 0.5, 0.5)
) -> Augment:
    """Build the augmentation that a recipe asks for.

    Args:
        settings: of `data.Augment`; True for its defaults, False for the pictures as they are. `cutout` is a length or
            a table of settings of `data.Cutout`.
        size: side of the pictures in pixels.
        seed: of the stage.
        mean: the model's mean colour, with which holes are filled: it is zero once the model has normalised.

    Raises:
        UsageError: an unknown name or a value out of range.
    """
    if isinstance(settings, bool):
        settings = {} if settings else PLAIN
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    _check_names(given, Augment, {"size", "seed"}, "augmentation")
    if given.get("cutout") is not None:
        given["cutout"] = _cutout(given["cutout"], seed, mean)
    return Augment(size=size, seed=seed, **given)


def _cutout(given: Any, seed: int, mean: Sequence[float]) -> Cutout:
    settings = dict(given) if isinstance(given, Mapping) else {"length": given}
    _check_names(settings, Cutout, {"seed"}, "setting of cutout")
    if "length" not in settings:
        raise UsageError("cutout: a table needs length, a number of pixels or a fraction of the side below 1")
    length = settings["length"]
    if isinstance(length, bool) or not isinstance(length, (int, float)):
        raise UsageError(f"cutout: length is {length!r}; it is a number of pixels or a fraction of the side below 1")
    return Cutout(**{"fill": tuple(mean), "seed": seed} | settings)


def _check_names(settings: Mapping[str, Any], part: Any, ours: set[str], what: str) -> None:
    known = set(inspect.signature(part).parameters) - ours
    for key in settings:
        if key not in known:
            raise UsageError(f"there is no {what} {key!r}: {hint(key, known)}")
