"""Errors against data or compute: a power law with a floor, where two of them cross, and when more stops to help."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Real

from binderclip.errors import UsageError

__all__ = ["PowerLaw", "ProbitLine", "crossing", "fit_power_law", "probit_line", "saturation"]

_NEAR = 1 - 1e-9
"""Largest floor, as a share of the smallest error."""
_STEEPEST = 10.0
"""Largest exponent: doubling x would leave a thousandth of what lies above the floor."""
_ABOVE = 1e-3
"""Share of the second error that has to lie above the floor, or the exponent rests on one error alone."""
Which = Literal["first", "last"]


@dataclass(frozen=True)
class PowerLaw:
    """error(x) = a x^-b + c.

    Attributes:
        a, b, c: factor and exponent, from 0, and floor.
        deviation: of the logarithm of the errors from the law (root of the mean square).
        interval: of `a`, `b` and `c` the 95 % bootstrap interval; empty where none was asked for.
    """

    a: float
    b: float
    c: float
    deviation: float
    interval: dict[str, tuple[float, float]]

    def __call__(self, x: Real[np.ndarray, "*n"] | float) -> Float[np.ndarray, "*n"]:
        """The error at x."""
        return np.asarray(self.a * np.asarray(x, np.float64) ** -self.b + self.c)

    def __str__(self) -> str:
        shown = f"{self.a:.3g} x^-{self.b:.3g} + {self.c:.3g}"
        if "b" not in self.interval:
            return shown
        return f"{shown} (exponent {self.interval['b'][0]:.3g} to {self.interval['b'][1]:.3g})"


def fit_power_law(
    x: Real[np.ndarray, "n"] | Sequence[float],
    y: Real[np.ndarray, "n"] | Sequence[float],
    *,
    floor: bool = True,
    resamples: int = 1000,
    seed: int = 0,
) -> PowerLaw:
    """Fit error = a x^-b + c by least squares of the logarithm of the error.

    The interval is that of a bootstrap of the residuals: they are enlarged for the parameters that were fitted, drawn
    with repetition and added to the law, which is fitted again. So the amounts x stay as they were measured.

    Args:
        x: data or compute, above 0.
        y: errors, above 0; accuracies have no floor that a fit could find.
        floor: look for c in [0, least error); else it is 0.
        resamples: of the bootstrap; 0 for none.
        seed: of the bootstrap.

    Raises:
        UsageError: lengths that differ, values that are not above 0 and finite, fewer different x than parameters, x so
            large or small that their tenth power is no number, errors that rise over all, or that fall once and then
            stay: every steep exponent fits those, so none was measured.

    Examples:
        >>> x = np.array([1e6, 1e7, 1e8, 1e9])
        >>> law = fit_power_law(x, 2.0 * x**-0.3 + 0.1, resamples=0)
        >>> print(law)
        2 x^-0.3 + 0.1

    Paper: Li et al., "Scaling (Down) CLIP: A Comprehensive Analysis of Data, Architecture, and Training Strategies",
    arXiv 2404.08197.
    """
    amounts, errors = _checked(x, y)
    needed = 3 if floor else 2
    if len(np.unique(amounts)) < needed or resamples < 0:
        raise UsageError(
            f"a power law {'with' if floor else 'without'} floor needs {needed} different x, got "
            f"{len(np.unique(amounts))}; resamples are 0 or more, got {resamples}"
        )
    if np.polyfit(np.log(amounts), np.log(errors), 1)[0] > 1e-12:
        raise UsageError("the errors rise with x over all: a power law falls; give errors, not accuracies")
    centre = float(np.exp(np.log(amounts).mean()))
    if abs(math.log(centre)) * _STEEPEST > 600:  # a = error x^b has to be a number
        raise UsageError(f"x lie about {centre:.3g}: give them in another unit, between 1e-26 and 1e26")
    u, v = np.log(amounts / centre), np.log(errors)
    best = _fit(u, v, floor)
    fitted = _log_error(best, u)
    second = fitted[amounts == np.unique(amounts)[1]][0]
    if best[1] > 0.99 * _STEEPEST or 1 - best[2] / math.exp(second) < _ABOVE:
        raise UsageError(
            f"no power law fits: the errors fall all at the least x, or faster than x^-{_STEEPEST:g}, so that any "
            "steep exponent fits alike; measure more x where they fall"
        )
    residuals = v - fitted
    draws = np.random.default_rng(seed)
    spread = residuals * math.sqrt(len(u) / max(1, len(u) - needed))
    again = np.array([
        _unscaled(_fit(u, fitted + draws.choice(spread, len(u)), floor, start=best), centre) for _ in range(resamples)
    ])  # fmt: skip
    interval = {}
    if resamples:
        low, high = np.quantile(again, [0.025, 0.975], axis=0)
        interval = {name: (float(low[i]), float(high[i])) for i, name in enumerate("abc")}
    return PowerLaw(*_unscaled(best, centre), float(np.sqrt(np.mean(residuals**2))), interval)


def _checked(
    x: Real[np.ndarray, "n"] | Sequence[float], y: Real[np.ndarray, "n"] | Sequence[float]
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    one, other = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if one.ndim != 1 or one.shape != other.shape or not len(one):
        raise UsageError(f"x and y are lists of one length, got {one.shape} and {other.shape}")
    if not (np.isfinite(one).all() and np.isfinite(other).all() and min(one.min(), other.min()) > 0):
        raise UsageError("x and y are finite and above 0 (errors, not accuracies)")
    return one, other


Parameters = tuple[float, float, float]
"""log a at the centre, b, c."""


def _log_error(parameters: Sequence[float], u: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    log_a, b, c = parameters
    return np.logaddexp(log_a - b * u, math.log(c) if c > 0 else -math.inf)


def _unscaled(parameters: Parameters, centre: float) -> Parameters:
    log_a, b, c = parameters
    return math.exp(log_a + b * math.log(centre)), b, c


def _fit(
    u: Float[np.ndarray, "n"], v: Float[np.ndarray, "n"], floor: bool, start: Parameters | None = None
) -> Parameters:
    """Least squares of v = log(exp(log_a - b u) + c) from several floors, or from one start."""
    from scipy.optimize import least_squares

    if not floor:
        slope, _ = np.polyfit(u, v, 1)
        slope = min(max(-float(slope), 0.0), _STEEPEST)
        return float(v.mean() + slope * u.mean()), slope, 0.0
    top = float(np.exp(v.min())) * _NEAR
    shares = (0.0, 0.3, 0.6, 0.9, 0.99) if start is None else (min(start[2] / top, 0.999),)
    best: tuple[float, Parameters] | None = None
    for fraction in shares:
        c = fraction * top
        slope, middle = np.polyfit(u, np.log(np.exp(v) - c), 1)  # log(error - c) is a line for the right c
        begin = np.array([middle, min(max(-slope, 1e-3), 0.9 * _STEEPEST), fraction])

        def away(p: Float[np.ndarray, "3"]) -> Float[np.ndarray, "n"]:
            return _log_error((p[0], p[1], p[2] * top), u) - v

        def slopes(p: Float[np.ndarray, "3"]) -> Float[np.ndarray, "n 3"]:
            log_error = _log_error((p[0], p[1], p[2] * top), u)
            above = np.exp(p[0] - p[1] * u - log_error)  # share of the error that lies above the floor
            return np.stack([above, -u * above, top * np.exp(-log_error)], 1)

        solution = least_squares(
            away, begin, jac=slopes, bounds=([-np.inf, 0, 0], [np.inf, _STEEPEST, 1]), xtol=1e-15, ftol=1e-15,
            gtol=1e-15,
        )  # fmt: skip
        if best is None or solution.cost < best[0]:
            best = float(solution.cost), (float(solution.x[0]), float(solution.x[1]), float(solution.x[2]) * top)
    assert best is not None
    return best[1]


def crossing(
    first: PowerLaw, second: PowerLaw, *, between: tuple[float, float], which: Which = "first"
) -> float | None:
    """Where the error of one law falls below that of another.

    Two laws with floors can cross twice: `first` may lie below at the start of the range, above in its middle and below
    again at its end. So one has to say what is meant.

    Args:
        first, second: the laws.
        between: range of x; outside of what was measured a crossing is a guess.
        which: "first": the smallest x at which `first` is below, if only for a while, which may be the start of the
            range. "last": the smallest x from which it stays below to the end of the range.

    Returns:
        x, or None where there is no such place in the range.

    Raises:
        UsageError: a range that is not rising from above 0, or another `which`.

    Examples:
        >>> big, small = PowerLaw(10.0, 0.5, 0.0, 0.0, {}), PowerLaw(1.0, 0.25, 0.0, 0.0, {})
        >>> round(crossing(big, small, between=(1, 1e6)))
        10000
    """
    low, high = between
    if not 0 < low < high < math.inf or which not in get_args(Which):
        raise UsageError(f"between has 0 < low < high, which is 'first' or 'last'; got {between} and {which!r}")
    lead, edges = _lead(first, second), [math.log(low), math.log(high)]
    if first.b != second.b and min(first.a * first.b, second.a * second.b) > 0:
        # d lead / d log x is 0 at one place at most, so lead is monotonic on both sides of it
        turn = math.log(first.a * first.b / (second.a * second.b)) / (first.b - second.b)
        if edges[0] < turn < edges[1]:
            edges.insert(1, turn)
    below = [(edges[0], lead(edges[0]) > 0)]  # (place, whether first is below from here on)
    for left, right in pairwise(edges):
        if (lead(left) > 0) != (lead(right) > 0):
            from scipy.optimize import brentq

            below.append((float(brentq(lead, left, right, xtol=1e-12)), lead(right) > 0))
    starts = [math.exp(place) for place, is_below in below if is_below]
    if not starts or (which == "last" and not below[-1][1]):
        return None
    return starts[0] if which == "first" else starts[-1]


def _lead(first: PowerLaw, second: PowerLaw) -> Callable[[float], float]:
    """How far `first` lies below at log x."""

    def lead(log_x: float) -> float:
        x = math.exp(log_x)
        return float(second(x) - first(x))

    return lead


def saturation(
    amounts: Real[np.ndarray, "n"] | Sequence[float], errors: Real[np.ndarray, "n"] | Sequence[float], *,
    gain: float = 0.02,
) -> float | None:  # fmt: skip
    """The first amount (of epochs, say) from which the next one lowers the error by less than a share of it.

    Args:
        amounts: rising.
        errors: above 0, of each amount.
        gain: relative.

    Returns:
        The amount, or None where every step still helped.

    Raises:
        UsageError: fewer than two amounts, ones that do not rise, or values that are not above 0 and finite.

    Examples:
        >>> saturation([2, 4, 8, 16], [0.8, 0.6, 0.595, 0.594])
        4.0
    """
    x, y = _checked(amounts, errors)
    if len(x) < 2 or not (np.diff(x) > 0).all():
        raise UsageError("saturation needs two amounts at least, rising")
    small = np.flatnonzero((y[:-1] - y[1:]) / y[:-1] < gain)
    return float(x[small[0]]) if len(small) else None


@dataclass(frozen=True)
class ProbitLine:
    """probit(shifted) = slope probit(accuracy) + intercept, and the share of the variance that it explains."""

    slope: float
    intercept: float
    r2: float

    def __call__(self, accuracy: Real[np.ndarray, "*n"] | float) -> Float[np.ndarray, "*n"]:
        """The accuracy on the shifted set that the line gives."""
        from scipy.special import ndtr, ndtri

        return np.asarray(ndtr(self.slope * ndtri(np.asarray(accuracy, np.float64)) + self.intercept))


def probit_line(
    accuracy: Real[np.ndarray, "n"] | Sequence[float], shifted: Real[np.ndarray, "n"] | Sequence[float]
) -> ProbitLine:
    """The line through accuracies of models on a shifted set against those on the usual one, both probit-transformed.

    Args:
        accuracy, shifted: of the same models, in (0, 1).

    Raises:
        UsageError: lengths that differ, fewer than three models, values outside of (0, 1), or all of one accuracy.

    Examples:
        >>> from scipy.special import ndtr
        >>> z = np.array([-0.5, 0.0, 0.5, 1.0])
        >>> line = probit_line(ndtr(z), ndtr(0.8 * z - 0.4))
        >>> round(line.slope, 6), round(line.intercept, 6), round(line.r2, 6)
        (0.8, -0.4, 1.0)

    Paper: as `fit_power_law`; the transform is that of Miller et al., "Accuracy on the Line", arXiv 2107.04649.
    """
    from scipy.special import ndtri

    x, y = _checked(accuracy, shifted)
    if len(x) < 3 or max(x.max(), y.max()) >= 1 or np.ptp(x) == 0:
        raise UsageError("probit_line needs three models of different accuracy, all in (0, 1)")
    x, y = ndtri(x), ndtri(y)
    slope, intercept = np.polyfit(x, y, 1)
    left = y - (slope * x + intercept)
    scatter = float(((y - y.mean()) ** 2).sum())
    return ProbitLine(float(slope), float(intercept), 1 - float((left**2).sum()) / scatter if scatter else 1.0)
