"""Sliced Wasserstein distances: samples are projected to a line, where optimal transport is sorting.

With projections P_l and sorted projected samples the distance is

    SW_p(X, Y) = (1/L sum_l 1/N sum_n |P_l(X)_(n) - P_l(Y)_(n)|^p)^(1/p)

The classes differ in what is projected: at random, in the worst direction, on circles, or on a learned surface.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.numeric import check_number

__all__ = [
    "AugmentedSlicedWasserstein",
    "GeneralizedSlicedWasserstein",
    "MaxSlicedWasserstein",
    "SlicedWasserstein",
    "sliced_wasserstein",
]

Reduction = Literal["mean", "sum"]


def sliced_wasserstein(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"],
    n_projections: int = 100,
    *,
    p: float = 2.0,
    projections: Float[Tensor, "L d"] | None = None,
    reduction: Reduction = "mean",
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Sliced Wasserstein distance of two sets of samples, differentiable in both.

    Args:
        x, y: samples; sets of different sizes are compared by their quantile functions, exactly.
        n_projections: random directions L, uniform on the sphere.
        p: order, at least 1.
        projections: directions instead of random ones, taken as they are; give the same to distances that are compared.
        reduction: "mean" over the samples is the distance; "sum" is what the code of p079 computes, larger by
            n^(1/p), for sets of one size.
        generator: of the directions, on the CPU.

    Raises:
        UsageError: samples of different width, an empty set, an order below 1, or fewer than one projection.

    Examples:
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> float(sliced_wasserstein(x, x + 3.0))
        3.0

    Paper: Sliced and Radon Wasserstein Barycenters of Measures (Bonneel et al., 2015).
    """
    _check(x, y, p, n_projections)
    if projections is None:
        projections = _directions(n_projections, x, generator)
    elif projections.ndim != 2 or projections.shape[1] != x.shape[1]:
        raise UsageError(f"projections must be (L, {x.shape[1]}), got {tuple(projections.shape)}")
    return _of_projected(x @ projections.T, y @ projections.T, p, reduction)


class SlicedWasserstein(nn.Module):
    """Sliced Wasserstein distance with fresh random directions at every call.

    Args:
        n_projections: directions L.
        p: order, at least 1.
        reduction: as in `sliced_wasserstein`.
        generator: of the directions, on the CPU.

    Raises:
        UsageError: an order below 1, or fewer than one projection; at the call, samples that cannot be compared.
    """

    def __init__(
        self,
        n_projections: int = 100,
        *,
        p: float = 2.0,
        reduction: Reduction = "mean",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check_settings(p, n_projections)
        self.n_projections, self.p, self.reduction, self.generator = n_projections, p, reduction, generator

    def extra_repr(self) -> str:
        return f"n_projections={self.n_projections}, p={self.p}"

    def forward(self, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
        """The distance, differentiable in both sets."""
        return self._slice(x, y)

    def _slice(self, x: Tensor, y: Tensor) -> Tensor:
        return sliced_wasserstein(
            x, y, self.n_projections, p=self.p, reduction=self.reduction, generator=self.generator
        )


class MaxSlicedWasserstein(SlicedWasserstein):
    """The Wasserstein distance along one direction, which a few steps of Adam turn to where it is largest.

    The best of `n_projections` random directions is the start; it is turned with both sets held fixed.

    Args:
        steps: of Adam.
        lr: its rate.
        n_projections: random directions of which the best is the start; 1 starts at random, as p079's code does.
        p: order, at least 1.
        generator: of the directions, on the CPU.

    Raises:
        UsageError: fewer than 0 steps, or as `SlicedWasserstein`.

    Paper: Max-Sliced Wasserstein Distance and its Use for GANs (arXiv 1904.05877).
    """

    def __init__(
        self,
        *,
        steps: int = 20,
        lr: float = 1e-4,
        n_projections: int = 1,
        p: float = 2.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(n_projections, p=p, generator=generator)
        _check_ascent(steps, lr)
        self.steps, self.lr = steps, lr

    def forward(self, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
        """The distance along the direction found, differentiable in both sets."""
        _check(x, y, self.p, self.n_projections)
        theta = self.direction(x.detach(), y.detach())
        return _of_projected(x @ theta.T, y @ theta.T, self.p, "mean")

    @torch.no_grad()
    def direction(self, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "1 d"]:
        """The direction found, of length 1."""
        tried = _directions(self.n_projections, x, self.generator)
        powers = _transport(x @ tried.T, y @ tried.T, self.p)
        theta = tried[powers.argmax()][None].clone().requires_grad_()
        adam = torch.optim.Adam([theta], lr=self.lr)
        for _ in range(self.steps):
            with torch.enable_grad():
                value = _of_projected(x @ theta.T, y @ theta.T, self.p, "mean")
                (grad,) = torch.autograd.grad(-value, [theta])
            theta.grad = grad
            adam.step()
            theta.div_(theta.norm())
        return theta.detach()


class GeneralizedSlicedWasserstein(SlicedWasserstein):
    """Sliced along circles: a sample is projected to its distance from r times a direction.

    Args:
        kind: "circular", the one that keeps it a metric and needs no degree.
        r: radius on which the centres lie; as it grows, circles become lines.
        n_projections: centres.
        p: order, at least 1.
        generator: of the centres, on the CPU.

    Raises:
        UsageError: another kind, a radius that is not positive, or as `SlicedWasserstein`.

    Paper: Generalized Sliced Wasserstein Distances (arXiv 1902.00434).
    """

    def __init__(
        self,
        kind: Literal["circular"] = "circular",
        *,
        r: float = 1.0,
        n_projections: int = 100,
        p: float = 2.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(n_projections, p=p, generator=generator)
        if kind != "circular":
            raise UsageError(f"kind must be 'circular', got {kind!r}")
        check_number("r", r, above=0)
        self.kind, self.r = kind, r

    def forward(self, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
        """The distance, differentiable in both sets."""
        _check(x, y, self.p, self.n_projections)
        centres = self.r * _directions(self.n_projections, x, self.generator)
        return _of_projected(torch.cdist(x, centres), torch.cdist(y, centres), self.p, "mean")


class AugmentedSlicedWasserstein(SlicedWasserstein):
    """Sliced Wasserstein distance of samples on a learned surface, g(x) = [x, h(x)].

    Keeping x makes g injective, so that this is a metric for every h. Each call turns h by a few steps of Adam, so that
    slices of the surface tell the two sets apart, against a penalty on lengths without which h would grow for ever;
    then it measures, with h fixed. h and its optimizer go on from call to call: a first call from a cold start gains
    little. The value's gradient reaches the samples and never h.

    Args:
        dim: width d of the samples.
        h: "linear" (d to d, which weighs linear slices anew), "mlp" (d to d through 2 d, with slices that bend) or a
            module of your own from (n, d) to (n, e).
        n_projections: fresh directions at every step and for the value.
        steps: of Adam on h at every call.
        lr: their rate.
        lam: weight of the mean length of the augmented samples.
        p: order, at least 1.
        reduction: as in `sliced_wasserstein`.
        generator: of the directions and of h's start, on the CPU.

    Raises:
        UsageError: a setting out of its range; at the call, samples of another width.

    Examples:
        >>> distance = AugmentedSlicedWasserstein(2, n_projections=10)
        >>> x = torch.randn(64, 2)
        >>> bool(distance(x, x + 1) > 0)
        True

    Paper: Augmented Sliced Wasserstein Distances (arXiv 2006.08812).
    """

    def __init__(
        self,
        dim: int,
        h: Literal["linear", "mlp"] | nn.Module = "linear",
        *,
        n_projections: int = 1000,
        steps: int = 5,
        lr: float = 1e-3,
        lam: float = 0.5,
        p: float = 2.0,
        reduction: Reduction = "mean",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(n_projections, p=p, reduction=reduction, generator=generator)
        _check_ascent(steps, lr)
        check_number("lam", lam, least=0)
        if isinstance(h, str) and h not in ("linear", "mlp"):
            raise UsageError(f"h must be 'linear', 'mlp' or a module, got {h!r}")
        self.dim, self.steps, self.lr, self.lam = dim, steps, lr, lam
        self.h = _network(h, dim, generator) if isinstance(h, str) else h
        self._start = {name: value.detach().clone() for name, value in self.h.state_dict().items()}
        self.reset()

    def reset(self) -> None:
        """Forget what h has learned."""
        self.h.load_state_dict(self._start)
        self._adam = torch.optim.Adam(self.h.parameters(), lr=self.lr, betas=(0.5, 0.999))

    def augment(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """g(x), with h's parameters as constants."""
        constants = {name: value.detach() for name, value in self.h.named_parameters()}
        return torch.cat([x, torch.func.functional_call(self.h, constants, (x,))], 1)

    def forward(self, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
        """The distance after h has been turned, differentiable in both sets."""
        _check(x, y, self.p, self.n_projections)
        if x.shape[1] != self.dim:
            raise UsageError(f"samples have width {x.shape[1]}, and dim is {self.dim}")
        self.ascend(x.detach(), y.detach())
        return self._slice(self.augment(x), self.augment(y))

    def ascend(self, x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> None:
        """Turn h by `steps` steps up SW_p(g(x), g(y)) - lam (mean |g(x)| + mean |g(y)|), equation 14."""
        parameters = list(self.h.parameters())
        for _ in range(self.steps):
            with torch.enable_grad():
                on_x, on_y = torch.cat([x, self.h(x)], 1), torch.cat([y, self.h(y)], 1)
                lengths = on_x.norm(dim=1).mean() + on_y.norm(dim=1).mean()
                grads = torch.autograd.grad(self.lam * lengths - self._slice(on_x, on_y), parameters)
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad
            self._adam.step()
            self._adam.zero_grad()


def _network(kind: str, dim: int, generator: torch.Generator | None) -> nn.Module:
    """h, with torch's default start drawn from the generator."""
    if kind == "linear":
        made: nn.Module = nn.Linear(dim, dim)
    else:
        made = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
    if generator is not None:
        with torch.no_grad():
            for layer in made.modules():
                if isinstance(layer, nn.Linear):
                    bound = layer.in_features**-0.5
                    for parameter in (layer.weight, layer.bias):
                        parameter.uniform_(-bound, bound, generator=generator)
    return made


def _directions(count: int, like: Tensor, generator: torch.Generator | None) -> Float[Tensor, "L d"]:
    """Directions, uniform on the sphere."""
    drawn = torch.randn(count, like.shape[1], generator=generator, dtype=torch.float64)
    return (drawn / drawn.norm(dim=1, keepdim=True)).to(like)


def _transport(x: Float[Tensor, "n L"], y: Float[Tensor, "m L"], p: float) -> Float[Tensor, "L"]:
    """W_p^p of every column: the p-th power of the difference of the quantile functions, integrated."""
    x, y = x.sort(0).values, y.sort(0).values
    n, m = len(x), len(y)
    if n == m:
        return (x - y).abs().pow(p).mean(0)
    # both are constant between neighbouring multiples of 1/n and 1/m; whole numbers in units of 1/(n m)
    ends = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
    widths = ends.diff(prepend=ends.new_zeros(1)).to(x)
    at_x, at_y = (ends - 1).div(m, rounding_mode="floor"), (ends - 1).div(n, rounding_mode="floor")
    gaps = (x[at_x.to(x.device)] - y[at_y.to(x.device)]).abs().pow(p)
    return (widths[:, None] * gaps).sum(0) / (n * m)


def _of_projected(x: Float[Tensor, "n L"], y: Float[Tensor, "m L"], p: float, reduction: Reduction) -> Tensor:
    """(mean over the columns of W_p^p)^(1/p)."""
    value = _transport(x, y, p).mean()
    if reduction == "sum":
        if len(x) != len(y):
            raise UsageError(f"reduction 'sum' needs sets of one size, got {len(x)} and {len(y)}")
        value = value * len(x)
    elif reduction != "mean":
        raise UsageError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    # the root of 0 has no derivative
    return value.clamp_min(torch.finfo(value.dtype).tiny).pow(1 / p)


def _check(x: Tensor, y: Tensor, p: float, n_projections: int) -> None:
    _check_settings(p, n_projections)
    flat = x.ndim == y.ndim == 2 and x.shape[1] == y.shape[1] and len(x) and len(y)
    if not flat or not x.is_floating_point() or not y.is_floating_point():
        raise UsageError(
            f"samples must be floats of shape (n, d) and (m, d), at least one of each; got {x.dtype} "
            f"{tuple(x.shape)} and {y.dtype} {tuple(y.shape)}"
        )


def _check_settings(p: float, n_projections: int) -> None:
    if not 1 <= p < math.inf:
        raise UsageError(f"the order p must be at least 1, got {p}")
    check_number("n_projections", n_projections, least=1)


def _check_ascent(steps: int, lr: float) -> None:
    if steps < 0 or not 0 < lr < math.inf:
        raise UsageError(f"steps must be at least 0 and lr positive, got {steps} and {lr}")
