"""How an effect is said to a reader: with its unit, as a factor where it is a logarithm, beside its bound."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from binderclip.studies.harness.power import Estimate
from binderclip.studies.harness.quantities import Quantity, rows_of

_SIGNED = {"difference", "log ratio", "rank"}
"""Quantities that are 0 where there is no effect."""
_LOGARITHM = re.compile(r" ?\((?:(.+); )?logarithm(?: of the ratio)?\)")
"""The remark of a condition that its effect is a logarithm, alone or after another one."""


ROUNDING = 1e-15
"""Means of differences that cancel end up below this, at random: they are said as 0."""


@dataclass(frozen=True)
class Scale:
    """The scale of an effect in favour of a condition.

    Attributes:
        unit: what is measured.
        none: no effect; None where a value is held against a bound and nothing says what none is.
        bound: of a value that is held against one; its effect is the distance to it.
        lower: the value has to lie below the bound.
        factor: effects are logarithms, said as factors.
    """

    unit: str = ""
    none: float | None = 0.0
    bound: float | None = None
    lower: bool = False
    factor: bool = False

    def number(self, effect: float) -> str:
        """An effect, counted from none; of a value that is held against a bound, the value."""
        if self.bound is not None:
            value = self.bound - effect if self.lower else self.bound + effect
            return f"{math.exp(value) if self.factor else value:.3g}"
        value = effect - (self.none or 0.0)
        return f"×{math.exp(value):.3g}" if self.factor else f"{0.0 if abs(value) < ROUNDING else value:+.3g}"

    def said(self, found: Estimate, over: str, margin: float) -> str:
        """An effect with its interval, unit and number of seeds or items."""
        ends = (found.high, found.low) if self.bound is not None and self.lower else (found.low, found.high)
        interval = "no interval" if math.isinf(found.low) else " to ".join(map(self.number, ends))
        text = f"{self.number(found.effect)} ({interval}){' ' if self.unit else ''}{self.unit}"
        if self.bound is not None:
            text += f", has to be {'below' if self.lower else 'above'} {self.number(margin)}"
        elif margin != self.none:
            text += f", margin {self.number(margin)}"
        return f"{text}, n = {found.n} {over}"

    def limit(self, effect: float) -> str:
        """What is excluded: `effect of 0.02 or more`, or of a value that is held against a bound its name and size."""
        if self.bound is None:
            return f"effect of {self.number(effect).lstrip('+')} or more"
        return f"{self.unit} of {self.number(effect)} or {'less' if self.lower else 'more'}"


def scale_of(a: Quantity, b: Quantity, *, lower: bool, factor: bool) -> Scale:
    """The scale of `a - b`, or of `b - a` where `lower`.

    Args:
        a, b: compared; a constant `b` is a bound.
        lower: `a` has to be the lower one.
        factor: they are logarithms.
    """
    unit = " and ".join(dict.fromkeys(metric for metric, _, _ in rows_of(a)))
    if a.how == "rank":
        unit = f"rank correlation of {unit}"
    bound = b.parts[0] if b.how == "constant" else 0.0
    if bound == 0.0 or _signed(a):
        return Scale(unit, bound if lower else -bound, None, lower, factor)
    none = 1.0 if a.how == "ratio" else None
    away = None if none is None else (bound - none if lower else none - bound)
    return Scale(unit, away, bound, lower, factor)


def _signed(quantity: Quantity) -> bool:
    """Whether 0 of it is no effect."""
    if quantity.how in ("mean", "least", "most", "median"):
        return all(map(_signed, quantity.parts))
    return quantity.how in _SIGNED


def is_logarithmic(text: str) -> bool:
    """Whether a condition says of its effect that it is a logarithm."""
    return _LOGARITHM.search(text) is not None


def plain(text: str) -> str:
    """A condition without the remark that its effect is a logarithm: it is said as a factor."""
    return _LOGARITHM.sub(lambda found: f" ({found[1]})" if found[1] else "", text)
