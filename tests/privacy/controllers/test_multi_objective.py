"""p058 (arXiv 2503.21159): slopes against finite differences, the minimiser in closed form, and what is spent."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from binderclip.errors import CheckpointError, UsageError
from binderclip.privacy import (
    Controller,
    MultiObjectiveClip,
    PrivateOptimizer,
    PublicStats,
    clip_loss,
    clip_loss_slope,
    model_loss_slope,
    per_sample_grads,
)


def losses(model, x, y):
    return cross_entropy(model(x), y, reduction="none")


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def data(count=20, seed=1):
    torch.manual_seed(seed)
    return torch.randn(count, 6, dtype=torch.float64), torch.randint(3, (count,))


def test_the_clip_losses_slope_is_its_finite_difference():
    norms = torch.rand(50, dtype=torch.float64) * 4
    scales = {"noise_scale": 1.7, "distortion_scale": 0.6, "omega": 0.3}
    for c in (0.5, 1.3, 2.9, 5.0):
        numeric = (clip_loss(c + 1e-5, norms, **scales) - clip_loss(c - 1e-5, norms, **scales)) / 2e-5
        mean_excess = float((norms - c).clamp(min=0).mean())
        assert clip_loss_slope(c, mean_excess, **scales) == pytest.approx(numeric, abs=1e-6)


def test_the_hyper_gradient_is_the_finite_difference_of_the_loss_after_a_clipped_step():
    x, y = data()
    model, lr, c = net(), 0.7, 1.4
    grads = per_sample_grads(model, losses, x, y)
    flat = torch.cat([g.flatten(1) for g in grads.values()], dim=1)
    norms = flat.norm(dim=1)
    assert bool((norms > c).any() & (norms < c).any())
    start = nn.utils.parameters_to_vector(model.parameters()).detach()

    def after(clip_norm):
        """Mean loss and gradient of the batch after one step clipped to this norm."""
        step = (flat * (clip_norm / norms).clamp(max=1)[:, None]).mean(dim=0)
        moved = net()
        nn.utils.vector_to_parameters(start - lr * step, moved.parameters())
        loss = losses(moved, x, y).mean()
        return float(loss.detach()), torch.cat(
            [g.flatten() for g in torch.autograd.grad(loss, list(moved.parameters()))]
        )

    direction = (flat / norms[:, None])[norms > c].sum(dim=0) / len(x)
    numeric = (after(c + 1e-5)[0] - after(c - 1e-5)[0]) / 2e-5
    assert abs(numeric) > 1e-3
    assert model_loss_slope(after(c)[1], direction, lr) == pytest.approx(numeric, rel=1e-5)


def stats(controller, step, released, *, batch=10.0, sigma=1.0, update=None):
    """What an optimizer would show."""
    from binderclip.privacy import Ledger

    if not hasattr(controller, "_test_ledger"):
        controller._test_ledger = Ledger()
    return PublicStats(
        step, (controller.clip_norm,), sigma, 0.1, batch, controller._test_ledger,
        update=(torch.zeros(4) if update is None else update,), names=("w",), released=released,
    )  # fmt: skip


@pytest.mark.parametrize("step", ["linear", "log"])
@pytest.mark.parametrize("scales", ["initial", "joint"])
def test_it_settles_at_the_closed_form_minimiser_of_the_clip_loss(scales, step):
    """All norms equal n: C* = (1 - omega) n / d over (omega / s + (1 - omega) / d), s and d the two divisors."""
    norm, c0, sigma, batch, omega = 3.0, 1.0, 2.0, 10.0, 0.4
    controller = MultiObjectiveClip(c0, 0.2, 1.0, omega=omega, every=1, scales=scales, step=step)
    controller.before_step(stats(controller, 1, {"squared excess": torch.tensor(batch * (norm - c0) ** 2)}))
    for number in range(2, 500):
        excess = torch.tensor(batch * max(norm - controller.clip_norm, 0))
        controller.before_step(stats(controller, number, {"excess": excess}, sigma=sigma, batch=batch))
    distortion = (norm - c0) ** 2
    if scales == "initial":
        s, d = c0**2, distortion
    else:
        unit = sigma**2 * 4 / batch**2
        s, d = (unit * c0**2 + distortion) / unit, unit * c0**2 + distortion
    expected = (1 - omega) * norm / d / (omega / s + (1 - omega) / d)
    assert controller.clip_norm == pytest.approx(expected, rel=1e-4)
    assert 0.1 < expected < norm


def test_a_log_step_leaves_a_small_start_by_its_rate_and_a_linear_one_in_units_of_it_hardly():
    norm, batch, moves = 3.0, 10.0, {}
    for step, rate in (("linear", 0.1 * 0.1), ("log", 0.2)):
        controller = MultiObjectiveClip(0.1, rate, 1.0, every=1, scales="joint", step=step)
        controller.before_step(stats(controller, 1, {"squared excess": torch.tensor(batch * (norm - 0.1) ** 2)}))
        for number in range(2, 6):
            excess = torch.tensor(batch * (norm - controller.clip_norm))
            controller.before_step(stats(controller, number, {"excess": excess}, sigma=0.1, batch=batch))
        moves[step] = controller.clip_norm / 0.1
    # The noise costs a thousandth of what clipping does: the step is the whole rate, four times.
    assert moves["log"] == pytest.approx(math.exp(4 * 0.2), rel=1e-3)
    assert 1 < moves["linear"] < 1.2


def test_the_released_sums_and_sensitivities_are_those_of_brute_force():
    x, y = data()
    model, c = net(), 0.8
    controller = MultiObjectiveClip(c, 0.1, 0.5, bounds=(0.1, 1.1), every=1)
    grads = per_sample_grads(model, losses, x, y)
    flat = torch.cat([g.flatten(1) for g in grads.values()], dim=1)
    norms = flat.norm(dim=1)
    from binderclip.privacy import PrivateBatch

    def batch(rows):
        def weighted(weights):
            return tuple((weights.view(-1, *[1] * (g.ndim - 1)) * g[rows]).sum(0) for g in grads.values())

        return PrivateBatch(norms[rows, None], torch.ones(len(rows), 1), (c,), torch.zeros(len(rows)), weighted)

    everything = list(range(len(x)))
    for second in (False, True):
        if second:
            controller.before_step(stats(controller, 1, {"squared excess": torch.tensor(1.0)}))
        wanted = {s.name: s for s in controller.statistics(stats(controller, 1 + second, {}))}
        direction = wanted["direction"]
        expected = (flat / norms[:, None])[norms > c].sum(0)
        torch.testing.assert_close(direction.value(batch(everything)), expected)
        name = "excess" if second else "squared excess"
        part = (norms - c).clamp(0, 1.1 - c)
        torch.testing.assert_close(wanted[name].value(batch(everything)), part.sum() if second else part.square().sum())
        for statistic in wanted.values():
            whole = statistic.value(batch(everything))
            rest = [statistic.value(batch(everything[:i] + everything[i + 1 :])) for i in everything]
            moved = [float((whole - part).norm()) for part in rest]
            assert 0.5 * statistic.sensitivity < max(moved) <= statistic.sensitivity * (1 + 1e-9)


def private(model, controller, seed=3, c=0.8, sigma=1.0):
    return PrivateOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.5), c, sigma, 20, model=model, sample_rate=0.5, controller=controller,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


def trained(controller, steps=6, **options):
    model = net()
    optimizer = private(model, controller, **options)
    x, y = data()
    for _ in range(steps):
        optimizer.accumulate(losses, x, y)
        optimizer.step()
    return model, optimizer


def test_without_a_rate_it_is_plain_dp_sgd_bit_for_bit():
    plain, first = trained(None)
    still, second = trained(MultiObjectiveClip(0.8, 0.0, 0.0))
    for a, b in zip(plain.parameters(), still.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.ledger.entries == second.ledger.entries


def test_statistics_are_paid_for_and_the_price_is_the_stated_inflation():
    controller = MultiObjectiveClip(0.8, 0.1, 0.5, every=1, statistics_ratio=5.0)
    _, optimizer = trained(controller, sigma=2.0)
    assert controller.clip_norm != 0.8
    joint = (2.0**-2 + 2 * 10.0**-2) ** -0.5
    assert controller.inflation == pytest.approx(2.0 / joint)
    # The first step knows no shapes yet and releases nothing.
    assert [tuple(e) for e in optimizer.ledger] == [(2.0, 0.5, 1), (pytest.approx(joint), 0.5, 5)]
    assert optimizer.ledger.uncovered == []
    with pytest.warns(UserWarning, match="epsilon does not cover"):
        _, leaking = trained(MultiObjectiveClip(0.8, 0.1, 0.5, every=1, account_for_statistics=False))
    assert len(leaking.ledger.uncovered) == 3
    assert [e.noise_multiplier for e in leaking.ledger] == [1.0]


def test_a_large_kappa_lowers_a_c_that_clips_nothing_and_raises_one_that_clips_all():
    low, high = MultiObjectiveClip(0.2, 0.01, 1.0, omega=0.05, every=1), MultiObjectiveClip(9.0, 1.0, 1.0, every=1)
    for controller, sigma in ((low, 0.01), (high, 0.01)):
        trained(controller, steps=10, c=controller.c0, sigma=sigma)
    assert low.clip_norm > 0.2
    assert high.clip_norm < 9.0


def test_a_resumed_run_is_the_same_run():
    model, optimizer = trained(MultiObjectiveClip(0.8, 0.1, 0.5, every=2), steps=4)
    saved = {k: v.clone() for k, v in model.state_dict().items()}, optimizer.state_dict()
    x, y = data()
    other = net()
    other.load_state_dict(saved[0])
    resumed = private(other, MultiObjectiveClip(0.8, 0.1, 0.5, every=2), seed=99)
    resumed.load_state_dict(saved[1])
    for run in (optimizer, resumed):
        for _ in range(3):
            run.accumulate(losses, x, y)
            run.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert optimizer.controller.history == resumed.controller.history


def test_a_state_of_version_0_2_0_goes_on_as_it_would_have():
    """That version kept the sum of a slope's three parts as one number."""
    parts = [(0.3, -0.1, 0.2), (-0.05, 0.4, 0.1)]
    now, before = MultiObjectiveClip(0.8, 0.1), MultiObjectiveClip(0.8, 0.1)
    state = {**now.state_dict(), "distortion": 0.5}
    now.load_state_dict({**state, "slopes": parts})
    before.load_state_dict({**state, "slopes": [sum(part) for part in parts]})
    expected = 0.8 - 0.1 * (0.4 + 0.45) / 2
    assert now.update() == pytest.approx(expected, abs=1e-12)
    assert before.update() == pytest.approx(expected, abs=1e-12)
    log = MultiObjectiveClip(0.8, 0.1, step="log")
    with pytest.raises(CheckpointError, match="go on with step='linear'"):
        log.load_state_dict({**state, "slopes": [0.4]})
    assert log.state_dict() == MultiObjectiveClip(0.8, 0.1, step="log").state_dict()
    log.load_state_dict({**state, "slopes": []})
    assert log.state_dict()["distortion"] == 0.5


def test_bad_settings_are_refused():
    for options in ({"c0": 20.0}, {"lr_c": -1.0}, {"omega": 2.0}, {"every": 0}, {"scales": "none"}, {"step": "sign"}):
        with pytest.raises(UsageError):
            MultiObjectiveClip(**options)
    assert math.isclose(MultiObjectiveClip().inflation, math.sqrt(1.02))
    assert isinstance(MultiObjectiveClip(), Controller)
