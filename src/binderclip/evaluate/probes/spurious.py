"""Pairs of two features, one of which only goes along, and what the linear contrastive loss makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from binderclip.errors import UsageError


@dataclass(frozen=True)
class SpuriousPairs:
    """Image and text features that say a class y and an attribute a, each +1 or -1.

    Attributes:
        images: (N, 2) the strengths times (y, a), with noise. texts: (N, 2) (y, a).
        y, a: (N,) the class and the attribute. agreement: how often they are equal.
    """

    images: Float[np.ndarray, "N 2"]
    texts: Float[np.ndarray, "N 2"]
    y: Int[np.ndarray, "N"]
    a: Int[np.ndarray, "N"]
    agreement: float

    def errors(self, weight: Float[np.ndarray, "2"]) -> tuple[float, float]:
        """Share of wrong classes by the sign of a linear score, where y and a agree and where not (NaN: nowhere)."""
        wrong = np.sign(self.images @ weight) != self.y
        same = self.y == self.a
        agree, differ = (float(wrong[rows].mean()) if rows.any() else float("nan") for rows in (same, ~same))
        return agree, differ


def spurious_pairs(
    n: int, *, agreement: float, invariant: float = 1.0, spurious: float = 1.0, noise: float = 0.5, seed: int = 0
) -> SpuriousPairs:
    """Draw pairs: z = (invariant y, spurious a) + noise and t = (y, a), with P(a = y) = agreement.

    Paper: Do CLIPs Always Generalize Better than ImageNet Models? (arXiv 2403.11497), its analysis of two features.

    Args:
        n: pairs.
        agreement: P(a = y).
        invariant, spurious: strengths of both features in the image.
        noise: standard deviation, in the image.
        seed: of all draws.

    Raises:
        UsageError: no pair, an agreement outside [0, 1], or a strength or a noise that is not above 0.
    """
    if n < 1 or not 0 <= agreement <= 1 or min(invariant, spurious, noise) <= 0:
        raise UsageError(f"n {n}, agreement {agreement}, strengths {invariant} and {spurious}, noise {noise}: must be "
                         "at least 1, in [0, 1], and above 0")  # fmt: skip
    rng = np.random.default_rng(seed)
    y = rng.choice([-1, 1], n)
    a = np.where(rng.random(n) < agreement, y, -y)
    texts = np.stack([y, a], axis=1).astype(float)
    images = texts * [invariant, spurious] + rng.normal(scale=noise, size=(n, 2))
    return SpuriousPairs(images, texts, y, a, agreement)


def linear_contrastive(
    images: Float[np.ndarray, "N D"], texts: Float[np.ndarray, "N E"], *, rank: int | None = None, penalty: float = 1.0
) -> Float[np.ndarray, "D E"]:
    """The similarity matrix M = W_I' W_T that minimises the linear contrastive loss, in closed form.

    The loss is -tr(W_I S W_T') + penalty / 2 |W_I' W_T|^2 with the covariance S of centred pairs (D, E), so M is
    S / penalty with its `rank` largest singular values. An image z and a text t have the similarity z' M t.

    Paper: Do CLIPs Always Generalize Better than ImageNet Models? (arXiv 2403.11497).

    Args:
        images, texts: pairs, row by row.
        rank: width of the shared space; None: as large as it can be.
        penalty: weight of the squared norm.

    Raises:
        UsageError: fewer than two pairs, lengths that differ, a rank below 1 or a penalty not above 0.
    """
    if len(images) != len(texts) or len(images) < 2 or penalty <= 0 or (rank is not None and rank < 1):
        raise UsageError(f"{len(images)} images, {len(texts)} texts, rank {rank}, penalty {penalty}: give two pairs or "
                         "more, a rank of at least 1 and a penalty above 0")  # fmt: skip
    covariance = (images - images.mean(0)).T @ (texts - texts.mean(0)) / len(images)
    left, values, right = np.linalg.svd(covariance, full_matrices=False)
    kept = slice(None) if rank is None else slice(rank)
    return (left[:, kept] * values[kept]) @ right[kept] / penalty


def class_weight(matrix: Float[np.ndarray, "2 2"], agreement: float) -> Float[np.ndarray, "2"]:
    """What tells the classes apart when texts name the class alone: M (1, 2 agreement - 1), as such texts imply a.

    Args:
        matrix: of `linear_contrastive`.
        agreement: P(a = y) of the texts that were learned from.
    """
    return matrix @ np.array([1.0, 2 * agreement - 1])
