"""What embeddings say of an attribute: association tests (WEAT, iEAT), and how well a linear probe reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError

Vectors = Float[np.ndarray, "_ D"] | Float[Tensor, "_ D"]


@dataclass(frozen=True)
class AssociationTest:
    """What `association_test` found.

    Attributes:
        effect: difference of the mean associations of both target sets, in their standard deviation: between -2 and 2.
        p: one-sided, share of the permutations (and the data) that are at least as associated.
    """

    effect: float
    p: float


def association_test(
    x: Vectors, y: Vectors, a: Vectors, b: Vectors, *, permutations: int = 10_000, seed: int = 0
) -> AssociationTest:
    """Are the targets `x` nearer to the attributes `a`, and `y` to `b`? The embedding association test.

    s(w) = mean cosine of w with `a` minus that with `b`; effect = (mean of s over x - over y) / standard deviation over
    both (n - 1). p is over random splits of both target sets into sets of the same sizes.

    Papers: Caliskan et al., Semantics derived automatically from language corpora contain human-like biases (Science
    2017, arXiv 1608.07187), for words; Steed and Caliskan (FAccT 2021, arXiv 2010.15052), for pictures.

    Args:
        x, y: embeddings of two target sets, such as pictures of two groups; two or more each.
        a, b: of two attribute sets, such as sentences; one or more each.
        permutations: random splits.
        seed: of the splits.

    Raises:
        UsageError: widths differ, a set is too small, or all targets are associated alike.
    """
    sets = [_unit(one) for one in (x, y, a, b)]
    if len({one.shape[1] for one in sets}) != 1 or min(len(sets[0]), len(sets[1])) < 2:
        raise UsageError(
            f"association_test takes sets of one width, two targets or more; got {[s.shape for s in sets]}"
        )
    first, second, one, other = sets
    targets = np.concatenate([first, second])
    s = (targets @ one.T).mean(axis=1) - (targets @ other.T).mean(axis=1)
    spread = s.std(ddof=1)
    if spread < 1e-12:
        raise UsageError("all targets are associated alike: there is no effect to measure")
    count = len(first)

    def apart(values: Float[np.ndarray, "*D N"]) -> Float[np.ndarray, "*D"]:
        return np.asarray(values[..., :count].mean(axis=-1) - values[..., count:].mean(axis=-1))

    shuffled = np.random.default_rng(seed).permuted(np.tile(s, (permutations, 1)), axis=1)
    p = (1 + int((apart(shuffled) >= apart(s) - 1e-12).sum())) / (1 + permutations)
    return AssociationTest(float(apart(s) / spread), p)


def attribute_leakage(features: Vectors, attribute: Any, *, folds: int = 5, seed: int = 0) -> float:
    """Cross-validated accuracy of logistic regression on unit features, minus the share of the commonest value.

    Above 0: the attribute can be read from the features; near 0: not by a linear probe.

    Args:
        features: (N, D).
        attribute: (N,) values of any kind.
        folds: parts, stratified by value.
        seed: of the parts.

    Raises:
        UsageError: lengths differ, fewer than two values, or a value with fewer items than folds.
    """
    x, values = _unit(features), np.asarray(attribute)
    names, counts = np.unique(values, return_counts=True)
    if len(x) != len(values) or len(names) < 2 or counts.min() < folds:
        raise UsageError(
            f"attribute_leakage takes one value for each of {len(x)} features, two or more with {folds} items each; "
            f"got {dict(zip(names.tolist(), counts.tolist(), strict=True))}"
        )
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    predicted = cross_val_predict(LogisticRegression(max_iter=1000), x, values, cv=parts)
    return float((predicted == values).mean() - counts.max() / len(values))


def _unit(vectors: Vectors) -> Float[np.ndarray, "_ D"]:
    held = vectors.detach().cpu().numpy() if isinstance(vectors, Tensor) else np.asarray(vectors)
    held = held.astype(np.float64)
    if held.ndim != 2 or not len(held):
        raise UsageError(f"embeddings must be (N, D), N > 0; got {held.shape}")
    length = np.linalg.norm(held, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(length) & (length > 0)))
    if len(bad):
        raise UsageError(f"embedding {bad[0]} is zero or not finite, as are {len(bad) - 1} more: leave them out")
    return held / length
