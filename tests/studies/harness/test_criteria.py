"""Criteria: an interval against its margin, the claimed effect and none; too little or no interval decides nothing."""

from __future__ import annotations

import numpy as np
import pytest

from binderclip.errors import UsageError
from binderclip.studies import Criterion, Pilot, Precondition, Row, Table, combined, value_of
from binderclip.studies.harness.check import NO_INTERVAL


def table(ours: list[float], theirs: list[float]) -> Table:
    pairs = enumerate(zip(ours, theirs, strict=True))
    return Table(
        Row("m", name, value, seed=seed) for seed, pair in pairs for name, value in zip("ab", pair, strict=True)
    )


A, B = value_of("m", "a"), value_of("m", "b")


def test_a_paired_criterion_sees_a_difference_that_the_spread_of_seeds_would_hide() -> None:
    level = np.arange(8.0)
    check = Criterion.paired("a above b", A, B).check(table([*(level + 0.1 + 0.01 * (level % 2))], [*level]))
    assert check.outcome == "seen"
    assert check.effect == pytest.approx(0.105)
    assert (check.n, check.how) == (8, "paired t over seeds")
    assert "n = 8" in check.measured
    assert (
        Criterion.paired("a below b", A, B, lower=True).check(table([*(level + 0.1)], [*level])).outcome == "opposite"
    )


def test_too_few_seeds_never_show_but_may_speak_against() -> None:
    few = table([1.0, 1.1, 1.2], [0.0, 0.1, 0.2])
    check = Criterion.paired("a above b", A, B, essential=True).check(few)
    assert (check.outcome, check.why) == ("open", "3 seeds, at least 8 are needed")
    assert check.low is not None
    assert check.low > 0
    assert Criterion.paired("b above a", B, A).check(few).outcome == "opposite"
    one = Criterion.paired("a above b", A, B).check(table([1.0], [0.0]))
    assert (one.outcome, one.low, one.high) == ("open", None, None)


def test_items_are_paired_by_their_place_over_all_seeds() -> None:
    noise = np.random.default_rng(0).normal(0, 1, 200)
    rows = [
        Row("m", name, 0.0, seed=seed, items=tuple(noise[100 * seed : 100 * seed + 100] + (0.05 if name == "a" else 0)))
        for seed in (0, 1)
        for name in "ab"
    ]
    check = Criterion.paired("a above b", A, B, over="items", items=200).check(Table(rows))
    assert (check.outcome, check.n) == ("seen", 200)
    assert check.effect == pytest.approx(0.05)
    assert Criterion.paired("a above b", A, B, over="items").check(Table(rows[:2])).why.startswith("100 items")
    with pytest.raises(UsageError, match="keep no values of items"):
        Criterion.paired("a above b", A, B, over="items").check(table([1.0], [0.0]))


def test_bounds_ranks_and_exact_conditions() -> None:
    eight = table([0.5 + 0.01 * k for k in range(8)], [0.0] * 8)
    assert Criterion.at_least("a", A, 0.49).check(eight).outcome == "seen"
    # A value on the wrong side of a bound that is not 0: nothing says what no effect is, the bound is excluded.
    assert Criterion.below("a", A, 0.49).check(eight).limit == "m of 0.49 or less"
    levels = Table(
        Row("m", "a", value, f"level {place}", seed) for seed in range(8) for place, value in enumerate((1.0, 3.0, 2.0))
    )
    parts = [value_of("m", "a", f"level {place}") for place in range(3)]
    # Spearman's correlation of (1, 3, 2) with (1, 2, 3): 1 - 6 * 2 / (3 * 8) = .5
    assert Criterion.rank("rises", parts).check(levels).effect == pytest.approx(0.5)
    assert Criterion.rank("rises", parts, 0.6).check(levels).outcome == "excluded"
    exact = Criterion.exact("no violation", lambda t: (True, "0"), why="a theorem").check(levels)
    assert (exact.outcome, exact.how, exact.seen) == ("seen", "exact: a theorem", True)


def test_quantities_are_combined_seed_by_seed() -> None:
    both = table([1.0, 4.0], [2.0, 3.0])
    assert combined("most", A, B).values(both).tolist() == [2.0, 4.0]
    assert combined("least", A, B).values(both).tolist() == [1.0, 3.0]
    assert combined("range", A, B).values(both).tolist() == [1.0, 1.0]
    assert (A - B).values(both).tolist() == [-1.0, 1.0]
    assert (A / 2).values(both).tolist() == [0.5, 2.0]
    assert A.log_over(B).values(both) == pytest.approx(np.log([0.5, 4 / 3]))
    with pytest.raises(UsageError, match="combined"):
        combined("sum", A)
    with pytest.raises(UsageError, match="measured no 'm' of 'c'"):
        value_of("m", "c").values(both)


@pytest.mark.parametrize(("met", "outcome"), [(True, "seen"), (False, "open")])
def test_a_condition_without_an_interval_shows_and_excludes_nothing(met: bool, outcome: str) -> None:
    check = Criterion("a", lambda t: (met, "x"), essential=True).check(Table([]))
    assert (check.outcome, check.how, check.seen, check.against) == (outcome, NO_INTERVAL, False, False)


def test_an_exact_condition_that_fails_is_on_the_other_side() -> None:
    assert Criterion.exact("a", lambda t: (False, "1"), why="a theorem").check(Table([])).outcome == "opposite"


def test_a_precondition_is_held_to_its_bound() -> None:
    both = table([1.0, 2.0], [0.0, 0.0])
    assert Precondition("a", A, 1.4).check(both).outcome == "seen"
    assert Precondition("a", A, 1.4, lower=True).check(both).outcome == "missing"
    assert Precondition("a", A, 1.4).check(both).role == "precondition"


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:divide by zero:RuntimeWarning")
@pytest.mark.parametrize("value", [-1.0, 0.0])
def test_what_is_no_number_is_an_error_and_never_an_outcome(value: float) -> None:
    """The logarithm of a negative mean is NaN, that of 0 is infinite: neither is open, excluded or seen."""
    broken = table([value] * 8, [1.0] * 8)
    for criterion in (Criterion.at_least("a", A.log_over(B), 0.0), Criterion.below("a", A.log_over(B), 0.0)):
        check = criterion.check(broken)
        assert (check.outcome, check.effect, check.low, check.shown) == ("error", None, None, "")
    assert Precondition("a", A.log_over(B), 0.0).check(broken).outcome == "error"


def powered(**options: object) -> Criterion:
    settings = {"claimed": 0.05, "pilot": Pilot(0.03, (0, 1, 2)), "essential": True} | options
    return Criterion.paired("a above b", A, B, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made", "seeds", "words"),
    [
        (powered(), range(10, 17), "paired over 7 seeds; at least 8"),
        (powered(over="items", items=199), range(10, 18), "paired over 199 items; at least 200"),
        (powered(pilot=None), range(10, 18), "give the spread that a pilot"),
        (powered(), range(2, 10), "the pilot has used seed 2"),
        (powered(pilot=Pilot(0.05, (0, 1))), range(10, 18), "8 seeds detect 0.0578 beyond the margin"),
        (powered(margin=0.03), range(10, 18), "the effect to be found lies 0.02 beyond it"),
        (Criterion("a", lambda t: (True, ""), essential=True), range(10, 18), "is essential and has no interval"),
    ],
)
def test_a_design_that_cannot_decide_is_refused(made: Criterion, seeds: range, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        made.require_power("p001", seeds)


def test_a_sound_design_says_what_it_detects() -> None:
    powered().require_power("p001", range(10, 18))
    powered(margin=-0.05, claimed=None).require_power("p001", range(10, 18))
    assert "8 seeds detect 0.035 beyond the margin of 0" in powered().power_text(8)


def test_contradictory_effects_are_refused() -> None:
    with pytest.raises(UsageError, match="does not hold"):
        Criterion.paired("a", A, B, margin=0.05, claimed=0.01)
    with pytest.raises(UsageError, match="at least three parts"):
        Criterion.rank("a", [A, B])
