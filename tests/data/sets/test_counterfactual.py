"""Common and counter groups of p175 (arXiv 2403.11497): by hand, and what choosing on noise does."""

from __future__ import annotations

import numpy as np
import pytest

from binderclip.data import CounterfactualGroups
from binderclip.errors import UsageError
from binderclip.evaluate import PredictionTable, group_drop

PLACES = ("snow", "grass", "sand", "rock", "road")


def test_the_ends_are_chosen_by_hand() -> None:
    labels = ["bear"] * 9 + ["gull"] * 4 + ["crab"] * 2
    grounds = ["snow"] * 3 + ["grass"] * 3 + ["sand"] * 2 + [None] + ["sand"] * 2 + ["rock"] * 2 + ["sand"] * 2
    correct = [1, 1, 0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 1, 1, 1]
    made = CounterfactualGroups(least=3).fit(labels, grounds, correct)
    assert made.chosen_ == {"bear": ("snow", "grass")}, "two pictures on sand do not count"
    assert made.drops_["bear"] == pytest.approx(1 / 3)
    assert made.left_out_ == {"gull": "0 of its grounds have 3 pictures", "crab": "0 of its grounds have 3 pictures"}
    made = CounterfactualGroups(least=2).fit(labels, grounds, correct)
    assert made.chosen_ == {"bear": ("snow", "sand")}
    assert made.left_out_["gull"] == "its accuracies differ by 0.000 at most"
    assert made.left_out_["crab"] == "1 of its grounds have 2 pictures"
    told = made.groups(["bear", "bear", "bear", "bear", "gull", "fox"], ["snow", "sand", "grass", None, "sand", "snow"])
    assert told == ("common", "counter", None, None, None, None)
    assert CounterfactualGroups(least=3, least_drop=0.5).fit(labels, grounds, correct).chosen_ == {}


def accuracies(seed: int, rates: np.ndarray) -> PredictionTable:
    """Thirty pictures of each of eight classes on each of five grounds; a model is right with a probability of both."""
    rng = np.random.default_rng(seed)
    target, place = (v.ravel().repeat(30) for v in np.meshgrid(np.arange(8), np.arange(5), indexing="ij"))
    right = rng.random(len(target)) < rates[target, place]
    scores = np.eye(8)[np.where(right, target, (target + 1) % 8)]
    grounds = tuple(PLACES[i] for i in place)
    return PredictionTable(tuple(map(str, range(len(target)))), target, scores, tuple("abcdefgh"), {"ground": grounds})


def drops(rates: np.ndarray) -> tuple[float, float]:
    """On the pictures that were chosen on, and on others."""
    table, fresh = accuracies(0, rates), accuracies(1, rates)
    made = CounterfactualGroups(least_drop=0.0).fit(table.column("label"), table.column("ground"), table.correct)
    found = []
    for one in (table, fresh):
        told = made.groups(one.column("label"), one.column("ground"))
        marked = PredictionTable(one.keys, one.target, one.scores, one.classes, {"group": told})
        found.append(group_drop(marked, "group", "common", "counter").drop)
    assert found[0] == pytest.approx(np.mean(list(made.drops_.values())))
    return found[0], found[1]


def test_a_drop_where_grounds_mean_nothing_is_gone_on_other_pictures() -> None:
    chosen, fresh = drops(np.full((8, 5), 0.6))
    assert chosen > 0.15
    assert abs(fresh) < 0.1
    rates = np.tile([0.9, 0.7, 0.6, 0.5, 0.3], (8, 1))
    chosen, fresh = drops(rates)
    assert fresh == pytest.approx(0.6, abs=0.1)
    assert chosen >= fresh - 0.05


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="least_drop 1 must lie"):
        CounterfactualGroups(least_drop=1)
    with pytest.raises(UsageError, match="2 labels, 1 grounds"):
        CounterfactualGroups().fit(["a", "b"], ["x"], [1, 0])
    with pytest.raises(UsageError, match="0 or 1"):
        CounterfactualGroups().fit(["a"], ["x"], [0.5])
    with pytest.raises(UsageError, match="not fitted"):
        CounterfactualGroups().groups(["a"], ["x"])
    with pytest.raises(UsageError, match="1 labels and 2 grounds"):
        CounterfactualGroups().fit(["a"], ["x"], [1]).groups(["a"], ["x", "y"])
