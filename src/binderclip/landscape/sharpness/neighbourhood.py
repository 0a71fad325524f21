"""A neighbourhood of a model's weights: which of them move, in which ball, in which units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.optim.perturbation import BallNorm, WeightScale, ascent_direction, common_norm, weight_scales
from binderclip.optim.space import TensorTree, aligned_direction
from binderclip.settings import check_choice

__all__ = ["Neighbourhood"]

_ROUNDS, _PRECISION = 200, 1e-9
"""Of Newton's method in the projection; about six rounds are usual."""


class Neighbourhood:
    """The perturbations {c u : ||u|| <= rho} around the present weights: space x norm x scale.

    SAM's ball is `Neighbourhood(net, 0.05)`; adaptive sharpness `scale="weight"`; Keskar's box `norm="linf",
    scale="box"`; a layer's own sharpness `Neighbourhood(net.layer, ...)`. The weights and their units c are those of
    the moment when it is built.

    Args:
        params: what may move: a module (its parameters that require a gradient, a tied one once), or tensors by name or
            in a sequence.
        rho: radius, in units of c.
        norm: `l2`, over all parameters together, or `linf`.
        scale: c, one of `none`, `weight`, `box`, `filter`, `layer`; see `optim.weight_scales`.
        eta: added to c.

    Attributes:
        names: of the parameters; "0", "1", ... in a sequence.
        params: the tensors, in order.
        centre: copies of them.
        scales: c, a tensor each that broadcasts with the parameter.
        module: the module that it was built from, or None.

    Raises:
        UsageError: nothing to move, weights that are not finite, a negative radius, or an unknown norm or scale.

    Examples:
        >>> w = torch.tensor([1.0, 2.0])
        >>> ball = Neighbourhood([w], 0.5, scale="weight")
        >>> ball.step([torch.tensor([4.0, 0.0])])
        [tensor([0.5000, 0.0000])]
        >>> round(float(ball.length([torch.tensor([0.3, 0.8])])), 3)
        0.5

    Paper: Sharpness-Aware Minimization for Efficiently Improving Generalization (arXiv 2010.01412); the scales are
    those of ASAM (arXiv 2102.11600), of Keskar et al. (arXiv 1609.04836) and of Li et al. (arXiv 1712.09913).
    """

    def __init__(
        self,
        params: nn.Module | TensorTree,
        rho: float,
        *,
        norm: BallNorm = "l2",
        scale: WeightScale = "none",
        eta: float = 0.0,
    ) -> None:
        check_number("rho", rho, least=0)
        check_choice("norm", norm, ("l2", "linf"))
        self.module = params if isinstance(params, nn.Module) else None
        named = _named(params)
        if not named:
            raise UsageError("a neighbourhood needs at least one parameter that may move")
        self.names, self.params = tuple(named), list(named.values())
        self.rho, self.norm, self.scale, self.eta = float(rho), norm, scale, float(eta)
        self.scales = weight_scales(self.params, scale, eta)
        self.centre = [p.detach().clone() for p in self.params]
        broken = next((n for n, p in zip(self.names, self.centre, strict=True) if not bool(p.isfinite().all())), None)
        if broken is not None:
            raise UsageError(f"parameter {broken} holds values that are not finite")

    @property
    def text(self) -> str:
        """Norm, scale and radius in words, for reports: a radius alone says nothing."""
        unit = {"none": "1", "weight": "|w|", "box": "|w| + 1", "filter": "the row's norm", "layer": "the layer's norm"}
        eta = f" + {self.eta:g}" if self.eta else ""
        return f"{self.norm}, radius {self.rho:g} in units of {unit[self.scale]}{eta}"

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None) -> list[Tensor]:
        """A random perturbation: `l2` N(0, rho^2 c^2) in each weight, `linf` uniform in [-rho c, rho c].

        The Gaussian's length is about rho sqrt(n), not rho: project it for a point of the ball.

        Args:
            generator: on the CPU, so that a seed means the same everywhere.
        """
        draws = [
            torch.randn(p.shape, generator=generator, dtype=p.dtype)
            if self.norm == "l2"
            else 2 * torch.rand(p.shape, generator=generator, dtype=p.dtype) - 1
            for p in self.params
        ]
        return [self.rho * c * draw.to(p) for p, c, draw in zip(self.params, self.scales, draws, strict=True)]

    def step(self, gradient: TensorTree) -> list[Tensor]:
        """The point on the border at which a linear function with this gradient is largest (the dual norm's).

        Args:
            gradient: a tensor each parameter, in order or by name.

        Raises:
            UsageError: it does not fit the parameters.
        """
        return [self.rho * d for d in ascent_direction(self.aligned(gradient), self.scales, self.norm)]

    @torch.no_grad()
    def length(self, perturbation: TensorTree) -> Float[Tensor, ""]:
        """||perturbation / c|| in the neighbourhood's norm; infinite where a weight with c = 0 moves."""
        return self._length(self.aligned(perturbation))

    @torch.no_grad()
    def project(self, perturbation: TensorTree, *, in_units: bool = False) -> list[Tensor]:
        """The nearest perturbation in the neighbourhood.

        By Euclidean distance this is in an l2 ball with units of its own for each weight the projection on an
        ellipsoid, v c^2 / (c^2 + lambda), not a rescaling; lambda is found by Newton's method on 1 / length, which is
        monotone from 0. It goes with steps along the gradient g. Steps along c^2 g, such as `step` gives, are steepest
        in the distance ||v / c||, and need the nearest point by that: `in_units`. A mixture stops elsewhere.

        Args:
            perturbation: v, a tensor each parameter.
            in_units: by the distance ||v / c||, in which the l2 ball is round: v rho / ||v / c||.

        Raises:
            UsageError: it does not fit the parameters.
        """
        vector = self.aligned(perturbation)
        if self.norm == "linf":
            return [torch.clamp(v, -self.rho * c, self.rho * c) for v, c in zip(vector, self.scales, strict=True)]
        # A weight with c = 0 cannot move; the others decide about the length.
        vector = [torch.where(c > 0, v, torch.zeros_like(v)) for v, c in zip(vector, self.scales, strict=True)]
        length = float(self._length(vector))
        if length <= self.rho:
            return vector
        if in_units or self.scale == "none":
            return [v * (self.rho / length) for v in vector]
        return self._on_ellipsoid(vector)

    def _on_ellipsoid(self, vector: list[Tensor]) -> list[Tensor]:
        """v c^2 / (c^2 + lambda) of length rho: with y = delta / c the trust-region equation of Moré and Sorensen."""
        if self.rho == 0:
            return [torch.zeros_like(v) for v in vector]
        wide = [(v.double(), c.double()) for v, c in zip(vector, self.scales, strict=True)]
        shift = torch.zeros((), dtype=torch.float64, device=vector[0].device)
        for _ in range(_ROUNDS):
            unit = [_quotient(v * c, c * c + shift.to(c.device)) for v, c in wide]
            length = common_norm(unit)
            if float((length / self.rho - 1).abs()) < _PRECISION:
                break
            slope = sum(
                (
                    _quotient(u * u, c * c + shift.to(c.device)).sum().to(shift)
                    for u, (_, c) in zip(unit, wide, strict=True)
                ),
                start=torch.zeros_like(shift),
            )
            shift = shift + length**2 / slope * (length - self.rho) / self.rho
        return [(u * c).to(v) for u, (_, c), v in zip(unit, wide, vector, strict=True)]

    @contextmanager
    def at(self, perturbation: TensorTree | None) -> Iterator[None]:
        """Inside, the weights are centre + perturbation (None: the centre); afterwards the centre, bit for bit.

        Raises:
            UsageError: it does not fit the parameters.
        """
        moved = None if perturbation is None else self.aligned(perturbation)
        try:
            if moved is not None:
                with torch.no_grad():
                    for p, origin, part in zip(self.params, self.centre, moved, strict=True):
                        p.copy_(origin + part)
            yield
        finally:
            with torch.no_grad():
                for p, origin in zip(self.params, self.centre, strict=True):
                    p.copy_(origin)

    def aligned(self, perturbation: TensorTree) -> list[Tensor]:
        """A perturbation's tensors in the order, dtype and place of the parameters.

        Raises:
            UsageError: another number, other names, or another shape.
        """
        tree = dict(zip(self.names, self.params, strict=True)) if isinstance(perturbation, Mapping) else self.params
        return aligned_direction(tree, perturbation)

    def _length(self, vector: Sequence[Tensor]) -> Tensor:
        parts = [_ratio(v.double(), c.double()) for v, c in zip(vector, self.scales, strict=True)]
        if self.norm == "l2":
            return common_norm(parts)
        return torch.stack([part.abs().amax().to(parts[0].device) for part in parts if part.numel()]).amax()


def _named(params: nn.Module | TensorTree) -> dict[str, Tensor]:
    if isinstance(params, nn.Module):
        return {name: p for name, p in params.named_parameters() if p.requires_grad}
    if isinstance(params, Mapping):
        return dict(params)
    return {str(index): p for index, p in enumerate(params)}


def _quotient(above: Tensor, below: Tensor) -> Tensor:
    """above / below, and 0 for 0 / 0."""
    return torch.where(below > 0, above / below.clamp_min(torch.finfo(below.dtype).tiny), torch.zeros_like(above))


def _ratio(v: Tensor, c: Tensor) -> Tensor:
    """v / c: 0 for 0 / 0, infinite for anything else over 0."""
    return torch.where(v == 0, torch.zeros_like(v), v / c)
