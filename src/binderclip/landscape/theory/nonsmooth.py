"""What gradient descent does on functions with kinks: cycles, l1 penalties without zeros, and no edge of stability."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.landscape.hessian import top_eigenvalue
from binderclip.numeric import check_number, check_whole
from binderclip.optim.optimizers.proximal import soft_threshold
from binderclip.settings import check_choice

__all__ = [
    "KinkTrajectory",
    "L1Curve",
    "NonsmoothReport",
    "SharpnessTrace",
    "descent_sharpness",
    "kink_descent",
    "l1_curve",
    "nonsmooth_study",
]


@dataclass(frozen=True)
class KinkTrajectory:
    """Gradient descent on a function of one variable, from many starts.

    Attributes:
        x: visited, starts included.
        curvature: second derivative there.
        lr: fixed step.
    """

    x: Float[Tensor, "steps starts"]
    curvature: Float[Tensor, "steps starts"]
    lr: float

    @property
    def mean_size(self) -> Float[Tensor, "starts"]:
        """Mean |x| over the last half, an even number of steps; lr / 2 in a cycle around a kink of slopes -1 and 1."""
        return self._last().abs().mean(0)

    @property
    def flips(self) -> Float[Tensor, "starts"]:
        """Part of the last half's steps that change the sign; 1 in a cycle."""
        last = self._last()
        return (last[1:].sign() != last[:-1].sign()).to(last).mean(0)

    def _last(self) -> Tensor:
        return self.x[-2 * max(1, len(self.x) // 4) :]


def kink_descent(
    function: Literal["abs", "huber", "square"],
    starts: Float[Tensor, "starts"],
    *,
    lr: float,
    steps: int,
    delta: float = 0.1,
    decay: bool = False,
) -> KinkTrajectory:
    """Gradient descent on |x|, on its Huber smoothing, or on x^2 / 2.

    On |x| a start whose distance is no multiple of the step ends in the cycle {a, a - lr}: the function falls no
    further. The smoothing, x^2 / (2 delta) where |x| < delta and |x| - delta / 2 beyond, is convex, differentiable and
    Lipschitz, and with lr > 2 delta it still ends in such a cycle, where its curvature is 0.

    Args:
        function: which.
        starts: one trajectory each.
        lr: fixed step; with `decay` lr / sqrt(t).
        steps: at least 4.
        delta: of `huber`.
        decay: shrink the step.

    Raises:
        UsageError: an unknown function, fewer than 4 steps, or a step or delta that is not above 0.
    """
    check_choice("function", function, ("abs", "huber", "square"))
    check_number("lr", lr, above=0)
    check_number("delta", delta, above=0)
    check_whole("steps", steps, least=4)
    x, visited = starts.double(), []
    for step in range(steps):
        visited.append(x)
        slope = {"abs": x.sign(), "huber": (x / delta).clamp(-1, 1), "square": x}[function]
        x = x - (lr / (step + 1) ** 0.5 if decay else lr) * slope
    path = torch.stack(visited)
    if function == "huber":
        curvature = (path.abs() < delta).to(path) / delta
    else:
        curvature = torch.full_like(path, 1.0 if function == "square" else 0.0)
    return KinkTrajectory(path, curvature, lr)


@dataclass(frozen=True)
class L1Curve:
    """Least squares with an l1 penalty, for several strengths.

    Attributes:
        strengths: of the penalty.
        norms: mean l1 norm of the coefficients over the last tenth of the steps, an even number.
        zeros: part of the coefficients that is exactly 0 at the end.
        coefficients: at the end.
        predicted: dimensions * lr * strength / 2, what cycles around 0 in every coordinate give.
    """

    strengths: Float[Tensor, "strengths"]
    norms: Float[Tensor, "strengths"]
    zeros: Float[Tensor, "strengths"]
    coefficients: Float[Tensor, "strengths d"]
    predicted: Float[Tensor, "strengths"]


def l1_curve(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n"],
    strengths: Sequence[float],
    *,
    method: Literal["sgd", "rmsprop", "adam", "proximal"] = "sgd",
    lr: float = 1e-3,
    steps: int = 20_000,
    start: float = 0.01,
) -> L1Curve:
    """Minimise ||x b - y||^2 / (2 n) + strength * |b|_1 for all strengths at once.

    Args:
        x, y: the regression.
        strengths: of the penalty, at least 0; scikit-learn's `Lasso` calls it alpha.
        method: `sgd`, gradient descent with sign(b) as the penalty's gradient and sign(0) = 0, as autograd has it;
            `rmsprop` and `adam` by the same gradient; `proximal`, the step that belongs to the penalty.
        lr: fixed step; below 2 / (largest eigenvalue of x^T x / n) for `sgd` and `proximal`.
        steps: at least 20.
        start: of every coefficient; not 0, where sign(0) = 0 would hide what happens.

    Raises:
        UsageError: shapes that do not fit, an unknown method, no or a negative strength, or fewer than 20 steps.

    Paper: see `nonsmooth_study`, section on l1 penalties.
    """
    check_choice("method", method, ("sgd", "rmsprop", "adam", "proximal"))
    check_number("lr", lr, above=0)
    check_number("start", start)
    check_whole("steps", steps, least=20)
    if x.ndim != 2 or y.shape != x.shape[:1] or not len(strengths):
        raise UsageError(
            f"l1_curve: x (n, d), y (n) and strengths; got {tuple(x.shape)}, {tuple(y.shape)}, {strengths}"
        )
    for strength in strengths:
        check_number("a strength", strength, least=0)
    x, y, weights = x.double(), y.double(), torch.tensor(list(strengths), dtype=torch.float64)[:, None]
    gram, target = x.T @ x / len(x), x.T @ y / len(x)
    b = torch.full((len(weights), x.shape[1]), float(start), dtype=torch.float64)
    kinds = {"rmsprop": torch.optim.RMSprop, "adam": torch.optim.Adam}
    optimizer = kinds[method]([b], lr=lr) if method in kinds else None
    window = 2 * (steps // 20)
    total = torch.zeros(len(weights), dtype=torch.float64)
    for step in range(steps):
        gradient = b @ gram - target  # of the squares: (strengths, d)
        if method == "proximal":
            b = soft_threshold(b - lr * gradient, lr * weights)
        elif optimizer is None:
            b = b - lr * (gradient + weights * b.sign())
        else:
            b.grad = gradient + weights * b.sign()
            optimizer.step()
        if step >= steps - window:
            total = total + b.abs().sum(1)
    predicted = x.shape[1] * lr * weights[:, 0] / 2
    return L1Curve(weights[:, 0], total / window, (b == 0).double().mean(1), b.detach(), predicted)


@dataclass(frozen=True)
class SharpnessTrace:
    """Gradient descent and the largest curvature along it.

    Attributes:
        steps: at which it was measured.
        losses: there.
        sharpness: largest eigenvalue of the Hessian there.
        lr: fixed step; `lr * sharpness` hovers near 2 at the edge of stability.
    """

    steps: tuple[int, ...]
    losses: Float[Tensor, "measured"]
    sharpness: Float[Tensor, "measured"]
    lr: float


def descent_sharpness(
    loss: Callable[[], Float[Tensor, ""]],
    params: Sequence[Tensor],
    *,
    lr: float,
    steps: int,
    every: int = 50,
    iterations: int = 30,
) -> SharpnessTrace:
    """Full-batch gradient descent with a fixed step, and the Hessian's largest eigenvalue every so many steps.

    Args:
        loss: of all data, without arguments.
        params: what descends; changed in place.
        lr: fixed step.
        steps: of descent.
        every: steps between two measurements.
        iterations: of power iteration, at most, a measurement.

    Raises:
        UsageError: a step not above 0, counts below 1, or a loss that is no longer finite, with the step's number.
    """
    check_number("lr", lr, above=0)
    for name, count in (("steps", steps), ("every", every), ("iterations", iterations)):
        check_whole(name, count, least=1)
    params, places, losses, sharpness = list(params), [], [], []
    for step in range(steps):
        if step % every == 0:
            with torch.no_grad():
                value = float(loss())
            if not abs(value) < float("inf"):
                raise UsageError(f"the loss is {value} after {step} steps: lr {lr:g} is too large")
            places.append(step)
            losses.append(value)
            sharpness.append(top_eigenvalue(loss, params, iterations=iterations).value)
        gradient = torch.autograd.grad(loss(), params)
        with torch.no_grad():
            for p, g in zip(params, gradient, strict=True):
                p.sub_(lr * g)
    return SharpnessTrace(tuple(places), torch.tensor(losses), torch.tensor(sharpness), lr)


@dataclass(frozen=True)
class NonsmoothReport:
    """Three ways in which kinks matter.

    Attributes:
        cycle: descent on |x|.
        subgradient: l1 penalty by sign(b).
        proximal: the same by proximal steps.
        huber: descent on the smoothed kink with a step beyond 2 delta.
        net: descent of a network, where one was given.
    """

    cycle: KinkTrajectory
    subgradient: L1Curve
    proximal: L1Curve
    huber: KinkTrajectory
    net: SharpnessTrace | None = None

    @property
    def huber_edge(self) -> float:
        """lr times the mean curvature that descent on the smoothed kink visits in its last half; 2 at an edge."""
        last = self.huber.curvature[len(self.huber.curvature) // 2 :]
        return self.huber.lr * float(last.mean())


def nonsmooth_study(
    *,
    lr: float = 1e-3,
    strengths: Sequence[float] = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0),
    samples: int = 50,
    dimensions: int = 100,
    steps: int = 20_000,
    proximal_lr: float | None = None,
    proximal_steps: int | None = None,
    seed: int = 0,
) -> NonsmoothReport:
    """Run the three experiments: the cycle at a kink, the l1 paradox, and the missing edge of stability.

    The regression has Gaussian features, five coefficients of 1 and noise of 0.1.

    Args:
        lr: fixed step of the regressions, with a 100 times larger one for the functions of one variable.
        strengths: of the l1 penalty.
        samples, dimensions: of the regression; at least 5 dimensions.
        steps: of the regressions.
        proximal_lr, proximal_steps: of the regression by proximal steps, where they are to be others; a small penalty
            needs longer steps than `lr` to come to the solution.
        seed: of features, noise and starts.

    Raises:
        UsageError: a number that the parts refuse.

    Paper: GD doesn't make the cut: Three ways that non-differentiability affects neural network training (arXiv
    2401.08426).
    """
    check_whole("samples", samples, least=1)
    check_whole("dimensions", dimensions, least=5)
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, dimensions, generator=g, dtype=torch.float64)
    truth = (torch.arange(dimensions) < 5).double()
    y = x @ truth + 0.1 * torch.randn(samples, generator=g, dtype=torch.float64)
    starts = 2 * torch.rand(256, generator=g, dtype=torch.float64) - 1
    step = 100 * lr
    return NonsmoothReport(
        cycle=kink_descent("abs", starts, lr=step, steps=400),
        subgradient=l1_curve(x, y, strengths, lr=lr, steps=steps),
        proximal=l1_curve(
            x,
            y,
            strengths,
            method="proximal",
            lr=lr if proximal_lr is None else proximal_lr,
            steps=steps if proximal_steps is None else proximal_steps,
        ),
        huber=kink_descent("huber", starts, lr=step, steps=400, delta=step / 5),
    )
