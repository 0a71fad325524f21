"""Adapting a model to a task: the zero-shot classifier and few-shot heads, as scikit-learn estimators on features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from binderclip.adapt.cache_head import TipAdapter
from binderclip.adapt.gaussian import ClassStatistics, GaussianHead, class_statistics, shrunk_precision
from binderclip.adapt.head import Blend, FeatureClassifier, FewShotHead, blend_search
from binderclip.adapt.linear_probe import LinearProbe
from binderclip.adapt.prior import align, prior_rows
from binderclip.adapt.shots import HeadScore, compare_heads, draw_shots
from binderclip.adapt.zero_shot import ZeroShotClassifier

METHODS: dict[str, Callable[..., Any]] = {
    "gda": GaussianHead,
    "linear-probe": LinearProbe,
    "tip-adapter": TipAdapter,
    "zero-shot": ZeroShotClassifier,
}

__all__ = [
    "METHODS",
    "Blend",
    "ClassStatistics",
    "FeatureClassifier",
    "FewShotHead",
    "GaussianHead",
    "HeadScore",
    "LinearProbe",
    "TipAdapter",
    "ZeroShotClassifier",
    "align",
    "blend_search",
    "class_statistics",
    "compare_heads",
    "draw_shots",
    "prior_rows",
    "shrunk_precision",
]
