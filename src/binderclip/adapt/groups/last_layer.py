"""The last layer fitted anew on a set in which groups count alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Int

from binderclip.adapt.few_shot.linear_probe import LinearProbe
from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_present
from binderclip.settings import check_choice

Balance: TypeAlias = Literal["weights", "subsets"]


@dataclass(kw_only=True, eq=False, repr=False)
class LastLayerRetraining(LinearProbe):
    """Fit the last layer of a frozen tower anew, by logistic regression, on pictures in which groups count alike.

    Without groups the pictures are taken as they are: they themselves have to be representative, as the curated sets of
    p158 are. With groups every combination of class and group that occurs counts as much as any other. Fit and measure
    on different pictures.

    Papers: Does Progress On Object Recognition Benchmarks Improve Real-World Generalization? (arXiv 2307.13136), which
    retrains on a representative set; subsets after Kirichenko, Izmailov and Wilson, Last Layer Re-Training is
    Sufficient for Robustness to Spurious Correlations (arXiv 2204.02937), without its L1 penalty.

    Args:
        C, max_iter, Cs: as in `LinearProbe`; with a validation split the strength is chosen there.
        balance: with groups, "weights" (every picture takes part, rarer combinations weigh more; they sum to N) or
            "subsets" (as many of each combination as the rarest one has, drawn several times, weights averaged).
        subsets: how often, for "subsets".
        seed: of the draws.

    Raises:
        UsageError: as `LinearProbe`; an unknown balance, no subset, groups of another length, or a group or label
            that is None or NaN.

    Examples:
        >>> x, y = [[1.0, 0.2], [1.0, -0.2], [0.2, 1.0], [-0.2, 1.0]], ["cat", "cat", "dog", "dog"]
        >>> head = LastLayerRetraining().fit(x, y, sensitive_features=["in", "out", "in", "out"])
        >>> head.predict([[0.9, 0.1]]).tolist()
        ['cat']
    """

    balance: Balance = "weights"
    subsets: int = 10
    seed: int = 0
    _cells: Int[np.ndarray, "N"] | None = field(init=False)

    def fit(  # type: ignore[override]
        self,
        X: Any,
        y: Any,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight: Any = None,
        *,
        sensitive_features: Any = None,
    ) -> LastLayerRetraining:
        """Learn from features and labels.

        Args:
            X, y, X_val, y_val, sample_weight: as in `LinearProbe`; own weights and groups exclude each other.
            sensitive_features: (N,) group of each picture, of any kind; None: the pictures as they are.

        Raises:
            UsageError: as the class, or own weights beside groups.
        """
        check_choice("balance", self.balance, ("weights", "subsets"))
        check_number("subsets", self.subsets, least=1)
        self._cells = None
        if sensitive_features is not None:
            if sample_weight is not None:
                raise UsageError("sample_weight and sensitive_features exclude each other: groups set the weights")
            self._cells = _combinations(y, sensitive_features)
            if self.balance == "weights":
                counts = np.bincount(self._cells)
                sample_weight = len(self._cells) / (len(counts) * counts[self._cells])
        try:
            return self._learn(X, y, X_val, y_val, sample_weight)
        finally:
            del self._cells

    def _solve(self, strength: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self._cells is None or self.balance == "weights":
            return super()._solve(strength)
        whole = self._data
        solutions = []
        views = len(whole[0]) // len(self._cells)  # of each picture, one after the other
        for rows in self._drawn(np.repeat(self._cells, views)):
            self._data = whole[0][rows], whole[1][rows], None
            solutions.append(super()._solve(strength))
        self._data = whole
        weight, bias, iterations = (np.stack(parts) for parts in zip(*solutions, strict=True))
        return weight.mean(axis=0), bias.mean(axis=0), iterations.max(axis=0)

    def _drawn(self, cells: Int[np.ndarray, "N"]) -> Iterator[Int[np.ndarray, "n"]]:
        """Rows of each subset: of every cell as many as the rarest one has."""
        rng, least = np.random.default_rng(self.seed), int(np.bincount(cells).min())
        for _ in range(self.subsets):
            order = rng.permutation(len(cells))
            order = order[np.argsort(cells[order], kind="stable")]  # by cell, at random within
            counts = np.bincount(cells)
            starts = np.cumsum(counts) - counts
            yield np.sort(np.concatenate([order[start : start + least] for start in starts]))


def _combinations(y: Any, groups: Any) -> Int[np.ndarray, "N"]:
    """The number of each picture's combination of class and group."""
    check_present("a label", y)
    check_present("a group", groups)
    classes, owners = list(np.asarray(y).tolist()), list(np.asarray(groups).tolist())
    if len(classes) != len(owners) or np.ndim(groups) != 1:
        raise UsageError(f"sensitive_features must be (N,), one a label: {len(owners)} for {len(classes)} labels")
    place = {pair: number for number, pair in enumerate(dict.fromkeys(zip(classes, owners, strict=True)))}
    return np.array([place[pair] for pair in zip(classes, owners, strict=True)], dtype=np.int64)
