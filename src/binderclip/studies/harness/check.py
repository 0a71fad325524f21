"""A condition after the measurement, and the rule that turns an interval into an outcome."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from binderclip.studies.harness.power import Estimate

Verdict = Literal[
    "reproduced", "in part", "no effect of X or more", "opposite here", "not testable here", "undecided",
    "failed", "no verdict (quick run)",
]  # fmt: skip
VERDICTS: tuple[Verdict, ...] = (
    "reproduced", "in part", "no effect of X or more", "opposite here", "not testable here", "undecided",
)  # fmt: skip
"""Of a whole study, from the best to tell a user to the least."""
Outcome = Literal["seen", "open", "excluded", "opposite", "missing", "error"]
Role = Literal["criterion", "precondition", "rival"]
NO_INTERVAL = "no interval"


@dataclass(frozen=True)
class Check:
    """A criterion after the measurement.

    Attributes:
        text: the condition in words.
        essential: whether the claim stands on it.
        outcome: `seen`, `open`, `excluded` (so large an effect is not there), `opposite`, `missing` (a precondition) or
            `error` (NaN).
        measured: in words.
        how: the interval, such as `paired t over seeds`; `exact: ...`; or `no interval`.
        effect, low, high: in favour of the condition, with its 95 % interval; None where there is none.
        n: seeds or items.
        why: what leaves it open, else empty.
        role: of a `criterion`, a `precondition` or the `rival`.
        shown: the effect with its unit and interval, for a reader; empty where there is none.
        limit: what is excluded, such as `effect of 0.02 or more`; empty for another outcome.
    """

    text: str
    essential: bool
    outcome: Outcome
    measured: str
    how: str = NO_INTERVAL
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    why: str = ""
    role: Role = "criterion"
    shown: str = ""
    limit: str = ""

    @property
    def seen(self) -> bool:
        """Whether it is seen by an interval, or exactly."""
        return self.outcome == "seen" and self.how != NO_INTERVAL

    @property
    def against(self) -> bool:
        """Whether it speaks against the claim."""
        return self.outcome in ("excluded", "opposite")

    @property
    def word(self) -> str:
        """The outcome; of the rival, whether the method has `beaten`, `tied` or `lost` to it."""
        if self.role != "rival" or self.outcome == "error":
            return self.outcome
        return {"seen": "beaten", "opposite": "lost", "excluded": "lost"}.get(self.outcome, "tied")


def outcome_of(
    found: Estimate, margin: float, claimed: float, expected: float, none: float | None = 0.0
) -> tuple[Outcome, str, float | None]:
    """The rule: an interval against the margin, no effect, the claimed effect, and the one the design was made for.

    Args:
        found: the effect in favour of the condition.
        margin: the interval has to lie above it.
        claimed: an interval wholly below it excludes the claim; at least the margin.
        expected: the effect that the power was counted for; at least the claimed one.
        none: no effect, on the same scale; None where a value is held against a bound and nothing says what none is.

    Returns:
        The outcome, what leaves it open, and the effect that is excluded.
    """
    if any(math.isnan(value) for value in (found.effect, found.low, found.high)) or math.isinf(found.effect):
        return "error", "", None
    if found.low > margin:
        return "seen", "", None
    if none is not None and found.high < min(none, margin):
        return "opposite", "", None
    if found.high < claimed:
        return "excluded", "", claimed
    # A margin below no effect says `no worse than`: to be no better, as an interval may show, does not speak against
    # it. An interval above no effect with the claimed one inside shows an effect and leaves its size open.
    if none is not None and found.low <= none <= margin:
        if found.high < expected:
            return "excluded", "", expected
        return "open", "the interval contains both the effect looked for and none", None
    return "open", "the interval lies on both sides of the margin", None
