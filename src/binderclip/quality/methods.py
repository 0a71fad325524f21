"""Metrics by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from binderclip.errors import UsageError
from binderclip.quality.distance.lpips import LPIPS
from binderclip.quality.enhance.sfd import SFDIQA
from binderclip.quality.score.blind import BlindQuality
from binderclip.quality.score.clipiqa import CLIPIQA, ENSEMBLE, CLIPIQAPlus
from binderclip.quality.score.prompt_quality import PromptQuality
from binderclip.quality.score.qboost import TEMPLATE, TRIPLES
from binderclip.quality.score.qualiclip import QualiCLIP
from binderclip.quality.set_distance import CMMD, FrechetDistance
from binderclip.quality.trunks import Variant


def _lpips(variant: Variant, path: str | Path | None = None, **settings: Any) -> LPIPS:
    """Of a weight file, or new."""
    if path is None:
        return LPIPS(**{"variant": variant, **settings})
    if settings:
        raise UsageError(f"{next(iter(settings))} does not go with path=, whose file says it")
    return LPIPS.from_weights(path)


METHODS: dict[str, Callable[..., Any]] = {
    "blind": BlindQuality.from_weights,
    "clipiqa": partial(CLIPIQA, prompts=ENSEMBLE),
    "clipiqa+": CLIPIQAPlus,
    "qualiclip": QualiCLIP.from_weights,
    "q-boost": partial(
        PromptQuality, prompts=[tuple(TEMPLATE.format(word) for word in row) for row in TRIPLES], average="logits"
    ),
    "lpips": partial(_lpips, "vanilla"),
    "st-lpips": partial(_lpips, "shift-tolerant"),
    "sfd-iqa": SFDIQA,
    "cmmd": CMMD,
    "frechet": FrechetDistance,
}
"""Metrics, by pyiqa's name where it has them; `frechet` is not its `fid`, whose features are Inception's."""


def create_metric(name: str, **settings: Any) -> Any:
    """Make a metric by its name: `create_metric("clipiqa")(images)`.

    Every metric has `lower_better`. Scores (`blind`, `clipiqa`, `clipiqa+`, `qualiclip`, `q-boost`) are called with
    images in [0, 1], (B, 3, H, W), or with files, and give (B,); set distances (`cmmd`, `frechet`) are updated with
    both sets. As in pyiqa, `clipiqa` averages the five pairs of `ENSEMBLE`; `prompts="quality"` is the paper's single
    pair. `blind` has bundled weights and so has, for `small`, `qualiclip`; `path=` names those of your own. Distances
    (`lpips`, `st-lpips`) are called with images and references, and stand on `lite0` unless `net=` or `path=` says
    otherwise. `sfd-iqa` takes the `sfd=` that was trained.

    Args:
        name: one of `METHODS`.
        settings: of the metric, such as `model="open_clip:RN50/openai"` and `device="cuda"`.

    Raises:
        UsageError: an unknown name, or settings that the metric does not take.

    Examples:
        >>> metric = create_metric("clipiqa", prompts="sharpness")
        >>> metric.lower_better
        False
    """
    if name not in METHODS:
        raise UsageError(f"metric {name!r} is unknown: one of {', '.join(METHODS)}")
    try:
        return METHODS[name](**settings)
    except TypeError as error:
        raise UsageError(f"metric {name!r}: {error}") from error
