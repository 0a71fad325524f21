from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from binderclip import errors
from binderclip.optim import Clip, CoordinateClip, TopFraction


def grads_of(params):
    return {key: p.grad.clone() for key, p in params.items()}


@pytest.mark.parametrize("fraction", [0.0, 0.04, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_by_tensor_k_coordinates_come_down_to_the_kth_largest(parameters, fraction, dtype):
    params = parameters(scale=2.0, dtype=dtype)
    before = grads_of(params)
    report = CoordinateClip(fraction)(params.items())
    for number, (key, p) in enumerate(params.items()):
        sizes = sorted(before[key].abs().flatten().tolist(), reverse=True)
        k = max(1, round(fraction * len(sizes)))
        bound = sizes[k - 1]
        assert float(report.limit[number]) == bound
        assert torch.equal(p.grad, before[key].clamp(-bound, bound))
        assert sum(size >= bound for size in before[key].abs().flatten().tolist()) >= k
        assert float(p.grad.abs().max()) == bound


def test_globally_one_limit_for_all(parameters):
    params = parameters()
    before = grads_of(params)
    report = CoordinateClip(0.2, granularity="global")(params.items())
    together = torch.cat([g.abs().flatten() for g in before.values()]).sort(descending=True).values
    bound = float(together[max(1, round(0.2 * len(together))) - 1])
    assert report.limit.tolist() == [bound]
    for key, p in params.items():
        assert torch.equal(p.grad, before[key].clamp(-bound, bound))


def test_by_group_each_group_has_its_own(parameters):
    params = parameters()
    before = grads_of(params)
    groups = {"conv": "a", "bias": "a"}
    CoordinateClip(0.3, granularity="group", groups=lambda name: groups.get(name, "b"))(params.items())
    for names in (("conv", "bias"), ("weight", "column", "logit_scale")):
        together = torch.cat([before[name].abs().flatten() for name in names]).sort(descending=True).values
        bound = float(together[max(1, round(0.3 * len(together))) - 1])
        for name in names:
            assert torch.equal(params[name].grad, before[name].clamp(-bound, bound))


def test_clipping_twice_is_clipping_once(parameters):
    params = parameters()
    CoordinateClip(0.3)(params.items())
    once = grads_of(params)
    CoordinateClip(0.3)(params.items())
    assert all(torch.equal(p.grad, once[key]) for key, p in params.items())


def test_share_one_leaves_signs_of_the_smallest_size(parameters):
    params = parameters()
    before = grads_of(params)
    CoordinateClip(1.0)(params.items())
    for key, p in params.items():
        torch.testing.assert_close(p.grad, before[key].sign() * before[key].abs().min(), rtol=0, atol=0)


def test_units_have_no_order_statistics(parameters):
    with pytest.raises(errors.NotSupported, match="whole tensors"):
        Clip(TopFraction(), granularity="unit")(parameters().items())


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
def test_shares_that_make_no_sense(wrong):
    with pytest.raises(errors.UsageError):
        CoordinateClip(wrong)


# -- on the optimizer's update --------------------------------------------------------------------------------------


def model_and_batch():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double(), torch.randn(16, 6).double()


def clamp_to_kth(update, fraction):
    sizes = update.abs().flatten().sort(descending=True).values
    bound = sizes[max(1, round(fraction * len(sizes))) - 1]
    return update.clamp(-bound, bound)


def test_on_the_update_of_plain_sgd_is_on_the_gradient():
    results = []
    for where in ("gradient", "update"):
        model, batch = model_and_batch()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        CoordinateClip(0.2, where=where).attach(optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
        results.append([p.detach() for p in model.parameters()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fused", [False, True])
def test_on_adams_update_the_weights_move_by_the_clamped_step(fused):
    (model, batch), (twin, _) = model_and_batch(), model_and_batch()
    groups = [{"params": list(net[0].parameters()), "lr": 0.01} for net in (model, twin)]
    ours, theirs = (
        torch.optim.AdamW([group, {"params": list(net[2].parameters()), "lr": 0.1}], fused=fused)
        for group, net in zip(groups, (model, twin), strict=True)
    )
    clip = CoordinateClip(0.3, where="update")
    clip.attach(ours, model.named_parameters())
    for step in range(3):
        before = [p.detach().clone() for p in model.parameters()]
        for net, optimizer in ((model, ours), (twin, theirs)):
            optimizer.zero_grad()
            (10.0**step * net(batch).square().mean()).backward()
            optimizer.step()
        rates = [0.01, 0.01, 0.1, 0.1]
        for old, p, whole, rate in zip(before, model.parameters(), twin.parameters(), rates, strict=True):
            expected = old - rate * clamp_to_kth((old - whole) / rate, 0.3)
            torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=1e-13)
        twin.load_state_dict(model.state_dict())  # the moments are those of the unclipped gradients in both
    assert clip.report.clipped.tolist() == [True, True, True, False]  # of three coordinates one is the largest


def test_on_the_update_a_closure_and_a_skipped_step_work(remembering):
    model, batch = model_and_batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    clip = Clip(remembering(), granularity="tensor", where="update", nonfinite="skip")
    clip.attach(optimizer)

    def closure(factor=1.0):
        optimizer.zero_grad()
        loss = factor * model(batch).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    optimizer.step(closure)
    before, state = [p.detach().clone() for p in model.parameters()], repr(optimizer.state_dict())
    optimizer.step(lambda: closure(math.nan))
    assert bool(clip.report.skipped)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert repr(optimizer.state_dict()) == state


def test_an_update_is_seen_by_attached_clips_alone(parameters):
    with pytest.raises(errors.UsageError, match="attach"):
        CoordinateClip(where="update")(parameters().items())
