"""How an effect is said: unit, factor for a logarithm, value beside its bound; the numbers are worked out by hand."""

from __future__ import annotations

import math

import pytest

from binderclip.studies import Criterion, Estimate, Row, Table, combined, value_of
from binderclip.studies.harness.scale import Scale, is_logarithmic, plain, scale_of

A, B = value_of("accuracy", "a"), value_of("accuracy", "b")


def both(a: float, b: float) -> Table:
    """Eight seeds without any spread."""
    return Table(Row("accuracy", name, value, seed=seed) for seed in range(8) for name, value in (("a", a), ("b", b)))


@pytest.mark.parametrize(
    ("criterion", "a", "b", "shown"),
    [
        (Criterion.paired("a", A, B), 0.75, 0.5, "+0.25 (+0.25 to +0.25) accuracy, n = 8 seeds"),
        (Criterion.paired("a", A, B, lower=True), 0.25, 0.5, "+0.25 (+0.25 to +0.25) accuracy, n = 8 seeds"),
        (
            Criterion.paired("a", A, B, margin=0.125),
            0.75,
            0.5,
            "+0.25 (+0.25 to +0.25) accuracy, margin +0.125, n = 8 seeds",
        ),
        # a value against its bound is said as it is
        (
            Criterion.at_least("a", A, 0.5),
            0.75,
            0.5,
            "0.75 (0.75 to 0.75) accuracy, has to be above 0.5, n = 8 seeds",
        ),
        (
            Criterion.below("a", A, 0.5),
            0.75,
            0.5,
            "0.75 (0.75 to 0.75) accuracy, has to be below 0.5, n = 8 seeds",
        ),
        # the logarithm of 4 against that of 2: four times as much, asked for twice
        (
            Criterion.at_least("twice (logarithm of the ratio)", A.log_over(B), math.log(2)),
            1.0,
            0.25,
            "×4 (×4 to ×4) accuracy, margin ×2, n = 8 seeds",
        ),
        # of a loss that has to fall the factor counts in favour: from 1 to .5 is ×2
        (
            Criterion.below("lower (logarithm of the ratio)", A.log_over(B), 0.0),
            0.5,
            1.0,
            "×2 (×2 to ×2) accuracy, n = 8 seeds",
        ),
        (
            Criterion.at_least("a difference above .125", A - B, 0.125),
            0.75,
            0.5,
            "+0.25 (+0.25 to +0.25) accuracy, margin +0.125, n = 8 seeds",
        ),
        (
            Criterion.below("three quarters", A / B, 0.75),
            0.25,
            0.5,
            "0.5 (0.5 to 0.5) accuracy, has to be below 0.75, n = 8 seeds",
        ),
    ],
)
def test_an_effect_is_said_in_its_own_unit(criterion: Criterion, a: float, b: float, shown: str) -> None:
    assert criterion.check(both(a, b)).shown == shown


def test_what_is_excluded_is_said_on_the_same_scale() -> None:
    assert Scale().limit(0.02) == "effect of 0.02 or more"
    assert Scale("accuracy", bound=0.8).limit(0.0) == "accuracy of 0.8 or more"
    assert Scale("error", bound=0.2, lower=True).limit(0.05) == "error of 0.15 or less"
    assert Scale(factor=True).limit(math.log(4)) == "effect of ×4 or more"
    assert scale_of(A.log_over(B), value_of("x", "c"), lower=False, factor=True).limit(0.0) == "effect of ×1 or more"


def test_a_value_that_has_to_be_low_has_its_interval_in_order() -> None:
    # .5 minus (.4 with .3 to .45): .1 with .05 to .2
    said = Scale("error", None, 0.5, lower=True).said(Estimate(0.1, 0.05, 0.2, 9, ""), "seeds", 0.0)
    assert said == "0.4 (0.3 to 0.45) error, has to be below 0.5, n = 9 seeds"


def test_no_effect_is_found_where_the_quantities_say_what_it_is() -> None:
    bound = value_of("x", "b")
    assert scale_of(A, bound, lower=False, factor=False).none == 0
    for signed in (A - B, combined("rank", A, B, A), combined("least", A - B, B - A), combined("mean", A.log_over(B))):
        assert scale_of(signed, quantity(0.25), lower=False, factor=False).none == -0.25
        assert scale_of(signed, quantity(0.25), lower=True, factor=False).none == 0.25
    assert scale_of(A / B, quantity(0.75), lower=True, factor=False).none == -0.25
    assert scale_of(combined("least", A, A - B), quantity(0.25), lower=False, factor=False).none is None
    assert scale_of(A, quantity(0.0), lower=False, factor=False).none == 0


def quantity(value: float):
    return Criterion.at_least("x", A, value).b


@pytest.mark.parametrize(
    ("text", "logarithmic", "said"),
    [
        ("lower (logarithm of the ratio)", True, "lower"),
        ("lower (SGD; logarithm of the ratio)", True, "lower (SGD)"),
        ("20 times as fast (logarithm)", True, "20 times as fast"),
        ("adjusted by the logarithm of the frequency", False, "adjusted by the logarithm of the frequency"),
        ("within a factor of 1.25 (|logarithm|)", False, "within a factor of 1.25 (|logarithm|)"),
    ],
)
def test_a_logarithm_is_one_where_the_condition_says_so(text: str, logarithmic: bool, said: str) -> None:
    assert (is_logarithmic(text), plain(text)) == (logarithmic, said)


def test_a_difference_that_cancels_is_said_as_zero_whatever_the_last_bit_is() -> None:
    """0.1 + 0.2 - 0.3 is 5.6e-17, and another order of the same sum 0."""
    assert Scale().number(0.1 + 0.2 - 0.3) == Scale().number(0.0) == "+0"
    assert Scale().number(1e-14) == "+1e-14"
