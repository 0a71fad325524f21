"""What was spent: a ledger of noisy steps, and its epsilon by an accountant that stands on dp-accounting."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from binderclip.errors import BinderclipError, UsageError, require
from binderclip.numeric import check_number
from binderclip.settings import check_choice

__all__ = [
    "ACCOUNTANTS",
    "ORDERS",
    "BudgetSpent",
    "Ledger",
    "LedgerEntry",
    "gdp_epsilon",
    "joint_multiplier",
    "noise_multiplier_for",
]  # fmt: skip

Accountant = Literal["rdp", "pld"]
ACCOUNTANTS = ("rdp", "pld")
ORDERS: tuple[float, ...] = (*(1 + x / 10.0 for x in range(1, 100)), *(float(x) for x in range(12, 64)))
"""Opacus's list of Renyi orders."""


class BudgetSpent(BinderclipError):
    """A step was asked for although the privacy budget is used up."""


class LedgerEntry(NamedTuple):
    """So many equal steps.

    Attributes:
        noise_multiplier: standard deviation of the noise over the sensitivity of what it was added to.
        sample_rate: probability of each record to be in the batch, in (0, 1].
        count: steps.
    """

    noise_multiplier: float
    sample_rate: float
    count: int  # type: ignore[assignment]


class Ledger:
    """The list of Gaussian mechanisms that were run, from which epsilon is computed when somebody asks.

    Writing costs a dictionary entry; nothing is composed during training. Equal steps are counted together, which
    changes nothing: composition does not depend on the order.

    Args:
        entries: (noise_multiplier, sample_rate, count) to start from.
        orders: Renyi orders of the "rdp" accountant.

    Attributes:
        uncovered: what was computed from private data without an entry; the report repeats it.

    Examples:
        >>> ledger = Ledger([(1.0, 0.01, 500)])
        >>> ledger.step(2.0, 0.01)
        >>> len(ledger), 1.0 < ledger.epsilon(1e-5) < 3.0
        (501, True)
    """

    def __init__(self, entries: Iterable[tuple[float, float, int]] = (), *, orders: Sequence[float] = ORDERS) -> None:
        self.orders = tuple(float(order) for order in orders)
        self.uncovered: list[str] = []
        self._counts: dict[tuple[float, float], int] = {}
        for noise_multiplier, sample_rate, count in entries:
            self.step(noise_multiplier, sample_rate, count)

    @property
    def entries(self) -> list[LedgerEntry]:
        """Distinct steps with their counts, in the order in which each was first taken."""
        return [LedgerEntry(sigma, rate, count) for (sigma, rate), count in self._counts.items()]

    def __len__(self) -> int:
        return sum(self._counts.values())

    def __iter__(self) -> Iterator[LedgerEntry]:
        return iter(self.entries)

    def __repr__(self) -> str:
        return f"Ledger({[tuple(entry) for entry in self.entries]})"

    def step(self, noise_multiplier: float, sample_rate: float, count: int = 1) -> None:
        """Note `count` Gaussian mechanisms on Poisson samples.

        Args:
            noise_multiplier: noise over sensitivity; 0 makes epsilon infinite.
            sample_rate: of the Poisson sample; 1 for the whole data set.
            count: how many.

        Raises:
            UsageError: a negative multiplier or count, or a rate outside [0, 1].
        """
        sigma, rate = float(noise_multiplier), float(sample_rate)
        if not sigma >= 0:
            raise UsageError(f"noise_multiplier must be at least 0, got {noise_multiplier}")
        if not 0 <= rate <= 1:
            raise UsageError(f"sample_rate must be in [0, 1], got {sample_rate}")
        check_number("count", count, least=0)
        if count:
            self._counts[sigma, rate] = self._counts.get((sigma, rate), 0) + int(count)

    def epsilon(self, delta: float, accountant: Accountant = "rdp") -> float:
        """Epsilon of all steps together, for add/remove-one neighbours.

        Args:
            delta: in (0, 1).
            accountant: "rdp" (Renyi, milliseconds to a second) or "pld" (privacy loss distributions: tighter, seconds).

        Returns:
            0 for an empty ledger, infinity where a step had no noise.

        Raises:
            UsageError: unknown accountant or delta.
            MissingDependency: dp-accounting is not installed.
        """
        _check_delta(delta)
        check_choice("accountant", accountant, ACCOUNTANTS)
        spent = [entry for entry in self.entries if entry.sample_rate > 0]
        if not spent:
            return 0.0
        if any(entry.noise_multiplier == 0 for entry in spent):
            return math.inf
        return _rdp_epsilon(spent, self.orders, delta) if accountant == "rdp" else _pld_epsilon(spent, delta)

    def copy(self) -> Ledger:
        """An independent ledger with the same entries, to ask "what if"."""
        other = Ledger(self.entries, orders=self.orders)
        other.uncovered = list(self.uncovered)
        return other

    def state_dict(self) -> dict[str, Any]:
        """Plain values only."""
        return {
            "entries": [list(entry) for entry in self.entries],
            "orders": list(self.orders),
            "uncovered": list(self.uncovered),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace everything by what `state_dict` gave."""
        fresh = Ledger([(s, q, c) for s, q, c in state["entries"]], orders=state["orders"])
        self.orders, self._counts, self.uncovered = fresh.orders, fresh._counts, list(state["uncovered"])


def joint_multiplier(multipliers: Iterable[float]) -> float:
    """The one Gaussian mechanism that several on the same batch amount to: (sum of s^-2)^(-1/2).

    Args:
        multipliers: noise multipliers; 0 among them gives 0, infinity adds nothing, none at all gives infinity.
    """
    total = 0.0
    for value in multipliers:
        if value == 0:
            return 0.0
        total += value**-2
    # rounded, so that equal steps are equal entries whatever was put together
    return math.inf if total == 0 else float(f"{total**-0.5:.12g}")


def noise_multiplier_for(
    epsilon: float,
    delta: float,
    sample_rate: float,
    steps: int,
    accountant: Accountant = "rdp",
    *,
    spent: Ledger | None = None,
    tolerance: float = 1e-3,
) -> float:
    """The smallest noise multiplier with which so many steps stay within the budget.

    Args:
        epsilon, delta: the budget.
        sample_rate: of each Poisson batch, in (0, 1].
        steps: that will be taken.
        accountant: "rdp" or "pld".
        spent: what was taken from the same budget already; it is not changed.
        tolerance: relative error of the result, always on the private side.

    Raises:
        UsageError: a budget that no noise below 10,000 meets, or arguments out of range.
    """
    _check_delta(delta)
    check_number("epsilon", epsilon, above=0)
    if steps < 1 or not 0 < sample_rate <= 1:
        raise UsageError(f"steps must be at least 1 and sample_rate in (0, 1], got {steps} and {sample_rate}")
    history = list(spent) if spent is not None else []
    orders = spent.orders if spent is not None else ORDERS

    seen: dict[float, float] = {}

    def excess(log_sigma: float) -> float:
        if log_sigma not in seen:
            ledger = Ledger([*history, (math.exp(log_sigma), sample_rate, steps)], orders=orders)
            seen[log_sigma] = min(ledger.epsilon(delta, accountant), 1e6) - epsilon
        return seen[log_sigma]

    high, stride = math.log(0.6), math.log(2)
    if accountant != "rdp":
        # it needs a little less noise than the Renyi accountant, which is much faster to ask
        high = math.log(
            noise_multiplier_for(epsilon, delta, sample_rate, steps, "rdp", spent=spent, tolerance=tolerance)
        )
        stride = 0.1
    while excess(high) > 0:
        high += stride
        if high > math.log(1e4):
            raise UsageError(f"no noise keeps {steps} steps at rate {sample_rate} within epsilon {epsilon}: spend less")
    low = high - stride
    while excess(low) <= 0:
        low, high = low - stride, low
        if low < math.log(1e-2):
            return math.exp(high)
    root = brentq(excess, low, high, xtol=tolerance / 4, rtol=1e-9)
    # the root may lie on either side of the budget
    for _ in range(64):
        if excess(root) <= 0:
            return math.exp(root)
        root += tolerance / 4
    raise UsageError(f"no noise multiplier near {math.exp(root):.3g} meets epsilon {epsilon} at delta {delta}")


def gdp_epsilon(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """Epsilon by the central limit theorem of Gaussian differential privacy: an APPROXIMATION, slightly too small.

    For printing beside the accountants' figures, never to set a budget.

    Args:
        noise_multiplier, sample_rate, steps: of equal steps.
        delta: in (0, 1).
    """
    _check_delta(delta)
    if noise_multiplier == 0:
        return math.inf
    mu = sample_rate * math.sqrt(steps * math.expm1(noise_multiplier**-2))

    def excess(eps: float) -> float:
        second = math.exp(eps + norm.logcdf(-eps / mu - mu / 2))
        return float(norm.cdf(-eps / mu + mu / 2)) - second - delta

    if mu == 0 or excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high))


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise UsageError(f"delta must be in (0, 1), got {delta}; usually below one over the number of records")


def _rdp_epsilon(entries: Iterable[LedgerEntry], orders: tuple[float, ...], delta: float) -> float:
    module: Any = require("dp_accounting.rdp.rdp_privacy_accountant", "privacy")
    total = sum(count * _rdp(sigma, rate, orders) for sigma, rate, count in entries)
    return float(module.compute_epsilon(orders, total, delta)[0])


@lru_cache(maxsize=4096)
def _rdp(sigma: float, rate: float, orders: tuple[float, ...]) -> np.ndarray:
    """Renyi divergences of one step; the accountant's slow part, so each distinct step is computed once."""
    module: Any = require("dp_accounting", "privacy")
    rdp: Any = require("dp_accounting.rdp", "privacy")
    accountant = rdp.RdpAccountant(np.array(orders))
    with _quiet():
        accountant.compose(module.PoissonSampledDpEvent(rate, module.GaussianDpEvent(sigma)))
    return np.asarray(accountant.rdp)


def _pld_epsilon(entries: Iterable[LedgerEntry], delta: float) -> float:
    module: Any = require("dp_accounting", "privacy")
    pld: Any = require("dp_accounting.pld", "privacy")
    accountant = pld.PLDAccountant()
    for sigma, rate, count in entries:
        accountant.compose(module.PoissonSampledDpEvent(rate, module.GaussianDpEvent(sigma)), count)
    return float(accountant.get_epsilon(delta))


@contextmanager
def _quiet() -> Iterator[None]:
    """dp-accounting logs every order whose series did not converge; such an order is left out, which is safe."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
