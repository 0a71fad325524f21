"""Common and counter examples: for each class the two grounds between which a reference model differs most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from binderclip.errors import UsageError


@dataclass(kw_only=True)
class CounterfactualGroups:
    """Choose for each class the ground where a reference model is most often right, and where it is least often.

    Pictures on the first are common examples, on the second counter examples; classes whose accuracies differ too
    little are left out. Chosen on some pictures, the drop on those overstates that on others: measure on others
    (`evaluate.group_drop`).

    Paper: Do CLIPs Always Generalize Better than ImageNet Models? (arXiv 2403.11497).

    Args:
        least_drop: a class is kept where its accuracies differ by more; the paper takes about five points.
        least: pictures that a ground needs to take part.

    Attributes:
        chosen_: class -> (common ground, counter ground).
        drops_: class -> accuracy on the first minus that on the second, on the pictures that were chosen on.
        left_out_: class -> why it has no groups.

    Raises:
        UsageError: a least drop outside [0, 1), or fewer than one picture.
    """

    least_drop: float = 0.05
    least: int = 20
    chosen_: dict[Any, tuple[Any, Any]] = field(init=False, repr=False)
    drops_: dict[Any, float] = field(init=False, repr=False)
    left_out_: dict[Any, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.least_drop < 1 or self.least < 1:
            raise UsageError(f"least_drop {self.least_drop} must lie in [0, 1) and least {self.least} be at least 1")

    def fit(self, labels: Sequence[Any], grounds: Sequence[Any], correct: Any) -> CounterfactualGroups:
        """Choose the grounds; of equal accuracies the ground that comes first in the data.

        Args:
            labels: (N,) class of each picture.
            grounds: (N,) its background, None where it is unknown.
            correct: (N,) whether the reference model is right.

        Raises:
            UsageError: lengths differ, or values of `correct` that are not 0 or 1.
        """
        names, places, right = list(labels), list(grounds), np.asarray(correct, dtype=float)
        if not names or right.shape != (len(names),) or len(places) != len(names):
            raise UsageError(f"one value a picture: {len(names)} labels, {len(places)} grounds, {right.shape} answers")
        if not np.isin(right, (0, 1)).all():
            raise UsageError("correct must be 0 or 1")
        answers: dict[Any, dict[Any, list[float]]] = {}
        for name, place, value in zip(names, places, right.tolist(), strict=True):
            own = answers.setdefault(name, {})
            if place is not None:
                own.setdefault(place, []).append(value)
        self.chosen_, self.drops_, self.left_out_ = {}, {}, {}
        for name, own in answers.items():
            rates = {
                place: float(np.mean(rows_of_group))
                for place, rows_of_group in own.items()
                if len(rows_of_group) >= self.least
            }
            if len(rates) < 2:
                self.left_out_[name] = f"{len(rates)} of its grounds have {self.least} pictures"
                continue
            common, counter = max(rates, key=lambda place: rates[place]), min(rates, key=lambda place: rates[place])
            drop = rates[common] - rates[counter]
            if drop > self.least_drop:
                self.chosen_[name], self.drops_[name] = (common, counter), drop
            else:
                self.left_out_[name] = f"its accuracies differ by {drop:.3f} at most"
        return self

    def groups(self, labels: Sequence[Any], grounds: Sequence[Any]) -> tuple[str | None, ...]:
        """`common`, `counter` or None for each of any pictures: an attribute for `evaluate.group_drop`.

        Args:
            labels, grounds: as in `fit`.

        Raises:
            UsageError: not fitted, or lengths differ.
        """
        if not hasattr(self, "chosen_"):
            raise UsageError("CounterfactualGroups is not fitted: call fit first")
        if len(labels) != len(grounds):
            raise UsageError(f"one value a picture: {len(labels)} labels and {len(grounds)} grounds")
        none = (None, None)
        ends = [(place, *self.chosen_.get(name, none)) for name, place in zip(labels, grounds, strict=True)]
        return tuple(
            None if place is None else "common" if place == first else "counter" if place == second else None
            for place, first, second in ends
        )
