"""Auto-PGD over weights: projected ascent with momentum that halves its step where the loss stops rising."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from binderclip.landscape.sharpness.neighbourhood import Neighbourhood
from binderclip.optim.perturbation import common_norm, loss_and_gradient

__all__ = ["Ascent", "ascend"]

_MOMENTUM, _RISING = 0.75, 0.75
"""Weight of the new point against the one before the last; share of steps that have to improve on the best."""


class Ascent(NamedTuple):
    """How the maximum is looked for; see `worst_case_sharpness`."""

    steps: int
    restarts: int
    legacy: bool
    generator: torch.Generator


def checkpoints(steps: int) -> set[int]:
    """Iterations, from 0, at which the step may be halved: the fractions .22, .41, .57, ... of Croce and Hein."""
    fractions = [0.0, 0.22]
    places = [math.ceil(0.22 * steps)]
    while places[-1] < steps:
        fractions.append(fractions[-1] + max(fractions[-1] - fractions[-2] - 0.03, 0.06))
        places.append(math.ceil(fractions[-1] * steps))
    return set(places)


def ascend(
    loss: Callable[[], Tensor], start: float, ball: Neighbourhood, plan: Ascent
) -> tuple[float, list[Tensor] | None]:
    """The largest loss over all restarts and the perturbation that it was found at; None: at the weights.

    Args:
        loss: of one batch, with its graph.
        start: its value at the weights, which the result never falls below.
        ball: the neighbourhood.
        plan: steps and restarts.
    """
    best, place = start, None
    for restart in range(plan.restarts):
        value, perturbation = _one(loss, start, ball, plan, restart)
        if value > best:
            best, place = value, perturbation
        if best == math.inf:
            break
    return best, place


def _one(
    loss: Callable[[], Tensor], start: float, ball: Neighbourhood, plan: Ascent, restart: int
) -> tuple[float, list[Tensor]]:
    delta = _start(ball, plan, restart)
    value, gradient = _evaluate(loss, ball, delta)
    # The released code counts no loss of a random start, only what rises above the loss at the weights.
    best, best_delta, best_gradient = start if plan.legacy else value, delta, gradient
    if value == math.inf:
        return value, delta
    before, size, checked = delta, 2.0, 0
    size_then, best_then, rises = size, best, 0
    halving = checkpoints(plan.steps)
    for step in range(plan.steps):
        ahead = [d + size * s for d, s in zip(delta, _step(ball, gradient, plan.legacy), strict=True)]
        target = ball.project(ahead, in_units=not plan.legacy)
        new = [_MOMENTUM * t + (1 - _MOMENTUM) * b for t, b in zip(target, before, strict=True)]
        before, delta = delta, new
        value, gradient = _evaluate(loss, ball, delta)
        if value > best:
            best, best_delta, best_gradient, rises = value, delta, gradient, rises + 1
        if best == math.inf:
            break
        if step in halving:
            stuck = size == size_then and best == best_then
            few = rises < _RISING * (step - checked)
            size_then, best_then, checked, rises = size, best, step, 0
            if few or stuck:
                size, gradient = size / 2, best_gradient
                if not plan.legacy:
                    delta = before = best_delta
    return best, best_delta


def _start(ball: Neighbourhood, plan: Ascent, restart: int) -> list[Tensor]:
    if plan.legacy:
        return ball.sample(plan.generator)
    if restart == 0:
        return [torch.zeros_like(p) for p in ball.params]
    return ball.project(ball.sample(plan.generator), in_units=True)


def _step(ball: Neighbourhood, gradient: list[Tensor], legacy: bool) -> list[Tensor]:
    """A step of length rho in the ball's units."""
    if legacy and ball.norm == "l2":
        length = common_norm(gradient) + 1e-12
        return [ball.rho * c * g / length.to(g) for c, g in zip(ball.scales, gradient, strict=True)]
    return ball.step(gradient)


def _evaluate(loss: Callable[[], Tensor], ball: Neighbourhood, delta: list[Tensor]) -> tuple[float, list[Tensor]]:
    """Loss and gradient at a perturbation; a loss that is not a number counts as infinite."""
    with ball.at(delta):
        value, gradient = loss_and_gradient(loss, ball.params)
    number = float(value)
    return (number, gradient) if math.isfinite(number) else (math.inf, gradient)
