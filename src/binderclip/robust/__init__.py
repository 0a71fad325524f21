"""Attacks on classifiers and defences against them.

An attack is an objective, a feasible set, a step rule and a budget (`attack`); named attacks are points in these. All
see pixels: any `Predictor` from images in [0, 1] to logits can be attacked, or a plain module in its own input space
with `box=`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from binderclip.robust.attack import AttackResult, attack
from binderclip.robust.feasible import L2, Feasible, Linf
from binderclip.robust.objectives import CrossEntropy, Margin, Objective
from binderclip.robust.pag_targets import PAGTargets
from binderclip.robust.pgd import FGSM, PGD
from binderclip.robust.steps import Normalized, Sign, Step
from binderclip.robust.training import adversarial_step

METHODS: dict[str, Callable[..., Any]] = {"fgsm": FGSM, "pgd": PGD}

__all__ = [
    "FGSM",
    "L2",
    "METHODS",
    "PGD",
    "AttackResult",
    "CrossEntropy",
    "Feasible",
    "Linf",
    "Margin",
    "Normalized",
    "Objective",
    "PAGTargets",
    "Sign",
    "Step",
    "adversarial_step",
    "attack",
]
