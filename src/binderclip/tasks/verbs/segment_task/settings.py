"""`--set` of `segment-task`: the settings of a method by name, checked before a model is loaded."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from binderclip.errors import UsageError
from binderclip.settings import parse_override

OTHERS = ("model", "segmenter", "vocabulary", "ask", "erase", "settings")
"""What no text can give, or another option gives."""


def task_settings(method: str, changes: Sequence[str]) -> dict[str, Any]:
    """The settings of a method that KEY=VALUE texts change.

    Args:
        method: of `TASK_METHODS`.
        changes: such as `rounds=3`, `drop_largest=false`.

    Raises:
        UsageError: another setting, or a value of another kind.
    """
    known = settings_of(method)
    settings: dict[str, Any] = {}
    for text in changes:
        path, value = parse_override(text)
        key = ".".join(path)
        if key not in known:
            raise UsageError(f"--set {key}: {method} has no such setting; it has {', '.join(sorted(known))}")
        if isinstance(value, str) and value.lower() in ("true", "false", "none"):
            value = {"true": True, "false": False, "none": None}[value.lower()]
        settings[key] = _checked(key, value, known[key])
    return settings


def settings_of(method: str) -> dict[str, Any]:
    """Settings of a method and their defaults."""
    from binderclip.segment.task import TASK_METHODS, EveryMask

    parameters = inspect.signature(TASK_METHODS[method]).parameters
    known = {name: own.default for name, own in parameters.items() if name not in OTHERS}
    if "settings" in parameters:  # slip hands its own on
        known |= {own.name: own.default for own in fields(EveryMask) if own.name not in OTHERS}
    return known


def _checked(key: str, value: Any, default: Any) -> Any:
    """A value of the default's kind; None's is a number."""
    if isinstance(default, tuple):
        words = [value] if isinstance(value, str) else value
        listed = isinstance(words, list) and len(words) > 0
        if not listed or not all(isinstance(word, str) and word.strip() for word in words):
            raise UsageError(f'--set {key}={value}: must be a list of words, such as ["shadow", "silhouette"]')
        return tuple(words)
    if isinstance(default, bool):
        fits, kind = isinstance(value, bool), "true or false"
    elif isinstance(default, int):
        fits, kind = isinstance(value, int) and not isinstance(value, bool), "a whole number"
    else:
        # Settings without a number of their own may be switched off.
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits, kind = number or (value is None and key in ("layer", "overlap", "pred_iou_thresh")), "a number"
    if not fits:
        raise UsageError(f"--set {key}={value}: must be {kind}")
    return value
