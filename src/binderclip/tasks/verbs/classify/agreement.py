"""Where two models that classify the same pictures call them otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from binderclip.display import number_of


@dataclass(frozen=True)
class ModelAgreement:
    """The likeliest labels of two models, picture by picture.

    Attributes:
        first, second: names of the models.
        rows: (image, label and probability of the first, label and probability of the second).
    """

    first: str
    second: str
    rows: list[tuple[str, str, float, str, float]]

    @classmethod
    def of(
        cls, first: tuple[str, Mapping[str, Sequence[tuple[str, float]]]],
        second: tuple[str, Mapping[str, Sequence[tuple[str, float]]]],
    ) -> ModelAgreement:  # fmt: skip
        """Compare two answers.

        Args:
            first, second: a model's name, and image -> [(label, probability), ...] with the likeliest first. What only
                one of them could read is left out.
        """
        (name, answers), (other_name, other_answers) = first, second
        rows = [
            (image, *best[0], *other_answers[image][0]) for image, best in answers.items() if image in other_answers
        ]
        return cls(name, other_name, rows)

    @property
    def differing(self) -> list[tuple[str, str, float, str, float]]:
        """The rows of different labels, those first in which both models are sure: by the smaller probability."""
        rows = [row for row in self.rows if row[1] != row[3]]
        return sorted(rows, key=lambda row: -min(row[2], row[4]))

    @property
    def kappa(self) -> float:
        """Cohen's kappa: 1 where they agree on all, 0 for what their shares of labels give by chance; NaN if undefined.

        It is (p_o - p_e) / (1 - p_e), p_o the share of equal labels and p_e the sum over labels of the product of both
        models' shares (Cohen 1960, Educational and Psychological Measurement 20); undefined where p_e is 1.
        """
        count = len(self.rows)
        labels = {label for row in self.rows for label in (row[1], row[3])}
        chance = sum(
            sum(row[1] == label for row in self.rows) * sum(row[3] == label for row in self.rows) for label in labels
        )
        if count == 0 or chance == count**2:
            return float("nan")
        expected = chance / count**2
        return (1 - len(self.differing) / count - expected) / (1 - expected)

    def conclusion(self) -> list[str]:
        """How often they agree."""
        agreed = len(self.rows) - len(self.differing)
        # NaN is not equal to itself.
        kappa = f"; Cohen's kappa {self.kappa:.2f}" if self.kappa == self.kappa else ""
        return [
            f"{self.first} and {self.second} agree on {agreed} of {number_of(len(self.rows), 'picture')}{kappa}; "
            "where they do not, a look says which of them is right"
        ]

    def table(self) -> tuple[str, tuple[str, ...], list[tuple[Any, ...]]]:
        """Title, columns and rows of the pictures on which they differ."""
        columns = ("image", self.first, "prob", self.second, "prob")
        count = number_of(len(self.differing), "picture")
        return f"{count} on which {self.first} and {self.second} disagree", columns, list(self.differing)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        images = [
            {"image": image, "label": label, "prob": probability, "differs": label != own}
            for image, own, _, label, probability in self.rows
        ]
        agreed = len(self.rows) - len(self.differing)
        kappa = self.kappa if self.kappa == self.kappa else None
        return {"model": self.second, "agreed": agreed, "kappa": kappa, "images": images}
