"""Colours of a region as a mixture of Gaussians, fitted by hard assignment as GrabCut does."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

__all__ = ["ColourMixture", "split_by_principal_axes"]

# Added to every variance, for colours in [0, 1]: a region of one colour has none.
_LEAST_VARIANCE = 1e-4


class ColourMixture:
    """A mixture of Gaussians with full covariances; every row belongs to one component.

    Args:
        rows: colours in [0, 1], at least one.
        components: at most; a region of fewer colours has fewer.

    Paper: Rother, Kolmogorov, Blake, GrabCut (SIGGRAPH 2004), section 3; the first components are split off along
    principal axes (Orchard, Bouman, Color Quantization of Images, 1991), so that no random start is needed.
    """

    def __init__(self, rows: Float[np.ndarray, "n 3"], components: int = 5) -> None:
        self._estimate(rows, split_by_principal_axes(rows, components))

    def refit(self, rows: Float[np.ndarray, "n 3"]) -> None:
        """Each row to its likeliest component, then every component from its rows; nothing of no rows."""
        if len(rows):
            self._estimate(rows, self.component_log_densities(rows).argmax(axis=1))

    def component_log_densities(self, rows: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n k"]:
        """Logarithm of each component's weight times its density."""
        centred = rows[:, None] - self.means  # (n, k, 3)
        whitened = np.einsum("nki,kij->nkj", centred, self.whitening)
        return self.log_factors - 0.5 * (whitened**2).sum(axis=2)

    def log_density(self, rows: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        """Logarithm of the density of the mixture."""
        return np.logaddexp.reduce(self.component_log_densities(rows), axis=1)

    def _estimate(self, rows: np.ndarray, owner: Int[np.ndarray, "n"]) -> None:
        kept = [own for label in range(owner.max() + 1) if len(own := rows[owner == label])]
        means = np.stack([own.mean(axis=0) for own in kept])
        spread = [(own - mean).T @ (own - mean) / len(own) for own, mean in zip(kept, means, strict=True)]
        covariances = np.stack(spread) + _LEAST_VARIANCE * np.eye(3)
        weights = np.array([len(own) / len(rows) for own in kept])
        self.means = means
        # x^T S^-1 x = |L^-1 x|^2 for S = L L^T.
        factors = np.linalg.cholesky(covariances)
        self.whitening = np.linalg.inv(factors).transpose(0, 2, 1)
        half_log_determinants = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
        self.log_factors = np.log(weights) - half_log_determinants - 1.5 * np.log(2 * np.pi)


def split_by_principal_axes(rows: Float[np.ndarray, "n 3"], count: int) -> Int[np.ndarray, "n"]:
    """Groups of rows: the one that varies most along an axis is split there at its mean, again and again.

    Args:
        rows: any.
        count: of groups, at most; rows that do not vary are not split.
    """
    owner = np.zeros(len(rows), dtype=np.int64)
    scatter = {0: _main_axis(rows)}
    for new in range(1, count):
        label, (spread, axis) = max(scatter.items(), key=lambda item: item[1][0])
        if spread <= 1e-12:
            break
        own = np.flatnonzero(owner == label)
        projected = (rows[own] - rows[own].mean(axis=0)) @ axis
        owner[own[projected > 0]] = new
        scatter[label], scatter[new] = (_main_axis(rows[owner == each]) for each in (label, new))
    return owner


def _main_axis(rows: np.ndarray) -> tuple[float, np.ndarray]:
    """Sum of squares along the axis of largest variance, and that axis."""
    centred = rows - rows.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    return float(values[-1]), vectors[:, -1]
