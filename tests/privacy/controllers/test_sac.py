"""The learner inside p003 (arXiv 2507.22565) alone: problems with a known optimum."""

from __future__ import annotations

import math

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.privacy import SACPolicy


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_bandit_within_5_percent_of_the_optimum():
    """r = 1 - 4 (a - .4)^2: the optimum is 1, a uniform action earns -.97 on average, a = 0 earns .36."""
    policy = SACPolicy(1, 1, hidden=(32, 32), gamma=0.0, warmup=20, seed=0)
    state = torch.zeros(1)
    for _ in range(1000):
        action = policy.act(state)
        policy.remember(state, action, 1 - 4 * (float(action) - 0.4) ** 2, state, done=True)
        policy.update(2)
    chosen = float(policy.act(state, deterministic=True))
    assert 1 - 4 * (chosen - 0.4) ** 2 >= 0.95


def test_a_linear_quadratic_regulator_within_5_percent_of_riccati():
    """x' = x + a, cost x^2 + R a^2, discounted: the best policy costs P x^2 with P from Riccati's equation."""
    gamma, price = 0.8, 0.5
    optimum = 1.0
    for _ in range(1000):
        optimum = 1 + gamma * optimum - (gamma * optimum) ** 2 / (price + gamma * optimum)
    policy = SACPolicy(
        1, 1, hidden=(64, 64), gamma=gamma, alpha=0.005, actor_lr=1e-3, critic_lr=2e-3, batch_size=64, tau=0.05,
        warmup=50, seed=0,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(1)
    for step in range(1000):
        if step % 10 == 0:
            x = 2 * torch.rand(1, generator=generator) - 1
        action = policy.act(x)
        following = x + action
        policy.remember(x, action, -float(x**2 + price * action**2), following)
        policy.update(2)
        x = following
    cost = best = 0.0
    for start in torch.linspace(-1, 1, 9):
        x = start[None].clone()
        best += optimum * float(start) ** 2
        for step in range(60):
            action = policy.act(x, deterministic=True)
            cost += gamma**step * float(x**2 + price * action**2)
            x = x + action
    assert best <= cost * (1 + 1e-6)
    assert cost <= 1.05 * best


def test_the_density_of_squashed_actions_integrates_to_one():
    policy = SACPolicy(2, 1, seed=3)
    state = torch.randn(1, 2).expand(200_000, 2)
    with torch.no_grad():
        action, log_density = policy._sample(state)
    # E[1 / density] over the policy is the length of the interval it covers.
    inside = action[:, 0].abs() < 0.9
    estimate = (inside.float() / log_density.exp()).mean()
    assert float(estimate) == pytest.approx(1.8, rel=0.03)


def test_warm_up_actions_are_uniform_and_seeded_apart_from_the_process():
    first, second = SACPolicy(1, 2, warmup=400, seed=7), SACPolicy(1, 2, warmup=400, seed=7)
    before = torch.random.get_rng_state()
    actions = torch.stack([first.act(torch.zeros(1)) for _ in range(400)])
    torch.rand(3)
    again = torch.stack([second.act(torch.zeros(1)) for _ in range(400)])
    torch.testing.assert_close(actions, again, rtol=0, atol=0)
    assert float(actions.std()) == pytest.approx(1 / math.sqrt(3), rel=0.1)
    torch.random.set_rng_state(before)
    SACPolicy(1, 1, seed=1).act(torch.zeros(1))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_resumed_policy_goes_on_identically():
    def act_and_learn(policy, count):
        found = []
        for step in range(count):
            state = torch.full((2,), float(step))
            found.append(policy.act(state))
            policy.remember(state, found[-1], float(found[-1].sum()), state + 1)
            policy.update(1)
        return torch.stack(found)

    whole, halved = SACPolicy(2, 1, warmup=3, seed=5), SACPolicy(2, 1, warmup=3, seed=5)
    expected = act_and_learn(whole, 5), act_and_learn(whole, 5)
    act_and_learn(halved, 5)
    resumed = SACPolicy(2, 1, warmup=3, seed=99)
    resumed.load_state_dict(halved.state_dict())
    torch.testing.assert_close(act_and_learn(resumed, 5), expected[1], rtol=0, atol=0)


def test_the_memory_forgets_the_oldest_and_refuses_nonsense():
    policy = SACPolicy(1, 1, replay=3, seed=0)
    assert math.isnan(policy.update().critic)
    for reward in range(5):
        policy.remember(torch.zeros(1), torch.zeros(1), reward, torch.zeros(1))
    assert len(policy) == 3
    assert sorted(policy._memory[:, 2].tolist()) == [2.0, 3.0, 4.0]
    with pytest.raises(UsageError, match="finite"):
        policy.remember(torch.zeros(1), torch.zeros(1), math.nan, torch.zeros(1))
    with pytest.raises(UsageError, match="states"):
        policy.remember(torch.zeros(2), torch.zeros(1), 0.0, torch.zeros(2))
    with pytest.raises(UsageError, match="gamma"):
        SACPolicy(1, 1, gamma=1.0)
