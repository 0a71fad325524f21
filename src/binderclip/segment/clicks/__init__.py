"""Clicks on objects that are known: who clicks, point prompts by rule, and how good masks become."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.segment.clicks.attack import (
        AdversarialClicker,
        ClickRobustness,
        GridClicker,
        click_robustness,
        click_values,
        soft_iou,
    )
    from binderclip.segment.clicks.clickers import (
        BaselineClicker,
        Clicker,
        ErrorRegion,
        RandomClicker,
        UserClicker,
        error_region,
    )
    from binderclip.segment.clicks.evaluation import ClickCurves, InteractiveEvaluation
    from binderclip.segment.clicks.objects import ObjectClicks
    from binderclip.segment.clicks.point_prompts import ExplainedIoU, PointPromptTable, point_prompt_benchmark
    from binderclip.segment.clicks.prompt_statistics import object_features, prompt_features
    from binderclip.segment.clicks.sampling import exclusion_points, sample_points
    from binderclip.segment.clicks.tuning import tune_prompts

__all__ = [
    "AdversarialClicker",
    "BaselineClicker",
    "ClickCurves",
    "ClickRobustness",
    "Clicker",
    "ErrorRegion",
    "ExplainedIoU",
    "GridClicker",
    "InteractiveEvaluation",
    "ObjectClicks",
    "PointPromptTable",
    "RandomClicker",
    "UserClicker",
    "click_robustness",
    "click_values",
    "error_region",
    "exclusion_points",
    "object_features",
    "point_prompt_benchmark",
    "prompt_features",
    "sample_points",
    "soft_iou",
    "tune_prompts",
]

lazy_exports(__name__)
