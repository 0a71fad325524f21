"""Projected gradient ascent, the attack that everything is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_fields, check_number, check_whole
from binderclip.robust.attack_loop import AttackResult, Keep, attack
from binderclip.robust.checks import Labels, check_images, checked_labels
from binderclip.robust.diversity import InputDiversity
from binderclip.robust.feasible import L2, Linf
from binderclip.robust.objectives import CrossEntropy, Margin, Objective
from binderclip.robust.steps import Momentum, Norm, Normalized, Sign, Step
from binderclip.settings import check_choice

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
        seed: of the random starts and of the input diversity.
        momentum: decay of a running sum of gradients that steps follow, see `Momentum`; 0 follows the last gradient.
        diversity: probability that gradients are taken of images resized and padded at random, see `InputDiversity`.
        resize_rate: of the input diversity.

    Call it with images (B, ...) in `box` and labels (B,), and optionally a `generator` to go on with: an attack that is
    called batch after batch else begins at the same random points.

    Raises:
        UsageError: a setting out of range; when called, images outside the box or not finite, labels that are no
            classes, logits or gradients that are not finite.

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
    momentum: float = 0.0
    diversity: float = 0.0
    resize_rate: float = 0.9

    def __post_init__(self) -> None:
        check_fields(self)
        if self.norm not in get_args(Norm):
            raise UsageError(f"norm must be {' or '.join(get_args(Norm))}, not {self.norm!r}")
        if self.objective not in OBJECTIVES:
            raise UsageError(f"objective must be {' or '.join(OBJECTIVES)}, not {self.objective!r}")
        if self.steps < 0 or self.restarts < 1 or self.batch_size < 1:
            raise UsageError(
                f"steps must be at least 0, restarts and batch_size at least 1; got {self.steps}, {self.restarts}, "
                f"{self.batch_size}"
            )
        check_choice("keep", self.keep, get_args(Keep))
        if self.restarts > 1 and not self.random_start:
            raise UsageError("restarts without random_start would repeat the same path")
        if self.restarts > 1 and self.keep == "last":
            raise UsageError("restarts need keep='best': the last of several paths is no better than the first")
        if self.alpha is not None:
            check_number("alpha", self.alpha, above=0)
        check_number("momentum", self.momentum, least=0)
        InputDiversity(self.diversity, self.resize_rate)
        Linf(self.eps, self.box)

    def __call__(
        self,
        images: Float[Tensor, "B *size"],
        labels: Labels,
        *,
        generator: torch.Generator | None = None,
    ) -> AttackResult:
        check_images("images", images, self.box)
        labels = checked_labels(labels, images)
        generator = torch.Generator().manual_seed(self.seed) if generator is None else generator
        parts = zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True)
        return _joined([self._restarted(x, y, generator) for x, y in parts])

    def _restarted(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> AttackResult:
        best = self._once(images, labels, generator)
        for _ in range(self.restarts - 1):
            left = (~best.success).nonzero()[:, 0]
            if not len(left):
                break
            again = self._once(images[left], labels[left], generator)
            better = again.success | (again.objective > best.objective[left])
            best = _replaced(best, again, left[better], better)
        return best

    def _once(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> AttackResult:
        diverse = InputDiversity(self.diversity, self.resize_rate)
        return attack(
            OBJECTIVES[self.objective](self.predictor, labels, targeted=self.targeted),
            images,
            param=Linf(self.eps, self.box) if self.norm == "linf" else L2(self.eps, self.box),
            step=self._step(),
            steps=self.steps,
            start="random" if self.random_start else "clean",
            keep=self.keep,
            quantize=self.quantize,
            generator=generator,
            transform=partial(diverse, generator=generator) if self.diversity else None,
        )

    def _step(self) -> Step:
        alpha = 2.5 * self.eps / max(self.steps, 1) if self.alpha is None else self.alpha
        alpha = alpha or 1.0  # eps = 0: any step is projected back
        if self.momentum:
            return Momentum(alpha, self.momentum, self.norm)
        return Sign(alpha) if self.norm == "linf" else Normalized(alpha)


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


def MIFGSM(predictor: Any, eps: float = 8 / 255, **options: Any) -> PGD:
    """`PGD` along a running sum of gradients, from the clean image by steps of eps / steps: examples that carry over.

    Args:
        predictor: pixels to logits.
        eps: radius.
        options: others of `PGD`, such as `steps` or `momentum`, the decay of the sum (default 1).

    Paper: Boosting Adversarial Attacks with Momentum (arXiv 1710.06081).
    """
    return _transferable(predictor, eps, {"momentum": 1.0, **options})


def DIFGSM(predictor: Any, eps: float = 8 / 255, **options: Any) -> PGD:
    """`PGD` whose gradients are taken of images resized and padded at random: examples that carry over.

    Args:
        predictor: pixels to logits.
        eps: radius.
        options: others of `PGD`, such as `diversity` (probability, default 0.5), `resize_rate` or `momentum=1.0`,
            which makes the paper's M-DI2-FGSM.

    Paper: Improving Transferability of Adversarial Examples with Input Diversity (arXiv 1803.06978).
    """
    return _transferable(predictor, eps, {"diversity": 0.5, **options})


def _transferable(predictor: Any, eps: float, options: dict[str, Any]) -> PGD:
    """Steps of eps / steps from the clean image, to the end of the path."""
    steps = options.get("steps", 10)
    check_whole("steps", steps, least=1)
    check_number("eps", eps, least=0)
    return PGD(predictor, eps, **{"alpha": eps / steps or None, "random_start": False, "keep": "last", **options})


def _replaced(result: AttackResult, again: AttackResult, rows: Tensor, better: Tensor) -> AttackResult:
    """`found` with some rows taken from a later run; its history stays that of the first."""
    parts = {}
    for name in ("images", "perturbation", "success", "objective"):
        parts[name] = getattr(result, name).index_copy(0, rows, getattr(again, name)[better])
    return AttackResult(**parts, queries=result.queries + again.queries, history=result.history)


def _joined(parts: list[AttackResult]) -> AttackResult:
    if len(parts) == 1:
        return parts[0]
    names = ("images", "perturbation", "success", "objective")
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    history = torch.cat([part.history for part in parts], dim=1)
    return AttackResult(**joined, queries=max(part.queries for part in parts), history=history)
