"""Learning-rate schedules: a shape over progress in [0, 1], preceded by a linear warm-up.

A schedule holds no state, so a resumed run needs the step number alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole

__all__ = [
    "SCHEDULES",
    "LRSchedule",
    "constant",
    "cosine",
    "layerwise_gaussian_lr",
    "linear",
    "schedule",
    "sigmoid_cosine_decay",
]


def constant(progress: float) -> float:
    """1 throughout."""
    return 1.0


def linear(progress: float) -> float:
    """From 1 down to 0 along a straight line."""
    return 1.0 - progress


def cosine(progress: float) -> float:
    """From 1 down to 0 along half a cosine wave (SGDR, arXiv 1608.03983, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def sigmoid_cosine_decay(progress: float) -> float:
    """From 1 to 0.0025: half a cosine wave or a falling sigmoid, 1 - sigmoid(12 progress - 6), whichever is larger.

    It stays high for longer than the sigmoid and falls later than the cosine; AutoSparse anneals gradients by it.

    Args:
        progress: in [0, 1].

    Raises:
        UsageError: a progress outside.

    Paper: AUTOSPARSE: Towards Automated Sparse Training of Deep Neural Networks (arXiv 2304.06941).
    """
    check_number("progress", progress, least=0, most=1)
    return max(cosine(progress), 1 / (1 + math.exp(12 * progress - 6)))


def layerwise_gaussian_lr(layers: int, *, width: float = 1.0) -> list[Callable[[float], float]]:
    """A multiplier for each layer: a Gaussian over layers whose centre moves from the first to the last over the run.

    `exp(-(l - c)^2 / (2 width^2))` for layer l, with `c = progress (layers - 1)`. It acts on learning rates: as a
    weight of the loss an optimizer like Adam would undo it.

    Args:
        layers: how many there are.
        width: standard deviation, in layers; a large one gives all the same rate.

    Returns:
        Functions of progress in [0, 1], from the first layer to the last.

    Raises:
        UsageError: no layer, or a width that is not above 0.

    Paper: Implicit Inversion turns CLIP into a Decoder (arXiv 2505.23161).

    Examples:
        >>> first, _, last = layerwise_gaussian_lr(3)
        >>> first(0.0), last(1.0), round(first(0.5), 3), round(last(0.0), 3)
        (1.0, 1.0, 0.607, 0.135)
    """
    check_whole("layers", layers, least=1)
    check_number("width", width, above=0)

    def multiplier(layer: int) -> Callable[[float], float]:
        return lambda progress: math.exp(-0.5 * ((layer - progress * (layers - 1)) / width) ** 2)

    return [multiplier(layer) for layer in range(layers)]


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": constant, "cosine": cosine, "linear": linear}


@dataclass(frozen=True)
class LRSchedule:
    """Multiplier of the base learning rate at a step; use it directly or as a `LambdaLR` function.

    Args:
        shape: multiplier as a function of progress in [0, 1] after the warm-up.
        steps: optimizer steps in all.
        warmup: steps of linear warm-up; step 0 already has `1 / warmup`, so no step is wasted at rate zero.
        floor: smallest multiplier after the warm-up; the shape is squeezed into [floor, 1].
    """

    shape: Callable[[float], float]
    steps: int
    warmup: int = 0
    floor: float = 0.0

    def __call__(self, step: int) -> float:
        """Multiplier at the 0-based `step`; steps past the end keep the last value."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.floor + (1.0 - self.floor) * self.shape(progress)


def schedule(
    shape: str | Callable[[float], float] = "cosine",
    *,
    steps: int,
    warmup: int | float = 0,
    floor: float = 0.0,
) -> LRSchedule:
    """Build a schedule: `schedule("cosine", warmup=100, steps=1000)(step)` is the multiplier of the learning rate.

    Args:
        shape: "constant", "cosine", "linear", or a function of progress in [0, 1].
        steps: optimizer steps in all, at least 1.
        warmup: linear warm-up, in steps (int), or as a share of `steps` (float below 1).
        floor: smallest multiplier after the warm-up, in [0, 1].

    Raises:
        UsageError: unknown shape, or a length that makes no sense.
    """
    if isinstance(shape, str):
        if shape not in SCHEDULES:
            raise UsageError(f"schedule {shape!r} is unknown: choose one of {', '.join(sorted(SCHEDULES))}")
        shape = SCHEDULES[shape]
    check_number("steps", steps, least=1)
    if isinstance(warmup, float) and 0 < warmup < 1:
        warmup = round(warmup * steps)
    if warmup < 0 or warmup > steps or warmup != int(warmup):
        raise UsageError(f"warmup must be a whole number of steps up to steps={steps}, or a share, got {warmup}")
    check_number("floor", floor, least=0, most=1)
    return LRSchedule(shape, steps, int(warmup), floor)
