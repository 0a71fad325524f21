"""Clicks on objects that are known: who clicks, point prompts by rule, and how good masks become."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.segment.clicks.attack import AdversarialClicker as AdversarialClicker
    from binderclip.segment.clicks.attack import ClickRobustness as ClickRobustness
    from binderclip.segment.clicks.attack import GridClicker as GridClicker
    from binderclip.segment.clicks.attack import click_robustness as click_robustness
    from binderclip.segment.clicks.attack import click_values as click_values
    from binderclip.segment.clicks.attack import soft_iou as soft_iou
    from binderclip.segment.clicks.clickers import BaselineClicker as BaselineClicker
    from binderclip.segment.clicks.clickers import Clicker as Clicker
    from binderclip.segment.clicks.clickers import ErrorRegion as ErrorRegion
    from binderclip.segment.clicks.clickers import RandomClicker as RandomClicker
    from binderclip.segment.clicks.clickers import UserClicker as UserClicker
    from binderclip.segment.clicks.clickers import error_region as error_region
    from binderclip.segment.clicks.evaluation import ClickCurves as ClickCurves
    from binderclip.segment.clicks.evaluation import InteractiveEvaluation as InteractiveEvaluation
    from binderclip.segment.clicks.object_session import ObjectSession as ObjectSession
    from binderclip.segment.clicks.object_session import read_object_session as read_object_session
    from binderclip.segment.clicks.object_session import write_object_session as write_object_session
    from binderclip.segment.clicks.object_steps import ObjectStep as ObjectStep
    from binderclip.segment.clicks.object_steps import PictureObjects as PictureObjects
    from binderclip.segment.clicks.object_steps import PointedObject as PointedObject
    from binderclip.segment.clicks.object_steps import object_mask as object_mask
    from binderclip.segment.clicks.objects import ObjectClicks as ObjectClicks
    from binderclip.segment.clicks.point_prompts import ExplainedIoU as ExplainedIoU
    from binderclip.segment.clicks.point_prompts import PointPromptTable as PointPromptTable
    from binderclip.segment.clicks.point_prompts import point_prompt_benchmark as point_prompt_benchmark
    from binderclip.segment.clicks.prompt_statistics import object_features as object_features
    from binderclip.segment.clicks.prompt_statistics import prompt_features as prompt_features
    from binderclip.segment.clicks.sampling import exclusion_points as exclusion_points
    from binderclip.segment.clicks.sampling import sample_points as sample_points
    from binderclip.segment.clicks.tuning import tune_prompts as tune_prompts

lazy_exports(__name__)
