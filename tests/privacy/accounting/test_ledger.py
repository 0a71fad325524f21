"""Epsilon against Opacus, closed forms and numerical integration."""

from __future__ import annotations

import math
import sys
from typing import Literal

import numpy as np
import pytest
from opacus.accountants import RDPAccountant
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from binderclip.errors import MissingDependency, UsageError
from binderclip.privacy import ORDERS, Ledger, gdp_epsilon, joint_multiplier, noise_multiplier_for

STEPS = [(1.1, 0.01, 700), (0.8, 0.02, 300), (2.5, 0.1, 40)]
WHOLE = [float(order) for order in range(2, 64)]


def opacus_epsilon(steps: list[tuple[float, float, int]], delta: float, orders: list[float] | None = None) -> float:
    accountant = RDPAccountant()
    accountant.history = list(steps)
    return accountant.get_epsilon(delta, alphas=orders)


@pytest.mark.parametrize("delta", [1e-5, 1e-3])
def test_heterogeneous_steps_equal_opacus_at_the_same_orders(delta: float) -> None:
    for count in (1, 2, 3):
        ours = Ledger(STEPS[:count], orders=WHOLE).epsilon(delta)
        assert ours == pytest.approx(opacus_epsilon(STEPS[:count], delta, WHOLE), rel=1e-6)


def test_fractional_orders_are_never_below_opacus_and_close_to_it() -> None:
    # dp-accounting bounds the alternating series at fractional orders by absolute values
    assert pytest.approx(RDPAccountant.DEFAULT_ALPHAS) == ORDERS
    ours, theirs = Ledger(STEPS).epsilon(1e-5), opacus_epsilon(STEPS, 1e-5)
    assert theirs - 1e-9 <= ours <= theirs * 1.002


def test_one_order_equals_the_integral_it_stands_for() -> None:
    sigma, rate, order, delta = 1.3, 0.05, 6.0, 1e-5

    def integrand(x: float) -> float:
        ratio = 1 - rate + rate * math.exp((2 * x - 1) / (2 * sigma**2))
        return ratio**order * norm.pdf(x, scale=sigma)

    moment = quad(integrand, -15, 25, points=[0, 1, 6], limit=200)[0]
    rdp = 50 * math.log(moment) / (order - 1)
    want = rdp + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
    assert Ledger([(sigma, rate, 50)], orders=[order]).epsilon(delta) == pytest.approx(want, rel=1e-6)


def test_loss_distributions_match_the_exact_gaussian_mechanism() -> None:
    sigma, delta = 2.0, 1e-5

    def excess(eps: float) -> float:
        return norm.cdf(0.5 / sigma - eps * sigma) - math.exp(eps) * norm.cdf(-0.5 / sigma - eps * sigma) - delta

    exact = brentq(excess, 0, 20)
    ours = Ledger([(sigma, 1.0, 1)]).epsilon(delta, "pld")
    assert exact - 1e-6 <= ours <= exact + 2e-3
    assert Ledger([(sigma, 1.0, 1)]).epsilon(delta, "rdp") > exact


def test_several_mechanisms_on_a_batch_are_one() -> None:
    assert joint_multiplier([2.0]) == 2.0
    assert joint_multiplier([2.0, 2.0]) == pytest.approx(2 / math.sqrt(2))
    assert joint_multiplier([3.0, 4.0]) == pytest.approx((1 / 9 + 1 / 16) ** -0.5)
    assert joint_multiplier([]) == math.inf
    assert joint_multiplier([1.0, 0.0]) == 0.0
    # four full-batch releases are the same as one with half the noise
    four = Ledger([(2.0, 1.0, 4)]).epsilon(1e-5)
    assert Ledger([(1.0, 1.0, 1)]).epsilon(1e-5) == pytest.approx(four, rel=1e-9)


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_the_noise_for_a_budget_meets_it_and_hardly_less_would(accountant: Literal["rdp", "pld"]) -> None:
    sigma = noise_multiplier_for(0.5, 1e-5, 0.1, 50, accountant)
    assert Ledger([(sigma, 0.1, 50)]).epsilon(1e-5, accountant) <= 0.5
    assert Ledger([(sigma * 0.995, 0.1, 50)]).epsilon(1e-5, accountant) > 0.5


def test_what_was_spent_is_taken_from_the_budget() -> None:
    spent = Ledger([(1.5, 0.02, 100)])
    sigma = noise_multiplier_for(2.0, 1e-5, 0.02, 200, spent=spent)
    assert sigma > noise_multiplier_for(2.0, 1e-5, 0.02, 200)
    assert len(spent) == 100
    spent.step(sigma, 0.02, 200)
    assert 1.98 < spent.epsilon(1e-5) <= 2.0


def test_the_central_limit_figure_is_below_the_accountants() -> None:
    figure = gdp_epsilon(1.1, 0.01, 1000, 1e-5)
    assert 0.5 < figure < Ledger([(1.1, 0.01, 1000)]).epsilon(1e-5)
    mu = 0.01 * math.sqrt(1000 * (math.exp(1 / 1.21) - 1))
    back = norm.cdf(-figure / mu + mu / 2) - math.exp(figure) * norm.cdf(-figure / mu - mu / 2)
    assert back == pytest.approx(1e-5, rel=1e-6)
    assert gdp_epsilon(0.0, 0.01, 1000, 1e-5) == math.inf


def test_ledgers_merge_equal_steps_copy_and_resume() -> None:
    ledger = Ledger()
    for sigma in (1.0, 2.0, 1.0):
        ledger.step(sigma, 0.1)
    assert list(ledger) == [(1.0, 0.1, 2), (2.0, 0.1, 1)]
    other = ledger.copy()
    other.step(1.0, 0.1, 5)
    assert (len(ledger), len(other)) == (3, 8)
    ledger.uncovered.append("norms")
    again = Ledger()
    again.load_state_dict(ledger.state_dict())
    assert again.entries == ledger.entries
    assert again.uncovered == ["norms"]
    assert again.epsilon(1e-5) == ledger.epsilon(1e-5)


def test_empty_and_noiseless_ledgers() -> None:
    assert Ledger().epsilon(1e-5) == 0.0
    assert Ledger([(0.0, 0.1, 1)]).epsilon(1e-5) == math.inf
    assert Ledger([(1.0, 0.0, 9)]).epsilon(1e-5) == 0.0


def test_bad_arguments_and_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in ((-1.0, 0.1), (1.0, 1.5), (math.nan, 0.1)):
        with pytest.raises(UsageError):
            Ledger().step(*arguments)
    with pytest.raises(UsageError, match="delta"):
        Ledger([(1.0, 0.1, 1)]).epsilon(0.0)
    with pytest.raises(UsageError, match="accountant"):
        Ledger([(1.0, 0.1, 1)]).epsilon(1e-5, "prv")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="epsilon"):
        noise_multiplier_for(0.0, 1e-5, 0.1, 10)
    with pytest.raises(UsageError, match="spend less"):
        noise_multiplier_for(0.5, 1e-5, 0.1, 10, spent=Ledger([(0.5, 1.0, 10)]))
    monkeypatch.setitem(sys.modules, "dp_accounting.rdp.rdp_privacy_accountant", None)
    with pytest.raises(MissingDependency, match=r"binderclip\[privacy\]"):
        Ledger([(1.0, 0.1, 1)]).epsilon(1e-5)


def test_orders_are_a_list_of_numbers() -> None:
    assert len(ORDERS) == 151
    assert np.all(np.diff(ORDERS) > 0)
