"""The two divergences between a normalizing flow and a density that is known but for a constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.settings import check_choice

__all__ = ["Flow", "forward_kl", "reverse_kl"]

Energy = Callable[[Tensor], Tensor]


@runtime_checkable
class Flow(Protocol):
    """What the losses need of a flow x = g(z), as `generate.CouplingFlow` has it; all are of rows (B, dim)."""

    def __call__(self, z: Tensor, /) -> tuple[Tensor, Tensor]:
        """x, and log |det dx/dz|."""

    def inverse(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        """z, and log |det dz/dx|."""

    def base_log_prob(self, z: Tensor, /) -> Tensor:
        """log q0(z)."""

    def log_prob(self, x: Tensor, /) -> Tensor:
        """log q(x)."""

    def base_sample(self, count: int, generator: torch.Generator | None = None, /) -> Tensor:
        """Draws of z."""

    def forward_with_force(self, z: Tensor, force: Tensor, /) -> tuple[Tensor, Tensor, Tensor]:
        """x, log |det dx/dz|, and the gradient of the log density taken along."""

    def inverse_with_force(self, x: Tensor, force: Tensor, /) -> tuple[Tensor, Tensor, Tensor]:
        """z, log |det dz/dx|, and the gradient of the log density taken along."""


def reverse_kl(
    flow: Flow,
    energy: Energy,
    estimator: Literal["fast_path", "path", "reparam"] = "fast_path",
    *,
    samples: int | Float[Tensor, "B dim"] = 256,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """KL(q | p) of a flow q and the density p = exp(-energy) / Z, less log Z: the loss for targets without samples.

    All estimators have the same value and, on average, the same gradient. That of the path leaves out the score
    d log q / d theta at fixed x, whose mean is 0 and whose variance is not: where q is p it is 0 for every sample.

    Args:
        flow: q, such as `generate.CouplingFlow`.
        energy: (B, dim) -> (B,), differentiable.
        estimator: `fast_path`, path gradients with the force computed along the samples' own pass; `path`, the same
            with a second pass through the inverse; `reparam`, the ordinary gradient of the reparametrised loss.
        samples: how many to draw, or draws of z.
        generator: of the draws; default torch's.

    Raises:
        UsageError: an unknown estimator, no samples, or an energy that is not one number a sample.

    Paper: Fast and Unified Path Gradient Estimators for Normalizing Flows (arXiv 2403.15881), algorithms 1 and 2.

    Examples:
        >>> from binderclip.generate import CouplingFlow
        >>> flow = CouplingFlow(2)
        >>> loss = reverse_kl(flow, lambda x: 0.5 * (x - 1).square().sum(1), samples=1000)
        >>> loss.backward()
    """
    check_choice("estimator", estimator, ("fast_path", "path", "reparam"))
    z = flow.base_sample(samples, generator) if isinstance(samples, int) else samples.detach()
    _require_rows("samples", z)
    if estimator == "reparam":
        x, log_det = flow(z)
        return (_energies(energy, x) + flow.base_log_prob(z) - log_det).mean()
    if estimator == "path":
        with torch.no_grad():
            x = flow(z)[0]
        x = x.requires_grad_()
        with torch.enable_grad():
            value = (_energies(energy, x) + flow.log_prob(x)).mean()
            (slope,) = torch.autograd.grad(value, x)
        return _along(flow(z)[0], slope, value)
    x, log_det, force = flow.forward_with_force(z, _gradient(flow.base_log_prob, z)[1])
    energies, uphill = _gradient(lambda at: _energies(energy, at), x)
    value = (energies + flow.base_log_prob(z) - log_det).mean()
    return _along(x, (force + uphill) / len(x), value)  # d log q/dx + dS/dx


def forward_kl(
    flow: Flow,
    x: Float[Tensor, "B dim"],
    energy: Energy | None = None,
    estimator: Literal["fast_path", "path", "ml"] = "fast_path",
) -> Float[Tensor, ""]:
    """KL(p | q) of samples of p = exp(-energy) / Z and a flow q, plus log Z: maximum likelihood.

    The path gradients use the energy's slope at the samples: where q is p they are 0 for every sample, so that few
    samples are not learned by heart.

    Args:
        flow: q, such as `generate.CouplingFlow`.
        x: samples of p.
        energy: (B, dim) -> (B,), differentiable; `ml` alone can do without, its value is then the mean of -log q.
        estimator: `fast_path`, path gradients with the force computed along the pass to z; `path`, the same with a
            second pass back; `ml`, the ordinary gradient of -log q.

    Raises:
        UsageError: an unknown estimator, no samples, no energy for path gradients, or one that is not one number a
            sample.

    Paper: Fast and Unified Path Gradient Estimators for Normalizing Flows (arXiv 2403.15881), algorithms 1 and 3.

    Examples:
        >>> from binderclip.generate import CouplingFlow
        >>> flow = CouplingFlow(2)
        >>> loss = forward_kl(flow, 1 + torch.randn(1000, 2), lambda x: 0.5 * (x - 1).square().sum(1))
        >>> loss.backward()
    """
    check_choice("estimator", estimator, ("fast_path", "path", "ml"))
    _require_rows("x", x)
    x = x.detach()
    if energy is None:
        if estimator != "ml":
            raise UsageError(f"estimator={estimator!r} needs the energy of the target; estimator='ml' does without")
        return -flow.log_prob(x).mean()
    if estimator == "ml":
        return -flow.log_prob(x).mean() - _energies(energy, x).detach().mean()
    if estimator == "path":
        x = x.requires_grad_()
        with torch.enable_grad():
            z, log_det = flow.inverse(x)
            log_ratio = (_energies(energy, x) + flow.base_log_prob(z) + log_det).mean()  # mean of log q/p
            (slope,) = torch.autograd.grad(log_ratio, x)
        return _along(flow(z.detach())[0], slope, -log_ratio)
    energies, uphill = _gradient(lambda at: _energies(energy, at), x)
    z, log_det, force = flow.inverse_with_force(x, -uphill)
    base, base_force = _gradient(flow.base_log_prob, z)
    # of z, with the density that p has there: d log p/dz - d log q0/dz
    return _along(z, (force - base_force) / len(x), -(energies + base + log_det).mean())


def _along(points: Tensor, slope: Tensor, value: Tensor) -> Tensor:
    """A loss of this value, whose gradient is that of the points along the slope."""
    term = (points * slope.detach()).sum()
    return value.detach() + term - term.detach()


def _gradient(function: Energy, at: Tensor) -> tuple[Tensor, Tensor]:
    """Values (B,) and gradients (B, dim) of a function of every row, cut off from all else."""
    with torch.enable_grad():
        at = at.detach().requires_grad_()
        values = function(at)
        (slopes,) = torch.autograd.grad(values.sum(), at)
    return values.detach(), slopes


def _energies(energy: Energy, x: Tensor) -> Tensor:
    values = energy(x)
    if values.shape != (len(x),):
        raise UsageError(f"energy must give one number a sample, shape ({len(x)},), got {tuple(values.shape)}")
    return values


def _require_rows(name: str, rows: Tensor) -> None:
    if rows.ndim != 2 or not len(rows):
        raise UsageError(f"{name} must be rows (B, dim), one at least, got shape {tuple(rows.shape)}")
