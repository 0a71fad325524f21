"""How two models agree: Cohen's kappa as scikit-learn has it, and the order of what they call otherwise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from binderclip.tasks.verbs.classify.agreement import ModelAgreement

Answers = dict[str, list[tuple[str, float]]]


def answers(labels: list[str], probabilities: list[float] | None = None) -> Answers:
    probabilities = probabilities or [0.5] * len(labels)
    pairs = zip(labels, probabilities, strict=True)
    return {f"{row}.jpg": [(label, p), ("other", 1 - p)] for row, (label, p) in enumerate(pairs)}


@pytest.mark.parametrize("seed", range(4))
def test_kappa_is_that_of_another_library(seed: int) -> None:
    draw = np.random.default_rng(seed)
    first = draw.choice(["cat", "dog", "cup"], size=40, p=[0.6, 0.3, 0.1]).tolist()
    second = [label if draw.random() < 0.7 else "dog" for label in first]
    agreement = ModelAgreement.of(("a", answers(first)), ("b", answers(second)))
    assert agreement.kappa == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    agreed = sum(one == other for one, other in zip(first, second, strict=True))
    assert agreement.as_dict()["agreed"] == agreed == 40 - len(agreement.differing)
    assert f"agree on {agreed} of 40 pictures; Cohen's kappa {agreement.kappa:.2f}" in agreement.conclusion()[0]


def test_where_one_label_is_all_there_is_kappa_is_undefined_and_not_said() -> None:
    agreement = ModelAgreement.of(("a", answers(["cat"] * 3)), ("b", answers(["cat"] * 3)))
    assert math.isnan(agreement.kappa)
    assert agreement.as_dict()["kappa"] is None
    assert "kappa" not in agreement.conclusion()[0]
    assert ModelAgreement.of(("a", {}), ("b", {})).kappa != 0


def test_those_come_first_of_which_both_are_sure_and_what_one_could_not_read_is_left_out() -> None:
    first = answers(["cat", "cat", "dog", "cat"], [0.9, 0.6, 0.8, 0.7])
    second = answers(["dog", "dog", "dog", "cup"], [0.5, 0.99, 0.9, 0.65])
    del second["3.jpg"]
    agreement = ModelAgreement.of(("a", first), ("b", second))
    assert [row[0] for row in agreement.differing] == ["1.jpg", "0.jpg"]
    title, columns, rows = agreement.table()
    assert title == "2 pictures on which a and b disagree"
    assert columns[1::2] == ("a", "b")
    assert rows[0] == ("1.jpg", "cat", 0.6, "dog", 0.99)
    assert len(agreement.as_dict()["images"]) == 3
