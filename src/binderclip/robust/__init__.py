"""Attacks on classifiers and defences against them.

An attack is an objective, a feasible set, a step rule and a budget (`attack`); named attacks are points in these. All
see pixels: any `Predictor` from images in [0, 1] to logits can be attacked, or a plain module in its own input space
with `box=`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from binderclip.robust.attack import AttackResult, attack
from binderclip.robust.attacks.level_sets import (
    LevelSetPath,
    LevelSetTraversal,
    TriangleConfidence,
    confidence_along,
    level_set_width,
    triangle_confidence_map,
)
from binderclip.robust.attacks.pgd import FGSM, PGD
from binderclip.robust.defences.pag_targets import PAGTargets
from binderclip.robust.defences.training import adversarial_step
from binderclip.robust.feasible import L2, Feasible, Linf
from binderclip.robust.objectives import CrossEntropy, Margin, Objective
from binderclip.robust.steps import Normalized, Sign, Step

METHODS: dict[str, Callable[..., Any]] = {"fgsm": FGSM, "pgd": PGD}

__all__ = [
    "FGSM",
    "L2",
    "METHODS",
    "PGD",
    "AttackResult",
    "CrossEntropy",
    "Feasible",
    "LevelSetPath",
    "LevelSetTraversal",
    "Linf",
    "Margin",
    "Normalized",
    "Objective",
    "PAGTargets",
    "Sign",
    "Step",
    "TriangleConfidence",
    "adversarial_step",
    "attack",
    "confidence_along",
    "level_set_width",
    "triangle_confidence_map",
]
