"""ClippedAdaGrad and ClippedAdam (p041, arXiv 2406.04443) against torch's Adagrad, closed forms and plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.optim.optimizers import ClippedAdaGrad, ClippedAdam

INF = math.inf
SHAPES = ((3, 4), (5,), ())


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in SHAPES]


def gradients(step, scale=1.0):
    generator = torch.Generator().manual_seed(100 + step)
    return [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def run(make, steps=6, scale=1.0):
    params = weights()
    optimizer = make(params)
    for step in range(steps):
        for param, grad in zip(params, gradients(step, scale), strict=True):
            param.grad = grad
        optimizer.step()
    return [param.detach() for param in params], optimizer


def same(ours, theirs, atol=0.0, rtol=1e-14):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=rtol)


def test_unclipped_and_undelayed_it_is_torch_adagrad():
    ours, _ = run(lambda p: ClippedAdaGrad(p, lr=0.1, clip=INF, delayed=False))
    theirs, _ = run(lambda p: torch.optim.Adagrad(p, lr=0.1, eps=1e-10))
    same(ours, theirs)
    clipped, optimizer = run(lambda p: ClippedAdaGrad(p, lr=0.1, clip=0.5, delayed=False))
    assert not torch.allclose(clipped[0], theirs[0])
    assert optimizer.active_fraction() > 0.5


def test_clipping_happens_as_by_torch_before_adagrad():
    class Clipped(torch.optim.Adagrad):
        def step(self, closure=None):
            for param in self.param_groups[0]["params"]:
                torch.nn.utils.clip_grad_norm_([param], 0.7)
            return super().step()

    ours, _ = run(lambda p: ClippedAdaGrad(p, lr=0.1, clip=0.7, delayed=False))
    theirs, _ = run(lambda p: Clipped(p, lr=0.1))
    same(ours, theirs, rtol=1e-13)


@pytest.mark.parametrize("granularity", ["tensor", "group", "global", "coordinate", "local", "elementwise"])
@pytest.mark.parametrize("delayed", ["accumulator", "gradient", False])
def test_coordinate_adagrad_against_a_loop(granularity, delayed):
    lr, clip, eta, v0, decay = 0.1, 0.6, 0.7, 0.3, 0.05

    def make(p):
        return ClippedAdaGrad(
            p, lr, clip=clip, granularity=granularity, delayed=delayed, eta=eta, v0=v0, weight_decay=decay
        )

    ours, _ = run(make)
    params = [param.detach().clone() for param in weights()]
    sums, before = [torch.full_like(p, v0) for p in params], [torch.zeros_like(p) for p in params]
    for step in range(6):
        grads = gradients(step)
        total = torch.cat([g.reshape(-1) for g in grads]).norm()
        for i, grad in enumerate(grads):
            if granularity in ("coordinate", "elementwise"):
                c = grad.clamp(-clip, clip)
            else:
                size = grad.norm() if granularity in ("tensor", "local") else total
                c = grad * min(1.0, clip / (float(size) + 1e-6))
            if delayed == "gradient":
                params[i] -= lr * before[i] / (sums[i].sqrt() + 1e-10)
                sums[i] += eta * c * c
                before[i] = c
            elif delayed:
                params[i] -= lr * c / (sums[i].sqrt() + 1e-10)
                sums[i] += eta * c * c
            else:
                sums[i] += eta * c * c
                params[i] -= lr * c / (sums[i].sqrt() + 1e-10)
            params[i] -= lr * decay * params[i]
    same(ours, params, rtol=1e-12)


@pytest.mark.parametrize("corrected", [True, False])
def test_adam_with_and_without_the_correction_against_torch(corrected):
    """Uncorrected moments are what torch's Adam keeps; its own step divides them by their weights."""
    ours, _ = run(lambda p: ClippedAdam(p, 0.01, clip=INF, delayed=False, eps=1e-12, bias_correction=corrected))
    if corrected:
        theirs, _ = run(lambda p: torch.optim.Adam(p, 0.01, eps=1e-12))
        same(ours, theirs, rtol=1e-9)
        return
    params = weights()
    adam, expected = torch.optim.Adam(params, 0.0), [p.detach().clone() for p in params]
    for step in range(6):
        for param, grad in zip(params, gradients(step), strict=True):
            param.grad = grad
        adam.step()
        for param, moved in zip(params, expected, strict=True):
            state = adam.state[param]
            moved -= 0.01 * state["exp_avg"] / (state["exp_avg_sq"].sqrt() + 1e-12)
    same(ours, expected, rtol=1e-9)


@pytest.mark.parametrize("form", ["coordinate", "norm"])
@pytest.mark.parametrize("delayed", ["accumulator", True])
def test_by_default_the_first_step_is_the_clipped_gradient_times_the_rate(form, delayed):
    """With the authors' 1e-4, which belongs to their own form of delay, it was 100 times as long."""
    x = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    x.grad = x.detach().clone()
    ClippedAdaGrad([x], lr=0.1, clip=1.0, form=form, delayed=delayed).step()
    torch.testing.assert_close(x.detach(), torch.tensor([3 - 0.06, 4 - 0.08], dtype=torch.float64), rtol=1e-6, atol=0)


def test_the_authors_delay_still_starts_at_their_value():
    x = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = ClippedAdaGrad([x], lr=0.1, clip=0.5, delayed="gradient")
    for _ in range(2):
        x.grad = torch.full_like(x, 0.3)
        optimizer.step()
    assert x.item() == pytest.approx(1 - 0.1 * 0.3 / math.sqrt(1e-4 + 0.3**2))


def test_the_first_step_by_hand():
    for delayed, moved in (("accumulator", 0.5 / 3), (False, 0.5 / math.sqrt(9.25)), ("gradient", 0.0)):
        x = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        optimizer = ClippedAdaGrad([x], lr=0.25, clip=0.5, form="norm", delayed=delayed, v0=9.0)
        x.grad = x.detach().clone()
        optimizer.step()
        assert x.item() == pytest.approx(2 - 0.25 * moved, abs=1e-10)


@pytest.mark.parametrize("granularity", ["global", "group", "tensor"])
def test_norm_form_accumulates_the_clipped_norms_and_bounds_hold(granularity):
    steps, clip, eta, lr = 30, 0.8, 0.5, 0.1

    def make(p):
        groups = [{"params": p[:2]}, {"params": p[2:]}]
        return ClippedAdaGrad(groups, lr, clip=clip, form="norm", granularity=granularity, eta=eta, v0=4.0)

    ours, optimizer = run(make, steps, scale=3.0)
    params = [param.detach().clone() for param in weights()]
    blocks = {"global": [[0, 1, 2]], "group": [[0, 1], [2]], "tensor": [[0], [1], [2]]}[granularity]
    squares = [4.0] * len(blocks)
    for step in range(steps):
        grads = gradients(step, 3.0)
        for number, block in enumerate(blocks):
            size = math.sqrt(sum(float(grads[i].square().sum()) for i in block))
            factor = min(1.0, clip / size)
            for i in block:
                params[i] -= lr / math.sqrt(squares[number]) * factor * grads[i]
            squares[number] += eta * (factor * size) ** 2
    same(ours, params, rtol=1e-8)
    for number, block in enumerate(blocks):
        owner = optimizer.param_groups[0 if block[0] < 2 else 1]["params"][block[0] % 2]
        assert float(optimizer.state[owner]["norm_sum"]) == pytest.approx(squares[number], rel=1e-12)
        assert squares[number] <= 4.0 + eta * steps * clip**2 * (1 + 1e-12)


def test_without_reweighting_the_delayed_form_is_clipped_sgd():
    class Clipped(torch.optim.SGD):
        def step(self, closure=None):
            grads = [p.grad for p in self.param_groups[0]["params"]]
            size = torch.cat([g.reshape(-1) for g in grads]).norm()
            for grad in grads:
                grad *= min(1.0, 0.5 / float(size))
            return super().step()

    ours, _ = run(lambda p: ClippedAdaGrad(p, lr=0.3, clip=0.5, form="norm", eta=0.0, v0=4.0))
    theirs, _ = run(lambda p: Clipped(p, lr=0.3 / 2))
    same(ours, theirs, rtol=1e-9)


def test_in_one_dimension_norm_and_coordinate_form_coincide():
    for delayed in ("accumulator", False):
        results = []
        for form, granularity in (("norm", "tensor"), ("coordinate", "coordinate")):
            x = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
            optimizer = ClippedAdaGrad(
                [x], 1.0, clip=0.5, form=form, granularity=granularity, delayed=delayed, v0=9.0, eta=0.6
            )
            for step in range(20):
                x.grad = x.detach() + gradients(step)[2]
                optimizer.step()
            results.append(x.item())
        assert results[0] == pytest.approx(results[1], rel=1e-12)


def bert_adam(params, scale, *, clip, delayed, eta=1.0, v0=0.0, steps=6, lr=0.1, decay=0.0, norm_form=False):
    """Adam with the epsilon before the correction, clipping per tensor, and an optional delay, in plain loops."""
    params = [param.detach().clone() for param in params]
    m, before = [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params]
    v = [torch.tensor(v0, dtype=p.dtype) if norm_form else torch.full_like(p, v0) for p in params]
    for step in range(steps):
        for i, grad in enumerate(gradients(step, scale)):
            eps = 0.0 if norm_form else 1e-6
            c = grad * min(1.0, clip / (float(grad.norm()) + eps))
            m[i] = 0.9 * m[i] + 0.1 * c
            seen = before[i] if delayed else c
            v[i] = 0.999 * v[i] + 0.001 * eta * (seen.square().sum() if norm_form else seen * seen)
            before[i] = c
            t = step + 1
            rate = lr if delayed else lr * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            params[i] = params[i] - rate * m[i] / (v[i].sqrt() + 1e-6)
            params[i] = params[i] - lr * decay * params[i]
    return params


@pytest.mark.parametrize("form", ["coordinate", "norm"])
@pytest.mark.parametrize("delayed", [True, False])
@pytest.mark.parametrize("clip", [INF, 0.5])
def test_adam_against_a_loop(clip, delayed, form):
    v0, eta = (1e-5, 0.6) if delayed else (0.0, 1.0)

    def make(p):
        return ClippedAdam(
            p, 0.1, clip=clip, delayed=delayed, eta=eta, weight_decay=0.02, form=form, granularity="tensor"
        )

    ours, _ = run(make)
    same(
        ours,
        bert_adam(weights(), 1.0, clip=clip, delayed=delayed, eta=eta, v0=v0, decay=0.02, norm_form=form == "norm"),
        rtol=1e-9,
    )


def test_unclipped_adam_with_no_epsilon_is_torch_adam():
    ours, _ = run(lambda p: ClippedAdam(p, 0.1, clip=INF, delayed=False, eps=0.0))
    theirs, _ = run(lambda p: torch.optim.Adam(p, 0.1, eps=0.0))
    same(ours, theirs, rtol=1e-12)


def test_the_delay_survives_gradients_that_are_zeroed_in_place():
    """The previous gradient is a copy: `zero_grad(set_to_none=False)` must not reach it."""
    for make in (
        lambda p: ClippedAdaGrad(p, 0.1, clip=INF, delayed="gradient"),
        lambda p: ClippedAdam(p, 0.1, clip=INF),
    ):
        ends = []
        for keep in (True, False):
            params = weights()
            optimizer = make(params)
            for step in range(4):
                for param, grad in zip(params, gradients(step), strict=True):
                    if param.grad is None:
                        param.grad = grad
                    else:
                        param.grad.copy_(grad)
                optimizer.step()
                optimizer.zero_grad(set_to_none=not keep)
            ends.append([param.detach() for param in params])
        same(*ends)


def test_one_huge_gradient_freezes_adagrad_but_not_its_clipped_form():
    ends = {}
    for clip in (INF, 1.0):
        x = nn.Parameter(torch.full((4,), 2.0))
        optimizer = ClippedAdaGrad([x], 0.5, clip=clip, form="norm", v0=1.0)
        for step in range(200):
            x.grad = x.detach() + (1e6 if step == 3 else 0.0) * torch.tensor([1.0, -1.0, 1.0, -1.0])
            optimizer.step()
        ends[clip] = float(x.detach().norm())
    assert ends[1.0] < 0.1 < 100 < ends[INF]


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (ClippedAdaGrad, {"clip": -1.0}, "clip must be at least 0"),
        (ClippedAdaGrad, {"eta": math.nan}, "eta must be at least 0"),
        (ClippedAdaGrad, {"v0": 0.0}, "v0 must be above 0"),
        (ClippedAdaGrad, {"form": "scalar"}, "form must be one of coordinate, norm"),
        (ClippedAdaGrad, {"granularity": "row"}, "granularity must be one of"),
        (ClippedAdaGrad, {"form": "norm", "granularity": "coordinate"}, "form 'norm' measures blocks"),
        (ClippedAdaGrad, {"delayed": "step"}, "delayed must be one of accumulator, gradient, False"),
        (ClippedAdam, {"delayed": "gradient"}, "delayed must be one of accumulator, False"),
        (ClippedAdam, {"betas": (0.9, 1.0)}, "betas must be two numbers"),
    ],
)
def test_what_makes_no_sense_is_refused(make, settings, message):
    with pytest.raises(UsageError, match=message):
        make(weights(), **settings)
