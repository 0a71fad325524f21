"""p003 (arXiv 2507.22565): a policy that does nothing, the budget, the ledger against Opacus, and what is seen."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from opacus.accountants import RDPAccountant
from torch import nn
from torch.nn.functional import cross_entropy

from binderclip.errors import UsageError
from binderclip.privacy import (
    BudgetSpent,
    Controller,
    GroupClip,
    Ledger,
    PrivateOptimizer,
    RLDPController,
    SACPolicy,
    noise_multiplier_for,
)
from binderclip.privacy.controllers.observation import EDGES, RunningScale, clipping_summary

ORDERS = tuple(float(x) for x in range(2, 64))
RATE, STEPS, DELTA, EPSILON = 0.25, 24, 1e-5, 4.0


def losses(model, x, y):
    return cross_entropy(model(x), y, reduction="none")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def data():
    torch.manual_seed(1)
    return torch.randn(20, 6), torch.randint(3, (20,))


class Constant:
    """A policy that always acts the same and learns nothing."""

    def __init__(self, *values):
        self.values, self.seen = torch.tensor(values), []

    def act(self, state):
        return self.values

    def remember(self, state, action, reward, following):
        self.seen.append((state, action, reward, following))

    def update(self, count=1):
        return None


def rule(scaling="joint"):
    return GroupClip({"0.*": 0.4, "2.*": 0.7}, noise_scaling=scaling)


def run(policy, *, scaling="joint", controlled=True, steps=STEPS, sigma=None, spent=None, **options):
    """Train the small net; returns it, its optimizer and the controller."""
    model, (x, y), ledger = net(), data(), Ledger(spent or [], orders=ORDERS)
    chosen = rule(scaling)

    def evaluate():
        with torch.no_grad():
            return float(cross_entropy(model(x), y))

    controller = None
    if controlled:
        controller = RLDPController(
            chosen, evaluate, epsilon=EPSILON, delta=DELTA, steps=STEPS, interval=4, policy=policy,
            noise_multiplier=sigma, **options,
        )  # fmt: skip
    optimizer = PrivateOptimizer(
        torch.optim.Adam(model.parameters(), lr=0.01), chosen, 1.0 if sigma is None else sigma, 5, model=model,
        sample_rate=RATE, controller=controller, ledger=ledger, generator=torch.Generator().manual_seed(2),
    )  # fmt: skip
    for _ in range(steps):
        optimizer.accumulate(losses, x, y)
        optimizer.step()
    return model, optimizer, controller


def test_action_0_for_ever_is_the_constant_bit_for_bit():
    sigma = noise_multiplier_for(EPSILON, DELTA, RATE, STEPS, spent=Ledger(orders=ORDERS))
    plain, first, _ = run(None, controlled=False, sigma=sigma)
    still, second, controller = run(Constant(0.0, 0.0, 0.0), sigma=sigma)
    for a, b in zip(plain.parameters(), still.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.ledger.entries == second.ledger.entries
    assert not any(d.raised for d in controller.history)
    # Without a sigma of its own the controller finds the same one.
    same, _, _ = run(Constant(0.0, 0.0, 0.0))
    for a, b in zip(plain.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("scaling", ["joint", "per_group", "flat"])
@pytest.mark.parametrize("state", ["public", "noised"])
def test_the_budget_is_kept_however_greedy_the_policy(scaling, state):
    """A policy that always wants less noise: sigma falls first, then the projection holds it, and epsilon ends at 4."""
    _, optimizer, controller = run(Constant(1.0, 1.0, -1.0), scaling=scaling, state=state)
    assert any(d.raised for d in controller.history)
    spent = optimizer.ledger.epsilon(DELTA)
    assert 0.95 * EPSILON < spent <= EPSILON
    with pytest.raises(BudgetSpent):
        optimizer.step()
    assert optimizer.ledger.epsilon(DELTA) == spent


def test_less_noise_now_means_more_later():
    class Early(Constant):
        def act(self, state):
            self.calls = getattr(self, "calls", 0) + 1
            return torch.tensor([0.0, 0.0, 1.0 if self.calls <= 3 else -1.0])

    _, optimizer, controller = run(Early())
    sigmas = [d.noise_multiplier for d in controller.history]
    assert sigmas[0] < sigmas[1] < sigmas[2] > sigmas[-1]
    assert optimizer.ledger.epsilon(DELTA) <= EPSILON
    # exp(.1) more noise each of the first three times
    assert sigmas[1] / sigmas[0] == pytest.approx(math.exp(0.1))


@pytest.mark.parametrize("scaling", ["joint", "per_group"])
def test_the_ledger_is_opacus_accountant_on_the_same_list(scaling):
    _, optimizer, controller = run(SACPolicy(11, 3, warmup=100, seed=4), scaling=scaling)
    theirs = RDPAccountant()
    settings = {d.step: d.noise_multiplier for d in controller.history}
    sigma = 0.0
    for step in range(STEPS):
        sigma = settings.get(step, sigma)
        theirs.step(noise_multiplier=sigma / (math.sqrt(2) if scaling == "per_group" else 1), sample_rate=RATE)
    assert len(set(settings.values())) > 2
    expected = theirs.get_epsilon(DELTA, alphas=list(ORDERS))
    assert optimizer.ledger.epsilon(DELTA) == pytest.approx(expected, rel=1e-6)


def test_clip_norms_follow_the_actions_within_their_range():
    policy = Constant(1.0, -1.0, 0.0)
    _, optimizer, controller = run(policy, clip_range=(0.5, 1.5))
    for number, decision in enumerate(controller.history):
        assert decision.clip_norms[0] == pytest.approx(0.4 * min(math.exp(0.2 * (number + 1)), 1.5))
        assert decision.clip_norms[1] == pytest.approx(0.7 * max(math.exp(-0.2 * (number + 1)), 0.5))
    assert optimizer.rule.clip_norms == controller.history[-1].clip_norms


def test_the_reward_is_public_gain_over_epsilon_and_reaches_the_policy():
    policy = Constant(0.0, 0.0, 0.0)
    _, _, controller = run(policy)
    history = controller.history
    assert math.isnan(history[0].reward)
    for before, after in itertools.pairwise(history):
        rate = (after.utility - before.utility) / (after.epsilon - before.epsilon + 1e-3)
        assert after.reward == pytest.approx(min(max(rate, -5), 5))
    assert [row[2] for row in policy.seen] == [d.reward for d in history[1:]]
    assert all(row[0].shape == (controller.state_size,) for row in policy.seen)
    # The state after one action is the state before the next.
    assert all(torch.equal(a[3], b[0]) for a, b in zip(policy.seen, policy.seen[1:], strict=False))


def test_the_policy_given_is_the_one_that_acts():
    """An untrained `SACPolicy` is empty and so has length 0; it must not be taken for none."""
    random, learned = SACPolicy(11, 3, warmup=100, seed=4), SACPolicy(11, 3, warmup=0, seed=4)
    found = []
    for policy in (random, learned):
        _, _, controller = run(policy)
        assert isinstance(controller, Controller)
        assert controller.policy is policy
        assert len(policy) == len(controller.history) - 1
        found.append([d.clip_norms for d in controller.history])
    assert found[0] != found[1]
    assert random.acted == learned.acted == len(found[0])


def test_one_sample_moves_the_noiseless_group_sums_by_at_most_c():
    from binderclip.privacy import clipped_sum

    model, (x, y) = net(), data()
    chosen = rule()
    whole = clipped_sum(model, losses, x, y, rule=chosen).grads
    for left_out in range(len(x)):
        keep = [i for i in range(len(x)) if i != left_out]
        rest = clipped_sum(model, losses, x[keep], y[keep], rule=chosen).grads
        for prefix, limit in (("0.", 0.4), ("2.", 0.7)):
            moved = torch.cat([(whole[n] - rest[n]).flatten() for n in whole if n.startswith(prefix)])
            assert float(moved.norm()) <= limit * (1 + 1e-5)


def test_the_public_state_asks_the_batch_nothing_and_the_others_account_or_warn():
    _, public, controller = run(Constant(0.0, 0.0, 0.0))
    assert controller.state_size == 11
    assert public.ledger.uncovered == []
    assert all(not controller.statistics(public.stats()) for _ in range(3))
    with pytest.warns(UserWarning, match="epsilon does not cover"):
        _, paper, controller = run(Constant(0.0, 0.0, 0.0), state="paper")
    assert controller.state_size == 25
    assert len(paper.ledger.uncovered) == 2
    assert paper.ledger.entries == public.ledger.entries
    _, noised, controller = run(Constant(0.0, 0.0, 0.0), state="noised")
    assert noised.ledger.uncovered == []
    # Five of 24 steps also release counts and a loss, so the same budget needs a little more noise.
    assert sum(e.count for e in noised.ledger) == STEPS
    assert controller.history[0].noise_multiplier > public.ledger.entries[0].noise_multiplier


def test_spending_from_elsewhere_is_projected_at_once():
    model, (x, y), ledger = net(), data(), Ledger(orders=ORDERS)
    chosen = rule()
    controller = RLDPController(
        chosen, lambda: 1.0, epsilon=EPSILON, delta=DELTA, steps=STEPS, interval=12, policy=Constant(0.0, 0.0, 0.0)
    )
    optimizer = PrivateOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.01), chosen, 1.0, 5, model=model, sample_rate=RATE,
        controller=controller, ledger=ledger, generator=torch.Generator().manual_seed(2),
    )  # fmt: skip
    for step in range(STEPS):
        if step == 3:
            ledger.step(3.0, RATE, 5)
        optimizer.accumulate(losses, x, y)
        optimizer.step()
    assert ledger.epsilon(DELTA) <= EPSILON


def test_a_spent_budget_is_refused():
    with pytest.raises(UsageError):
        run(Constant(0.0, 0.0, 0.0), spent=[(0.3, RATE, 50)])


def test_a_resumed_run_is_the_same_run():
    full, _, _ = run(None, steps=16, state="noised")
    _, half, first = run(None, steps=10, state="noised")
    saved = {k: v.clone() for k, v in half.model.state_dict().items()}, half.state_dict()
    x, y = data()
    model, chosen = net(), rule()
    model.load_state_dict(saved[0])

    def evaluate():
        with torch.no_grad():
            return float(cross_entropy(model(x), y))

    controller = RLDPController(
        chosen, evaluate, epsilon=EPSILON, delta=DELTA, steps=STEPS, interval=4, state="noised", seed=77
    )
    optimizer = PrivateOptimizer(
        torch.optim.Adam(model.parameters(), lr=0.01), chosen, 1.0, 5, model=model, sample_rate=RATE,
        controller=controller, ledger=Ledger(orders=ORDERS), generator=torch.Generator(),
    )  # fmt: skip
    optimizer.load_state_dict(saved[1])
    for _ in range(6):
        optimizer.accumulate(losses, x, y)
        optimizer.step()
    for a, b in zip(full.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert len(controller.history) == len(first.history) + 1


def test_summaries_of_a_histogram_equal_those_of_the_samples_to_a_bin():
    torch.manual_seed(5)
    logs = 0.8 * torch.randn(5000) + 0.3
    counts = torch.bincount(torch.bucketize(logs, EDGES), minlength=len(EDGES) + 1).float()[None]
    summary, loss = clipping_summary({"norm histogram": counts, "loss": torch.tensor(30.0)}, 1, 10)
    exact = [logs.mean(), logs.std(), *torch.quantile(logs, torch.tensor([0.25, 0.5, 0.75])), (logs > 0).float().mean()]
    assert summary[0] == pytest.approx(float(exact[0]), abs=0.02)
    assert summary[5] == pytest.approx(float(exact[5]), abs=1e-6)
    for ours, theirs in zip(summary[1:5], exact[1:5], strict=True):
        assert ours == pytest.approx(float(theirs), abs=0.26)
    assert loss == 3.0


def test_the_running_scale_is_the_sample_mean_and_deviation():
    torch.manual_seed(6)
    rows, scale = torch.randn(20, 3) * 4 + 7, RunningScale()
    outputs = [scale(row) for row in rows]
    torch.testing.assert_close(outputs[-1], (rows[-1] - rows.mean(0)) / rows.std(0))
    torch.testing.assert_close(outputs[0], torch.zeros(3))


def test_bad_settings_are_refused():
    for options in ({"state": "raw"}, {"clip_range": (2.0, 3.0)}, {"statistics_ratio": 0.0}):
        with pytest.raises(UsageError):
            run(Constant(0.0, 0.0, 0.0), steps=0, **options)
    with pytest.raises(UsageError, match="finite"):
        RLDPController(rule(), lambda: math.nan, epsilon=1, delta=1e-5, steps=3).before_step(
            PrivateOptimizer(
                torch.optim.SGD((model := net()).parameters(), lr=0.1), rule(), 1.0, 5, model=model, sample_rate=0.1
            ).stats()
        )
