from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from binderclip import errors
from binderclip.optim import METHODS, SAM, Clip, NonFiniteGradient, NormClip, ValueClip, as_clip, attach, param_groups
from binderclip.optim.clip.attach import unwrap
from binderclip.optim.clip.target import StepTarget
from binderclip.optim.gradients import collect

OPTIMIZERS = {
    "sgd": lambda params, **kw: torch.optim.SGD(params, lr=0.1, momentum=0.9, **kw),
    "adamw": lambda params, **kw: torch.optim.AdamW(params, lr=0.1, **kw),
}


def model_and_batch(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), torch.randn(16, 4)


def loss_of(model, batch, step=0):
    return (10.0 ** (step % 3)) * model(batch).square().mean()


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def assert_same(ours, theirs, tolerance=0.0):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def train(model, batch, optimizer, steps, before_step=lambda: None, start=0):
    for step in range(start, start + steps):
        optimizer.zero_grad()
        loss_of(model, batch, step).backward()
        before_step()
        optimizer.step()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("fused", [False, True])
def test_attached_equals_called_by_hand(name, kind, fused):
    (ours, batch), (theirs, _) = model_and_batch(), model_and_batch()
    one, other = (OPTIMIZERS[kind](m.parameters(), fused=fused) for m in (ours, theirs))
    METHODS[name](0.05).attach(one)
    clip = METHODS[name](0.05)
    train(ours, batch, one, 6)
    train(theirs, batch, other, 6, lambda: clip(theirs.parameters()))
    assert_same(weights(ours), weights(theirs), 1e-6 if fused else 0.0)
    assert not hasattr(one, "grad_scale")


def test_it_really_clips_and_removal_really_stops_it():
    (ours, batch), (theirs, _) = model_and_batch(), model_and_batch()
    one, other = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (ours, theirs))
    with NormClip(1e-3).attach(one) as handle:
        before = weights(ours)
        train(ours, batch, one, 1)
        moved = torch.cat([(a - b).flatten() for a, b in zip(before, weights(ours), strict=True)]).norm()
        assert float(moved) == pytest.approx(0.1 * 1e-3, rel=1e-2)
        assert "clip" in one.state_dict()
        assert handle.clip.report.clipped.all()
    ours.load_state_dict(theirs.state_dict())
    train(ours, batch, one, 2)
    train(theirs, batch, other, 2)
    assert_same(weights(ours), weights(theirs))
    assert "clip" not in one.state_dict()


@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_with_a_closure_it_clips_after_the_backward_inside(keyword, fused):
    (ours, batch), (theirs, _) = model_and_batch(), model_and_batch()
    one, other = (torch.optim.SGD(m.parameters(), lr=0.1, fused=fused) for m in (ours, theirs))
    NormClip(0.05).attach(one)
    for step in range(4):

        def closure(step=step):
            one.zero_grad()
            loss = loss_of(ours, batch, step)
            loss.backward()
            return loss

        returned = one.step(closure=closure) if keyword else one.step(closure)
        assert returned.requires_grad
    train(theirs, batch, other, 4, lambda: nn.utils.clip_grad_norm_(theirs.parameters(), 0.05))
    assert_same(weights(ours), weights(theirs), 1e-6 if fused else 0.0)


def test_lbfgs_clips_every_evaluation():
    model, batch = model_and_batch()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)
    norms = []
    clip = NormClip(0.01)
    clip.attach(optimizer)

    def closure():
        if clip.report is not None:
            norms.append(torch.cat([p.grad.flatten() for p in model.parameters()]).norm())
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert len(norms) >= 2
    assert all(norm <= 0.01 * (1 + 1e-6) for norm in norms)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "make", [lambda: NormClip(0.05), lambda: ValueClip(0.01), lambda: as_clip([ValueClip(0.02), 0.05])]
)
def test_under_a_grad_scaler_the_true_gradient_is_clipped(fused, make):
    (ours, batch), (theirs, _) = model_and_batch(), model_and_batch()
    one, other = (torch.optim.SGD(m.parameters(), lr=0.1, fused=fused) for m in (ours, theirs))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    clip = make()
    clip.attach(one)
    for step in range(4):
        one.zero_grad()
        scaler.scale(loss_of(ours, batch, step)).backward()
        scaler.step(one)
        scaler.update()
    by_hand = make()
    train(theirs, batch, other, 4, lambda: by_hand(theirs.parameters()))
    assert_same(weights(ours), weights(theirs), 1e-6)
    reports = [clip.report] if isinstance(clip, Clip) else clip.report
    others = [by_hand.report] if isinstance(by_hand, Clip) else by_hand.report
    assert_same([r.norm for r in reports], [r.norm for r in others], 1e-5)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("make", [lambda: NormClip(0.05), lambda: ValueClip(0.01)])
def test_gradients_that_the_scaler_has_already_unscaled_are_clipped_once(kind, fused, make):
    (ours, batch), (theirs, _) = model_and_batch(), model_and_batch()
    one, other = (OPTIMIZERS[kind](m.parameters(), fused=fused) for m in (ours, theirs))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    make().attach(one)
    for step in range(4):
        one.zero_grad()
        scaler.scale(loss_of(ours, batch, step)).backward()
        scaler.unscale_(one)
        scaler.step(one)
        scaler.update()
    by_hand = make()
    train(theirs, batch, other, 4, lambda: by_hand(theirs.parameters()))
    assert_same(weights(ours), weights(theirs), 1e-6)
    assert not hasattr(one, "grad_scale")
    assert not hasattr(one, "found_inf")


@pytest.mark.parametrize("fused", [False, True])
def test_an_overflow_found_while_unscaling_is_skipped_too(fused, remembering):
    model, batch = model_and_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    clip = Clip(remembering())
    clip.attach(optimizer)
    before = weights(model)
    scaler.scale(math.inf * loss_of(model, batch)).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert_same(weights(model), before)
    assert scaler.get_scale() == 512.0


@pytest.mark.parametrize("fused", [False, True])
def test_a_scalers_overflow_is_skipped_and_the_scale_backs_off(fused, remembering):
    model, batch = model_and_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    clip = Clip(remembering())
    clip.attach(optimizer)
    for factor in (1.0, math.inf, 1.0):
        before, memory = weights(model), clip.state_dict()
        optimizer.zero_grad()
        scaler.scale(factor * loss_of(model, batch)).backward()
        scaler.step(optimizer)
        scaler.update()
        if factor == math.inf:
            assert_same(weights(model), before)
            assert repr(clip.state_dict()) == repr(memory)
    assert scaler.get_scale() == 512.0
    assert not any(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("fused", [False, True])
def test_a_skipped_step_leaves_weights_optimizer_and_memory(kind, fused, remembering):
    model, batch = model_and_batch()
    optimizer = OPTIMIZERS[kind](model.parameters(), fused=fused)
    clip = Clip(remembering(), nonfinite="skip")
    clip.attach(optimizer)
    train(model, batch, optimizer, 2)
    before, state = weights(model), copy.deepcopy(optimizer.state_dict())
    optimizer.zero_grad()
    loss_of(model, batch * math.nan).backward()
    optimizer.step()
    assert bool(clip.report.skipped)
    assert_same(weights(model), before)
    assert repr(state) == repr(optimizer.state_dict())


@pytest.mark.parametrize("fused", [False, True])
def test_raising_happens_before_any_weight_changes(fused):
    model, batch = model_and_batch()
    optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
    NormClip().attach(optimizer, model.named_parameters())
    before = weights(model)
    loss_of(model, batch * math.nan).backward()
    with pytest.raises(NonFiniteGradient, match=r"0\.weight"):
        optimizer.step()
    assert_same(weights(model), before)


def test_state_travels_in_the_optimizers_and_a_resume_continues_exactly(remembering, tmp_path):
    (straight, batch), (resumed, _) = model_and_batch(), model_and_batch()
    optimizer = torch.optim.AdamW(straight.parameters(), lr=0.01)
    Clip(remembering(), granularity="tensor").attach(optimizer, straight.named_parameters())
    train(straight, batch, optimizer, 3)
    torch.save({"model": straight.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint")
    train(straight, batch, optimizer, 5, start=3)

    saved = torch.load(tmp_path / "checkpoint", weights_only=True)
    kept = copy.deepcopy(saved)
    other = torch.optim.AdamW(resumed.parameters(), lr=0.01)
    clip = Clip(remembering(), granularity="tensor")
    clip.attach(other, resumed.named_parameters())
    resumed.load_state_dict(saved["model"])
    other.load_state_dict(saved["optimizer"])
    assert repr(saved) == repr(kept)
    train(resumed, batch, other, 5, start=3)
    assert_same(weights(straight), weights(resumed))
    assert (clip.report.limit < math.inf).all()


@pytest.mark.parametrize("make", [lambda clip: clip, lambda clip: as_clip([clip, NormClip(1.0)])])
def test_the_model_may_stand_for_its_names(make):
    model, batch = model_and_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clip = NormClip(1.0, exclude="*bias")
    make(clip).attach(optimizer, torch.compile(model, backend="eager"))
    train(model, batch, optimizer, 1)
    assert clip.report.names == ("0.weight", "2.weight")


def test_parameters_without_names_are_refused_beside_the_optimizer():
    model, _ = model_and_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for wrong in (model.parameters(), ["weight"], model.state_dict()):
        with pytest.raises(errors.UsageError, match=r"model.named_parameters\(\) or the model itself, got a"):
            NormClip().attach(optimizer, wrong)
    assert not optimizer._optimizer_step_pre_hooks


def test_states_saved_with_and_without_a_clip_load_into_each_other(remembering):
    model, batch = model_and_batch()
    plain, clipped = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    without = plain.state_dict()
    clip = Clip(remembering())
    clip.attach(clipped)
    train(model, batch, clipped, 2)
    memory = repr(clip.state_dict())
    clipped.load_state_dict(without)
    assert repr(clip.state_dict()) == memory
    plain.load_state_dict(clipped.state_dict())


def test_two_clips_on_one_optimizer_keep_their_own_state(remembering):
    model, batch = model_and_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first, second = Clip(remembering()), Clip(remembering(), granularity="tensor")
    first.attach(optimizer)
    second.attach(optimizer)
    train(model, batch, optimizer, 3)
    state = optimizer.state_dict()
    assert len(state["clip"]["threshold"]["average"]) == 1
    assert len(state["clip1"]["threshold"]["average"]) == 4


def test_groups_and_names_come_from_the_optimizer():
    model, batch = model_and_batch()
    groups = param_groups(model, 0.1)
    clip = Clip(1e-3, granularity="group", exclude="2.bias")
    optimizer = torch.optim.SGD(groups, lr=0.1)
    clip.attach(optimizer)
    train(model, batch, optimizer, 1)
    assert clip.report.stat.shape == (2,)
    assert set(clip.report.names) == {"0.weight", "2.weight", "0.bias"}
    named = torch.optim.SGD(model.named_parameters(), lr=0.1)
    clip = NormClip()
    clip.attach(named)
    train(model, batch, named, 1)
    assert clip.report.names == ("0.weight", "0.bias", "2.weight", "2.bias")


def test_an_excluded_tensor_is_not_scaled_by_a_fused_step():
    (ours, batch), (theirs, _) = model_and_batch(), model_and_batch()
    one, other = (torch.optim.SGD(m.parameters(), lr=0.1, fused=True) for m in (ours, theirs))
    NormClip(1e-3, exclude="2.bias").attach(one, ours.named_parameters())
    train(ours, batch, one, 1)
    train(theirs, batch, other, 1)
    assert torch.equal(ours[2].bias, theirs[2].bias)
    assert not torch.equal(ours[2].weight, theirs[2].weight)


def test_accelerates_wrapper_is_unwrapped_and_clips_once_per_real_step():
    accelerate = pytest.importorskip("accelerate")
    model, batch = model_and_batch()
    reference, _ = model_and_batch()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    prepared, wrapped = accelerator.prepare(model, inner)
    clip = NormClip(0.05)
    calls = []
    clip.attach(wrapped)
    inner.register_step_pre_hook(lambda *_: calls.append(float(clip.report.norm)))
    for step in range(4):
        with accelerator.accumulate(prepared):
            accelerator.backward(loss_of(prepared, batch, step))
            wrapped.step()
            wrapped.zero_grad()
    other = torch.optim.SGD(reference.parameters(), lr=0.1)
    for step in (0, 2):
        other.zero_grad()
        (loss_of(reference, batch, step) / 2).backward()
        (loss_of(reference, batch, step + 1) / 2).backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 0.05)
        other.step()
    assert unwrap(wrapped) is inner
    assert len(calls) == 2
    assert_same(weights(model), weights(reference), 1e-7)


def test_optimizers_without_step_hooks_are_refused_with_the_reason():
    class NoInit(torch.optim.Optimizer):
        def __init__(self):
            pass

        def step(self, closure=None):
            return None

    class Stranger:
        def step(self):
            return None

    with pytest.raises(errors.NotSupported, match="never called"):
        NormClip().attach(NoInit())
    with pytest.raises(errors.NotSupported, match=r"Stranger: it is no torch\.optim\.Optimizer"):
        attach(NormClip(), Stranger())


class TwoStep(torch.optim.Optimizer):
    """Sharpness-aware minimisation with the two-step face that its users know (Foret et al. 2021)."""

    def __init__(self, params, base, rho=0.05, **settings):
        super().__init__(params, {"rho": rho, **settings})
        self.base_optimizer = base(self.param_groups, **settings)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self):
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        norm = torch.cat([grad.flatten() for grad in grads]).norm()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["climb"] = climb = group["rho"] * p.grad / norm
                p.add_(climb)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(self.state[p]["climb"])
        self.base_optimizer.step()
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure=None):
        closure = torch.enable_grad()(closure)
        self.first_step()
        closure()
        self.second_step()


@pytest.mark.parametrize("by_closure", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_sharpness_aware_steps_are_clipped_where_the_step_happens(by_closure, fused, remembering):
    (ours, batch), (theirs, _) = model_and_batch(), model_and_batch()
    one, other = (TwoStep(m.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9, fused=fused) for m in (ours, theirs))
    clip = NormClip(0.05)
    clip.attach(one, ours.named_parameters())
    for step in range(4):
        loss_of(theirs, batch, step).backward()
        other.first_step()
        loss_of(theirs, batch, step).backward()
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), 0.05)
        other.second_step()

        loss_of(ours, batch, step).backward()
        if by_closure:
            one.step(lambda step=step: loss_of(ours, batch, step).backward())
        else:
            one.first_step()
            loss_of(ours, batch, step).backward()
            one.second_step()
        torch.testing.assert_close(clip.report.norm, norm)
    assert_same(weights(ours), weights(theirs), 1e-6)


def test_a_sharpness_aware_optimizer_saves_the_clips_state_with_its_own(remembering):
    model, batch = model_and_batch()
    optimizer = TwoStep(model.parameters(), torch.optim.SGD, lr=0.1)
    clip, again = Clip(remembering()), Clip(remembering())
    with clip.attach(optimizer):
        for _ in range(2):
            loss_of(model, batch).backward()
            optimizer.first_step()
            loss_of(model, batch).backward()
            optimizer.second_step()
        state = optimizer.state_dict()
        assert len(clip.state_dict()["threshold"]["average"]) == 1
    assert "clip" not in optimizer.state_dict()
    again.attach(optimizer)
    optimizer.load_state_dict(state)
    assert repr(again.state_dict()) == repr(clip.state_dict())


def test_the_librarys_own_sam_can_be_clipped_too():
    (ours, batch), (theirs, _) = model_and_batch(), model_and_batch()
    one, other = (SAM(m.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9) for m in (ours, theirs))
    clip = NormClip(0.05)
    clip.attach(one, ours.named_parameters())
    for step in range(3):
        loss_of(theirs, batch, step).backward()
        other.first_step(zero_grad=True)
        loss_of(theirs, batch, step).backward()
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), 0.05)
        other.second_step(zero_grad=True)

        loss_of(ours, batch, step).backward()
        one.step(lambda step=step: loss_of(ours, batch, step).backward())
        one.zero_grad()
        torch.testing.assert_close(clip.report.norm, norm)
    assert_same(weights(ours), weights(theirs), 1e-6)
    assert "clip" in one.state_dict()


def test_a_second_step_that_steps_no_base_optimizer_is_refused():
    class Own(TwoStep):
        def __init__(self, params):
            torch.optim.Optimizer.__init__(self, params, {})

    model, _ = model_and_batch()
    with pytest.raises(errors.NotSupported, match=r"Own: .*no base_optimizer.* before second_step"):
        NormClip().attach(Own(model.parameters()))


# -- the path of an accelerator, run on the host ----------------------------------------------------------------------


class HostReads(TorchDispatchMode):
    """Counts every read of a tensor's value by the host."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default):
            self.count += 1
        return func(*args, **(kwargs or {}))


class Arrived:
    def synchronize(self):
        pass


@pytest.fixture
def as_if_on_an_accelerator(monkeypatch):
    """Take the decisions that are taken where reading a value back would stall."""
    monkeypatch.setattr(collect, "reads_are_free", lambda grads: False)
    monkeypatch.setattr("binderclip.optim.clip.clipping.copy_to_host", lambda flag: (flag.clone(), Arrived()))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("nonfinite", ["raise", "skip", "zero", "propagate"])
def test_a_fused_step_reads_nothing_back(as_if_on_an_accelerator, name, nonfinite):
    model, batch = model_and_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    clip = METHODS[name](0.05, nonfinite=nonfinite)
    loss_of(model, batch).backward()
    entries = collect.entries_of(model.named_parameters())
    with HostReads() as reads:
        clip.run(entries, StepTarget(optimizer, whole=True))
    assert reads.count == 0
    with HostReads() as reads:
        METHODS[name](0.05, nonfinite="skip").run(entries, None)
    assert reads.count == 1  # nobody else can skip the step


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_without_reading_back_the_weights_are_the_same(as_if_on_an_accelerator, name, kind):
    (ours, batch), (theirs, _) = model_and_batch(), model_and_batch()
    one, other = (OPTIMIZERS[kind](m.parameters(), fused=True) for m in (ours, theirs))
    METHODS[name](0.05).attach(one)
    torch_clip = {"norm": nn.utils.clip_grad_norm_, "value": nn.utils.clip_grad_value_}
    train(ours, batch, one, 5)
    if name in torch_clip:
        train(theirs, batch, other, 5, lambda: torch_clip[name](theirs.parameters(), 0.05))
        assert_same(weights(ours), weights(theirs), 1e-6)


@pytest.mark.parametrize("nonfinite", ["raise", "skip"])
def test_without_reading_back_a_bad_step_changes_nothing_and_is_told_later(
    as_if_on_an_accelerator, nonfinite, remembering
):
    model, batch = model_and_batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    clip = Clip(remembering(), nonfinite=nonfinite)
    clip.attach(optimizer)
    train(model, batch, optimizer, 2)
    before, state = weights(model), copy.deepcopy(optimizer.state_dict())
    optimizer.zero_grad()
    loss_of(model, batch * math.nan).backward()
    optimizer.step()
    assert bool(clip.report.skipped)
    assert_same(weights(model), before)
    assert repr(state) == repr(optimizer.state_dict())
    assert not hasattr(optimizer, "found_inf")
    if nonfinite == "raise":
        with pytest.raises(NonFiniteGradient, match="previous step"):
            train(model, batch, optimizer, 1)
    train(model, batch, optimizer, 1)
    assert not torch.equal(weights(model)[0], before[0])


def test_a_clip_attached_after_another_was_removed_keeps_a_state_of_its_own():
    model, _ = model_and_batch()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    handles = [NormClip(1.0).attach(optimizer) for _ in range(3)]
    handles[1].remove()
    handles.append(NormClip(1.0).attach(optimizer))
    assert [handle.key for handle in handles] == ["clip", "clip1", "clip2", "clip1"]
    # the one that is gone is no longer saved, the three that are there each are
    assert sorted(key for key in optimizer.state_dict() if key.startswith("clip")) == ["clip", "clip1", "clip2"]


def test_an_optimizer_in_the_place_of_the_clip_is_refused() -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(errors.UsageError, match=r"takes the clip first: attach\(clip, optimizer\)"):
        attach(optimizer, NormClip(1.0))
