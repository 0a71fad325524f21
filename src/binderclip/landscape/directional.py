"""What an optimizer's direction promises: its slope, the curvature along it, and the loss on the line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.optim import HessianOperator
from binderclip.optim.space import TensorTree, aligned_direction

__all__ = [
    "DirectionalSharpness",
    "LossAlong",
    "Shadow",
    "compare_directions",
    "directional_sharpness",
    "loss_along",
]

Loss = Callable[[], Tensor]


@dataclass(frozen=True)
class DirectionalSharpness:
    """The loss along v = u / ||u||: f(w + s v) - f(w) is about s * slope + s^2 / 2 * sharpness.

    Attributes:
        sharpness: u^T H u / ||u||^2, in units of the loss over a squared length.
        slope: <gradient, v>; negative for a step that descends.
        correlation: <gradient, u> / (||gradient|| ||u||), in [-1, 1]; -1 is steepest descent. 0 at a gradient of 0.
        length: ||u||.
        loss: f(w).
    """

    sharpness: float
    slope: float
    correlation: float
    length: float
    loss: float

    @property
    def best_step(self) -> float:
        """Step s along v at which the second-order picture is lowest; inf where it has no bottom ahead."""
        ahead = self.sharpness > 0 and self.slope < 0
        return -self.slope / self.sharpness if ahead else (math.inf if self.slope < 0 else 0.0)

    @property
    def best_decrease(self) -> float:
        """How far the loss falls there, by the same picture: slope^2 / (2 sharpness)."""
        step = self.best_step
        return -step * self.slope / 2 if math.isfinite(step) else math.inf


@dataclass(frozen=True)
class LossAlong:
    """The loss on a line.

    Attributes:
        steps: s, in units of length (or of the direction itself, see `loss_along`).
        losses: f(w + s v).
        start: f(w).
    """

    steps: Float[Tensor, "n"]
    losses: Float[Tensor, "n"]
    start: float

    @property
    def best(self) -> tuple[float, float]:
        """The step with the lowest loss and how far the loss fell; (0, 0) if no step falls."""
        finite = torch.where(self.losses.isnan(), torch.inf, self.losses)
        index = int(finite.argmin())
        fall = self.start - float(finite[index])
        return (float(self.steps[index]), fall) if fall > 0 else (0.0, 0.0)


def directional_sharpness(
    loss: Float[Tensor, ""] | Loss, params: TensorTree, direction: TensorTree
) -> DirectionalSharpness:
    """Curvature of the loss per squared unit of length along an update, by one Hessian-vector product.

    S(u) = u^T H u / ||u||^2 says how soon a step along u stops paying: Adam's steps on transformers are long because
    their S is small. It lies between the extreme eigenvalues of H and does not depend on the length or sign of u.

    Args:
        loss: a function without arguments that gives the scalar loss on a fixed, large batch (preferred: attention
            gets its second derivative), or the scalar with its graph. Dropout and batch norm in evaluation mode.
        params: tensors with `requires_grad`, in a sequence or by name.
        direction: u, what would be added to the parameters; a tensor each, in the same form.

    Raises:
        UsageError: a direction of length 0 or not finite, or one that does not fit the parameters.
        NotSupported: an operation without a second derivative.

    Examples:
        >>> w = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> loss = lambda: (w * w * torch.tensor([1.0, 4.0])).sum() / 2
        >>> found = directional_sharpness(loss, [w], [torch.tensor([0.0, -9.0])])
        >>> found.sharpness, found.slope, found.best_step
        (4.0, -4.0, 1.0)

    Paper: Toward Understanding Why Adam Converges Faster Than SGD for Transformers, arXiv 2306.00204.
    """
    return compare_directions(loss, params, {"direction": direction})["direction"]


def compare_directions(
    loss: Float[Tensor, ""] | Loss, params: TensorTree, directions: Mapping[str, TensorTree]
) -> dict[str, DirectionalSharpness]:
    """`directional_sharpness` of several updates at the same weights; the gradient's graph is built once for all.

    Args:
        loss, params: as there.
        directions: by a name of your choice.

    Raises:
        UsageError, NotSupported: as there.
    """
    operator = HessianOperator(loss, params)
    gradient = operator.gradient
    size = _norm(gradient)
    sharpness = {}
    for name, direction in directions.items():
        u = operator.aligned(direction)
        length = _norm(u)
        if not (length > 0 and math.isfinite(length)):
            raise UsageError(f"direction {name!r} has length {length}: a direction needs a finite length above 0")
        # divided first, so that squares of tiny updates do not underflow
        v = [part / length for part in u]
        slope = _dot(gradient, v)
        sharpness[name] = DirectionalSharpness(
            sharpness=_dot(v, operator(v)),
            slope=slope,
            correlation=slope / size if size > 0 else 0.0,
            length=length,
            loss=float(operator.loss),
        )
    return sharpness


@torch.no_grad()
def loss_along(
    loss: Loss, params: TensorTree, direction: TensorTree, steps: Sequence[float], *, unit: bool = True
) -> LossAlong:
    """The loss at w + s * direction for each step s; the parameters are put back from a copy, bit for bit.

    Args:
        loss: a function without arguments, on a fixed batch.
        params: tensors, in a sequence or by name.
        direction: as in `directional_sharpness`.
        steps: any numbers; 10^-4 to 10 on a logarithmic grid shows most.
        unit: bring the direction to length 1 first, so that a step is a distance.

    Raises:
        UsageError: no steps; a direction of length 0 or not finite (with `unit`), or one that does not fit.
    """
    if not len(steps):
        raise UsageError("loss_along needs at least one step")
    tensors = list(params.values()) if isinstance(params, Mapping) else list(params)
    u = aligned_direction(params, direction)
    length = _norm(u) if unit else 1.0
    if not (length > 0 and math.isfinite(length)):
        raise UsageError(f"the direction has length {length}: it needs a finite length above 0")
    start, before = float(loss()), [t.detach().clone() for t in tensors]
    losses = []
    try:
        for step in steps:
            for tensor, origin, part in zip(tensors, before, u, strict=True):
                tensor.copy_(origin + part * (step / length))
            losses.append(float(loss()))
    finally:
        for tensor, origin in zip(tensors, before, strict=True):
            tensor.copy_(origin)
    return LossAlong(torch.tensor(list(steps), dtype=torch.float64), torch.tensor(losses, dtype=torch.float64), start)


class Shadow:
    """An optimizer that follows somebody else's trajectory: it sees the same gradients and says what it would do.

    It works on copies of the parameters, so that several optimizers can be compared at the same weights while one of
    them, or none, trains.

    Args:
        params: the parameters that are really trained, in a sequence or by name.
        make: from the copies to an optimizer, such as `lambda p: torch.optim.SGD(p, lr=1.0)`.
        clip: anything `optim.as_clip` takes, attached to it; None for no clipping.

    Examples:
        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> w.grad = torch.tensor([1.0, -2.0])
        >>> [update.tolist() for update in Shadow([w], lambda p: torch.optim.SGD(p, lr=1.0)).observe()]
        [[-1.0, 2.0]]
    """

    def __init__(
        self, params: TensorTree, make: Callable[[list[Tensor]], torch.optim.Optimizer], clip: Any = None
    ) -> None:
        from binderclip.optim import as_clip

        named = dict(params) if isinstance(params, Mapping) else {str(i): p for i, p in enumerate(params)}
        self._watched = list(named.values())
        self._copies = [torch.nn.Parameter(p.detach().clone()) for p in self._watched]
        self.optimizer = make(list(self._copies))
        if clip is not None:
            as_clip(clip).attach(self.optimizer, list(zip(named, self._copies, strict=True)))

    @torch.no_grad()
    def observe(self) -> list[Tensor]:
        """Take one step from the present weights with the present gradients, on the copies.

        Returns:
            The update it would add, one tensor a parameter; those without a gradient may still decay.
        """
        for copy, source in zip(self._copies, self._watched, strict=True):
            copy.copy_(source)
            copy.grad = None if source.grad is None else source.grad.clone()
        self.optimizer.step()
        return [copy.detach() - source.detach() for copy, source in zip(self._copies, self._watched, strict=True)]


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return math.fsum(float((x.detach().double() * y.detach().double()).sum()) for x, y in zip(a, b, strict=True))


def _norm(a: Sequence[Tensor]) -> float:
    return math.sqrt(_dot(a, a))
