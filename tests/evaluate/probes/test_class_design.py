"""Probes of p010 (arXiv 2108.02818), counted by hand and against SciPy."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chi2_contingency

from binderclip.errors import UsageError
from binderclip.evaluate import (
    ClassDesignProbe,
    IdentityProbe,
    LabelAssociationProbe,
    NearMissStressTest,
    PredictionTable,
)


def random_table(classes: str, n: int = 60, seed: int = 0) -> PredictionTable:
    rng = np.random.default_rng(seed)
    ages = tuple(rng.choice(["young", "old"], n).tolist())
    target = rng.integers(0, len(classes), n)
    scores = rng.normal(size=(n, len(classes))) * 2
    return PredictionTable(tuple(map(str, range(n))), target, scores, tuple(classes), {"age": ages})


def test_rates_before_and_after_an_added_class_are_counted_by_hand() -> None:
    table = random_table("abxyzc")
    probe = ClassDesignProbe(classes="ab", harmful={"animals": "xy", "crime": "z"}, added="c")
    found = {(row.group, row.harm): row for row in probe.measure(table, "age")}
    assert list(found) == [((g,), h) if g else ((), h) for g in ("old", "young", "") for h in ("animals", "crime")]
    age = np.array(table.attributes["age"])
    for (group, harm), row in found.items():
        mine = np.ones(60, bool) if not group else age == group[0]
        columns = [2, 3] if harm == "animals" else [4]
        before = np.isin(table.scores[mine][:, :5].argmax(1), columns).sum()
        after = np.isin(table.scores[mine].argmax(1), columns).sum()
        assert (row.n, row.before, row.after) == (mine.sum(), before / mine.sum(), after / mine.sum())
        assert row.gone == before - after
        assert row.change == row.after - row.before
        peer = binomtest(int(before), int(mine.sum())).proportion_ci(0.95, method="wilson")
        assert (row.before_low, row.before_high) == pytest.approx((peer.low, peer.high))


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_an_added_class_never_raises_a_rate(seed: int) -> None:
    table = random_table("abxyc", seed=seed)
    rows = ClassDesignProbe(classes="ab", harmful={"h": "xy"}, added="c").measure(table, "age")
    assert all(row.change <= 0 and row.gone >= 0 for row in rows)
    none = ClassDesignProbe(classes="ab", harmful={"h": "xy"}).measure(table)
    assert [(row.group, row.change, row.gone) for row in none] == [((), 0, 0)]


def test_associations_are_scipys_chi_square_and_change_with_the_threshold() -> None:
    table = random_table("abcd", n=200)
    found = LabelAssociationProbe(thresholds=(0.05, 0.5)).measure(table, "age")
    age, probs = np.array(table.attributes["age"]), table.probabilities()
    assert [row.threshold for row in found] == [0.05] * 4 + [0.5] * 4
    for row in found:
        has = probs[:, "abcd".index(row.label)] >= row.threshold
        counts = [[int((has & (age == g)).sum()), int((~has & (age == g)).sum())] for g in ("old", "young")]
        assert [row.first, row.n_first - row.first] == counts[0]
        assert row.chi_square == pytest.approx(chi2_contingency(counts, correction=True).statistic)
        assert row.difference == pytest.approx(counts[0][0] / sum(counts[0]) - counts[1][0] / sum(counts[1]))
    assert all(one.chi_square >= other.chi_square for one, other in pairwise(found[:4]))


def test_labels_of_nobody_or_everybody_have_no_chi_square_and_say_so() -> None:
    found = LabelAssociationProbe(thresholds=(0.0, 1.0)).measure(random_table("abc"), "age")
    assert {(row.threshold, row.reason) for row in found} == {
        (0.0, "everybody has the label"), (1.0, "nobody has the label"),
    }  # fmt: skip
    assert all(math.isnan(row.chi_square) and row.difference == 0 for row in found)
    alone = LabelAssociationProbe(thresholds=(1.0,)).measure(random_table("a"), "age")
    assert alone[0].first == alone[0].n_first, "a single label has probability 1"


def test_near_misses_by_hand() -> None:
    # Right; fooled by the close one; wrong by another; a tie with the close one is no right answer.
    found = NearMissStressTest().measure([3.0, 3, 3, 3], [[1, 2], [1, 2], [4, 0], [0, 0]], [0.0, 5, 3, 3])
    assert (found.n, found.without, found.with_close, found.close) == (4, 0.75, 0.25, 0.5)
    assert found.errors_close == pytest.approx(2 / 3)
    peer = binomtest(2, 4).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((peer.low, peer.high))
    none = NearMissStressTest().measure([1.0], [[0.0]], [0.0])
    assert (none.with_close, none.close) == (1, 0)
    assert math.isnan(none.errors_close)


def test_identities_are_told_apart_less_well_among_more_names() -> None:
    rng = np.random.default_rng(0)
    target = np.repeat(np.arange(6), 20)
    scores = rng.normal(size=(120, 6)) + np.eye(6)[target]
    table = PredictionTable(tuple(map(str, range(120))), target, scores, tuple("abcdef"))
    found = IdentityProbe(sizes=(2, 6), repeats=200).measure(table)
    assert [(row.names, row.chance) for row in found] == [(2, 0.5), (6, 1 / 6)]
    assert found[1].accuracy == pytest.approx(table.correct.mean())
    pairs = [(scores[target == a][:, a] > scores[target == a][:, b]).mean() / 2
             + (scores[target == b][:, b] > scores[target == b][:, a]).mean() / 2
             for a, b in combinations(range(6), 2)]  # fmt: skip
    assert found[0].accuracy == pytest.approx(np.mean(pairs), abs=0.02), "over all fifteen pairs"
    peer = binomtest(int(table.correct.sum()), 120).proportion_ci(0.95, method="wilson")
    assert (found[1].low, found[1].high) == pytest.approx((peer.low, peer.high))
    assert found[0].high - found[0].low > 0.1, "200 subsets are no 200 times as many pictures"


def test_mistakes_are_named() -> None:
    table = random_table("abx")
    with pytest.raises(UsageError, match="needs classes and at least one set"):
        ClassDesignProbe(classes="ab", harmful={})
    with pytest.raises(UsageError, match="a class stands twice: a"):
        ClassDesignProbe(classes="ab", harmful={"h": "a"})
    with pytest.raises(UsageError, match="no class 'q'"):
        ClassDesignProbe(classes="ab", harmful={"h": "q"}).measure(table)
    with pytest.raises(UsageError, match="thresholds must lie in"):
        LabelAssociationProbe(thresholds=(4.0,))
    with pytest.raises(UsageError, match="label has 3 values"):
        LabelAssociationProbe().measure(table, "label")
    with pytest.raises(UsageError, match=r"got \(2,\), \(1, 1\) and \(2,\)"):
        NearMissStressTest().measure([1, 2], [[0]], [0, 0])
    with pytest.raises(UsageError, match="a score is NaN"):
        NearMissStressTest().measure([math.nan], [[0]], [0])
    with pytest.raises(UsageError, match="sizes of at least 2"):
        IdentityProbe(sizes=(1,))
    with pytest.raises(UsageError, match="3 names, fewer than 100"):
        IdentityProbe().measure(table)
