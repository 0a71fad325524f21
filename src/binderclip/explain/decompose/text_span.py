"""TextSpan: the texts that span what a head writes, chosen greedily; all of it from one covariance matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.data.moments import Moments
from binderclip.errors import UsageError

RELATIVE = 1e-10
"""Squared lengths and variances below this share of the largest count as zero: they are rounding of float64."""


@dataclass(frozen=True)
class Span:
    """Texts of one head, best first.

    Attributes:
        texts: the K chosen texts.
        index: their rows in the pool.
        explained: (K,) share of the variance that the first 1, 2, ... K texts explain together.
        bound: (K,) the largest share that any K directions can explain (principal components).
        variance: of the outputs, summed over dimensions.
        mean: (E,) of the outputs.
        basis: (K, E) orthonormal; the texts after projection and Gram-Schmidt.
    """

    texts: tuple[str, ...]
    index: tuple[int, ...]
    explained: Float[Tensor, "K"]
    bound: Float[Tensor, "K"]
    variance: float
    mean: Float[Tensor, "E"]
    basis: Float[Tensor, "K E"]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def gains(self) -> Float[Tensor, "K"]:
        """Share of the variance that each text adds."""
        return torch.diff(self.explained, prepend=self.explained.new_zeros(1))

    def reconstruct(self, outputs: Float[Tensor, "N E"], texts: int | None = None) -> Float[Tensor, "N E"]:
        """The outputs with only what the first `texts` texts span left of their deviations from the mean."""
        basis = self.basis[:texts].to(outputs)
        mean = self.mean.to(outputs)
        return mean + (outputs - mean) @ basis.T @ basis


@dataclass(frozen=True)
class TextSpan:
    """Describe the outputs of a head (or any vectors beside texts) by the few texts that span them best.

    Texts are projected on the span of the outputs; then, again and again, the text along which the outputs vary most is
    taken, and its direction removed from the outputs and from all other texts. A projected text keeps its length, so
    texts that the outputs cannot express are not chosen.

    The standard deviation of C t is sqrt(t' Cov t), and deflation touches one row and column of Cov: neither an N x M
    matrix nor the outputs themselves are needed, moments are enough.

    Paper: Interpreting CLIP's Image Representation via Text-Based Decomposition (arXiv 2310.05916), algorithm 1.

    Args:
        k: texts to choose; fewer where the outputs have no variance left along any text.
        rank: directions of the outputs that are kept: the first right singular vectors of the outputs, uncentred.

    Examples:
        >>> found = decompose_image_embedding(model, images).unit()              # doctest: +SKIP
        >>> pool = model.text_bank(["red", "green", "round", "a cat"])           # doctest: +SKIP
        >>> TextSpan(k=3)(found.values[:, -1, 0], pool.unit, pool.texts).texts   # doctest: +SKIP
    """

    k: int = 10
    rank: int = 80

    def __post_init__(self) -> None:
        if self.k < 1 or self.rank < 1:
            raise UsageError(f"TextSpan needs k and rank of at least 1, got k={self.k}, rank={self.rank}")

    @torch.no_grad()
    def __call__(
        self, outputs: Float[Tensor, "N E"] | Moments, texts: Float[Tensor, "M E"], names: Sequence[str] | None = None
    ) -> Span:
        """Choose texts.

        Args:
            outputs: what a head contributes to N images, or its moments.
            texts: rows of the pool, of unit length as a rule.
            names: of the M texts; default their numbers.

        Raises:
            UsageError: widths or the number of names do not fit, fewer than two outputs, or no text.
        """
        moments = outputs if isinstance(outputs, Moments) else _moments(outputs)
        if texts.ndim != 2 or not len(texts) or texts.shape[1] != moments.dim:
            raise UsageError(f"texts must be (M, {moments.dim}) rows, at least one, got shape {tuple(texts.shape)}")
        if names is not None and len(names) != len(texts):
            raise UsageError(f"{len(names)} names for {len(texts)} texts")
        if moments.classes is not None or moments.diagonal or float(moments.count) < 2:
            raise UsageError(f"TextSpan needs the full moments of one set of at least two outputs, got {moments!r}")
        mean, covariance = moments.mean, moments.covariance(correction=0)
        space = _span(covariance + torch.outer(mean, mean), self.rank)
        chosen, basis, variances = _greedy(
            texts.detach().to("cpu", torch.float64) @ space, space.T @ covariance @ space, self.k
        )
        total = float(covariance.trace())
        spectrum = torch.linalg.eigvalsh(covariance).flip(0).clamp(min=0)[: len(chosen)]
        whole = total if total > 0 else 1.0
        return Span(
            texts=tuple(str(i) if names is None else names[i] for i in chosen),
            index=tuple(chosen),
            explained=variances.cumsum(0) / whole,
            bound=spectrum.cumsum(0) / whole,
            variance=total,
            mean=mean,
            basis=basis @ space.T,
        )


def _moments(outputs: Float[Tensor, "N E"]) -> Moments:
    if outputs.ndim != 2 or len(outputs) < 2:
        raise UsageError(f"outputs must be (N, E) with at least two rows, got shape {tuple(outputs.shape)}")
    return Moments(outputs.shape[1]).update(outputs)


def _span(second: Float[Tensor, "E E"], rank: int) -> Float[Tensor, "E R"]:
    """The leading eigenvectors of the uncentred second moment: the right singular vectors of the outputs."""
    values, vectors = torch.linalg.eigh(second)
    kept = int((values > RELATIVE * values[-1]).sum())
    return vectors.flip(1)[:, : min(rank, kept)]


def _greedy(
    texts: Float[Tensor, "M R"], covariance: Float[Tensor, "R R"], k: int
) -> tuple[list[int], Float[Tensor, "K R"], Float[Tensor, "K"]]:
    """Chosen rows, the orthonormal directions they add, and the variance along each of these.

    Texts stay orthogonal to the directions taken, so t' Cov t needs no deflated Cov; only `seen` = t' Cov is kept up to
    date, at a cost of M x R a step.
    """
    texts = texts.clone()
    seen = texts @ covariance
    floor = RELATIVE * float(texts.square().sum(1).max()) if texts.shape[1] else 0.0
    free = torch.ones(len(texts), dtype=torch.bool)
    chosen: list[int] = []
    basis = texts.new_zeros(0, texts.shape[1])
    variances: list[float] = []
    while len(chosen) < min(k, texts.shape[1]):
        # What rounding leaves of a text that is spanned already must not be chosen.
        free &= texts.square().sum(1) > floor
        scores = torch.where(free, (seen * texts).sum(1), -torch.inf)
        best = int(scores.argmax())
        if not float(scores[best]) > RELATIVE * floor * float(covariance.trace()):
            break
        direction = texts[best] - basis.T @ (basis @ texts[best])
        direction = direction / direction.norm()
        along = covariance @ direction
        chosen.append(best)
        variances.append(float(direction @ along))
        basis = torch.cat([basis, direction[None]])
        coefficient = texts @ direction
        seen -= coefficient[:, None] * along
        texts -= coefficient[:, None] * direction
        free[best] = False
    return chosen, basis, texts.new_tensor(variances)
