"""Metrics by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from binderclip.errors import UsageError
from binderclip.quality.score.clipiqa import CLIPIQA, ENSEMBLE, CLIPIQAPlus
from binderclip.quality.score.prompt_quality import PromptQuality
from binderclip.quality.score.qboost import TEMPLATE, TRIPLES
from binderclip.quality.score.qualiclip import QualiCLIP
from binderclip.quality.set_distance import CMMD, FrechetDistance

METHODS: dict[str, Callable[..., Any]] = {
    "clipiqa": partial(CLIPIQA, prompts=ENSEMBLE),
    "clipiqa+": CLIPIQAPlus,
    "qualiclip": QualiCLIP.from_weights,
    "q-boost": partial(
        PromptQuality, prompts=[tuple(TEMPLATE.format(word) for word in row) for row in TRIPLES], average="logits"
    ),
    "cmmd": CMMD,
    "frechet": FrechetDistance,
}
"""Metrics, by pyiqa's name where it has them; `frechet` is not its `fid`, whose features are Inception's."""


def create_metric(name: str, **settings: Any) -> Any:
    """Make a metric by its name: `create_metric("clipiqa")(images)`.

    Every metric has `lower_better`. Scores (`clipiqa`, `clipiqa+`, `qualiclip`, `q-boost`) are called with images in
    [0, 1], (B, 3, H, W), or with files, and give (B,); set distances (`cmmd`, `frechet`) are updated with both sets. As
    in pyiqa, `clipiqa` averages the five pairs of `ENSEMBLE`; `prompts="quality"` is the paper's single pair.
    `qualiclip` has bundled weights for `small`; `path=` names those of your own.

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
