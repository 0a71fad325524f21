"""Attribution: which parts of an image speak for a text or a class.

Every method is called `Method(...)(model, images, target) -> Attribution`; any callable
`(model, images, target) -> maps (B, H, W)` can be scored like ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from binderclip.explain import targets
from binderclip.explain.attribute import Crops, Ensemble, Signal, attribute
from binderclip.explain.attribution import Attribution, peaks
from binderclip.explain.class_image import ClassImage, ClassModelImage
from binderclip.explain.gradcam import GradCAM
from binderclip.explain.localisation import energy_inside, pointing_game
from binderclip.explain.relu_rules import relu_rule
from binderclip.explain.saliency import Saliency

METHODS: dict[str, Callable[..., Any]] = {"gradcam": GradCAM, "saliency": Saliency}

__all__ = [
    "METHODS",
    "Attribution",
    "ClassImage",
    "ClassModelImage",
    "Crops",
    "Ensemble",
    "GradCAM",
    "Saliency",
    "Signal",
    "attribute",
    "energy_inside",
    "peaks",
    "pointing_game",
    "relu_rule",
    "targets",
]
