"""The Hessian of a loss without forming it: its largest eigenvalue, its trace, and the traces of its blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.optim import HessianOperator
from binderclip.optim.space import TensorTree

__all__ = ["HessianEstimate", "hessian_diagonal", "hessian_trace", "top_eigenvalue"]


@dataclass(frozen=True)
class HessianEstimate:
    """A number of the Hessian.

    Attributes:
        value: of a loss over squared units of the weights.
        products: Hessian-vector products that it took.
        converged: whether the tolerance was reached before the limit.
    """

    value: float
    products: int
    converged: bool


def top_eigenvalue(
    loss: Callable[[], Float[Tensor, ""]],
    params: nn.Module | TensorTree,
    *,
    iterations: int = 100,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> HessianEstimate:
    """The eigenvalue of the largest magnitude, with its sign, by power iteration.

    Args:
        loss: of a fixed batch, in evaluation mode; see `optim.HessianOperator`.
        params: what it is differentiated in.
        iterations: products at most.
        tolerance: on the relative change of the Rayleigh quotient between two of them.
        seed: of the first direction.

    Raises:
        UsageError: no iteration, or what `HessianOperator` refuses.

    Paper: Going Further: Flatness at the Rescue of Early Stopping for Adversarial Example Transferability
    (arXiv 2304.02688) reports it a training epoch, with these limits.
    """
    _least(iterations, "iterations")
    product = HessianOperator(loss, params)
    generator = torch.Generator().manual_seed(seed)
    vector = [torch.randn(p.shape, generator=generator).to(p) for p in product.params]
    value = 0.0
    for done in range(1, iterations + 1):
        vector = _unit(vector)
        image = product(vector)
        before, value = value, float(sum((a * b).sum() for a, b in zip(vector, image, strict=True)))
        if _length(image) == 0:
            return HessianEstimate(0.0, done, True)
        if done > 1 and abs(value - before) <= tolerance * abs(value):
            return HessianEstimate(value, done, True)
        vector = list(image)
    return HessianEstimate(value, iterations, False)


def hessian_trace(
    loss: Callable[[], Float[Tensor, ""]],
    params: nn.Module | TensorTree,
    *,
    probes: int = 100,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> HessianEstimate:
    """The trace by Hutchinson's estimator: the mean of v^T H v over vectors of random signs.

    Args:
        loss, params: see `top_eigenvalue`.
        probes: vectors at most.
        tolerance: on the relative change of the mean by one more vector.
        seed: of the signs.

    Raises:
        UsageError: no probe, or what `HessianOperator` refuses.

    Paper: as `top_eigenvalue`; Hutchinson, Communications in Statistics 1990.
    """
    _least(probes, "probes")
    product = HessianOperator(loss, params)
    generator = torch.Generator().manual_seed(seed)
    total = mean = 0.0
    for done in range(1, probes + 1):
        signs = _random_signs(product.params, generator)
        total += float(sum((v * h).sum() for v, h in zip(signs, product(signs), strict=True)))
        before, mean = mean, total / done
        if done > 1 and abs(mean - before) <= tolerance * abs(mean):
            return HessianEstimate(mean, done, True)
    return HessianEstimate(mean, probes, False)


def hessian_diagonal(
    loss: Callable[[], Float[Tensor, ""]], params: nn.Module | TensorTree, *, probes: int = 100, seed: int = 0
) -> list[Tensor]:
    """The diagonal by Hutchinson's estimator: the mean of v * H v over vectors of random signs, entry by entry.

    The sum over any entries estimates the trace of their block of the Hessian, so the channels and heads of all layers
    share every draw: one product a draw, however many blocks there are.

    Args:
        loss, params: see `top_eigenvalue`.
        probes: vectors.
        seed: of the signs, which are those of `hessian_trace`.

    Returns:
        One tensor of each parameter's shape, in their order.

    Raises:
        UsageError: no probe, or what `HessianOperator` refuses.

    Paper: Yu et al., "Hessian-Aware Pruning and Optimal Neural Implant", arXiv 2101.08940; Bekas, Kokiopoulou and Saad,
    Applied Numerical Mathematics 2007.
    """
    _least(probes, "probes")
    product = HessianOperator(loss, params)
    generator = torch.Generator().manual_seed(seed)
    total = [torch.zeros_like(p, requires_grad=False) for p in product.params]
    for _ in range(probes):
        signs = _random_signs(product.params, generator)
        for entry, v, h in zip(total, signs, product(signs), strict=True):
            entry.addcmul_(v, h.detach(), value=1 / probes)
    return total


def _least(count: int, name: str) -> None:
    if count < 1:
        raise UsageError(f"{name} must be at least 1, got {count}")


def _random_signs(params: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """A vector of -1 and 1 of each parameter's shape; drawn as float32, which costs a third of whole numbers."""
    draws = [torch.randint(0, 2, p.shape, generator=generator, dtype=torch.float32) for p in params]
    return [draw.mul_(2).sub_(1).to(p) for draw, p in zip(draws, params, strict=True)]


def _length(vector: list[Tensor]) -> float:
    return float(torch.stack([part.square().sum() for part in vector]).sum().sqrt())


def _unit(vector: list[Tensor]) -> list[Tensor]:
    length = _length(vector)
    return [part / length for part in vector]
