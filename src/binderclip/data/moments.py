"""Mean and covariance of vectors that arrive in pieces, in float64."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError


class Moments:
    """Running count, mean and scatter of d-dimensional vectors, for all or for each class.

    Pieces are merged by the pairwise update of Chan, Golub and LeVeque ("Updating Formulae and a Pairwise Algorithm for
    Computing Sample Variances", 1979): centred sums are added, never raw squares, so a large mean costs no digits.

    Args:
        dim: d.
        classes: number of classes C, or None for one set. With classes, every result has a leading axis of C.
        diagonal: keep variances only (memory C d instead of C d d).

    Examples:
        >>> moments = Moments(2)
        >>> moments.update(torch.tensor([[0.0, 0.0], [2.0, 4.0]])).mean
        tensor([1., 2.], dtype=torch.float64)
    """

    def __init__(self, dim: int, *, classes: int | None = None, diagonal: bool = False) -> None:
        if dim < 1 or (classes is not None and classes < 1):
            raise UsageError(f"Moments needs dim >= 1 and classes >= 1 or None, got {dim} and {classes}")
        self.dim, self.classes, self.diagonal = dim, classes, diagonal
        groups = classes or 1
        square = (groups, dim) if diagonal else (groups, dim, dim)
        self._count = torch.zeros(groups, dtype=torch.float64)
        self._mean = torch.zeros(groups, dim, dtype=torch.float64)
        self._scatter = torch.zeros(square, dtype=torch.float64)

    def __repr__(self) -> str:
        return f"Moments(dim={self.dim}, classes={self.classes}, n={int(self._count.sum())})"

    def update(self, vectors: Float[Tensor, "n d"], labels: Int[Tensor, "n"] | None = None) -> Moments:
        """Add vectors; returns itself.

        Args:
            vectors: any float type and device.
            labels: class of each vector in 0..C-1; -1 is left out. Only, and always, with `classes`.

        Raises:
            UsageError: shapes, labels or values (NaN, infinity) do not fit.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise UsageError(f"Moments of dim {self.dim} takes (n, {self.dim}), got {tuple(vectors.shape)}")
        if (labels is None) != (self.classes is None):
            raise UsageError("labels go with Moments(..., classes=C), and only with it")
        rows = vectors.detach().to("cpu", torch.float64)
        if not bool(torch.isfinite(rows).all()):
            raise UsageError("Moments.update got NaN or infinity; drop those vectors first")
        if labels is None:
            groups = [(0, rows)]
        else:
            ids = labels.detach().cpu()
            if len(ids) != len(rows) or (len(ids) and not -1 <= int(ids.min()) <= int(ids.max()) < (self.classes or 0)):
                raise UsageError(f"labels must be {len(rows)} integers in -1..{(self.classes or 0) - 1}")
            groups = [(int(c), rows[ids == c]) for c in ids.unique() if int(c) >= 0]
        for group, members in groups:
            if len(members):
                mean = members.mean(0)
                centred = members - mean
                scatter = centred.square().sum(0) if self.diagonal else centred.T @ centred
                self._add(group, float(len(members)), mean, scatter)
        return self

    def _add(self, group: int, count: float, mean: Tensor, scatter: Tensor) -> None:
        before = float(self._count[group])
        total = before + count
        gap = mean - self._mean[group]
        outer = gap.square() if self.diagonal else torch.outer(gap, gap)
        self._scatter[group] += scatter + outer * (before * count / total)
        self._mean[group] += gap * (count / total)
        self._count[group] = total

    def merge(self, other: Moments) -> Moments:
        """Add everything that `other` has seen; returns itself.

        Raises:
            UsageError: the two differ in dim, classes or diagonal.
        """
        if (self.dim, self.classes, self.diagonal) != (other.dim, other.classes, other.diagonal):
            raise UsageError(f"{self!r} and {other!r} differ in dim, classes or diagonal and cannot be merged")
        for group in range(len(other._count)):
            if other._count[group] > 0:
                self._add(group, float(other._count[group]), other._mean[group].clone(), other._scatter[group].clone())
        return self

    def _out(self, value: Tensor) -> Tensor:
        return value.clone() if self.classes is not None else value[0].clone()

    @property
    def count(self) -> Float[Tensor, "*C"]:
        """Number of vectors (float64, whole)."""
        return self._out(self._count)

    @property
    def mean(self) -> Float[Tensor, "*C d"]:
        """Mean; zeros for a class without vectors."""
        return self._out(self._mean)

    def covariance(
        self, *, correction: int = 1, pooled: bool = False
    ) -> Float[Tensor, "*C d d"] | Float[Tensor, "*C d"]:
        """Covariance, as `numpy.cov(rowvar=False, ddof=correction)`.

        Args:
            correction: subtracted from the count; 0 gives the maximum-likelihood estimate. A class with no more vectors
                than this gives NaN.
            pooled: one within-class covariance: the classes' scatters over (n - correction * C present).
        """
        shape = (-1, 1) if self.diagonal else (-1, 1, 1)
        if pooled:
            present = float((self._count > 0).sum())
            freedom = float(self._count.sum()) - correction * present
            return self._scatter.sum(0) / (freedom if freedom > 0 else float("nan"))
        each = self._count - correction
        return self._out(self._scatter / torch.where(each > 0, each, torch.nan).reshape(shape))

    def variance(self, *, correction: int = 1) -> Float[Tensor, "*C d"]:
        """Diagonal of the covariance."""
        full = self.covariance(correction=correction)
        return full if self.diagonal else full.diagonal(dim1=-2, dim2=-1)

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that `load_state_dict` takes."""
        return {"count": self._count.clone(), "mean": self._mean.clone(), "scatter": self._scatter.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over saved sums.

        Raises:
            UsageError: their shapes are not this object's.
        """
        for name, mine in (("count", self._count), ("mean", self._mean), ("scatter", self._scatter)):
            if tuple(state[name].shape) != tuple(mine.shape):
                raise UsageError(f"{name} of the state is {tuple(state[name].shape)}, expected {tuple(mine.shape)}")
            mine.copy_(state[name])
