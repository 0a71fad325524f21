"""What every optimizer of `binderclip.optim` promises, in one set of tests."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn

from binderclip.errors import NotSupported, UsageError
from binderclip.fit import OPTIMIZERS
from binderclip.fit.optimizers import make_optimizer
from binderclip.optim import (
    LAMB,
    ClippedAdaGrad,
    ClippedAdam,
    MedianMomentum,
    NonFiniteGradient,
    NormClip,
    SplitSGD,
    StableSPAM,
)

MAKERS = {
    "adagrad": lambda p, **s: ClippedAdaGrad(p, **{"lr": 0.1, "clip": 0.8} | s),
    "adagrad-now": lambda p, **s: ClippedAdaGrad(p, **{"lr": 0.1, "clip": 0.8, "delayed": False} | s),
    "adagrad-gradient": lambda p, **s: ClippedAdaGrad(p, **{"lr": 0.1, "clip": 0.8, "delayed": "gradient"} | s),
    "adagrad-norm": lambda p, **s: ClippedAdaGrad(p, **{"lr": 0.1, "clip": 0.8, "form": "norm"} | s),
    "adagrad-values": lambda p, **s: ClippedAdaGrad(p, **{"lr": 0.1, "clip": 0.2, "granularity": "coordinate"} | s),
    "adam": lambda p, **s: ClippedAdam(p, **{"lr": 0.1, "clip": 0.8} | s),
    "adam-now": lambda p, **s: ClippedAdam(p, **{"lr": 0.1, "clip": 0.8, "delayed": False} | s),
    "adam-norm": lambda p, **s: ClippedAdam(p, **{"lr": 0.1, "clip": 0.8, "form": "norm"} | s),
    "lamb": lambda p, **s: LAMB(p, **{"lr": 0.1} | s),
    "lamb-released": lambda p, **s: LAMB(p, **{"lr": 0.1, "released": True} | s),
    "median-l2": lambda p, **s: MedianMomentum(p, **{"lr": 0.1, "tau": 0.3} | s),
    "median-l1": lambda p, **s: MedianMomentum(p, **{"lr": 0.1, "estimator": "l1", "tau": 0.1} | s),
    "median-global": lambda p, **s: MedianMomentum(p, **{"lr": 0.1, "tau": 0.3, "granularity": "global"} | s),
    "median-huber": lambda p, **s: MedianMomentum(p, **{"lr": 0.1, "estimator": "huber", "tau": 0.3, "mu": 0.2} | s),
    "mean": lambda p, **s: MedianMomentum(p, **{"lr": 0.1, "estimator": "mean", "tau": 0.3} | s),
    "split": lambda p, **s: SplitSGD(p, **{"lr": 0.1, "quantile": 0.7} | s),
    "spam": lambda p, **s: StableSPAM(p, **{"lr": 0.1, "theta": 0.9, "update_proj_gap": 4} | s),
    "spam-literal": lambda p, **s: StableSPAM(
        p, **{"lr": 0.1, "theta": 0.9, "update_proj_gap": 4, "reset": "literal", "total_T": 20} | s
    ),
}
SHAPES = ((4, 3), (5,), (), (2, 1, 3))

every = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def start(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def give(params, step, *, without=(), dtype=None):
    generator = torch.Generator().manual_seed(50 + step)
    for number, param in enumerate(params):
        grad = torch.randn(param.shape, generator=generator).to(param.dtype)
        param.grad = None if number in without else grad * (20 if step % 4 == 3 else 1)


def train(params, optimizer, steps, **settings):
    for step in steps:
        give(params, step, **settings)
        optimizer.step()


def equal(ours, theirs):
    return all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def states(optimizer):
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_state_continues_the_same_run_exactly(make, dtype):
    straight = start(dtype)
    train(straight, make(straight), range(9))
    params = start(dtype)
    optimizer = make(params)
    train(params, optimizer, range(5))
    assert not equal(params, straight)
    file = io.BytesIO()
    torch.save({"weights": params, "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = [nn.Parameter(param.detach()) for param in saved["weights"]]
    again = make(resumed, lr=7.0)
    again.load_state_dict(saved["optimizer"])
    train(resumed, again, range(5, 9))
    assert equal(resumed, straight)


@every
def test_copies_and_pickles_continue_alike(make):
    params = start()
    optimizer = make(params)
    train(params, optimizer, range(5))
    for clone in (copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))):
        twin = clone(optimizer)
        others = twin.param_groups[0]["params"]
        train(others, twin, range(5, 8))
        original = copy.deepcopy(optimizer)
        theirs = original.param_groups[0]["params"]
        train(theirs, original, range(5, 8))
        assert equal(others, theirs)


@every
def test_batched_kernels_and_loops_agree(make):
    ends = []
    for foreach in (None, True, False):
        params = start()
        train(params, make(params, foreach=foreach, weight_decay=0.1), range(8))
        ends.append([param.detach() for param in params])
    for other in ends[1:]:
        for one, two in zip(ends[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)


@every
def test_parameters_without_a_gradient_are_passed_over(make):
    """Per-tensor rules: a tensor that pauses, pauses; and the others do not notice."""
    params, optimizer = start(), None
    optimizer = make(params)
    optimizer.step()  # nothing has a gradient
    assert not states(optimizer)
    train(params, optimizer, range(2))
    still = params[1].detach().clone()
    memory = copy.deepcopy(optimizer.state[params[1]])
    train(params, optimizer, range(2, 4), without=(1,))
    assert torch.equal(params[1], still)
    for key, value in memory.items():
        assert torch.equal(optimizer.state[params[1]][key], value), key
    train(params, optimizer, range(4, 6))
    assert not torch.equal(params[1], still)


@every
def test_the_gradient_itself_is_never_written(make):
    params = start()
    optimizer = make(params, weight_decay=0.1)
    for step in range(6):
        give(params, step)
        before = [param.grad.clone() for param in params]
        optimizer.step()
        assert equal([param.grad for param in params], before)


@every
def test_maximising_mirrors_minimising(make):
    ups, downs = start(), start()
    up, down = make(ups, maximize=True), make(downs)
    for step in range(6):
        give(ups, step)
        give(downs, step)
        for param in downs:
            param.grad.neg_()
        up.step()
        down.step()
    assert equal(ups, downs)


@every
def test_a_closure_sees_gradients_enabled_and_its_loss_comes_back(make):
    param = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = make([param])

    def closure():
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    twin = nn.Parameter(param.detach().clone())
    plain = make([twin])
    assert optimizer.step(closure).item() == 13
    optimizer.step(closure)
    for _ in range(2):
        twin.grad = 2 * twin.detach()
        plain.step()
    assert torch.equal(param, twin)


@every
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite(make, bad):
    def spoil(params):
        give(params, 3)
        params[0].grad[1, 1] = bad

    for policy in ("raise", "skip"):
        params = start()
        optimizer = make(params, nonfinite=policy)
        for at in (0, 3):  # as the first step, and later
            train(params, optimizer, range(at))
            kept = [param.detach().clone() for param in params], copy.deepcopy(optimizer.state_dict())
            spoil(params)
            if policy == "raise":
                with pytest.raises(NonFiniteGradient, match=r"1 tensors \(0\)"):
                    optimizer.step()
            else:
                optimizer.step()
            assert equal(params, kept[0])
            now = optimizer.state_dict()
            assert now["param_groups"] == kept[1]["param_groups"]
            assert now["state"].keys() == kept[1]["state"].keys()
            for place, state in kept[1]["state"].items():
                assert all(torch.equal(state[key], now["state"][place][key]) for key in state)
        assert optimizer.skipped_steps == 2
    zeroed, propagated = start(), start()
    with_zero, looking_away = make(zeroed, nonfinite="zero"), make(propagated, nonfinite="propagate")
    train(zeroed, with_zero, range(3))
    twin = copy.deepcopy(with_zero)
    spoil(zeroed)
    with_zero.step()
    give(twin.param_groups[0]["params"], 3)
    twin.param_groups[0]["params"][0].grad[1, 1] = 0
    twin.step()
    assert equal(zeroed, twin.param_groups[0]["params"])
    spoil(propagated)
    looking_away.step()
    give(propagated, 4)
    looking_away.step()
    if math.isnan(bad):
        assert not propagated[0].isfinite().all()


@every
def test_half_precision_weights_keep_wide_memories(make):
    params = start(torch.bfloat16)
    optimizer = make(params)
    train(params, optimizer, range(4))
    assert all(param.isfinite().all() for param in params)
    wide = start()
    other = make(wide)
    train(wide, other, range(4))
    for one, two in zip(params, wide, strict=True):
        torch.testing.assert_close(one.float(), two, rtol=0.1, atol=0.1)
    for state in optimizer.state.values():
        for key in ("guard", "norm_sum", "active"):
            assert key not in state or state[key].dtype == torch.float32


@every
def test_a_learning_rate_schedule_is_followed(make):
    """The rate is read at every step: zero stops, and a constant schedule changes nothing."""
    ends = []
    for shape in (None, lambda step: 1.0, lambda step: 1.0 if step < 3 else 0.0):
        params = start()
        optimizer = make(params)
        schedule = None if shape is None else torch.optim.lr_scheduler.LambdaLR(optimizer, shape)
        for step in range(6):
            give(params, step)
            optimizer.step()
            if schedule is not None:
                schedule.step()
            if step == 2:
                half = [param.detach().clone() for param in params]
        ends.append([param.detach() for param in params])
    assert equal(ends[0], ends[1])
    assert equal(ends[2], half)
    tensor_rate = start()
    train(tensor_rate, make(tensor_rate, lr=torch.tensor(0.1)), range(6))
    for one, two in zip(tensor_rate, ends[0], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@every
def test_groups_have_their_own_settings_and_can_be_added(make):
    params = start()
    optimizer = make([{"params": params[:1], "lr": 0.0}, {"params": params[1:3]}])
    optimizer.add_param_group({"params": params[3:], "weight_decay": 0.5})
    train(params, optimizer, range(3))
    fresh = start()
    assert torch.equal(params[0], fresh[0])
    assert not any(torch.equal(one, two) for one, two in zip(params[1:], fresh[1:], strict=True))
    with pytest.raises(UsageError, match="lr must be at least 0"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": -1.0})
    for name in ("foreach", *optimizer.shared):
        with pytest.raises(UsageError, match=f"{name} is the same for all param groups"):
            optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))], name: "other"})


@every
def test_a_clip_can_be_attached_as_well(make):
    params, others = start(), start()
    optimizer, other = make(params), make(others)
    NormClip(0.5).attach(optimizer)
    for step in range(5):
        give(params, step)
        give(others, step)
        torch.nn.utils.clip_grad_norm_(others, 0.5)
        optimizer.step()
        other.step()
    for one, two in zip(params, others, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    assert "clip" in optimizer.state_dict()


@every
def test_sparse_and_complex_gradients_are_refused(make):
    table = nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(NotSupported, match="sparse gradient"):
        make(table.parameters()).step()
    number = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    number.grad = torch.ones(2, dtype=torch.complex64)
    with pytest.raises(NotSupported, match="complex"):
        make([number]).step()


@every
@pytest.mark.parametrize(
    ("settings", "message"),
    [({"lr": -0.1}, "lr"), ({"weight_decay": -1.0}, "weight_decay"), ({"nonfinite": "ignore"}, "nonfinite")],
)
def test_common_settings_are_checked(make, settings, message):
    with pytest.raises(UsageError, match=f"{message} must be"):
        make(start(), **settings)


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize("name", ["adam", "lamb", "spam"])
def test_a_compiled_step_is_the_same_step(name):
    torch._dynamo.reset()
    make = MAKERS[name]
    params, others = start(), start()
    optimizer, plain = make(params), make(others)
    step = torch.compile(optimizer.step, backend="eager")
    for number in range(3):
        give(params, number)
        give(others, number)
        step()
        plain.step()
    for one, two in zip(params, others, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_recipes_and_fit_know_them_by_name():
    for name, kind in (
        ("clipped-adagrad", ClippedAdaGrad),
        ("clipped-adam", ClippedAdam),
        ("lamb", LAMB),
        ("median-momentum", MedianMomentum),
        ("stable-spam", StableSPAM),
    ):
        assert OPTIMIZERS[name] is kind
        assert isinstance(make_optimizer({"name": name, "nonfinite": "skip"}, start(), 0.01), kind)
    with pytest.raises(UsageError, match=r"has no setting 'gama1'.*did you mean 'gamma1'"):
        make_optimizer({"name": "stable-spam", "gama1": 0.5}, start(), 0.01)
