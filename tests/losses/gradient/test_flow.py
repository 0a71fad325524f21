"""p009 (arXiv 1211.5063): the gradient-flow penalty against closed forms, loops and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip import errors
from binderclip.losses import GradientFlowPenalty, gradient_flow, unroll

F64 = torch.float64
ACTS = {
    "tanh": (torch.tanh, lambda u: 1 - torch.tanh(u) ** 2),
    "sigmoid": (torch.sigmoid, lambda u: torch.sigmoid(u) * torch.sigmoid(-u)),
    "relu": (torch.relu, lambda u: (u > 0).double()),
}


def run(activation="tanh", seed=0, steps=6, batch=3, n=5):
    """A hand-written recurrent net with its loss; torch's layout of W: the next state is W h."""
    g = torch.Generator().manual_seed(seed)
    w = nn.Parameter(0.6 * torch.randn(n, n, generator=g, dtype=F64))
    drive = torch.randn(steps, batch, n, generator=g, dtype=F64)
    target = torch.randn(batch, n, generator=g, dtype=F64)
    act = ACTS[activation][0]
    h, states, before = torch.zeros(batch, n, dtype=F64), [], []
    for step in drive:
        before.append(step + h @ w.T)
        h = act(before[-1])
        states.append(h)
    # a loss at two places, so that the total derivative is not the direct one
    loss = (states[-1] - target).square().sum() + (states[steps // 2] * target).sum()
    return w, states, before, loss


@torch.no_grad()
def omega_by_loops(w, states, before, derivatives, activation, power, floor=1e-20):
    """The definition, one sample and one step at a time, with the slope taken from the pre-activation."""
    total = count = 0.0
    slope = ACTS[activation][1]
    for d, u in zip(derivatives, before, strict=True):
        for b in range(len(d)):
            length = float(d[b] @ d[b])
            if length < floor:
                continue
            back = w.T @ (torch.diag(slope(u[b])) @ d[b])
            ratio = float(back @ back) / length
            total += ((ratio if power == 2 else ratio**0.5) - 1) ** 2
            count += 1
    return total / count


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
def test_omega_is_the_definition_by_loops(activation, power):
    w, states, before, loss = run(activation)
    omega = GradientFlowPenalty(power=power, activation=activation)(states, loss, w)
    derivatives = torch.autograd.grad(loss, states)
    assert float(omega) == pytest.approx(omega_by_loops(w, states, before, derivatives, activation, power), rel=1e-12)


def test_total_derivative_goes_one_step_back_by_the_image():
    """Where the loss has no direct part at h_{t-1}, the image of d_t is d_{t-1}: checks W against its transpose."""
    w, states, _, loss = run("tanh")
    d = torch.autograd.grad(loss, states, retain_graph=True)
    image = (d[-1] * (1 - states[-1] ** 2)) @ w
    torch.testing.assert_close(image, d[-2], rtol=0, atol=1e-13)


@pytest.mark.parametrize(("power", "expected"), [(2, (0.8**2 - 1) ** 2), (1, (0.8 - 1) ** 2)])
@pytest.mark.parametrize("scale", [1.0, 0.8])
def test_scaled_orthogonal_linear_net_has_the_closed_form(scale, power, expected):
    g = torch.Generator().manual_seed(1)
    q = torch.linalg.qr(torch.randn(7, 7, generator=g, dtype=F64)).Q
    w = nn.Parameter(scale * q)
    h, states = torch.randn(4, 7, generator=g, dtype=F64), []
    for _ in range(9):
        h = h @ w.T
        states.append(h)
    omega = GradientFlowPenalty(power=power, activation="identity")(states, states[-1].square().sum(), w)
    assert float(omega) == pytest.approx(0.0 if scale == 1 else expected, abs=1e-12)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
def test_gradient_is_the_finite_difference_with_frozen_errors_and_states(activation, power):
    w, states, _, loss = run(activation, seed=3)
    d = torch.stack(torch.autograd.grad(loss, states))
    h = torch.stack([s.detach() for s in states])
    _, grad = gradient_flow(d, h, w, power=power, activation=activation)
    step = 1e-6
    for i, j in [(0, 0), (1, 3), (4, 2), (2, 2)]:
        values = []
        for sign in (1, -1):
            moved = w.detach().clone()
            moved[i, j] += sign * step
            values.append(float(gradient_flow(d, h, moved, power=power, activation=activation)[0]))
        assert float(grad[i, j]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6, abs=1e-8)


def test_only_the_recurrent_matrix_gets_alpha_times_the_gradient_on_top_of_its_own():
    torch.manual_seed(0)
    rnn = nn.RNN(3, 4, batch_first=True).double()
    x = torch.randn(2, 6, 3, dtype=F64)

    def gradients(alpha, retained):
        rnn.zero_grad()
        states = unroll(rnn, x)
        loss = states[-1].square().sum()
        penalty = GradientFlowPenalty(alpha)
        if retained:
            for state in states:
                state.retain_grad()
            loss.backward()
            omega = penalty(states, None, rnn.weight_hh_l0)
        else:
            omega = penalty(states, loss, rnn.weight_hh_l0)
            loss.backward()
        return omega, {name: p.grad.clone() for name, p in rnn.named_parameters()}

    _, plain = gradients(0.0, False)
    omega, one = gradients(1.0, False)
    also, two = gradients(2.0, True)
    assert not omega.requires_grad
    torch.testing.assert_close(omega, also)
    added = one["weight_hh_l0"] - plain["weight_hh_l0"]
    assert float(added.abs().max()) > 1e-3
    torch.testing.assert_close(two["weight_hh_l0"] - plain["weight_hh_l0"], 2 * added)
    for name in plain:
        if name != "weight_hh_l0":
            torch.testing.assert_close(one[name], plain[name], rtol=0, atol=0)
            torch.testing.assert_close(two[name], plain[name], rtol=0, atol=0)


def test_samples_without_an_error_signal_are_left_out_of_sum_and_count():
    g = torch.Generator().manual_seed(2)
    d, h = torch.randn(5, 3, 4, generator=g, dtype=F64), torch.rand(5, 3, 4, generator=g, dtype=F64)
    w = torch.randn(4, 4, generator=g, dtype=F64)
    dead = d.clone()
    dead[:, 1] = 0
    dead[:, 2] *= 1e-13
    omega, grad = gradient_flow(dead, h, w)
    expected = gradient_flow(d[:, :1], h[:, :1], w)
    torch.testing.assert_close(omega, expected[0])
    torch.testing.assert_close(grad, expected[1])
    silent = gradient_flow(torch.zeros_like(d), h, w)
    assert float(silent[0]) == 0
    assert float(silent[1].abs().max()) == 0


def test_units_that_are_all_off_cost_one_and_have_no_nan():
    omega, grad = gradient_flow(torch.ones(2, 3, 4), torch.zeros(2, 3, 4), torch.eye(4), power=1, activation="relu")
    assert float(omega) == 1
    assert torch.isfinite(grad).all()


def test_descending_omega_brings_the_gradient_back_to_the_first_step():
    """What it is for: a contracting net whose error signal vanishes gets it back by following the penalty alone."""
    torch.manual_seed(0)
    rnn = nn.RNN(3, 20, batch_first=True)
    with torch.no_grad():
        rnn.weight_hh_l0.mul_(0.5)
    x = torch.randn(8, 15, 3) * 0.1
    target = torch.randn(8, 20)

    def reach():
        states = unroll(rnn, x)
        first, last = torch.autograd.grad((states[-1] * target).sum(), [states[0], states[-1]])
        return float(first.norm() / last.norm())

    before = reach()
    penalty = GradientFlowPenalty(alpha=1.0)
    for _ in range(60):
        rnn.zero_grad()
        states = unroll(rnn, x)
        penalty(states, (states[-1] * target).sum(), rnn.weight_hh_l0)
        with torch.no_grad():
            rnn.weight_hh_l0 -= 0.1 * rnn.weight_hh_l0.grad
    assert before < 1e-5
    assert reach() > 1e4 * before


def test_vanishing_is_bounded_by_the_papers_theorem():
    """||dC/dh_1|| <= (gamma sigma_max)^(T-1) ||dC/dh_T|| with gamma = 1 for tanh and a loss at the end only."""
    torch.manual_seed(1)
    rnn = nn.RNN(3, 8, batch_first=True).double()
    states = unroll(rnn, torch.randn(4, 12, 3, dtype=F64))
    first, last = torch.autograd.grad(states[-1].sum(), [states[0], states[-1]])
    sigma = float(torch.linalg.matrix_norm(rnn.weight_hh_l0.detach(), 2))
    assert float(first.norm()) <= sigma**11 * float(last.norm())


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_unrolled_states_are_the_modules_own(nonlinearity, batch_first, bias):
    torch.manual_seed(0)
    rnn = nn.RNN(3, 5, nonlinearity=nonlinearity, batch_first=batch_first, bias=bias)
    x, start = torch.randn(4, 6, 3), torch.randn(4 if batch_first else 6, 5)
    states = torch.stack(unroll(rnn, x, start), 1 if batch_first else 0)
    torch.testing.assert_close(states, rnn(x, start[None])[0], rtol=0, atol=1e-6)


def test_unrolled_cell_is_the_cell_step_by_step():
    torch.manual_seed(0)
    cell, x = nn.RNNCell(3, 5), torch.randn(4, 6, 3)
    h = torch.zeros(4, 5)
    for t, state in enumerate(unroll(cell, x)):
        h = cell(x[:, t], h)
        torch.testing.assert_close(state, h, rtol=0, atol=1e-6)


def test_slices_of_the_fused_output_are_refused():
    rnn = nn.RNN(3, 4, batch_first=True)
    out, _ = rnn(torch.randn(2, 5, 3))
    states = list(out.unbind(1))
    with pytest.raises(errors.UsageError, match=r"does not depend on hidden state 1 of 5.*unroll"):
        GradientFlowPenalty()(states, states[-1].sum(), rnn.weight_hh_l0)


def test_mistakes_are_named():
    w, states, _, loss = run()
    for settings, text in [
        ({"power": 3}, "power must be 1"),
        ({"activation": "gelu"}, "activation must be one of tanh"),
        ({"alpha": -1.0}, "alpha must be"),
        ({"alpha": float("nan")}, "alpha must be"),
        ({"floor": 0.0}, "floor must be"),
    ]:
        with pytest.raises(errors.UsageError, match=text):
            GradientFlowPenalty(**settings)
    penalty = GradientFlowPenalty()
    for args, text in [
        (([], loss, w), "at least one hidden state"),
        ((states, loss, w[:, :2]), "do not match"),
        ((states, states[-1], w), "scalar"),
        ((states, None, w), r"hidden state 1 kept no gradient.*retain_grad"),
        (([s.detach() for s in states], loss, w), "hidden state 1 has no graph"),
        ((states, loss.detach(), w), "the loss has no graph"),
    ]:
        with pytest.raises(errors.UsageError, match=text):
            penalty(*args)
    assert w.grad is None
    for rnn, text in [
        (nn.RNN(3, 4, num_layers=2), "2 layers"),
        (nn.RNN(3, 4, bidirectional=True), "two directions"),
        (nn.LSTM(3, 4), "got LSTM"),
    ]:
        with pytest.raises(errors.NotSupported, match=text):
            unroll(rnn, torch.zeros(1, 2, 3))
    with pytest.raises(errors.UsageError, match="inputs must be"):
        unroll(nn.RNN(3, 4), torch.zeros(2, 3))
