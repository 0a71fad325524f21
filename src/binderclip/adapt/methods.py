"""The methods of this room by name, as `--method`, `select_head` and the common tests know them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from binderclip.adapt.few_shot.adapters import CLIPAdapter, TaskResidual
from binderclip.adapt.few_shot.ape import APE, APETuned
from binderclip.adapt.few_shot.gaussian import GaussianHead
from binderclip.adapt.few_shot.linear_probe import LinearProbe
from binderclip.adapt.few_shot.nearest import NearestExampleClassifier
from binderclip.adapt.few_shot.prolip import ProLIP
from binderclip.adapt.few_shot.tip_adapter import TipAdapter, TipAdapterF
from binderclip.adapt.tuning.full_finetune import FullFineTune
from binderclip.adapt.tuning.lora import GLAD, LoRATuning
from binderclip.adapt.tuning.prompt_learning import ECO, ProGrad, PromptLearning
from binderclip.adapt.tuning.visual_prompt import VisualPromptTuning
from binderclip.adapt.zero_shot.classifier import ZeroShotClassifier

METHODS: dict[str, Callable[..., Any]] = {
    "ape": APE,
    "ape-t": APETuned,
    "clip-adapter": CLIPAdapter,
    "coop": PromptLearning,
    "eco": ECO,
    "evp": partial(VisualPromptTuning, recipe="evp"),
    "ft-clip": FullFineTune,
    "gda": GaussianHead,
    "glad": GLAD,
    "linear-probe": LinearProbe,
    "lora": LoRATuning,
    "nearest-example": NearestExampleClassifier,
    "prograd": ProGrad,
    "prolip": ProLIP,
    "task-residual": TaskResidual,
    "tip-adapter": TipAdapter,
    "tip-adapter-f": TipAdapterF,
    "visual-prompt": VisualPromptTuning,
    "zero-shot": ZeroShotClassifier,
}
