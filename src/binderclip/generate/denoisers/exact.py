"""Denoisers whose answer is known: of Gaussians, of their mixtures, and of weighted sets of pictures."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.generate.denoisers.denoiser import Denoiser
from binderclip.generate.denoisers.schedule import NoiseSchedule
from binderclip.settings import hint

__all__ = ["ConditionalDenoiser", "ExactDenoiser", "GaussianDenoiser", "GaussianMixtureDenoiser", "MixtureDenoiser"]


class ExactDenoiser(Denoiser):
    """A denoiser that is the conditional expectation E[x_0 | x_t] of a distribution, whose noisy density is known too.

    Its parts speak of the variance-exploding coordinates x = x_0 + sigma eps.
    """

    @abstractmethod
    def denoise(
        self, x: Float[Tensor, "R *shape"], sigma: Float[Tensor, " R"], conditions: Sequence[Hashable] = (None,)
    ) -> Float[Tensor, "R *shape"]:
        """E[x_0 | x_0 + sigma eps = x].

        Args:
            x: noisy pictures.
            sigma: the noise level of each, above 0.
            conditions: of each block of rows.
        """

    @abstractmethod
    def log_density(
        self, x: Float[Tensor, "R *shape"], sigma: Float[Tensor, " R"], conditions: Sequence[Hashable] = (None,)
    ) -> Float[Tensor, " R"]:
        """log p(x) of x = x_0 + sigma eps, with the arguments of `denoise`."""

    def noise(
        self, x: Float[Tensor, "R *shape"], sigma: Float[Tensor, " R"], conditions: Sequence[Hashable] = (None,)
    ) -> Float[Tensor, "R *shape"]:
        """E[eps | x] = (x - E[x_0 | x]) / sigma, with the arguments of `denoise`."""
        return (x - self.denoise(x, sigma, conditions)) / _shaped(sigma, x)

    def forward(
        self, x: Float[Tensor, "R *shape"], t: Int[Tensor, " R"], conditions: Sequence[Hashable] = (None,)
    ) -> Float[Tensor, "R *shape"]:
        exploding, sigma = self.schedule.to_variance_exploding(x, t)
        assert isinstance(sigma, Tensor)
        return self.noise(exploding, sigma.flatten(), conditions)


class GaussianDenoiser(ExactDenoiser):
    """The optimal denoiser of a normal distribution, which is also the best linear one of any with these moments.

    `D(x, sigma) = mu + U diag(S / (S + sigma^2)) U^T (x - mu)` with the covariance U diag(S) U^T.

    Args:
        mean: of one picture, any shape, D numbers.
        covariance: D x D, symmetric and positive semidefinite, over the flattened picture; a vector of D variances for
            a diagonal one.
        schedule: as of `Denoiser`.

    Raises:
        UsageError: shapes that do not fit, a value that is not finite, or a matrix that is no covariance.

    Paper: Towards Understanding the Mechanisms of Classifier-Free Guidance (arXiv 2505.19210), eq. 7.

    Examples:
        >>> denoiser = GaussianDenoiser(torch.zeros(2), torch.ones(2))
        >>> denoiser.denoise(torch.tensor([[2.0, 4.0]]), torch.tensor([1.0]))
        tensor([[1., 2.]])
    """

    mean: Tensor
    variances: Tensor
    basis: Tensor

    def __init__(
        self,
        mean: Float[Tensor, "*shape"],
        covariance: Float[Tensor, "D D"] | Float[Tensor, " D"],
        schedule: NoiseSchedule | None = None,
    ) -> None:
        super().__init__(schedule)
        size = mean.numel()
        if covariance.shape not in ((size, size), (size,)) or not size:
            raise UsageError(
                f"covariance must have shape ({size}, {size}) or ({size},) beside a mean of {size} numbers, "
                f"not {tuple(covariance.shape)}"
            )
        if not bool(mean.isfinite().all()) or not bool(covariance.isfinite().all()):
            raise UsageError("mean or covariance has a value that is not finite")
        matrix = covariance.double()
        scale = float(matrix.abs().max())
        if matrix.ndim == 1:
            variances, basis = matrix, torch.eye(size, dtype=matrix.dtype, device=matrix.device)
        else:
            if float((matrix - matrix.T).abs().max()) > 1e-5 * scale:
                raise UsageError("covariance is not symmetric")
            variances, basis = torch.linalg.eigh((matrix + matrix.T) / 2)
        if float(variances.min()) < -1e-5 * scale:
            raise UsageError(f"covariance has the eigenvalue {float(variances.min()):.3g}: none may be negative")
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("variances", variances.clamp(min=0).to(mean))
        self.register_buffer("basis", basis.to(mean))

    @classmethod
    def fit(cls, pictures: Float[Tensor, "N *shape"], schedule: NoiseSchedule | None = None) -> GaussianDenoiser:
        """The denoiser of the pictures' mean and covariance (over N, so that it is their best linear denoiser).

        Args:
            pictures: two at least.
            schedule: as of `Denoiser`.

        Raises:
            UsageError: fewer than two pictures.
        """
        if len(pictures) < 2:
            raise UsageError(f"a covariance needs two pictures at least, got {len(pictures)}")
        rows = pictures.flatten(1).double()
        centred = rows - rows.mean(0)
        mean = rows.mean(0).reshape(pictures.shape[1:]).to(pictures)
        return cls(mean, (centred.T @ centred / len(rows)).to(pictures), schedule)

    def filter(self, sigma: float) -> Float[Tensor, "D D"]:
        """The matrix A of `D(x, sigma) = mu + A (x - mu)`; sigma^2 A is the covariance of x_0 given x (Tweedie)."""
        return (self.basis * (self.variances / (self.variances + sigma**2))) @ self.basis.T

    def denoise(
        self, x: Float[Tensor, "R *shape"], sigma: Float[Tensor, " R"], conditions: Sequence[Hashable] = (None,)
    ) -> Float[Tensor, "R *shape"]:
        coordinates, total = self._coordinates(x, sigma)
        return self.mean + ((coordinates * (self.variances / total)) @ self.basis.T).reshape(x.shape)

    def noise(
        self, x: Float[Tensor, "R *shape"], sigma: Float[Tensor, " R"], conditions: Sequence[Hashable] = (None,)
    ) -> Float[Tensor, "R *shape"]:
        # Not by way of x - D, which cancels where sigma is small.
        coordinates, total = self._coordinates(x, sigma)
        return ((coordinates * (sigma[:, None] / total)) @ self.basis.T).reshape(x.shape)

    def log_density(
        self, x: Float[Tensor, "R *shape"], sigma: Float[Tensor, " R"], conditions: Sequence[Hashable] = (None,)
    ) -> Float[Tensor, " R"]:
        coordinates, total = self._coordinates(x, sigma)
        return -0.5 * (coordinates.square() / total + total.log() + math.log(2 * math.pi)).sum(1)

    def _coordinates(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """U^T (x - mu) [R, D], and the variances of x along U [R, D]."""
        _check_shape(x, self.mean.shape)
        return (x - self.mean).flatten(1) @ self.basis, self.variances + sigma[:, None] ** 2


class GaussianMixtureDenoiser(ExactDenoiser):
    """The optimal denoiser of a mixture of normal distributions: their denoisers, weighted by whose x probably is.

    Args:
        components: the normal distributions, of one shape.
        weights: how likely each is; default equal. They are divided by their sum.
        schedule: as of `Denoiser`.

    Raises:
        UsageError: no component, or weights that are not finite, negative, all 0 or of another number.
    """

    log_weights: Tensor

    def __init__(
        self,
        components: Sequence[GaussianDenoiser],
        weights: Float[Tensor, " K"] | None = None,
        schedule: NoiseSchedule | None = None,
    ) -> None:
        super().__init__(schedule)
        if not components:
            raise UsageError("components is empty: a mixture has one at least")
        self.components = nn.ModuleList(components)
        like = components[0].mean
        self.register_buffer("log_weights", _log_weights(weights, len(components), like))

    def log_probability(self, x: Float[Tensor, "R *shape"], t: Int[Tensor, " R"]) -> Float[Tensor, "R K"]:
        """log p(component | x_t): an exact classifier of noisy pictures.

        Args:
            x: noisy pictures x_t.
            t: the time of each.
        """
        exploding, sigma = self.schedule.to_variance_exploding(x, t)
        assert isinstance(sigma, Tensor)
        return self._joint(exploding, sigma.flatten()).log_softmax(1)

    def denoise(
        self, x: Float[Tensor, "R *shape"], sigma: Float[Tensor, " R"], conditions: Sequence[Hashable] = (None,)
    ) -> Float[Tensor, "R *shape"]:
        parts = torch.stack([component.denoise(x, sigma) for component in self.components], 1)  # type: ignore[operator]
        return self._mean(parts, x, sigma)

    def noise(
        self, x: Float[Tensor, "R *shape"], sigma: Float[Tensor, " R"], conditions: Sequence[Hashable] = (None,)
    ) -> Float[Tensor, "R *shape"]:
        parts = torch.stack([component.noise(x, sigma) for component in self.components], 1)  # type: ignore[operator]
        return self._mean(parts, x, sigma)

    def log_density(
        self, x: Float[Tensor, "R *shape"], sigma: Float[Tensor, " R"], conditions: Sequence[Hashable] = (None,)
    ) -> Float[Tensor, " R"]:
        return self._joint(x, sigma).logsumexp(1)

    def _joint(self, x: Tensor, sigma: Tensor) -> Tensor:
        densities = [component.log_density(x, sigma) for component in self.components]  # type: ignore[operator]
        return torch.stack(densities, 1) + self.log_weights

    def _mean(self, parts: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """Mean over the components of [R, K, *shape], weighted by p(component | x)."""
        return torch.einsum("rk,rk...->r...", self._joint(x, sigma).softmax(1), parts)


class MixtureDenoiser(ExactDenoiser):
    """The optimal denoiser of a weighted set of pictures: their mean, weighted by a softmax over distances to x.

    It knows nothing but these pictures, and what is sampled with it is one of them.

    Args:
        pictures: the set.
        weights: how likely each is, default equal; or the weights of each condition, by its name, for instance from
            how similar a caption is. They are divided by their sum.
        schedule: as of `Denoiser`.

    Raises:
        UsageError: no picture, a value that is not finite, or weights that are negative, all 0 or of another number.

    Examples:
        >>> denoiser = MixtureDenoiser(torch.tensor([[-1.0], [1.0]]))
        >>> denoiser.denoise(torch.tensor([[0.0], [30.0]]), torch.tensor([1.0, 1.0]))
        tensor([[0.],
                [1.]])
    """

    pictures: Tensor
    log_weights: Tensor

    def __init__(
        self,
        pictures: Float[Tensor, "N *shape"],
        weights: Float[Tensor, " N"] | Mapping[Any, Tensor] | None = None,
        schedule: NoiseSchedule | None = None,
    ) -> None:
        super().__init__(schedule)
        if not len(pictures) or not bool(pictures.isfinite().all()):
            raise UsageError("pictures is empty or has a value that is not finite")
        by_condition = weights if isinstance(weights, Mapping) else {None: weights}
        self._rows = {condition: row for row, condition in enumerate(by_condition)}
        tables = [_log_weights(value, len(pictures), pictures) for value in by_condition.values()]
        self.register_buffer("pictures", pictures.detach().clone())
        self.register_buffer("log_weights", torch.stack(tables))

    def denoise(
        self, x: Float[Tensor, "R *shape"], sigma: Float[Tensor, " R"], conditions: Sequence[Hashable] = (None,)
    ) -> Float[Tensor, "R *shape"]:
        probability = self._joint(x, sigma, conditions).softmax(1)
        return (probability @ self.pictures.flatten(1)).reshape(x.shape)

    def log_density(
        self, x: Float[Tensor, "R *shape"], sigma: Float[Tensor, " R"], conditions: Sequence[Hashable] = (None,)
    ) -> Float[Tensor, " R"]:
        size = self.pictures[0].numel()
        return self._joint(x, sigma, conditions).logsumexp(1) - size * (sigma.log() + 0.5 * math.log(2 * math.pi))

    def _joint(self, x: Tensor, sigma: Tensor, conditions: Sequence[Hashable]) -> Tensor:
        """log w_i - |x - x_i|^2 / (2 sigma^2), [R, N]."""
        _check_shape(x, self.pictures.shape[1:])
        table = torch.stack([self.log_weights[_row(self._rows, condition)] for condition in conditions])
        distances = torch.cdist(x.flatten(1), self.pictures.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
        blocks = table.repeat_interleave(_block(x, conditions), 0)
        return blocks - 0.5 * (distances / sigma[:, None]).square()


class ConditionalDenoiser(ExactDenoiser):
    """One exact denoiser for each condition.

    Args:
        denoisers: by condition.
        schedule: as of `Denoiser`; those of the parts are not asked.

    Raises:
        UsageError: none at all; when it is called, a condition that is not among them.
    """

    def __init__(self, denoisers: Mapping[Any, ExactDenoiser], schedule: NoiseSchedule | None = None) -> None:
        super().__init__(schedule)
        if not denoisers:
            raise UsageError("denoisers is empty: give one for each condition")
        self._rows = {condition: row for row, condition in enumerate(denoisers)}
        self.parts = nn.ModuleList(denoisers.values())

    def denoise(
        self, x: Float[Tensor, "R *shape"], sigma: Float[Tensor, " R"], conditions: Sequence[Hashable] = (None,)
    ) -> Float[Tensor, "R *shape"]:
        return self._blocks("denoise", x, sigma, conditions)

    def noise(
        self, x: Float[Tensor, "R *shape"], sigma: Float[Tensor, " R"], conditions: Sequence[Hashable] = (None,)
    ) -> Float[Tensor, "R *shape"]:
        return self._blocks("noise", x, sigma, conditions)

    def log_density(
        self, x: Float[Tensor, "R *shape"], sigma: Float[Tensor, " R"], conditions: Sequence[Hashable] = (None,)
    ) -> Float[Tensor, " R"]:
        return self._blocks("log_density", x, sigma, conditions)

    def _blocks(self, what: str, x: Tensor, sigma: Tensor, conditions: Sequence[Hashable]) -> Tensor:
        size = _block(x, conditions)
        parts = [self.parts[_row(self._rows, condition)] for condition in conditions]
        blocks = zip(parts, x.split(size), sigma.split(size), strict=True)
        return torch.cat([getattr(part, what)(rows, levels) for part, rows, levels in blocks])


def _shaped(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.reshape(-1, *[1] * (x.ndim - 1))


def _check_shape(x: Tensor, shape: Sequence[int]) -> None:
    if x.shape[1:] != tuple(shape):
        raise UsageError(f"x must be a batch of shape {tuple(shape)}, not {tuple(x.shape)}")


def _block(x: Tensor, conditions: Sequence[Hashable]) -> int:
    """Rows of each condition."""
    if not conditions or len(x) % len(conditions):
        raise UsageError(f"{len(x)} rows do not come in blocks of {len(conditions)} conditions")
    return len(x) // len(conditions)


def _row(rows: Mapping[Any, int], condition: Hashable) -> int:
    if condition not in rows:
        raise UsageError(f"unknown condition {condition!r}: {hint(str(condition), map(str, rows))}")
    return rows[condition]


def _log_weights(weights: Tensor | None, count: int, like: Tensor) -> Tensor:
    if weights is None:
        return like.new_full((count,), -math.log(count))
    if weights.shape != (count,):
        raise UsageError(f"weights must have shape ({count},), not {tuple(weights.shape)}")
    if not bool(weights.isfinite().all()) or bool((weights < 0).any()) or not bool((weights > 0).any()):
        raise UsageError("weights must be finite and at least 0, one of them above")
    return (weights.to(like) / weights.sum().to(like)).log()
