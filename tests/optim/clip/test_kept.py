"""The actions that remember: around a centre (p016, arXiv 2402.12828), and error feedback (as in p001)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from binderclip import errors
from binderclip.optim import AutoClip, Clip, MedianMomentum, NormClip
from binderclip.optim.clip.target import StepTarget
from binderclip.optim.gradients import collect

STEPS = 6


def heavy_tailed(step, dtype=torch.float64):
    """Parameters whose gradients now and then are huge."""
    generator = torch.Generator().manual_seed(step)
    shapes = {"weight": (5, 7), "bias": (5,), "scale": ()}
    params = {}
    for name, shape in shapes.items():
        params[name] = nn.Parameter(torch.zeros(shape, dtype=dtype))
        size = 1e3 if step % 3 == 2 else 1.0
        params[name].grad = (1 + size * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
    return params


MEDIANS = {
    "l2": ({"granularity": "tensor"}, {"estimator": "l2", "granularity": "tensor"}),
    "l2, global": ({"granularity": "global"}, {"estimator": "l2", "granularity": "global"}),
    "l1": ({"granularity": "coordinate", "statistic": "max"}, {"estimator": "l1"}),
}


@pytest.mark.parametrize("name", MEDIANS)
def test_plain_sgd_along_a_clipped_centre_is_median_momentum(name):
    """Two implementations of one formula that share no state."""
    ours, theirs = MEDIANS[name]
    first, second = heavy_tailed(0), heavy_tailed(0)
    clip = Clip(0.7, action="centre", **ours)
    sgd = torch.optim.SGD(first.values(), lr=0.1)
    clip.attach(sgd, first.items())
    median = MedianMomentum(second.values(), lr=0.1, tau=0.7, **theirs)
    clipped = 0
    for step in range(STEPS):
        for params in (first, second):
            for key, p in heavy_tailed(step).items():
                params[key].grad = p.grad
        sgd.step()
        median.step()
        clipped += int(clip.report.clipped.any())
    assert clipped >= 3
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=1e-12, atol=1e-14)


def test_one_huge_gradient_moves_the_centre_by_the_limit_alone():
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    clip = Clip(0.5, action="centre")
    outputs = []
    for gradient in ([1.0, 0.0], [1.0, 1e6], [1.0, 0.0]):
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        clip([weight])
        outputs.append(weight.grad.tolist())
    # by hand: the first is kept, the second lies a million up, the third half a unit down
    assert outputs == [[1.0, 0.0], [1.0, 0.5], [1.0, 0.0]]


@pytest.mark.parametrize("granularity", ["global", "tensor", "unit", "coordinate"])
def test_what_is_cut_off_is_added_later_and_nothing_is_lost(granularity):
    statistic = "max" if granularity == "coordinate" else "l2"
    clip = Clip(0.8, action="residual", granularity=granularity, statistic=statistic)
    plain = Clip(
        math.inf, granularity=granularity, statistic=statistic, action="clamp" if statistic == "max" else "scale"
    )
    came, went = {}, {}
    for step in range(STEPS):
        params = heavy_tailed(step)
        for key, p in params.items():
            came[key] = came.get(key, 0) + p.grad
        report = clip(params.items())
        assert (plain(params.items()).stat <= 0.8 * (1 + 1e-9)).all()
        for key, p in params.items():
            went[key] = went.get(key, 0) + p.grad
    assert report.clipped.any()
    left = clip.state_dict()["kept"]
    for key in came:
        torch.testing.assert_close(went[key] + left[key], came[key], rtol=1e-12, atol=1e-9)


def test_the_residual_comes_out_when_the_gradient_ends():
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    clip = Clip(2.0, action="residual")
    outputs = []
    for gradient in (5.0, 0.0, 0.0, 0.0):
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        clip([weight])
        outputs.append(float(weight.grad))
    assert outputs == [2.0, 2.0, 1.0, 0.0]


@pytest.mark.parametrize("action", ["centre", "residual"])
def test_an_infinite_limit_changes_nothing(action):
    clip = Clip(math.inf, action=action)
    for step in range(3):
        params = heavy_tailed(step)
        before = {key: p.grad.clone() for key, p in params.items()}
        clip(params.items())
        for key, p in params.items():
            torch.testing.assert_close(p.grad, before[key], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("action", ["centre", "residual"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_saved_state_goes_on_exactly(action, dtype, tmp_path):
    clip, resumed = (AutoClip(50, action=action) for _ in range(2))
    for step in range(STEPS):
        first, second = heavy_tailed(step, dtype), heavy_tailed(step, dtype)
        if step == 3:
            torch.save(clip.state_dict(), tmp_path / "state")
            resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
        clip(first.items())
        if step >= 3:
            resumed(second.items())
            assert all(torch.equal(first[key].grad, second[key].grad) for key in first)
    # what is remembered of half-precision gradients is not rounded to them
    assert {value.dtype for value in clip.state_dict()["kept"].values()} == {
        torch.float32 if dtype == torch.bfloat16 else dtype
    }


@pytest.mark.parametrize("action", ["centre", "residual"])
@pytest.mark.parametrize("on_host", [True, False])
def test_a_bad_step_leaves_what_is_remembered_alone(action, on_host, monkeypatch):
    if not on_host:
        monkeypatch.setattr(collect, "reads_are_free", lambda grads: False)
    clip = Clip(0.7, action=action, nonfinite="skip")
    params = heavy_tailed(0, torch.float32)
    optimizer = torch.optim.SGD(params.values(), lr=0.1, fused=True)
    clip.attach(optimizer, params.items())
    optimizer.step()
    before, weights = repr(clip.state_dict()), [p.detach().clone() for p in params.values()]
    for key, p in heavy_tailed(1, torch.float32).items():
        params[key].grad = p.grad
    params["bias"].grad[0] = math.nan
    optimizer.step()
    assert bool(clip.report.skipped)
    assert repr(clip.state_dict()) == before
    assert all(torch.equal(p, old) for p, old in zip(params.values(), weights, strict=True))


@pytest.mark.parametrize("action", ["centre", "residual"])
def test_a_loss_scale_changes_nothing(action):
    def run(scale):
        params = heavy_tailed(0, torch.float32)
        optimizer = torch.optim.SGD(params.values(), lr=0.1, fused=True)
        clip = Clip(0.7, action=action)
        entries = collect.entries_of(params.items())
        for step in range(STEPS):
            for key, p in heavy_tailed(step, torch.float32).items():
                params[key].grad = p.grad * scale
            optimizer.grad_scale = torch.tensor(float(scale))
            clip.run(entries, StepTarget(optimizer, whole=True))
            optimizer.step()
        return [p.detach() for p in params.values()]

    for ours, theirs in zip(run(1024.0), run(1.0), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("action", ["centre", "residual"])
def test_observing_remembers_and_changes_nothing(action):
    looking, clipping = Clip(0.7, action=action, observe=True), Clip(0.7, action=action)
    for step in range(STEPS):
        params, others = heavy_tailed(step), heavy_tailed(step)
        before = {key: p.grad.clone() for key, p in params.items()}
        seen, done = looking(params.items()), clipping(others.items())
        assert all(torch.equal(params[key].grad, before[key]) for key in params)
        torch.testing.assert_close(seen.scale, done.scale)
    assert done.clipped.any()


@pytest.mark.parametrize("action", ["centre", "residual"])
def test_zero_counts_bad_entries_as_zero(action):
    bad, good = Clip(0.7, action=action, nonfinite="zero"), Clip(0.7, action=action)
    for step in range(3):
        params, others = heavy_tailed(step), heavy_tailed(step)
        params["weight"].grad[1, 2], others["weight"].grad[1, 2] = math.inf, 0.0
        bad(params.items())
        good(others.items())
        assert all(torch.equal(params[key].grad, others[key].grad) for key in params)


def test_a_parameter_without_gradient_keeps_what_is_remembered_of_it():
    clip = Clip(0.7, granularity="tensor", action="residual")
    clip(heavy_tailed(2).items())
    kept = clip.state_dict()["kept"]["bias"]
    params = heavy_tailed(1)
    params["bias"].grad = None
    clip(params.items())
    assert torch.equal(clip.state_dict()["kept"]["bias"], kept)


@pytest.mark.parametrize("action", ["centre", "residual"])
def test_updates_have_no_memory_of_gradients(action):
    with pytest.raises(errors.UsageError, match=f"{action!r} changes gradients"):
        Clip(1.0, action=action, where="update")
    with pytest.raises(errors.UsageError, match="statistic='max'"):
        Clip(1.0, action=action, granularity="coordinate")


# -- nonfinite="shrink" (p009, arXiv 1211.5063) ----------------------------------------------------------------------


def recurrent():
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": nn.RNN(3, 4, batch_first=True), "head": nn.Linear(4, 2)})
    return model, torch.randn(5, 6, 3)


def backward(model, batch, factor=1.0):
    model.zero_grad()
    states, _ = model["rnn"](batch)
    (factor * model["head"](states[:, -1]).square().mean()).backward()


@pytest.mark.parametrize("factor", [math.nan, math.inf, 1e14])
@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_a_bad_step_shrinks_the_recurrent_matrix_and_nothing_else(factor, on_host, fused, monkeypatch):
    if not on_host:
        monkeypatch.setattr(collect, "reads_are_free", lambda grads: False)
    model, batch = recurrent()
    clip = NormClip(1.0, nonfinite="shrink")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, fused=fused)
    clip.attach(optimizer, model.named_parameters())
    backward(model, batch)
    optimizer.step()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    backward(model, batch, factor)
    optimizer.step()
    assert bool(clip.report.skipped)
    for name, p in model.named_parameters():
        expected = before[name] * (1 - 0.5 * 0.02) if name == "rnn.weight_hh_l0" else before[name]
        torch.testing.assert_close(p.detach(), expected)
    # and the next step is an ordinary one
    twin, _ = recurrent()
    twin.load_state_dict(model.state_dict())
    backward(model, batch)
    optimizer.step()
    backward(twin, batch)
    nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
    torch.optim.SGD(twin.parameters(), lr=0.5).step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_shrinking_step_is_not_remembered_and_goes_with_any_method():
    model, batch = recurrent()
    clip = AutoClip(50, nonfinite="shrink", shrink=lambda name, tensor: tensor.ndim == 2)
    backward(model, batch)
    clip(model.named_parameters())
    before = repr(clip.state_dict())
    backward(model, batch, math.nan)
    clip(model.named_parameters())
    assert repr(clip.state_dict()) == before
    for p in model.parameters():
        torch.testing.assert_close(p.grad, 0.02 * p.detach() if p.ndim == 2 else torch.zeros_like(p))


def test_shrinking_behind_a_folded_factor_is_in_the_gradients_own_units():
    model, batch = recurrent()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, fused=True)
    optimizer.grad_scale = torch.tensor(8.0)  # as an earlier clip leaves it
    before = model["rnn"].weight_hh_l0.detach().clone()
    backward(model, batch, math.nan)
    entries = collect.entries_of(model.named_parameters())
    NormClip(1.0, nonfinite="shrink").run(entries, StepTarget(optimizer, whole=True))
    optimizer.step()
    torch.testing.assert_close(model["rnn"].weight_hh_l0.detach(), before * 0.99)


def test_shrinking_needs_something_to_shrink_and_its_name():
    model, batch = recurrent()
    backward(model, batch)
    with pytest.raises(errors.UsageError, match=r"finds nothing to shrink.*lstm"):
        NormClip(1.0, nonfinite="shrink", shrink="lstm.*")(model.named_parameters())
    with pytest.raises(errors.UsageError, match="shrink= goes by name"):
        NormClip(1.0, nonfinite="shrink")(model.parameters())
    with pytest.raises(errors.UsageError, match="'shrink' changes gradients"):
        Clip(1.0, nonfinite="shrink", where="update")
