"""The private step: what it equals without noise, what bounds it, and what it keeps."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.privacy import (
    AdaptiveClip,
    BudgetSpent,
    Controller,
    DiceFeedback,
    Fixed,
    FlatClip,
    GroupClip,
    PrivateOptimizer,
    PublicStats,
    Setting,
    Statistic,
)

X, Y = torch.randn(24, 5, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def private(
    model: nn.Module, rule: Any = 0.5, noise: float = 0.0, *, seed: int = 7, lr: float = 0.3, **settings: Any
) -> PrivateOptimizer:
    inner = settings.pop("inner", None) or torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    return PrivateOptimizer(
        inner, rule, noise, settings.pop("size", 24.0), model=model, sample_rate=0.5, generator=generator, **settings
    )


def train(model: nn.Module, optimizer: PrivateOptimizer, steps: int = 4, *, start: int = 0) -> None:
    for step in range(start, start + steps):
        rows = torch.randperm(24, generator=torch.Generator().manual_seed(step))[:16]
        optimizer.backward(F.cross_entropy(model(X[rows]), Y[rows], reduction="none"))
        optimizer.step()


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_without_noise_and_clipping_it_is_plain_sgd() -> None:
    model, plain = network(), network()
    optimizer = private(model, math.inf)
    other = torch.optim.SGD(plain.parameters(), lr=0.3, momentum=0.9)
    for _ in range(6):
        optimizer.backward(F.cross_entropy(model(X), Y, reduction="none"))
        optimizer.step()
        other.zero_grad()
        F.cross_entropy(plain(X), Y).backward()
        other.step()
    torch.testing.assert_close(weights(model), weights(plain), rtol=0, atol=1e-6)


def test_one_sample_moves_the_noiseless_sum_by_at_most_the_sensitivity_and_can_reach_it() -> None:
    for rule in (FlatClip(0.3), GroupClip({"0.*": 0.2, "2.*": 0.1})):
        largest = 0.0
        sums = []
        for left_out in [None, *range(24)]:
            model = network()
            optimizer = private(model, rule, size=1.0)
            keep = [i for i in range(24) if i != left_out]
            optimizer.backward(F.cross_entropy(model(X[keep]), Y[keep], reduction="none"))
            optimizer.step()
            sums.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        for other in sums[1:]:
            largest = max(largest, float((other - sums[0]).norm()))
        assert largest <= rule.sensitivity * (1 + 1e-5)
        assert largest > 0.95 * rule.sensitivity


@pytest.mark.parametrize("rule", ["flat", "groups", "adaptive", "feedback"])
def test_micro_batches_give_the_unsplit_batch(rule: str) -> None:
    results = []
    for size in (None, 5, 1):
        model = network().double()
        made: Any = {"groups": GroupClip({"0.*": 0.2, "*": 0.1}), "adaptive": AdaptiveClip(0.3)}.get(rule, 0.3)
        feedback = DiceFeedback(0.5) if rule == "feedback" else None
        optimizer = private(model, made, 0.7, feedback=feedback)
        for _ in range(3):
            optimizer.accumulate(
                lambda m, x, y: F.cross_entropy(m(x), y, reduction="none"), X.double(), Y, microbatch=size
            )
            optimizer.step()
        results.append((weights(model), optimizer.rule.clip_norms))
    for other in results[1:]:
        torch.testing.assert_close(other[0], results[0][0], rtol=1e-12, atol=1e-14)
        assert other[1] == pytest.approx(results[0][1])


def test_an_empty_batch_adds_noise_and_counts() -> None:
    model = network()
    optimizer = private(model, 0.5, 2.0)
    before = weights(model)
    optimizer.step()
    optimizer.backward(F.cross_entropy(model(X[:0]), Y[:0], reduction="none"))
    optimizer.step()
    assert optimizer.accumulate(lambda m, x: m(x).sum(1), X[:0]).shape == (0,)
    optimizer.step()
    assert len(optimizer.ledger) == 3
    assert float((weights(model) - before).norm()) > 0


def test_the_noise_has_the_stated_size_and_its_own_generator() -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.zeros(200, 100)), nn.Parameter(torch.zeros(20_000))

    model = Many()
    rule = GroupClip({"a": 0.5, "b": 2.0})
    optimizer = private(model, rule, 1.5, size=4.0)
    state = torch.get_rng_state()
    optimizer.step()
    assert torch.equal(torch.get_rng_state(), state)
    for parameter, norm in ((model.a, 0.5), (model.b, 2.0)):
        assert float(parameter.grad.std()) == pytest.approx(1.5 * norm * math.sqrt(2) / 4, rel=0.02)
    again = Many()
    second = private(again, GroupClip({"a": 0.5, "b": 2.0}), 1.5, size=4.0)
    second.step()
    assert torch.equal(again.b.grad, model.b.grad)
    third = private(Many(), GroupClip({"a": 0.5, "b": 2.0}), 1.5, size=4.0, seed=8)
    third.step()
    assert not torch.equal(third.params[1].grad, model.b.grad)


@pytest.mark.parametrize("kind", ["flat", "adaptive", "feedback"])
def test_a_resumed_run_gives_the_same_weights(kind: str) -> None:
    def make(model: nn.Module) -> PrivateOptimizer:
        rule = AdaptiveClip(0.3) if kind == "adaptive" else FlatClip(0.3)
        return private(model, rule, 0.8, feedback=DiceFeedback(0.4) if kind == "feedback" else None)

    whole = network()
    optimizer = make(whole)
    train(whole, optimizer, 6)
    first = network()
    before = make(first)
    train(first, before, 3)
    saved = copy.deepcopy((first.state_dict(), before.state_dict()))
    second = network()
    after = make(second)
    second.load_state_dict(saved[0])
    after.load_state_dict(saved[1])
    train(second, after, 3, start=3)
    assert torch.equal(weights(second), weights(whole))
    assert after.ledger.entries == optimizer.ledger.entries
    assert after.rule.clip_norms == optimizer.rule.clip_norms
    if kind == "feedback":
        # the error is private and belongs to the optimizer's state alone
        assert set(second.state_dict()) == set(network().state_dict())


class Watching(Controller):
    """Asks for a clipped count, and keeps whatever it is given."""

    def __init__(self, account: bool = True) -> None:
        self.account_for_statistics = account
        self.seen: list[PublicStats] = []

    def statistics(self, stats: PublicStats) -> tuple[Statistic, ...]:
        return (
            Statistic("count", lambda b: (b.norms[:, 0] > b.clip_norms[0]).float().sum(), 1.0, 4.0),
            Statistic("direction", lambda b: torch.cat([t.flatten() for t in b.weighted_sum(1 / b.norms[:, 0])]),
                      1.0, 8.0, (75,)),
        )  # fmt: skip

    def before_step(self, stats: PublicStats) -> Setting:
        self.seen.append(stats)
        return Setting(stop=stats.step == 3)


def test_controllers_get_noised_statistics_and_the_ledger_the_joint_step() -> None:
    model = network()
    watching = Watching()
    optimizer = private(model, 0.05, 1.1, controller=watching)
    losses = F.cross_entropy(model(X), Y, reduction="none")
    optimizer.backward(losses)
    optimizer.step()
    norms = optimizer.norms
    assert norms is not None
    optimizer.backward(F.cross_entropy(model(X), Y, reduction="none"))
    optimizer.step()
    got = watching.seen[1].released
    assert float(got["count"]) != float((norms > 0.05).sum())
    assert abs(float(got["count"]) - float((norms > 0.05).sum())) < 5 * 4
    assert got["direction"].shape == (75,)
    (entry,) = optimizer.ledger.entries
    assert entry.noise_multiplier == pytest.approx((1.1**-2 + 4.0**-2 + 8.0**-2) ** -0.5)
    assert entry.count == 2
    # nothing that a controller is given is a raw quantity
    raw = [norms.flatten(), losses.detach()]
    for stats in watching.seen:
        given = [*stats.update, *stats.released.values()]
        for tensor in given:
            assert not any(tensor.shape == r.shape and torch.allclose(tensor, r) for r in raw)
    optimizer.step()
    with pytest.raises(BudgetSpent):
        optimizer.step()


def test_unaccounted_statistics_are_raw_warned_of_and_reported() -> None:
    model = network()
    watching = Watching(account=False)
    optimizer = private(model, 0.05, 1.1, controller=watching)
    optimizer.backward(F.cross_entropy(model(X), Y, reduction="none"))
    with pytest.warns(UserWarning, match="epsilon does not cover"):
        optimizer.step()
    assert optimizer.norms is not None
    assert float(optimizer.stats().released["count"]) == float((optimizer.norms > 0.05).sum())
    assert optimizer.ledger.entries[0].noise_multiplier == 1.1
    assert len(optimizer.ledger.uncovered) == 2


def test_a_fixed_controller_changes_nothing_and_its_values_are_used() -> None:
    plain, fixed, other = network(), network(), network()
    train(plain, private(plain, 0.2, 0.9))
    train(fixed, private(fixed, 5.0, 3.0, controller=Fixed((0.2,), 0.9)))
    assert torch.equal(weights(plain), weights(fixed))
    train(other, private(other, 5.0, 3.0))
    assert not torch.equal(weights(plain), weights(other))


def test_losses_of_other_methods_and_a_public_bank() -> None:
    model = network()
    bank = F.normalize(torch.randn(6, 3), dim=-1)
    optimizer = private(model)
    with optimizer.recording():
        losses = F.cross_entropy(model[2](model[1](model[0](X))) @ bank.T, Y, reduction="none")
    optimizer.backward(losses)
    optimizer.step()
    assert optimizer.norms is not None
    assert optimizer.norms.shape == (24, 1)
    model.eval()
    assert model(X).requires_grad
    assert not optimizer.recorder.uses


def test_mistakes_are_refused() -> None:
    model = network()
    optimizer = private(model)
    with pytest.raises(UsageError, match="closure"):
        optimizer.step(lambda: None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one loss a sample"):
        optimizer.backward(F.cross_entropy(model(X), Y))
    optimizer.zero_grad()
    with pytest.raises(UsageError, match="earlier forward pass"):
        optimizer.backward(model(X).sum(1) + model(X).square().sum(1))
    optimizer.zero_grad()
    z = F.normalize(model(X), dim=-1)
    with pytest.raises(NotSupported, match="InfoNCE"):
        optimizer.backward(F.cross_entropy(z @ z.T, torch.arange(24), reduction="none"))
    optimizer.zero_grad()
    with pytest.raises(UsageError, match="backward"):
        F.cross_entropy(model(X), Y).backward()
    optimizer.zero_grad()
    optimizer.backward(F.cross_entropy(model(X), Y, reduction="none"))
    with pytest.raises(UsageError, match="between"):
        optimizer.state_dict()
    with pytest.raises(CheckpointError, match="lacks"):
        optimizer.load_state_dict({"inner": {}})
    with pytest.raises(UsageError, match="not parameters of the model"):
        private(model, inner=torch.optim.SGD(network().parameters(), lr=0.1))
    with pytest.raises(UsageError, match="feedback"):
        private(model, GroupClip({"0.*": 1.0, "*": 1.0}), feedback=DiceFeedback(1.0))
    for bad in ({"noise": -1.0}, {"size": 0.0}, {"check": "sometimes"}):
        with pytest.raises(UsageError):
            private(model, **bad)


def test_only_the_optimizers_parameters_are_trained_and_others_get_no_gradient() -> None:
    model = network()
    optimizer = private(model, inner=torch.optim.SGD(model[2].parameters(), lr=0.1))
    optimizer.backward(F.cross_entropy(model(X), Y, reduction="none"))
    optimizer.step()
    assert optimizer.names == ["2.weight", "2.bias"]
    assert model[0].weight.grad is None
    assert model[0].weight.requires_grad
