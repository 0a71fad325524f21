"""Properties of every clipping method; a new one joins by being in `METHODS`."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from binderclip import errors
from binderclip.optim import METHODS, Clip, ClipList, Constant, NonFiniteGradient, NormClip, ValueClip, as_clip
from binderclip.optim import clip_grad_norm_ as our_clip_grad_norm_

methods = pytest.mark.parametrize("name", METHODS)
SPLITTABLE = ("norm", "value", "zclip", "autoclip")  # one number for everything


def grads_of(params):
    return [p.grad.clone() for p in params.values()]


def assert_equal(ours, theirs, tolerance=0.0):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def blocks(grad, granularity):
    """A tensor's gradient cut into the pieces one statistic covers."""
    return list(grad.flatten(1)) if granularity == "unit" and grad.ndim > 1 else [grad.flatten()]


@methods
def test_an_infinite_limit_leaves_gradients_bit_identical(parameters, name):
    params = parameters(scale=30.0)
    clip, before = METHODS[name](), grads_of(params)
    clip.threshold = Constant(math.inf)
    report = clip(params.items())
    assert_equal(grads_of(params), before)
    assert not report.clipped.any()


@methods
def test_afterwards_every_block_is_within_its_limit_and_points_the_same_way(parameters, name):
    clip = METHODS[name]()
    for step in range(6):
        params = parameters(scale=10.0 ** (step % 3), seed=step)
        before = grads_of(params)
        report = clip(params.items())
        after = grads_of(params)
        # measured again, with a fresh clip that only looks
        seen = Clip(math.inf, granularity=clip.granularity, statistic=clip.order, action=clip.action, observe=True)
        assert (seen(params.items()).stat <= report.limit * (1 + 1e-6) + 1e-30).all()
        for one, other in zip(before, after, strict=True):
            assert torch.equal(one.sign(), other.sign())
            if clip.action == "scale":
                for x, y in zip(blocks(one, clip.granularity), blocks(other, clip.granularity), strict=True):
                    assert float(F.cosine_similarity(x, y, dim=0)) == pytest.approx(1.0, abs=1e-6)
    assert report.clipped.any()


@methods
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_foreach_equals_a_plain_loop(parameters, name, dtype):
    one, other = (METHODS[name](foreach=foreach) for foreach in (True, False))
    for step in range(4):
        first, second = (parameters(scale=3.0, seed=step, dtype=dtype) for _ in range(2))
        a, b = one(first.items()), other(second.items())
        torch.testing.assert_close(a.norm, b.norm, rtol=1e-6, atol=0)
        assert_equal(grads_of(first), grads_of(second), 1e-6 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("name", SPLITTABLE)
def test_cutting_tensors_into_shards_changes_nothing(parameters, name):
    whole_clip, shard_clip = METHODS[name](), METHODS[name]()
    for step in range(4):
        params = parameters(scale=3.0, seed=step, dtype=torch.float64)
        pieces = {}
        for key, p in params.items():
            for number, part in enumerate(p.grad.clone().reshape(-1).split(7)):
                pieces[f"{key}.{number}"] = nn.Parameter(torch.zeros_like(part))
                pieces[f"{key}.{number}"].grad = part
        whole_clip(params.items())
        shard_clip(pieces.items())
        assert_equal(
            [torch.cat([p.grad.flatten() for p in params.values()])],
            [torch.cat([p.grad for p in pieces.values()])],
            1e-12,
        )


@methods
def test_a_saved_state_continues_the_same_trajectory(parameters, name, tmp_path):
    clip, resumed = METHODS[name](), METHODS[name]()
    for step in range(8):
        first, second = (parameters(scale=1 + step % 3, seed=step) for _ in range(2))
        if step == 4:
            torch.save(clip.state_dict(), tmp_path / "state")
            resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
        clip(first.items())
        if step >= 4:
            resumed(second.items())
            assert_equal(grads_of(first), grads_of(second))


@methods
def test_parameters_without_gradient_are_passed_over(parameters, name):
    clip, other = METHODS[name](), METHODS[name]()
    for step in range(4):
        params, same = parameters(seed=step, scale=4.0), parameters(seed=step, scale=4.0)
        idle = {"aa_first": nn.Parameter(torch.ones(3)), **params, "last": nn.Parameter(torch.ones(2))}
        clip(idle.items())
        other(same.items())
        assert idle["aa_first"].grad is None
        assert_equal(grads_of(params), grads_of(same))


@methods
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_skipped_step_leaves_the_memory_untouched(parameters, name, bad):
    clip = METHODS[name](nonfinite="skip")
    for step in range(3):
        clip(parameters(seed=step).items())
    before = clip.state_dict()
    params = parameters(seed=9)
    params["weight"].grad[1, 2] = bad
    report = clip(params.items())
    assert bool(report.skipped)
    assert all(p.grad is None for p in params.values())
    assert repr(before) == repr(clip.state_dict())


@methods
def test_raising_names_the_tensor_and_uses_nothing(parameters, name):
    params = parameters()
    params["conv"].grad[0, 0, 0, 0] = math.nan
    with pytest.raises(NonFiniteGradient, match="1 tensors \\(conv\\)"):
        METHODS[name]()(params.items())
    assert all(p.grad is None for p in params.values())


@methods
def test_zero_takes_the_bad_entries_out_and_clips_the_rest(parameters, name):
    params, expected = parameters(scale=5.0), parameters(scale=5.0)
    params["weight"].grad[1, 2], expected["weight"].grad[1, 2] = math.inf, 0.0
    METHODS[name](nonfinite="zero")(params.items())
    METHODS[name]()(expected.items())
    assert_equal(grads_of(params), grads_of(expected))


@methods
def test_observing_changes_no_gradient_and_reports_the_same(parameters, name):
    looking, clipping = METHODS[name](observe=True), METHODS[name]()
    for step in range(4):
        params, other = (parameters(scale=3.0, seed=step) for _ in range(2))
        before = grads_of(params)
        seen, done = looking(params.items()), clipping(other.items())
        assert_equal(grads_of(params), before)
        assert_equal([seen.limit, seen.scale, seen.norm], [done.limit, done.scale, done.norm])


@methods
def test_order_of_the_parameters_does_not_matter(parameters, name):
    one, other = METHODS[name](), METHODS[name]()
    for step in range(4):
        params, same = (parameters(scale=4.0, seed=step) for _ in range(2))
        one(params.items())
        other(reversed(list(same.items())))
        assert_equal(grads_of(params), grads_of(same), 1e-6)


# name: its constructor without constants that have a scale; weights are scaled too for the one that looks at them
EQUIVARIANT = {
    "zclip": lambda: METHODS["zclip"](max_grad_norm=None, warmup_steps=3, eps=1e-30),
    "autoclip": lambda: METHODS["autoclip"](50),
    "adagc": lambda: METHODS["adagc"](lambda_abs=math.inf, warmup_steps=3),
    "agc": lambda: METHODS["agc"](),
    "coordinate": lambda: METHODS["coordinate"](),
}


@pytest.mark.parametrize("name", EQUIVARIANT)
@pytest.mark.parametrize("k", [0.25, 40.0])
def test_gradients_times_k_come_out_times_k(parameters, name, k):
    one, other = EQUIVARIANT[name](), EQUIVARIANT[name]()
    clipped = 0
    for step in range(8):
        # every method must have something to clip: the last steps rise
        size = 1.0 if step < 5 else 9.0**step
        params, scaled = (parameters(scale=size, seed=step, dtype=torch.float64) for _ in range(2))
        with torch.no_grad():
            for p in scaled.values():
                p.mul_(k)
                p.grad.mul_(k)
        clipped += int(one(params.items()).clipped.sum())
        other(scaled.items())
        for a, b in zip(grads_of(params), grads_of(scaled), strict=True):
            torch.testing.assert_close(k * a, b, rtol=1e-5, atol=0)
    assert clipped


@pytest.mark.parametrize("name", ["norm", "value"])
def test_constant_limits_do_not_scale(parameters, name):
    params, scaled = parameters(scale=9.0), parameters(scale=90.0)
    METHODS[name]()(params.items())
    METHODS[name]()(scaled.items())
    assert not torch.allclose(10 * params["weight"].grad, scaled["weight"].grad)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), torch.randn(64, 4)


@methods
@pytest.mark.parametrize("fused", [False, True])
def test_a_bad_batch_is_skipped_and_a_killed_run_resumes_with_the_same_weights(name, fused, tmp_path):
    """One training: a NaN batch at step 5 changes nothing and is reported; killed at 7, it goes on exactly."""

    def start():
        model, batch = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
        clip = METHODS[name](nonfinite="skip")
        clip.attach(optimizer, model.named_parameters())
        return model, batch, optimizer, clip

    def step(model, batch, optimizer, number):
        optimizer.zero_grad()
        loss = 10.0 ** (number % 3) * model(batch[number::16]).square().mean()
        (loss * (math.nan if number == 5 else 1.0)).backward()
        optimizer.step()

    model, batch, optimizer, clip = start()
    for number in range(14):
        before, state = [p.detach().clone() for p in model.parameters()], repr(optimizer.state_dict())
        step(model, batch, optimizer, number)
        assert bool(clip.report.skipped) == (number == 5)
        if number == 5:
            assert_equal(before, [p.detach() for p in model.parameters()])
            assert repr(optimizer.state_dict()) == state
        if number == 6:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint")
    resumed, batch, other, _ = start()
    saved = torch.load(tmp_path / "checkpoint", weights_only=True)
    resumed.load_state_dict(saved["model"])
    other.load_state_dict(saved["optimizer"])
    for number in range(7, 14):
        step(resumed, batch, other, number)
    assert_equal([p.detach() for p in model.parameters()], [p.detach() for p in resumed.parameters()])


@methods
def test_a_tied_weight_counts_once_in_every_method(parameters, name):
    once, twice = parameters(scale=4.0), parameters(scale=4.0)
    first = METHODS[name]()(once.items())
    second = METHODS[name]()([*twice.items(), ("tied", twice["weight"])])
    assert_equal(grads_of(once), grads_of(twice))
    assert_equal([first.norm, first.stat], [second.norm, second.stat])


@methods
def test_half_precision_statistics_are_accumulated_in_float32(parameters, name):
    params, exact = parameters(scale=4.0, dtype=torch.bfloat16), {}
    for key, p in params.items():
        exact[key] = nn.Parameter(p.detach().double())
        exact[key].grad = p.grad.double()
    seen, expected = METHODS[name](observe=True)(params.items()), METHODS[name](observe=True)(exact.items())
    assert seen.stat.dtype == torch.float32
    assert_equal([seen.stat, seen.scale], [expected.stat.float(), expected.scale.float()], 1e-5)


# -- parity with PyTorch --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("max_norm", [0.0, 0.1, 5.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norm_clipping_is_torchs_bit_for_bit(parameters, norm_type, max_norm, dtype):
    ours, theirs = (parameters(scale=2.0, dtype=dtype) for _ in range(2))
    report = NormClip(max_norm, norm_type)(ours.values())
    total = nn.utils.clip_grad_norm_(theirs.values(), max_norm, norm_type)
    assert torch.equal(report.norm, total)
    assert_equal(grads_of(ours), grads_of(theirs))
    again = parameters(scale=2.0, dtype=dtype)
    assert torch.equal(our_clip_grad_norm_(again.values(), max_norm, norm_type), total)
    assert_equal(grads_of(again), grads_of(theirs))


@pytest.mark.parametrize("value", [0.0, 0.3, 100.0])
def test_value_clipping_is_torchs_bit_for_bit(parameters, value):
    ours, theirs = parameters(scale=2.0), parameters(scale=2.0)
    ValueClip(value)(ours.values())
    nn.utils.clip_grad_value_(theirs.values(), value)
    assert_equal(grads_of(ours), grads_of(theirs))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_drop_in_treats_what_is_not_finite_as_torch_does(parameters, bad):
    ours, theirs = parameters(), parameters()
    for params in (ours, theirs):
        params["bias"].grad[0] = bad
    total = our_clip_grad_norm_(ours.values(), 1.0)
    expected = nn.utils.clip_grad_norm_(theirs.values(), 1.0)
    torch.testing.assert_close(total, expected, equal_nan=True)
    for one, other in zip(grads_of(ours), grads_of(theirs), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, rtol=0, atol=0)
    before = parameters()
    before["bias"].grad[0] = bad
    kept = grads_of(before)
    with pytest.raises(RuntimeError, match="error_if_nonfinite"):
        our_clip_grad_norm_(before.values(), 1.0, error_if_nonfinite=True)
    for one, other in zip(kept, grads_of(before), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, rtol=0, atol=0)


def test_the_drop_in_takes_one_tensor_a_generator_and_nothing(parameters):
    weight = parameters(scale=9.0)["weight"]
    our_clip_grad_norm_(weight, 1.0)
    assert float(weight.grad.norm()) == pytest.approx(1.0, abs=1e-5)
    assert float(our_clip_grad_norm_((p for p in [nn.Parameter(torch.ones(2))]), 1.0)) == 0.0


def test_half_precision_norms_are_float32(parameters):
    params = parameters(dtype=torch.bfloat16, scale=3.0)
    report = NormClip(math.inf)(params.values())
    exact = torch.cat([p.grad.double().flatten() for p in params.values()]).norm()
    assert report.norm.dtype == torch.float32
    assert float(report.norm) == pytest.approx(float(exact), rel=1e-6)


# -- lists, names, settings -----------------------------------------------------------------------------------------


def test_a_list_of_clips_acts_in_order(parameters):
    ours, theirs = parameters(scale=3.0), parameters(scale=3.0)
    reports = as_clip(["value", NormClip(0.5)])(ours.items())
    nn.utils.clip_grad_value_(theirs.values(), 1.0)
    nn.utils.clip_grad_norm_(theirs.values(), 0.5)
    assert_equal(grads_of(ours), grads_of(theirs))
    assert len(reports) == 2


def test_an_attached_list_knows_the_parameters_by_the_names_it_is_given():
    params = {"first": nn.Parameter(torch.ones(2)), "second": nn.Parameter(torch.ones(3))}
    clips = ClipList([NormClip(0.5, exclude="first"), ValueClip(0.1)])
    optimizer = torch.optim.SGD(params.values(), lr=1.0)
    clips.attach(optimizer, params.items())
    for p in params.values():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert [report.names for report in clips.report] == [("second",), ("first", "second")]


def test_what_counts_as_a_clip():
    clip = NormClip(2.0)
    assert as_clip(clip) is clip
    assert isinstance(as_clip("value"), ValueClip)
    assert as_clip(3).threshold.value == 3.0
    assert isinstance(as_clip([clip, 1.0]), ClipList)
    for wrong, message in (("zclp", "norm, value"), ([], "at least one"), (None, "got None")):
        with pytest.raises(errors.UsageError, match=message):
            as_clip(wrong)


@pytest.mark.parametrize(
    "wrong", [{"max_norm": -1.0}, {"max_norm": math.nan}, {"norm_type": 0.0}, {"nonfinite": "ignore"}]
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(errors.UsageError):
        NormClip(**wrong)
