"""Gradient saliency: how much each pixel moves the score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from binderclip.errors import UsageError
from binderclip.explain.engine.attribute import Plan, gradient, run_plans, signal_plan
from binderclip.explain.engine.attribution import Attribution
from binderclip.explain.engine.gathering import Crops, Reduction
from binderclip.explain.gradient.relu_rules import ReluRule, relu_rule
from binderclip.settings import check_choice


@dataclass(frozen=True)
class Saliency:
    """The magnitude of the score's gradient at the image: `max over channels |dS/dI|`, by one backward pass.

    The score is a logit or a cosine, never a probability, which can also rise because other classes fall. The map says
    to which pixels the score is most sensitive, at the image's own resolution; it is not signed.

    Args:
        reduce: how the three colour channels become one value: `max-abs` as published, `abs-sum` or `l2`.
        relu_rule: how the signal passes ReLUs: `gradient`, `deconv` or `guided`.
        tta: 1 for the image alone; 2 to 10 to average over that many cropped and mirrored copies (the paper uses 10).

    Raises:
        UsageError: an unknown reduction or rule, `tta` outside 1 to 10; when called, see `attribute`.

    Examples:
        >>> maps = Saliency()(model, images, "a cat").maps()  # doctest: +SKIP

    Paper: Deep Inside Convolutional Networks: Visualising Image Classification Models and Saliency Maps
    (arXiv 1312.6034).
    """

    reduce: Reduction = "max-abs"
    relu_rule: ReluRule = "gradient"
    tta: int = 1

    def __post_init__(self) -> None:
        check_choice("reduce", self.reduce, ("max-abs", "abs-sum", "l2"))
        check_choice("relu_rule", self.relu_rule, ("gradient", "deconv", "guided"))
        if not 1 <= self.tta <= 10:
            raise UsageError(f"tta must be from 1 to 10 crops, not {self.tta}")

    def plan(self) -> Plan | None:
        """What it asks of a pass, to be shared with other methods; None where ReLUs are changed for it alone."""
        return self._plan() if self.relu_rule == "gradient" else None

    def __call__(self, model: Any, images: Any, target: Any = None) -> Attribution:
        """Explain images; see `attribute` for the arguments."""
        with relu_rule(model, self.relu_rule):
            return run_plans(model, images, target, [self._plan()])[0]

    def _plan(self) -> Plan:
        return signal_plan(
            gradient,
            layers="input",
            reduce=self.reduce,
            ensemble=None if self.tta == 1 else Crops(self.tta),
            finish="abs",
            method="saliency",
        )
