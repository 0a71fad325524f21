"""Numbers of embeddings: gap, alignment, uniformity, conformity, separability, effective rank."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.similarity.arrays import Rows, as_features
from binderclip.similarity.embeddings import EmbeddingSet, two_sets

__all__ = [
    "alignment",
    "conformity",
    "conformity_estimate",
    "effective_rank",
    "linear_separability",
    "modality_gap",
    "threshold_separability",
    "uniformity",
]

BLOCK = 2048
"""Rows of a matrix of all pairs that are held at once."""


def modality_gap(a: EmbeddingSet | Rows, b: EmbeddingSet | Rows) -> float:
    """Distance between the means of the unit vectors of two modalities.

    Args:
        a, b: the modalities, or their features (n, d), raw or of length one.

    Paper: Closing the Modality Gap for Mixed Modality Search (arXiv 2507.19054).
    """
    a, b = two_sets(a, b)
    return float((a.unit_mean - b.unit_mean).norm())


def alignment(a: Rows, b: Rows) -> float:
    """Mean squared distance of the unit vectors of pairs: 2 - 2 times their mean cosine."""
    a, b = as_features("a", a), as_features("b", b)
    if a.shape != b.shape:
        raise UsageError(
            f"alignment needs pairs, one row of b for each of a; got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    return float((F.normalize(a.double(), dim=1) - F.normalize(b.double(), dim=1)).square().sum(1).mean())


def uniformity(x: Rows, t: float = 2.0) -> float:
    """Logarithm of the mean of exp(-t ||u_i - u_j||^2) over all pairs of unit vectors; lower is more even.

    Raises:
        UsageError: fewer than two vectors.
    """
    x = as_features("x", x)
    count = len(x)
    if count < 2:
        raise UsageError("uniformity needs two vectors")
    unit = F.normalize(x.double(), dim=1)
    total = 0.0
    for rows in unit.split(BLOCK):
        # ||u - v||^2 = 2 - 2 <u, v>
        total += float((-t * (2 - 2 * rows @ unit.T)).exp().sum())
    return float(np.log((total - count) / (count * (count - 1))))


def conformity(x: Float[Tensor, "n d"], reference: Float[Tensor, "m d"] | None = None) -> Float[Tensor, "n"]:
    """Mean cosine of each vector with all others, in O(n d): (n <u_i, mean u> - 1) / (n - 1).

    Args:
        x: raw or unit vectors.
        reference: the others; None for x itself without the vector.

    Raises:
        UsageError: a single vector without a reference, or a vector of zeros.

    Paper: The Double-Ellipsoid Geometry of CLIP (arXiv 2411.14517).
    """
    for vectors, name in ((x, "x"), (reference, "reference")):
        if vectors is not None and (zero := (vectors == 0).all(dim=1)).any():
            raise UsageError(f"row {int(zero.nonzero()[0])} of {name} is zero: it has no cosine with anything")
    unit = F.normalize(x.double(), dim=1)
    if reference is not None:
        return unit @ F.normalize(reference.double(), dim=1).mean(0)
    count = len(unit)
    if count < 2:
        raise UsageError("the conformity of a single vector needs a reference")
    return (count * (unit @ unit.mean(0)) - 1) / (count - 1)


def conformity_estimate(x: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
    """The paper's estimate of `conformity`: a line through the cosine with the mean of the raw vectors.

    Paper: The Double-Ellipsoid Geometry of CLIP (arXiv 2411.14517).
    """
    raw = x.double()
    cosine = F.cosine_similarity(raw, raw.mean(0, keepdim=True), dim=1)
    design = torch.stack([cosine, torch.ones_like(cosine)], 1)
    return design @ torch.linalg.lstsq(design, conformity(raw)[:, None]).solution[:, 0]


def effective_rank(x: Rows) -> float:
    """exp of the entropy of the shares of the covariance's eigenvalues: d for a round cloud, 1 for a line."""
    x = as_features("x", x)
    values = torch.linalg.eigvalsh(torch.cov(x.double().T)).clamp(min=0)
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float((-(shares * shares.log()).sum()).exp())


def threshold_separability(a: EmbeddingSet | Rows, b: EmbeddingSet | Rows) -> tuple[float, int]:
    """Accuracy of the best threshold on a single dimension between two modalities, and that dimension.

    Both sets weigh the same, so that 0.5 is chance.
    """
    a, b = two_sets(a, b)
    values = torch.cat([a.features, b.features])
    weight = torch.cat([torch.full((len(a),), 0.5 / len(a)), torch.full((len(b),), -0.5 / len(b))]).double()
    ordered, order = values.sort(dim=0)
    # Weight of a minus that of b at or below each place; only where the next value is larger can a threshold lie.
    below = weight[order].cumsum(0)
    between = ordered[1:] > ordered[:-1]
    best = torch.where(between, below[:-1].abs(), 0.0).amax(0)
    dimension = int(best.argmax())
    return 0.5 + float(best[dimension]), dimension


def linear_separability(a: EmbeddingSet | Rows, b: EmbeddingSet | Rows, *, folds: int = 5, seed: int = 0) -> float:
    """Balanced accuracy of a logistic regression on raw vectors that tells the modalities apart, cross-validated."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    a, b = two_sets(a, b)
    if min(len(a), len(b)) < folds:
        raise UsageError(f"{folds} folds need as many vectors of each modality, not {len(a)} and {len(b)}")
    x = torch.cat([a.features, b.features]).numpy()
    y = np.r_[np.zeros(len(a)), np.ones(len(b))]
    cut = StratifiedKFold(folds, shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, class_weight="balanced"))
    return float(cross_val_score(model, x, y, cv=cut, scoring="balanced_accuracy").mean())
