"""Fréchet distance between the Gaussians fitted to two samples: FID where the features are Inception's."""

from __future__ import annotations

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.display import number_of
from binderclip.errors import UsageError


def frechet_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """`|mu_x - mu_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2))`, the squared Fréchet distance of two Gaussians.

    The trace of the root equals the sum of singular values of `X Y^T / sqrt((n - 1)(m - 1))` for centred samples, or
    of `S_x^(1/2) S_y^(1/2)`; the smaller of the two matrices is decomposed, in float64, and no root of a
    non-symmetric matrix is taken. Covariances divide by n - 1.

    Args:
        x, y: samples, one row each, at least two; more rows than columns are needed for a value that means something,
            and a warning says so where there are fewer (the estimate is biased upwards by about d / n).

    Returns:
        A float64 scalar, at least 0.

    Raises:
        UsageError: shapes that do not fit, fewer than two rows, or a value that is not finite.

    Paper: the baseline of Rethinking FID (arXiv 2401.09603); Heusel et al., GANs Trained by a Two Time-Scale Update
    Rule (NeurIPS 2017).
    """
    for name, sample in (("x", x), ("y", y)):
        if sample.ndim != 2 or len(sample) < 2:
            raise UsageError(f"{name} must have shape (n, d) with n at least 2, not {tuple(sample.shape)}")
        if not torch.isfinite(sample).all():
            raise UsageError(f"{name} has a value that is not finite")
    if x.shape[1] != y.shape[1]:
        raise UsageError(f"x has {x.shape[1]} features and y {y.shape[1]}: both must come from one embedding")
    n, m, d = len(x), len(y), x.shape[1]
    if min(n, m) <= d:
        warnings.warn(
            f"Fréchet distance from {number_of(min(n, m), 'sample')} of {d} features: the "
            f"covariance is singular and the value "
            "biased upwards; use more samples than features",
            stacklevel=2,
        )
    x, y = x.detach().double(), y.detach().to(x.device).double()
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    x, y = (x - mean_x) / (n - 1) ** 0.5, (y - mean_y) / (m - 1) ** 0.5
    product = x @ y.T if max(n, m) <= d else _root(x.T @ x) @ _root(y.T @ y)
    trace = (x**2).sum() + (y**2).sum() - 2 * torch.linalg.svdvals(product).sum()
    return (((mean_x - mean_y) ** 2).sum() + trace).clamp(min=0)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
