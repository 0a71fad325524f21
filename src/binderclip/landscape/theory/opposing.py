"""Groups of examples whose gradients cancel: how to find them, and a toy whose training they unsettle."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import DataError, UsageError
from binderclip.numeric import check_number

__all__ = ["OpposingSignals", "ToyTrajectory", "TwoFeatureToy", "opposing_signals"]

PerExample = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class OpposingSignals:
    """Two groups of examples that a training step moves apart, and how much their gradients oppose each other.

    Attributes:
        rising: examples whose loss rose most in the step that was looked at, the largest first.
        falling: those whose loss fell most.
        step: that step, of those before the groups were chosen.
        cosine: between the summed gradients of both groups, at the weights after the choice; near -1 they cancel.
        within: mean cosine between the gradients of two examples of one group, the smaller of both groups. Mislabelled
            examples have large losses too, but nothing in common: near 0.
        correlation: over the steps after the choice, between the changes of both groups' mean losses; below 0 they
            take turns. NaN where one group's loss does not change.
        losses: of every example before each step and after the last, (T + 1, N).
    """

    rising: Int[Tensor, "k"]
    falling: Int[Tensor, "k"]
    step: int
    cosine: float
    within: float
    correlation: float
    losses: Float[Tensor, "T1 N"]


def opposing_signals(
    model: nn.Module,
    inputs: Float[Tensor, "N ..."],
    targets: Tensor,
    advance: Callable[[], object],
    *,
    k: int = 20,
    steps: int = 10,
    loss: PerExample | None = None,
) -> OpposingSignals:
    """Find examples with opposing signals while a model trains.

    The groups are the `k` examples whose loss rises and falls most in one step: that of the first `steps` steps in
    which the losses change most in all. They are judged on `steps` more, since a group that is compared where it was
    chosen opposes the other by that choice alone.

    Args:
        model: is measured in evaluation mode and left in the mode in which it is.
        inputs: examples; take a fixed set without augmentation.
        targets: their classes, or what `loss` needs.
        advance: takes one step of training. At small step sizes nothing oscillates: train until the sharpness is about
            2 / lr first (`landscape.top_eigenvalue`).
        k: examples in a group; at most half of them.
        steps: in each of the two windows, at least 2.
        loss: outputs, targets -> one loss an example. Default: cross-entropy.

    Raises:
        UsageError: too few examples or steps, or a loss that does not give one number an example.
        DataError: a loss that is not finite.

    Paper: Outliers with Opposing Signals Have an Outsized Effect on Neural Network Optimization (arXiv 2311.04163).
    """
    check_number("steps", steps, least=2)
    check_number("k", k, least=1, most=len(inputs) // 2)
    per_example = loss or _cross_entropy
    rows = [_losses(model, inputs, targets, per_example)]
    for _ in range(steps):
        advance()
        rows.append(_losses(model, inputs, targets, per_example))
    change = torch.stack(rows).diff(dim=0)  # (steps, N)
    step = int(change.abs().sum(1).argmax())
    order = change[step].argsort(stable=True)
    falling, rising = order[:k], order[-k:].flip(0)
    # gradients at the next weights, which had no part in the choice
    advance()
    rows.append(_losses(model, inputs, targets, per_example))
    (up, alike_up), (down, alike_down) = (
        _gradients(model, inputs[group], targets[group], per_example) for group in (rising, falling)
    )
    for _ in range(steps - 1):
        advance()
        rows.append(_losses(model, inputs, targets, per_example))
    losses = torch.stack(rows)
    later = losses[steps:].diff(dim=0)  # (steps, N)
    pair = torch.stack([later[:, rising].mean(1), later[:, falling].mean(1)]).double()
    return OpposingSignals(
        rising=rising,
        falling=falling,
        step=step,
        cosine=float(F.cosine_similarity(up, down, dim=0)),
        within=min(alike_up, alike_down),
        correlation=float(torch.corrcoef(pair)[0, 1]),
        losses=losses,
    )


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


@torch.no_grad()
def _losses(model: nn.Module, inputs: Tensor, targets: Tensor, per_example: PerExample) -> Float[Tensor, "N"]:
    """Of every example, in evaluation mode."""
    training = model.training
    model.eval()
    try:
        losses = per_example(model(inputs), targets)
    finally:
        model.train(training)
    if losses.shape != (len(inputs),):
        raise UsageError(f"the loss must give one number an example, {len(inputs)} in all, got {tuple(losses.shape)}")
    if not bool(losses.isfinite().all()):
        raise DataError(f"{int((~losses.isfinite()).sum())} of {len(losses)} losses are not finite: training diverged")
    return losses


def _gradients(
    model: nn.Module, inputs: Tensor, targets: Tensor, per_example: PerExample
) -> tuple[Float[Tensor, "P"], float]:
    """The group's summed gradient, and the mean cosine between two of its examples' gradients."""
    params = [p for p in model.parameters() if p.requires_grad]
    training = model.training
    model.eval()
    try:
        losses = per_example(model(inputs), targets)
        rows = []
        for place in range(len(losses)):
            grads = torch.autograd.grad(losses[place], params, retain_graph=place + 1 < len(losses), allow_unused=True)
            rows.append(
                torch.cat(
                    [(p.new_zeros(p.shape) if g is None else g).reshape(-1) for p, g in zip(params, grads, strict=True)]
                )
            )
    finally:
        model.train(training)
    each = torch.stack(rows)  # (k, P)
    if len(each) == 1:
        return each[0], 1.0
    # sum over pairs of unit vectors: |sum u|^2 = k + 2 sum_{i<j} u_i . u_j
    units = F.normalize(each, dim=1)
    pairs = float(units.sum(0).square().sum() - units.square().sum())
    return each.sum(0), pairs / (len(each) * (len(each) - 1))


@dataclass(frozen=True)
class ToyTrajectory:
    """Gradient descent on the toy, before each step and after the last.

    Attributes:
        loss: of the population.
        sharpness: curvature along the feature that both groups share, alpha c^2.
        balance: s, the weight on that feature; 0 balances both groups.
    """

    loss: Float[Tensor, "T"]
    sharpness: Float[Tensor, "T"]
    balance: Float[Tensor, "T"]


class TwoFeatureToy:
    """A two-layer linear model of one useful and one large, opposing feature, in closed form.

    x = (x_b, x_o) with x_b standard normal; x_o = 0, or with probability p one of two opposite vectors
    +-sqrt(alpha / (p d2)) ones; the target is beta . x_b + |1 . x_o| / 2, of which x_o tells a linear model nothing.
    The model c (b_b . x_b + b_o . x_o) has the population loss, up to a constant,

        L = |c b_b - beta|^2 / 2 + alpha c^2 s^2 / 2,    s = b_o . 1 / sqrt(d2),

    so that descent multiplies s by 1 - lr alpha c^2. While c^2 grows towards |beta| the sharpness alpha c^2 grows with
    it; where it passes 2 / lr, s changes its sign at each step and grows, the loss rises, and c shrinks until the
    valley is wide enough again.

    Args:
        alpha: variance of the opposing feature; above 2 it is the sharpest direction at the minimum.
        beta: length of the target's map.
        useful: d1. opposing: d2.
        start: standard deviation of b and length of c at the start.
        seed: of the start.

    Raises:
        UsageError: a value outside its range.

    Examples:
        >>> calm = TwoFeatureToy().descend(lr=0.1, steps=2000)
        >>> wild = TwoFeatureToy().descend(lr=0.3, steps=2000)
        >>> float(calm.loss[-1]) < 1e-6, bool(wild.sharpness[-1] < 2 / 0.3 < wild.sharpness.max())
        (True, True)

    Paper: Outliers with Opposing Signals Have an Outsized Effect on Neural Network Optimization (arXiv 2311.04163).
    """

    def __init__(
        self,
        alpha: float = 10.0,
        *,
        beta: float = 1.0,
        useful: int = 20,
        opposing: int = 10,
        start: float = 1e-2,
        seed: int = 0,
    ) -> None:
        check_number("alpha", alpha, above=0)
        check_number("beta", beta, above=0)
        check_number("useful", useful, least=1)
        check_number("opposing", opposing, least=1)
        check_number("start", start, above=0)
        generator = torch.Generator().manual_seed(seed)
        self.alpha = alpha
        direction = torch.randn(useful, generator=generator, dtype=torch.float64)
        self.beta = beta * direction / direction.norm()
        self.c = torch.tensor(start, dtype=torch.float64)
        self.b = start * torch.randn(useful + opposing, generator=generator, dtype=torch.float64)

    def loss(self, c: Float[Tensor, ""], b: Float[Tensor, "d"]) -> Float[Tensor, ""]:
        """Of the population, up to the constant that no linear model can lower."""
        useful, s = self._parts(b)
        return 0.5 * (c * useful - self.beta).square().sum() + 0.5 * self.alpha * (c * s).square()

    def sample(self, count: int, p: float = 0.1, seed: int = 0) -> tuple[Float[Tensor, "N d"], Float[Tensor, "N"]]:
        """Examples and their targets; the squared error of the model on many is twice the loss and a constant.

        Args:
            count: how many.
            p: of an example with the opposing feature, in (0, 1].
            seed: of the draw.

        Raises:
            UsageError: a value outside its range.
        """
        check_number("count", count, least=1)
        check_number("p", p, above=0, most=1)
        generator = torch.Generator().manual_seed(seed)
        opposing = len(self.b) - len(self.beta)
        useful = torch.randn(count, len(self.beta), generator=generator, dtype=torch.float64)
        sign = torch.randint(0, 2, (count,), generator=generator).double() * 2 - 1
        present = (torch.rand(count, generator=generator, dtype=torch.float64) < p).double()
        value = math.sqrt(self.alpha / (p * opposing)) * sign * present  # of every opposing coordinate, (N,)
        inputs = torch.cat([useful, value[:, None].expand(-1, opposing)], 1)
        return inputs, useful @ self.beta + 0.5 * (opposing * value).abs()

    def descend(self, lr: float, steps: int = 4000) -> ToyTrajectory:
        """Gradient descent from the start, by the closed-form gradients of c, b_b and b_o.

        Args:
            lr: step size.
            steps: how many.

        Raises:
            UsageError: a value outside its range.
        """
        check_number("lr", lr, above=0)
        check_number("steps", steps, least=1)
        c, (useful, s) = self.c.clone(), self._parts(self.b)
        s = s.clone()
        rows = []
        for _ in range(steps + 1):
            residual = c * useful - self.beta  # (d1,)
            loss = 0.5 * residual.square().sum() + 0.5 * self.alpha * (c * s).square()
            rows.append(torch.stack([loss, self.alpha * c.square(), s]))
            slope = residual @ useful + self.alpha * c * s.square()
            c, useful, s = c - lr * slope, useful - lr * c * residual, s * (1 - lr * self.alpha * c.square())
        return ToyTrajectory(*torch.stack(rows).unbind(1))

    def _parts(self, b: Float[Tensor, "d"]) -> tuple[Float[Tensor, "d1"], Float[Tensor, ""]]:
        """b_b, and s: the component of b_o along ones."""
        useful, opposing = b[: len(self.beta)], b[len(self.beta) :]
        return useful, opposing.sum() / math.sqrt(len(opposing))
