"""Projected gradient ascent, the attack that everything is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.robust.attack import AttackResult, Keep, attack
from binderclip.robust.feasible import L2, Linf
from binderclip.robust.objectives import CrossEntropy, Margin, Objective
from binderclip.robust.steps import Normalized, Sign

Norm = Literal["linf", "l2"]
LossName = Literal["cross-entropy", "margin", "cw"]
CW_CONFIDENCE = 50.0
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "cross-entropy": CrossEntropy,
    "margin": Margin,
    "cw": partial(Margin, confidence=CW_CONFIDENCE),
}


@dataclass(frozen=True)
class PGD:
    """Climb the loss by steps of fixed length, projected into a ball around the image after each.

    Args:
        predictor: pixels to logits (B, K); it resizes and normalises by itself, so `eps` is in units of pixels. Put
            into eval mode meanwhile.
        eps: radius. Default 8/255.
        alpha: step size; default 2.5 * eps / steps, enough to cross the ball.
        steps: default 10.
        norm: `"linf"` steps by the gradient's sign, `"l2"` by the gradient over its length.
        random_start: begin at a random point of the ball.
        restarts: runs from other random points, for the images that have withstood so far.
        objective: `"cross-entropy"`; `"margin"`, which also climbs where the network is sure; `"cw"`, margins up
            to 50.
        targeted: labels are classes to reach.
        keep: see `attack`; `"last"` for attacks during training.
        quantize: see `attack`.
        box: range of pixels.
        batch_size: images at a time.
        seed: of the random starts.

    Call it with images (B, ...) in `box` and labels (B,), and optionally a `generator` to go on with: an attack that is
    called batch after batch else begins at the same random points.

    Raises:
        UsageError: a setting out of range; when called, images outside the box, labels that are no classes.

    Examples:
        >>> result = PGD(predictor, eps=8 / 255, steps=10)(images, labels)  # doctest: +SKIP
        >>> robust_accuracy = 1 - result.success.float().mean()  # doctest: +SKIP

    Paper: Towards Deep Learning Models Resistant to Adversarial Attacks (arXiv 1706.06083).
    """

    predictor: Any
    eps: float = 8 / 255
    alpha: float | None = None
    steps: int = 10
    norm: Norm = "linf"
    random_start: bool = True
    restarts: int = 1
    objective: LossName = "cross-entropy"
    targeted: bool = False
    keep: Keep = "best"
    quantize: bool = False
    box: tuple[float, float] = (0.0, 1.0)
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2"):
            raise UsageError(f"norm must be linf or l2, not {self.norm!r}")
        if self.objective not in OBJECTIVES:
            raise UsageError(f"objective must be {' or '.join(OBJECTIVES)}, not {self.objective!r}")
        if self.steps < 0 or self.restarts < 1 or self.batch_size < 1:
            raise UsageError(
                f"steps must be at least 0, restarts and batch_size at least 1; got {self.steps}, {self.restarts}, "
                f"{self.batch_size}"
            )
        if self.restarts > 1 and not self.random_start:
            raise UsageError("restarts without random_start would repeat the same path")
        if self.restarts > 1 and self.keep == "last":
            raise UsageError("restarts need keep='best': the last of several paths is no better than the first")
        if self.alpha is not None and not self.alpha > 0:
            raise UsageError(f"alpha, the step size in the units of the images, must be above 0, got {self.alpha}")
        Linf(self.eps, self.box)

    def __call__(
        self,
        images: Float[Tensor, "B *size"],
        labels: Int[Tensor, "B"],
        *,
        generator: torch.Generator | None = None,
    ) -> AttackResult:
        if labels.shape != images.shape[:1] or not len(images):
            raise UsageError(f"labels {tuple(labels.shape)} do not go with images {tuple(images.shape)}")
        generator = torch.Generator().manual_seed(self.seed) if generator is None else generator
        parts = zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True)
        return _joined([self._restarted(x, y, generator) for x, y in parts])

    def _restarted(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> AttackResult:
        found = self._once(images, labels, generator)
        for _ in range(self.restarts - 1):
            left = (~found.success).nonzero()[:, 0]
            if not len(left):
                break
            again = self._once(images[left], labels[left], generator)
            better = again.success | (again.objective > found.objective[left])
            found = _replaced(found, again, left[better], better)
        return found

    def _once(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> AttackResult:
        alpha = 2.5 * self.eps / max(self.steps, 1) if self.alpha is None else self.alpha
        alpha = alpha or 1.0  # eps = 0: any step is projected back
        return attack(
            OBJECTIVES[self.objective](self.predictor, labels, targeted=self.targeted),
            images,
            param=Linf(self.eps, self.box) if self.norm == "linf" else L2(self.eps, self.box),
            step=Sign(alpha) if self.norm == "linf" else Normalized(alpha),
            steps=self.steps,
            start="random" if self.random_start else "clean",
            keep=self.keep,
            quantize=self.quantize,
            generator=generator,
        )


def FGSM(predictor: Any, eps: float = 8 / 255, **options: Any) -> PGD:
    """One step of the sign of the gradient, from the clean image to the rim of the ball: `PGD` with one step.

    Args:
        predictor: pixels to logits.
        eps: length of the step.
        options: others of `PGD`, such as `norm` or `box`.

    Paper: Explaining and Harnessing Adversarial Examples (arXiv 1412.6572).
    """
    return PGD(predictor, eps, **{"alpha": eps or None, "steps": 1, "random_start": False, "keep": "last", **options})


def CW(predictor: Any, eps: float = 8 / 255, **options: Any) -> PGD:
    """`PGD` on the margin that Carlini and Wagner found to attack best, which counts up to 50 logits.

    Args:
        predictor: pixels to logits.
        eps: radius of the ball; theirs is a penalty instead, as in the other papers that use their margin in a ball.
        options: others of `PGD`, such as `steps` or `norm`.

    Paper: Towards Evaluating the Robustness of Neural Networks (arXiv 1608.04644); in a ball: Understanding Zero-Shot
    Adversarial Robustness for Large-Scale Models (arXiv 2212.07016).
    """
    return PGD(predictor, eps, **{"objective": "cw", **options})


def _replaced(found: AttackResult, again: AttackResult, rows: Tensor, better: Tensor) -> AttackResult:
    """`found` with some rows taken from a later run; its history stays that of the first."""
    parts = {}
    for name in ("images", "perturbation", "success", "objective"):
        parts[name] = getattr(found, name).index_copy(0, rows, getattr(again, name)[better])
    return AttackResult(**parts, queries=found.queries + again.queries, history=found.history)


def _joined(parts: list[AttackResult]) -> AttackResult:
    names = ("images", "perturbation", "success", "objective")
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    history = torch.cat([part.history for part in parts], dim=1)
    return AttackResult(**joined, queries=max(part.queries for part in parts), history=history)
