"""Progress of p158 (arXiv 2307.13136) and drops of p175 (arXiv 2403.11497), against SciPy and planted lines."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import linregress, t

from binderclip.errors import UsageError
from binderclip.evaluate import (
    GroupDrop,
    PredictionTable,
    effective_robustness,
    group_disparity,
    group_drop,
    limited_options,
    progress_gap,
    progress_rate,
)

RNG = np.random.default_rng(0)
REFERENCE = np.linspace(0.4, 0.8, 12)


def test_rates_are_scipys_regression() -> None:
    benchmark = 0.1 + 0.5 * REFERENCE + RNG.normal(size=12) * 0.02
    for scale, move in (("linear", lambda v: v), ("logit", logit)):
        found = progress_rate(REFERENCE, benchmark, scale=scale)  # type: ignore[arg-type]
        peer = linregress(move(REFERENCE), move(benchmark))
        assert (found.slope, found.intercept) == pytest.approx((peer.slope, peer.intercept))
        half = t.ppf(0.975, 10) * peer.stderr
        assert (found.low, found.high) == pytest.approx((peer.slope - half, peer.slope + half))
        assert found.residuals.sum() == pytest.approx(0, abs=1e-12)
    assert progress_rate(REFERENCE, REFERENCE).slope == pytest.approx(1)
    assert np.isnan(progress_rate([0.1, 0.2], [0.1, 0.3]).low)


def test_the_gap_recovers_planted_slopes_and_families_widen_it() -> None:
    noise = RNG.normal(size=(2, 12)) * 0.01
    standard, real = 0.05 + 0.9 * REFERENCE + noise[0], 0.3 + 0.45 * REFERENCE + noise[1]
    found = progress_gap(REFERENCE, standard, real)
    assert found.low < 2 < found.high
    assert found.low > 1
    slopes = [linregress(REFERENCE, y).slope for y in (standard, real)]
    assert found.ratio == pytest.approx(slopes[0] / slopes[1])
    same = progress_gap(REFERENCE, standard, standard)
    assert (same.ratio, same.low, same.high) == pytest.approx((1, 1, 1))
    # Every family is one model four times over: as little is known as from three models.
    three = np.tile([0, 4, 11], 4)
    alone = progress_gap(REFERENCE[three], standard[three], real[three])
    together = progress_gap(REFERENCE[three], standard[three], real[three], families=three)
    assert together.high - together.low > alone.high - alone.low


def test_disparity_is_largest_minus_smallest_and_0_for_copies() -> None:
    table = np.array([[0.5, 0.7, 0.6], [0.4, np.nan, 0.4], [np.nan, np.nan, 0.4]])
    np.testing.assert_allclose(group_disparity(table), [0.2, 0.0, np.nan])
    np.testing.assert_allclose(group_disparity(table[:, ::-1]), group_disparity(table))


def test_robustness_is_what_the_line_of_the_others_does_not_predict() -> None:
    easy = expit(np.array([-1.0, 0.0, 1.0, 0.5]))
    hard = expit(0.5 * logit(easy) - 1 + np.array([0, 0, 0, 0.7]))
    found = effective_robustness(easy, hard, [True, True, True, False])
    np.testing.assert_allclose(found, [0, 0, 0, 0.7], atol=1e-12)
    assert easy[3] - hard[3] > easy[0] - hard[0], "its raw drop is the larger one all the same"
    assert effective_robustness(easy, hard).sum() == pytest.approx(0, abs=1e-12)


def backgrounds() -> PredictionTable:
    """Class a: 3 of 4 and 1 of 2; class b: 1 of 1 and 0 of 3; c has common examples alone."""
    rows = [("a", "snow", 1)] * 3 + [("a", "snow", 0)] + [("a", "grass", 1), ("a", "grass", 0)]
    rows += [("b", "snow", 1)] + [("b", "grass", 0)] * 3 + [("c", "snow", 1)] + [("c", None, 0)]
    target = np.array(["abc".index(row[0]) for row in rows])
    said = np.where([row[2] for row in rows], target, (target + 1) % 3)
    keys = tuple(map(str, range(len(rows))))
    return PredictionTable(keys, target, np.eye(3)[said], tuple("abc"), {"ground": tuple(row[1] for row in rows)})


def test_drops_are_averaged_over_classes_and_not_over_pictures() -> None:
    found = group_drop(backgrounds(), "ground", "snow", "grass")
    assert isinstance(found, GroupDrop)
    assert found.by_class == {"a": (0.75, 0.5), "b": (1.0, 0.0)}
    assert (found.common, found.counter, found.drop) == pytest.approx((0.875, 0.25, 0.625))
    assert found.left_out == ["c"]
    assert found.low <= found.drop <= found.high
    back = group_drop(backgrounds(), "ground", "grass", "snow")
    assert back.drop == pytest.approx(-found.drop)
    # Only class a varies: the drop over resamples has the deviation of two binomial shares, halved.
    many = backgrounds().take(np.repeat(np.arange(6), 1))
    assert group_drop(many, "ground", "snow", "grass").left_out == []


def test_the_interval_of_a_drop_is_the_binomial_one() -> None:
    rng = np.random.default_rng(1)
    right, n = rng.uniform(size=400) < 0.7, 400
    target = np.zeros(n, dtype=int)
    place = tuple(["x"] * 200 + ["y"] * 200)
    table = PredictionTable(
        tuple(map(str, range(n))), target, np.eye(2)[np.where(right, 0, 1)], ("k", "l"), {"p": place}
    )
    found = group_drop(table, "p", "x", "y")
    one, other = right[:200].mean(), right[200:].mean()
    half = 1.96 * np.sqrt(one * (1 - one) / 200 + other * (1 - other) / 200)
    assert (found.low, found.high) == pytest.approx((found.drop - half, found.drop + half), abs=0.01)


def test_few_options_are_the_right_one_and_those_the_reference_favours() -> None:
    rng = np.random.default_rng(2)
    target = np.repeat(np.arange(6), 10)
    tables = [
        PredictionTable(tuple(map(str, range(60))), target, rng.normal(size=(60, 6)) * 2, tuple("abcdef"))
        for _ in range(2)
    ]
    found = limited_options(*tables, options=3)
    probs = tables[1].probabilities()
    for label in range(6):
        mean = probs[target == label].mean(0)
        wrong = sorted(set(range(6)) - {label}, key=lambda c: -mean[c])[:2]
        options = sorted([label, *wrong])
        mine = tables[0].scores[target == label][:, options]
        assert (found.predicted[target == label] == np.array(options)[mine.argmax(1)]).all()
    assert found.correct.mean() > tables[0].correct.mean()
    np.testing.assert_array_equal(limited_options(*tables, options=6).scores, tables[0].scores)
    with pytest.raises(UsageError, match="options is 1; it is 2 to 6"):
        limited_options(*tables, options=1)
    with pytest.raises(UsageError, match="no picture of 'a'"):
        limited_options(tables[0], tables[1].take(target > 0), options=3)


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="two models or more that differ in x"):
        progress_rate([0.5, 0.5], [0.1, 0.2])
    with pytest.raises(UsageError, match=r"in \(0, 1\)"):
        effective_robustness([0.0, 0.5], [0.1, 0.2])
    with pytest.raises(UsageError, match="scale must be one of linear, logit, got 'log'"):
        progress_rate([0.1, 0.5], [0.1, 0.2], scale="log")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="families must have one value a model, 12; got 2"):
        progress_gap(REFERENCE, REFERENCE, REFERENCE, families=[0, 1])
    with pytest.raises(UsageError, match="two groups or more"):
        group_disparity(np.ones((3, 1)))
    with pytest.raises(UsageError, match="no row has ground = 'sand'"):
        group_drop(backgrounds(), "ground", "snow", "sand")
    with pytest.raises(UsageError, match="no class has pictures of both"):
        group_drop(backgrounds().take([0, 7]), "ground", "snow", "grass")


def answered(right: int, n: int, other_right: int, other_n: int) -> PredictionTable:
    """One class: so many of so many right on snow, and on grass."""
    hit = [True] * right + [False] * (n - right) + [True] * other_right + [False] * (other_n - other_right)
    scores = np.eye(2)[np.where(hit, 0, 1)]
    place = ("snow",) * n + ("grass",) * other_n
    return PredictionTable(tuple(map(str, range(len(hit)))), np.zeros(len(hit), int), scores, ("k", "l"), {"p": place})


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998), Table II, method 10
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((6, 7, 2, 7), 0.0582, 0.8062),
        ((5, 56, 0, 29), -0.0381, 0.1926),
        ((10, 10, 0, 10), 0.6075, 1.0),
    ],
)
def test_the_interval_of_one_class_is_newcombes(counts: tuple[int, int, int, int], low: float, high: float) -> None:
    found = group_drop(answered(*counts), "p", "snow", "grass")
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_two_pictures_on_each_side_have_an_interval_with_a_width() -> None:
    found = group_drop(answered(2, 2, 0, 2), "p", "snow", "grass")
    assert found.drop == 1.0
    assert found.low < 0.2
    assert found.high == 1.0


def test_no_progress_and_one_family_are_told() -> None:
    with pytest.raises(UsageError, match="geographic does not rise with reference"):
        progress_gap(REFERENCE, REFERENCE, np.full(12, 0.5))
    one = progress_gap(REFERENCE, REFERENCE * 0.9, REFERENCE**2, families=["a"] * 12)
    two = progress_gap(REFERENCE[:2], REFERENCE[:2] * 0.9, REFERENCE[:2] ** 2)
    assert np.isfinite([one.ratio, two.ratio]).all()
    assert np.isnan([one.low, one.high, two.low, two.high]).all(), "resamples are all alike"


def test_robustness_in_accuracy_is_the_papers_and_in_log_odds_the_scales() -> None:
    easy = expit(np.array([-1.0, 0.0, 1.0, 0.5]))
    hard = expit(0.5 * logit(easy) - 1 + np.array([0, 0, 0, 0.7]))
    chosen = [True, True, True, False]
    found = effective_robustness(easy, hard, chosen, unit="accuracy")
    np.testing.assert_allclose(found, [0, 0, 0, hard[3] - expit(0.5 * 0.5 - 1)], atol=1e-12)
    linear = effective_robustness(easy, hard, chosen, scale="linear")
    np.testing.assert_allclose(effective_robustness(easy, hard, chosen, scale="linear", unit="accuracy"), linear)
    with pytest.raises(UsageError, match="unit must be one of scale, accuracy, got 'odds'"):
        effective_robustness(easy, hard, unit="odds")  # type: ignore[arg-type]
