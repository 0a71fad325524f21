"""A normalizing flow of affine couplings, which carries the gradient of its log density along."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.numeric import check_whole
from binderclip.settings import check_choice

__all__ = ["CouplingFlow", "effective_sample_size"]


class CouplingFlow(nn.Module):
    """An invertible map x = g(z) of standard normal z, whose density q(x) is known: a density model with samples.

    Every coupling shifts and scales one half of the coordinates, those of even or of odd position in turn, by what a
    network makes of the other half: y = x exp(s) + t. The network starts at s = t = 0, so that the flow starts as the
    standard normal distribution. `forward_with_force` also gives d log q / dx, the force, computed along the way, from
    which `losses.reverse_kl` and `losses.forward_kl` have their path gradients.

    Args:
        dim: coordinates, two at least.
        couplings: how many.
        width: units of a hidden layer.
        hidden: hidden layers of a coupling's network, with tanh between.

    Raises:
        UsageError: a number that is not whole or too small.

    Paper: Fast and Unified Path Gradient Estimators for Normalizing Flows (arXiv 2403.15881).

    Examples:
        >>> flow = CouplingFlow(4)
        >>> x, log_prob = flow.sample(8)
        >>> bool(torch.allclose(flow.log_prob(x), log_prob, atol=1e-5))
        True
    """

    def __init__(self, dim: int, couplings: int = 6, width: int = 64, hidden: int = 2) -> None:
        super().__init__()
        check_whole("dim", dim, least=2)
        for name, value in (("couplings", couplings), ("width", width), ("hidden", hidden)):
            check_whole(name, value, least=1)
        self.dim = dim
        self.couplings = nn.ModuleList(_Coupling(dim, k % 2, width, hidden) for k in range(couplings))

    def forward(self, z: Float[Tensor, "B dim"]) -> tuple[Float[Tensor, "B dim"], Float[Tensor, " B"]]:
        """x = g(z), and log |det dx/dz|."""
        log_det = z.new_zeros(len(z))
        for coupling in self.couplings:
            z, part = coupling(z)
            log_det = log_det + part
        return z, log_det

    def inverse(self, x: Float[Tensor, "B dim"]) -> tuple[Float[Tensor, "B dim"], Float[Tensor, " B"]]:
        """z = g^-1(x), and log |det dz/dx|."""
        log_det = x.new_zeros(len(x))
        for coupling in reversed(self.couplings):
            x, part = coupling(x, inverse=True)
            log_det = log_det + part
        return x, log_det

    def base_log_prob(self, z: Float[Tensor, "B dim"]) -> Float[Tensor, " B"]:
        """The log density of standard normal z."""
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)

    def log_prob(self, x: Float[Tensor, "B dim"]) -> Float[Tensor, " B"]:
        """log q(x)."""
        z, log_det = self.inverse(x)
        return self.base_log_prob(z) + log_det

    def base_sample(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, "count dim"]:
        """Standard normal z, of the parameters' device and precision."""
        check_whole("count", count, least=1)
        like = next(self.parameters())
        return torch.randn(count, self.dim, generator=generator, dtype=like.dtype, device=like.device)

    def sample(
        self, count: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "count dim"], Float[Tensor, " count"]]:
        """Draws from the flow, and log q of each.

        Args:
            count: how many.
            generator: of the random numbers; default torch's.

        Raises:
            UsageError: fewer than one.
        """
        z = self.base_sample(count, generator)
        x, log_det = self(z)
        return x, self.base_log_prob(z) - log_det

    def forward_with_force(
        self, z: Float[Tensor, "B dim"], force: Float[Tensor, "B dim"]
    ) -> tuple[Float[Tensor, "B dim"], Float[Tensor, " B"], Float[Tensor, "B dim"]]:
        """As `forward`, and the gradient of the log density that z has, d log q / dz, taken along to x.

        Args:
            z: points.
            force: the gradient of the log density there; of the base -z.
        """
        return self._along(z, force, inverse=False)

    def inverse_with_force(
        self, x: Float[Tensor, "B dim"], force: Float[Tensor, "B dim"]
    ) -> tuple[Float[Tensor, "B dim"], Float[Tensor, " B"], Float[Tensor, "B dim"]]:
        """As `inverse`, and the gradient of the log density that x has taken along to z."""
        return self._along(x, force, inverse=True)

    def _along(self, x: Tensor, force: Tensor, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        log_det = x.new_zeros(len(x))
        for coupling in reversed(self.couplings) if inverse else self.couplings:
            x, part, force = coupling.with_force(x, force, inverse)  # type: ignore[operator]
            log_det = log_det + part
        return x, log_det, force


class _Coupling(nn.Module):
    """y = x exp(s) + t for the coordinates of one parity; s and t come from those of the other."""

    moved: Tensor
    kept: Tensor
    order: Tensor

    def __init__(self, dim: int, parity: int, width: int, hidden: int) -> None:
        super().__init__()
        places = torch.arange(dim)
        moved, kept = places[parity::2], places[1 - parity :: 2]
        self.register_buffer("moved", moved, persistent=False)
        self.register_buffer("kept", kept, persistent=False)
        # where each coordinate stands behind the other half
        self.register_buffer("order", torch.cat([moved, kept]).argsort(), persistent=False)
        sizes = [len(kept), *[width] * hidden]
        layers: list[nn.Module] = []
        for fed, units in itertools.pairwise(sizes):
            layers += [nn.Linear(fed, units), nn.Tanh()]
        last = nn.Linear(width, 2 * len(moved))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(*layers, last)

    def forward(self, x: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """The image of x (B, dim), and log |det| (B,)."""
        x_moved, x_kept = x[:, self.moved], x[:, self.kept]
        shift, log_scale = self.network(x_kept).chunk(2, 1)
        return self._joined(_map(x_moved, shift, log_scale, inverse), x_kept), _log_det(log_scale, inverse)

    def with_force(self, x: Tensor, force: Tensor, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward`, and u = d log q / dx taken along (algorithm 1): one pass back through this network alone."""
        x_moved, x_kept = x[:, self.moved], x[:, self.kept]
        with torch.enable_grad():
            if not x_kept.requires_grad:
                x_kept = x_kept.detach().requires_grad_()
            shift, log_scale = self.network(x_kept).chunk(2, 1)
            y_moved, log_det = _map(x_moved, shift, log_scale, inverse), _log_det(log_scale, inverse)
            # x of a fixed y, as a function of the half that is kept: log q(y) = log q(x(y)) - log|det|
            back = _map(y_moved.detach(), shift, log_scale, not inverse)
            u_moved, u_kept = force[:, self.moved], force[:, self.kept]
            (through,) = torch.autograd.grad((u_moved * back).sum() - log_det.sum(), x_kept, retain_graph=True)
        sign = 1.0 if inverse else -1.0
        along = self._joined(u_moved * (sign * log_scale.detach()).exp(), u_kept + through)  # dx/dy = exp(-s)
        return self._joined(y_moved, x_kept), log_det, along.detach()

    def _joined(self, moved: Tensor, kept: Tensor) -> Tensor:
        return torch.cat([moved, kept], 1)[:, self.order]


def _map(x: Tensor, shift: Tensor, log_scale: Tensor, inverse: bool) -> Tensor:
    return (x - shift) * (-log_scale).exp() if inverse else x * log_scale.exp() + shift


def _log_det(log_scale: Tensor, inverse: bool) -> Tensor:
    return -log_scale.sum(1) if inverse else log_scale.sum(1)


def effective_sample_size(
    log_weights: Float[Tensor, " N"], direction: Literal["reverse", "forward"] = "reverse"
) -> Float[Tensor, ""]:
    """How many independent samples of p those of q are worth, as a share in (0, 1]; 1 where p = q.

    Args:
        log_weights: log p - log q of each sample, up to a constant; -infinity is a weight of 0.
        direction: of samples of q, `reverse`, 1 / mean(w^2) with weights w of mean 1, which does not see parts of p
            that q never draws; of samples of p, `forward`, 1 / (mean(w) mean(1 / w)), which does.

    Raises:
        UsageError: no weights, NaN or +infinity among them, all of them 0, an unknown direction.

    Paper: Fast and Unified Path Gradient Estimators for Normalizing Flows (arXiv 2403.15881), appendix.

    Examples:
        >>> effective_sample_size(torch.tensor([0.0, 0.0, -torch.inf, -torch.inf]))
        tensor(0.5000)
    """
    check_choice("direction", direction, ("reverse", "forward"))
    if log_weights.ndim != 1 or not len(log_weights):
        raise UsageError(f"log_weights must be one number a sample, one at least, got shape {[*log_weights.shape]}")
    if not bool((log_weights < torch.inf).all()) or not bool(log_weights.isfinite().any()):
        raise UsageError("log_weights must be numbers below infinity, and one of them finite")
    log_mean = log_weights.logsumexp(0) - math.log(len(log_weights))
    if direction == "reverse":
        return (2 * log_mean - ((2 * log_weights).logsumexp(0) - math.log(len(log_weights)))).exp()
    return (-log_mean - ((-log_weights).logsumexp(0) - math.log(len(log_weights)))).exp()
