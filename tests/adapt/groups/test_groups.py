"""Group thresholds, reweighing and removed directions of p127 (arXiv 2408.02464)."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from binderclip.adapt import GroupThresholds, LinearProbe, remove_direction
from binderclip.data import balanced_rows, reweigh
from binderclip.errors import UsageError
from binderclip.evaluate.fairness import (
    attribute_leakage,
    demographic_parity_difference,
    equal_opportunity_difference,
)


def unequal(n: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of two groups with base rates of 0.6 and 0.25."""
    rng = np.random.default_rng(seed)
    group = rng.choice(["a", "b"], n)
    y = (rng.uniform(size=n) < np.where(group == "a", 0.6, 0.25)).astype(int)
    return rng.normal(size=n) + 1.2 * y, y, group


@pytest.mark.parametrize(("constraint", "gap", "other"), [
    ("demographic_parity", demographic_parity_difference, equal_opportunity_difference),
    ("true_positive_rate_parity", equal_opportunity_difference, demographic_parity_difference),
])  # fmt: skip
def test_the_chosen_gap_closes_on_other_items_and_the_conflicting_one_does_not(constraint, gap, other) -> None:  # type: ignore[no-untyped-def]
    fitted = GroupThresholds(constraint=constraint)
    scores, y, group = unequal()
    fitted.fit(scores, y, sensitive_features=group)
    said = fitted.predict(scores, sensitive_features=group)
    assert gap(y, said, sensitive_features=group) < 0.005
    new, truth, owner = unequal(seed=1)
    said = fitted.predict(new, sensitive_features=owner)
    assert gap(truth, said, sensitive_features=owner) < 0.06
    assert other(truth, said, sensitive_features=owner) > 0.1, "unequal base rates: not both"


def test_no_pair_of_thresholds_with_the_same_rate_has_fewer_errors() -> None:
    rng = np.random.default_rng(3)
    scores, y, group = rng.normal(size=16).round(1), rng.integers(0, 2, 16), np.repeat(["a", "b"], 8)
    fitted = GroupThresholds().fit(scores, y, sensitive_features=group)
    wrong = int((fitted.predict(scores, sensitive_features=group) != y).sum())
    best = 16
    cuts = [-np.inf, *(np.unique(scores) + 0.05)]
    for one, other in product(cuts, cuts):
        said = scores > np.where(group == "a", one, other)
        if said[:8].sum() == said[8:].sum():
            best = min(best, int((said != y).sum()))
    assert wrong <= best, "brute force over both thresholds with exactly equal rates"


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("ab")), min_size=1, max_size=40))
def test_weights_make_classes_and_groups_independent(rows: list[tuple[str, str]]) -> None:
    y, group = (np.array(column) for column in zip(*rows, strict=True))
    weights = reweigh(y, group)
    assert (weights > 0).all()
    cells = {(c, g) for c in set(y) for g in set(group)}
    if cells <= set(rows):
        assert weights.sum() == pytest.approx(len(rows))
        for c, g in cells:
            share = weights[(group == g) & (y == c)].sum() / weights[group == g].sum()
            assert share == pytest.approx((y == c).mean())


def test_balanced_rows_draw_every_combination_equally_often() -> None:
    y, group = np.repeat(["cat", "dog"], [50, 10]), np.array((["in"] * 45 + ["out"] * 5) + ["in"] * 10)
    rows = balanced_rows(y, group, 31, seed=2)
    cells = [tuple(pair) for pair in zip(y[rows], group[rows], strict=True)]
    assert sorted(cells.count(cell) for cell in set(cells)) == [10, 10, 11]
    assert len(set(rows[[cell == ("cat", "in") for cell in cells]].tolist())) == 11, "no repeat before all were drawn"
    rare = np.bincount(rows, minlength=60)[45:50]
    assert (rare.min(), rare.max()) == (2, 2)
    assert rows.tolist() != sorted(rows.tolist())
    assert np.array_equal(rows, balanced_rows(y, group, 31, seed=2))
    with pytest.raises(UsageError, match="n at least 1"):
        balanced_rows(y, group, 0)
    with pytest.raises(UsageError, match="60, 59"):
        balanced_rows(y, group[:-1], 5)


def test_reweighing_lifts_the_group_that_the_spurious_feature_is_against() -> None:
    rng = np.random.default_rng(0)

    def drawn(n: int, agree: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        y = rng.integers(0, 2, n)
        place = np.where(rng.uniform(size=n) < agree, y, 1 - y)
        x = np.stack([y * 2 - 1, place * 2 - 1, np.zeros(n)], axis=1) * [0.7, 0.7, 1] + rng.normal(size=(n, 3)) * 0.7
        return x, y, place

    x, y, place = drawn(4000, 0.95)
    x_test, y_test, place_test = drawn(4000, 0.5)
    worst = {}
    for name, weight in (("plain", None), ("reweighed", reweigh(y, place))):
        right = LinearProbe(C=100.0).fit(x, y, sample_weight=weight).predict(x_test) == y_test
        worst[name] = min(right[place_test == y_test].mean(), right[place_test != y_test].mean())
    assert worst["reweighed"] > worst["plain"] + 0.15


def test_nothing_is_left_along_removed_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    features, directions = torch.randn(300, 12, generator=generator), torch.randn(2, 12, generator=generator)
    group = np.repeat(["p", "q"], 150)
    features[:150] += 3 * directions[0] / directions[0].norm()
    cleaned = remove_direction(features, torch.cat([directions, directions[:1] * 5]))
    assert float((cleaned.double() @ directions.double().T).abs().max()) < 1e-5
    torch.testing.assert_close(cleaned.norm(dim=1), torch.ones(300))
    torch.testing.assert_close(remove_direction(cleaned, directions), cleaned)
    assert attribute_leakage(features, group) > 0.35
    assert attribute_leakage(cleaned, group) < 0.12
    one = remove_direction(features, directions[0])
    unit = features / features.norm(dim=1, keepdim=True)
    axis = directions[0] / directions[0].norm()
    by_hand = unit - (unit @ axis)[:, None] * axis
    torch.testing.assert_close(one, by_hand / by_hand.norm(dim=1, keepdim=True))


def test_mistakes_are_named() -> None:
    scores, y, group = unequal(20)
    with pytest.raises(UsageError, match="constraint is 'parity'"):
        GroupThresholds(constraint="parity")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="grid_size must be at least 2, got 1"):
        GroupThresholds(grid_size=1)
    with pytest.raises(UsageError, match="not fitted"):
        GroupThresholds().predict(scores, sensitive_features=group)
    with pytest.raises(UsageError, match="y must be 0 or 1"):
        GroupThresholds().fit(scores, y + 1, sensitive_features=group)
    with pytest.raises(UsageError, match="group 'b' has no positive"):
        GroupThresholds(constraint="true_positive_rate_parity").fit(
            scores, np.where(group == "b", 0, 1), sensitive_features=group
        )
    with pytest.raises(UsageError, match="scores must be finite"):
        GroupThresholds().fit(scores * np.nan, y, sensitive_features=group)
    with pytest.raises(UsageError, match="group 'c' was not fitted"):
        GroupThresholds().fit(scores, y, sensitive_features=group).predict([0.0], sensitive_features=["c"])
    with pytest.raises(UsageError, match="N > 0"):
        reweigh([], [])
    with pytest.raises(UsageError, match=r"takes \(N, D\) and \(K, D\)"):
        remove_direction(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(UsageError, match="not finite"):
        remove_direction(torch.ones(2, 3), torch.full((3,), torch.nan))
    with pytest.raises(UsageError, match="zero, or span the whole space"):
        remove_direction(torch.ones(2, 3), torch.zeros(3))
    with pytest.raises(UsageError, match="span the whole space"):
        remove_direction(torch.ones(2, 3), torch.eye(3))
