"""The rule for one interval, by a table worked out by hand, and how the rival is told."""

from __future__ import annotations

import math

import pytest

from binderclip.studies import Estimate
from binderclip.studies.harness.check import Check, outcome_of


@pytest.mark.parametrize(
    ("low", "high", "margin", "claimed", "expected", "outcome", "excluded"),
    [
        # better than nothing, looked for at .03
        (0.01, 0.05, 0.0, 0.0, 0.03, "seen", None),
        (0.001, 0.015, 0.0, 0.0, 0.03, "seen", None),  # smaller than looked for, and there
        (-0.01, 0.05, 0.0, 0.0, 0.03, "open", None),
        (-0.01, 0.02, 0.0, 0.0, 0.03, "excluded", 0.03),
        (0.0, 0.02, 0.0, 0.0, 0.03, "excluded", 0.03),  # touches no effect
        (-0.05, 0.0, 0.0, 0.0, 0.03, "excluded", 0.03),
        (-0.05, -0.01, 0.0, 0.0, 0.03, "opposite", None),
        # the same with a claimed .02
        (-0.01, 0.015, 0.0, 0.02, 0.03, "excluded", 0.02),
        (-0.01, 0.025, 0.0, 0.02, 0.03, "excluded", 0.03),
        (-0.01, 0.035, 0.0, 0.02, 0.03, "open", None),
        # by more than .05
        (0.06, 0.09, 0.05, 0.05, 0.1, "seen", None),
        (0.01, 0.04, 0.05, 0.05, 0.1, "excluded", 0.05),  # an effect, surely smaller than claimed
        (0.01, 0.09, 0.05, 0.05, 0.1, "open", None),  # an effect, perhaps as large as claimed
        (-0.01, 0.09, 0.05, 0.05, 0.1, "excluded", 0.1),
        (-0.03, -0.01, 0.05, 0.05, 0.1, "opposite", None),
        # no worse than by .01
        (-0.009, 0.03, -0.01, -0.01, 0.0, "seen", None),
        (-0.009, -0.001, -0.01, -0.01, 0.0, "seen", None),
        (-0.03, 0.01, -0.01, -0.01, 0.0, "open", None),
        (-0.03, -0.005, -0.01, -0.01, 0.0, "open", None),  # worse, perhaps by no more than may be
        (-0.03, -0.02, -0.01, -0.01, 0.0, "opposite", None),
        # too little to say anything
        (-math.inf, math.inf, 0.0, 0.0, 0.03, "open", None),
    ],
)
def test_the_rule(
    low: float, high: float, margin: float, claimed: float, expected: float, outcome: str, excluded: float | None
) -> None:
    effect = 0.0 if math.isinf(low) else (low + high) / 2
    found, why, limit = outcome_of(Estimate(effect, low, high, 20, "made up"), margin, claimed, expected)
    assert (found, limit) == (outcome, excluded)
    assert bool(why) == (outcome == "open")


@pytest.mark.parametrize(
    ("low", "high", "none", "outcome"),
    [
        # A ratio at most .7, as the distance .7 - ratio: no effect is a ratio of 1, at -.3.
        (0.1, 0.2, -0.3, "seen"),
        (-0.1, 0.1, -0.3, "open"),  # .6 to .8
        (-0.2, -0.1, -0.3, "excluded"),  # .8 to .9: a fall, too small
        (-0.5, -0.4, -0.3, "opposite"),  # 1.1 to 1.2: a rise
        # At most 5 % above, as the logarithm of 1.05 minus that of the ratio: no effect is at .049.
        (0.01, 0.03, 0.049, "seen"),
        (-0.1, 0.02, 0.049, "open"),
        (-0.1, -0.02, 0.049, "opposite"),  # 7 to 16 % above
        # A value of at least .8, and nothing says what none is.
        (-0.3, -0.2, None, "excluded"),
        (-0.3, 0.1, None, "open"),
    ],
)
def test_no_effect_need_not_be_where_the_bound_is(low: float, high: float, none: float | None, outcome: str) -> None:
    assert outcome_of(Estimate((low + high) / 2, low, high, 20, ""), 0.0, 0.0, 0.3, none)[0] == outcome


@pytest.mark.parametrize("values", [(math.nan,) * 3, (0.0, math.nan, 1.0), (-math.inf,) * 3])
def test_what_is_no_number_is_an_error(values: tuple[float, float, float]) -> None:
    assert outcome_of(Estimate(*values, 8, ""), 0.0, 0.0, 0.1)[0] == "error"


@pytest.mark.parametrize(("outcome", "word"), [("seen", "beaten"), ("open", "tied"), ("opposite", "lost")])
def test_a_rival_is_beaten_tied_or_lost_to(outcome: str, word: str) -> None:
    assert Check("x", False, outcome, "", role="rival").word == word  # type: ignore[arg-type]
    assert Check("x", False, outcome, "").word == outcome  # type: ignore[arg-type]
