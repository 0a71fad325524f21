"""p017 (arXiv 2306.00204): directional sharpness against full Hessians, quadratics and bounds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian

from binderclip import errors
from binderclip.landscape import Shadow, compare_directions, directional_sharpness, loss_along
from binderclip.optim import CoordinateClip, TopFraction

F64 = torch.float64


@pytest.fixture(scope="module")
def problem():
    """A net of 45 parameters, its loss, and its full Hessian by torch.func."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(12, 4, dtype=F64), torch.randint(0, 3, (12,))
    params = {name: p.detach() for name, p in net.named_parameters()}
    blocks = hessian(lambda p: nn.functional.cross_entropy(functional_call(net, p, (x,)), y))(params)
    full = torch.cat([torch.cat([blocks[a][b].reshape(params[a].numel(), -1) for b in params], 1) for a in params])
    assert full.shape == (43, 43)
    return net, lambda: nn.functional.cross_entropy(net(x), y), full


def random_direction(net, seed):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=g, dtype=F64) for p in net.parameters()]


def flat(tensors):
    return torch.cat([t.reshape(-1) for t in tensors])


@pytest.mark.parametrize("seed", range(3))
def test_sharpness_is_the_rayleigh_quotient_of_the_full_hessian(problem, seed):
    net, loss, full = problem
    direction = random_direction(net, seed)
    u = flat(direction)
    found = directional_sharpness(loss, list(net.parameters()), direction)
    assert found.sharpness == pytest.approx(float(u @ full @ u / (u @ u)), abs=1e-10)
    gradient = flat(torch.autograd.grad(loss(), list(net.parameters())))
    assert found.slope == pytest.approx(float(gradient @ u / u.norm()), abs=1e-12)
    assert found.correlation == pytest.approx(float(nn.functional.cosine_similarity(gradient, u, dim=0)), abs=1e-12)
    assert found.length == pytest.approx(float(u.norm()), rel=1e-12)
    assert found.loss == float(loss().detach())
    lowest, *_, highest = torch.linalg.eigvalsh(full).tolist()
    assert lowest <= found.sharpness <= highest


@pytest.mark.parametrize("factor", [-1.0, 1e-12, 1e6])
def test_sharpness_ignores_length_and_sign(problem, factor):
    net, loss, _ = problem
    direction = random_direction(net, 0)
    named = dict(net.named_parameters())
    scaled = {name: factor * d for name, d in zip(named, direction, strict=True)}
    one = directional_sharpness(loss, list(named.values()), direction)
    other = directional_sharpness(loss, named, scaled)
    assert other.sharpness == pytest.approx(one.sharpness, rel=1e-12)
    assert other.correlation == pytest.approx(math.copysign(1, factor) * one.correlation, rel=1e-12)


def test_quadratic_has_the_closed_forms_of_gradient_and_sign():
    g = torch.Generator().manual_seed(3)
    h = torch.rand(30, generator=g, dtype=F64) ** 3
    w = torch.randn(30, generator=g, dtype=F64, requires_grad=True)
    gradient = h * w.detach()
    found = compare_directions(
        lambda: (h * w * w).sum() / 2, [w], {"gradient": [-gradient], "sign": [-gradient.sign()]}
    )
    expected = float((h**3 * w.detach() ** 2).sum() / (h**2 * w.detach() ** 2).sum())
    assert found["gradient"].sharpness == pytest.approx(expected, rel=1e-12)
    assert found["gradient"].correlation == pytest.approx(-1, abs=1e-12)
    assert found["sign"].sharpness == pytest.approx(float(h.mean()), rel=1e-12)
    # on a quadratic the second-order picture is exact: the line's minimum is where it says
    for name, direction in (("gradient", -gradient), ("sign", -gradient.sign())):
        best = found[name].best_step
        line = loss_along(lambda: (h * w * w).sum() / 2, [w], [direction], [0.5 * best, best, 1.5 * best])
        assert line.best == (pytest.approx(best), pytest.approx(found[name].best_decrease, rel=1e-9))


def test_coordinate_clip_lowers_the_sharpness_of_an_ill_conditioned_gradient():
    """One steep coordinate in fifty: the clipped direction's sharpness in closed form, by hand-written clipping."""
    h = torch.ones(50, dtype=F64)
    h[7] = 100.0
    w = torch.nn.Parameter(torch.linspace(1, 2, 50, dtype=F64))
    w.grad = (h * w).detach()
    clipped = Shadow([w], lambda p: torch.optim.SGD(p, lr=1.0), CoordinateClip(0.04)).observe()
    limit = (h * w).detach().abs().sort(descending=True).values[1]
    by_hand = -(h * w).detach().clamp(-limit, limit)
    torch.testing.assert_close(clipped[0], by_hand, rtol=0, atol=1e-12)
    assert TopFraction(0.04).fraction == 0.04
    found = compare_directions(lambda: (h * w * w).sum() / 2, [w], {"plain": [-(h * w).detach()], "clipped": clipped})
    assert found["clipped"].sharpness == pytest.approx(float((h * by_hand**2).sum() / (by_hand**2).sum()), rel=1e-9)
    assert found["clipped"].sharpness < 0.1 * found["plain"].sharpness


def test_second_order_picture_without_a_bottom():
    w = torch.tensor([1.0, 1.0], requires_grad=True)
    up = directional_sharpness(lambda: (w**2).sum(), [w], [torch.ones(2)])
    assert (up.best_step, up.best_decrease) == (0.0, 0.0)
    saddle = directional_sharpness(lambda: -(w**2).sum(), [w], [torch.ones(2)])
    assert saddle.sharpness < 0
    assert saddle.best_step == saddle.best_decrease == math.inf


def test_loss_along_is_the_loss_and_puts_the_weights_back_exactly(problem):
    net, loss, _ = problem
    before = [p.detach().clone() for p in net.parameters()]
    direction = random_direction(net, 5)
    length = float(flat(direction).norm())
    line = loss_along(loss, dict(net.named_parameters()), direction, [0.0, 0.3, 1e200])
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    assert float(line.losses[0]) == line.start == float(loss().detach())
    with torch.no_grad():
        for p, d in zip(net.parameters(), direction, strict=True):
            p += 0.3 * d / length
        moved = float(loss())
        for p, b in zip(net.parameters(), before, strict=True):
            p.copy_(b)
    assert float(line.losses[1]) == pytest.approx(moved, rel=1e-12)
    raw = loss_along(loss, list(net.parameters()), direction, [0.3 / length], unit=False)
    assert float(raw.losses[0]) == pytest.approx(moved, rel=1e-12)


def test_loss_along_puts_the_weights_back_after_an_error():
    w = torch.tensor([1.0], requires_grad=True)
    calls = []

    def loss():
        calls.append(float(w.detach()))
        if len(calls) == 3:
            raise RuntimeError("full stop")
        return w.sum()

    with pytest.raises(RuntimeError, match="full stop"):
        loss_along(loss, [w], [torch.ones(1)], [1.0, 2.0])
    assert w.item() == 1.0


@pytest.mark.parametrize(
    ("make", "train"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), "sgd"),
        (lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1), "adamw"),
    ],
)
def test_a_shadow_of_the_trainer_itself_says_what_the_trainer_does(problem, make, train):
    """Its state is carried along: five steps of the real optimizer equal the five updates that were announced."""
    torch.manual_seed(1)
    net = nn.Linear(6, 3).double()
    trainer = make(list(net.parameters()))
    shadows = [Shadow(dict(net.named_parameters()), make), Shadow(list(net.parameters()), make, clip=1e-3)]
    for _ in range(5):
        trainer.zero_grad()
        net(torch.randn(8, 6, dtype=F64)).square().sum().backward()
        before = [p.detach().clone() for p in net.parameters()]
        grads = [p.grad.clone() for p in net.parameters()]
        update, clipped = (shadow.observe() for shadow in shadows)
        assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
        assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), grads, strict=True))
        trainer.step()
        for p, b, u in zip(net.parameters(), before, update, strict=True):
            torch.testing.assert_close(p.detach() - b, u, rtol=0, atol=1e-15)
        if train == "sgd":
            assert float(flat(clipped).norm()) < 0.01 * float(flat(update).norm())


def test_mistakes_are_named(problem):
    net, loss, _ = problem
    params, named = list(net.parameters()), dict(net.named_parameters())
    zeros = [torch.zeros_like(p) for p in params]
    for call, text in [
        (lambda: directional_sharpness(loss, params, zeros), "has length 0.0"),
        (lambda: directional_sharpness(loss, params, [torch.full_like(p, math.inf) for p in params]), "finite length"),
        (lambda: directional_sharpness(loss, params, zeros[:1]), "1 tensors for 4 parameters"),
        (lambda: loss_along(loss, params, zeros, [1.0]), "has length 0.0"),
        (lambda: loss_along(loss, params, zeros, []), "at least one step"),
        (lambda: loss_along(loss, params, zeros[:2], [1.0]), "2 tensors for 4 parameters"),
        (lambda: loss_along(loss, params, [zeros[0].T, *zeros[1:]], [1.0]), r"direction 0 has shape \(4, 5\)"),
        (lambda: loss_along(loss, named, dict(zip("abcd", params, strict=True)), [1.0]), "names a, b, c, d"),
    ]:
        with pytest.raises(errors.UsageError, match=text):
            call()
