"""StableSPAM (p007, arXiv 2502.17055) against plain loops written from the equations, closed forms and invariances."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.optim import Clip, MaxEMA
from binderclip.optim.optimizers import NormStabilizer, StableSPAM

SHAPES = ((3, 4), (5,), ())
DTYPE = torch.float64


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=DTYPE)) for shape in SHAPES]


def spiky(step, scale=1.0):
    """Gradients of which some steps have single huge entries, and others a huge norm."""
    generator = torch.Generator().manual_seed(100 + step)
    grads = [torch.randn(shape, generator=generator, dtype=DTYPE) for shape in SHAPES]
    if step % 3 == 2:
        grads[0][0, :2] *= 50
    if step % 5 == 4:
        grads = [20 * grad for grad in grads]
    return [scale * grad for grad in grads]


def run(make, steps, scale=1.0):
    params = weights()
    optimizer = make(params)
    for step in range(steps):
        for param, grad in zip(params, spiky(step, scale), strict=True):
            param.grad = grad
        optimizer.step()
    return [param.detach() for param in params], optimizer


def by_hand(steps, *, lr, betas, eps, decay, gamma1, gamma2, theta, total, eta_min, gap, reset):
    """One tensor after the other, entry after entry, with Python numbers for every statistic."""
    result = []
    for number, start in enumerate(weights()):
        w = start.detach().clone()
        m, v = torch.zeros_like(w), torch.zeros_like(w)
        big = mean = square = 0.0
        k = adam = 0
        for t in range(1, steps + 1):
            s = 1.0 if total is None else eta_min + (1 - eta_min) * (1 + math.cos(math.pi * t / (total + 1))) / 2
            g = spiky(t - 1)[number].clone()
            w = w * (1 - lr * decay)
            k, adam = k + 1, adam + 1
            top = float(g.abs().max())
            big = theta * big + (1 - theta) * top
            bound = big / (1 - theta**k)
            flat = g.reshape(-1)
            for j in range(len(flat)):
                if abs(float(flat[j])) > bound * (1 + 1e-15):
                    flat[j] = flat[j] / top * bound
            size = math.sqrt(float(flat.square().sum()))
            b1, g1 = betas[0] * s, gamma1 * s
            mean = g1 * mean + (1 - g1) * size
            square = gamma2 * square + (1 - gamma2) * size**2
            length = (mean / (1 - g1**k)) / (math.sqrt(square / (1 - gamma2**k)) + eps)
            g = g / size * length
            lost = False
            if gap and t % gap == 0:
                if reset == "clean":
                    m, v, adam = torch.zeros_like(w), torch.zeros_like(w), 1
                else:
                    k = adam = 1
                    lost = True
            m, v = b1 * m + (1 - b1) * g, betas[1] * v + (1 - betas[1]) * g * g
            w = w - lr / (1 - b1**adam) * m / (v.sqrt() / math.sqrt(1 - betas[1] ** adam) + eps)
            if lost:
                m, v = torch.zeros_like(w), torch.zeros_like(w)
        result.append(w)
    return result


@pytest.mark.parametrize("reset", ["clean", "literal"])
@pytest.mark.parametrize("total", [None, 20])
@pytest.mark.parametrize("gap", [0, 6])
def test_it_is_the_loop_written_from_the_equations(reset, total, gap):
    values = {"lr": 0.05, "betas": (0.9, 0.99), "eps": 1e-8, "gamma1": 0.7, "gamma2": 0.9, "theta": 0.9, "eta_min": 0.4}

    def make(params):
        return StableSPAM(params, **values, weight_decay=0.1, total_T=total, update_proj_gap=gap, reset=reset)

    ours, optimizer = run(make, 20)
    theirs = by_hand(20, **values, decay=0.1, total=total, gap=gap, reset=reset)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert 0 < optimizer.active_fraction() < 1


def test_the_two_resets_differ_and_the_literal_one_loses_a_gradient():
    (clean, first), (literal, second) = (
        run(lambda p, r=r: StableSPAM(p, 0.05, update_proj_gap=6, reset=r), 6) for r in ("clean", "literal")
    )
    assert not torch.allclose(clean[0], literal[0])
    kept, lost = first.state[first.param_groups[0]["params"][0]], second.state[second.param_groups[0]["params"][0]]
    assert kept["exp_avg"].abs().sum() > 0 == lost["exp_avg"].abs().sum()
    assert float(kept["guard"][0]) == 6
    assert float(lost["guard"][0]) == 1


def test_a_literal_reset_switches_the_entry_guard_off():
    """M keeps its size while its correction starts again: the limit is hundreds of times too high."""
    limits = {}
    for reset in ("clean", "literal"):
        _, optimizer = run(lambda p, r=reset: StableSPAM(p, 0.05, update_proj_gap=40, reset=r), 41)
        limits[reset] = float(optimizer.report.limit[0])
    assert limits["literal"] > 15 * limits["clean"]


def test_the_first_step_is_adam_on_unit_gradients():
    class Unit(torch.optim.Adam):
        def step(self, closure=None):
            for param in self.param_groups[0]["params"]:
                param.grad /= param.grad.norm()
            return super().step()

    ours, optimizer = run(lambda p: StableSPAM(p, 0.05, eps=1e-14), 1)
    theirs, _ = run(lambda p: Unit(p, 0.05, eps=1e-14), 1)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert optimizer.active_fraction() == 0
    torch.testing.assert_close(optimizer.report.limit, optimizer.report.largest, rtol=0, atol=0)
    torch.testing.assert_close(optimizer.report.target, torch.ones(3, dtype=DTYPE), rtol=1e-10, atol=0)


def test_without_memory_it_is_adam_on_unit_gradients_throughout():
    class Unit(torch.optim.Adam):
        def step(self, closure=None):
            for param in self.param_groups[0]["params"]:
                param.grad /= param.grad.norm()
            return super().step()

    make = {"gamma1": 0.0, "gamma2": 0.0, "theta": 0.0, "update_proj_gap": 0, "eps": 1e-12}
    ours, _ = run(lambda p: StableSPAM(p, 0.05, **make), 15)
    theirs, _ = run(lambda p: Unit(p, 0.05, eps=1e-12), 15)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_a_constant_gradient_is_normalised_alike_at_every_step():
    param = nn.Parameter(torch.zeros(4, dtype=DTYPE))
    optimizer = StableSPAM([param], 0.1)
    for _ in range(30):
        param.grad = torch.tensor([3.0, 0.0, -4.0, 0.0], dtype=DTYPE)
        optimizer.step()
        assert float(optimizer.report.target) == pytest.approx(1.0, abs=1e-6)
    torch.testing.assert_close(optimizer.state[param]["exp_avg"] / (1 - 0.9**30), param.grad / 5, rtol=1e-6, atol=0)


@pytest.mark.parametrize("factor", [1e-3, 1e4])
def test_the_scale_of_the_gradients_does_not_matter(factor):
    ours, _ = run(lambda p: StableSPAM(p, 0.05, eps=1e-15, update_proj_gap=7), 20)
    scaled, _ = run(lambda p: StableSPAM(p, 0.05, eps=1e-15, update_proj_gap=7), 20, factor)
    plain, _ = run(lambda p: StableSPAM(p, 0.05, eps=1e-15, update_proj_gap=0), 20)
    torch.testing.assert_close(ours[0], scaled[0], rtol=1e-8, atol=1e-10)
    assert not torch.allclose(ours[0], plain[0])


def test_after_the_entry_guard_nothing_exceeds_the_limit_and_ratios_of_spikes_survive():
    param = nn.Parameter(torch.zeros(6, dtype=DTYPE))
    optimizer = StableSPAM([param], 0.1, theta=0.9, gamma1=0.0, gamma2=0.0, betas=(0.0, 0.0), eps=0.0)
    for step in range(10):
        param.grad = torch.tensor([1.0, 1.0, -1.0, 1.0, 0.5, -1.0], dtype=DTYPE)
        if step == 9:
            param.grad = torch.tensor([100.0, 60.0, -1.0, 1.0, 0.5, -1.0], dtype=DTYPE)
        given = param.grad.clone()
        optimizer.step()
        assert torch.equal(param.grad, given), "the caller's gradient was written"
    limit = float(optimizer.report.limit)
    assert limit == pytest.approx((0.9 * (1 - 0.9**9) + 0.1 * 100) / (1 - 0.9**10), rel=1e-12)
    # with betas of 0 the first moment is the guarded gradient, of unit length
    expected = torch.tensor([limit, 0.6 * limit, -1.0, 1.0, 0.5, -1.0], dtype=DTYPE)
    torch.testing.assert_close(optimizer.state[param]["exp_avg"], expected / expected.norm(), rtol=1e-12, atol=0)


def test_the_guards_are_the_clips_with_the_same_rules():
    """`Clip(MaxEMA(), ...)` then `Clip(NormStabilizer(), ...)` in front of Adam take the same steps."""
    entries = Clip(MaxEMA(0.9), granularity="tensor", statistic="max", action="rescale")
    lengths = Clip(NormStabilizer(0.7, 0.9), granularity="tensor", action="renormalise")

    class Behind(torch.optim.Adam):
        def step(self, closure=None):
            for clip in (entries, lengths):
                clip(self.param_groups[0]["params"])
            return super().step()

    ours, _ = run(lambda p: StableSPAM(p, 0.05, theta=0.9, update_proj_gap=0), 15)
    theirs, _ = run(lambda p: Behind(p, 0.05), 15)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    saved = lengths.state_dict()
    again = Clip(NormStabilizer(0.7, 0.9), granularity="tensor", action="renormalise")
    again.load_state_dict(saved)
    assert again.threshold.state_dict()["mean"].tolist() == saved["threshold"]["mean"].tolist()


def test_gamma1_of_minus_one_is_beta1():
    optimizer = StableSPAM(weights(), betas=(0.85, 0.999), gamma1=-1)
    assert optimizer.param_groups[0]["gamma1"] == 0.85


def test_a_zero_gradient_moves_nothing():
    param = nn.Parameter(torch.ones(3))
    param.grad = torch.zeros(3)
    StableSPAM([param], 0.1).step()
    assert param.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"theta": 1.0}, r"theta must be in \[0, 1\)"),
        ({"gamma1": 1.0}, "gamma1 must lie in"),
        ({"gamma2": -0.1}, "gamma2 must lie in"),
        ({"eps": -1e-8}, "eps must be at least 0"),
        ({"betas": (1.0, 0.9)}, "betas must be two numbers"),
        ({"reset": "dirty"}, "reset must be one of clean, literal"),
        ({"update_proj_gap": -1}, "update_proj_gap must be at least 0"),
        ({"total_T": 0}, "total_T must be at least 1"),
        ({"eta_min": 1.5}, r"eta_min must be in \[0, 1\]"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        StableSPAM(weights(), **settings)
