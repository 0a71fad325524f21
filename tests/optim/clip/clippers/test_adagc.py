"""AdaGC and its rule (p004, arXiv 2502.11034)."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from binderclip import errors
from binderclip.optim import AdaGC, RelativeEMA


def feed(clip, norms, keys=("weight",), dtype=torch.float64):
    """Reports and lengths afterwards; each of `norms` is a number, or one per key."""
    weights = {key: nn.Parameter(torch.zeros(2, dtype=dtype)) for key in keys}
    reports, lengths = [], []
    for norm in norms:
        for weight, size in zip(
            weights.values(), norm if isinstance(norm, tuple) else (norm,) * len(keys), strict=True
        ):
            weight.grad = None if size is None else size * torch.tensor([0.6, -0.8], dtype=dtype)
        reports.append(clip(weights.items()))
        lengths.append(tuple(None if w.grad is None else float(w.grad.norm()) for w in weights.values()))
    return reports, lengths


def averages(clip):
    return clip.state_dict()["threshold"]["average"].tolist()


@pytest.mark.parametrize("warmup_steps", [1, 2])
def test_a_sequence_by_hand(warmup_steps):
    clip = AdaGC(1.05, beta=0.98, warmup_steps=warmup_steps, lambda_abs=math.inf)
    found = []
    for norm in (1.0, 1.0, 10.0, 1.0):
        feed(clip, [norm])
        found.append(averages(clip)[0])
    assert found == pytest.approx([1.0, 1.0, 0.98 + 0.02 * 1.05, 0.98 * 1.001 + 0.02], rel=1e-12)


def test_the_warm_up_limits_the_whole_and_keeps_the_smallest():
    clip = AdaGC(lambda_abs=1.0, warmup_steps=4)
    # norms of the whole: 5, .5 and 10; steps 1 to 3 are warm-up, step 4 is not
    _, lengths = feed(clip, [(3.0, 4.0), (0.3, 0.4), (6.0, 8.0)], keys=("a", "b"))
    for found, expected in zip(lengths, [(0.6, 0.8), (0.3, 0.4), (0.6, 0.8)], strict=True):
        assert found == pytest.approx(expected, rel=1e-7)
    assert averages(clip) == pytest.approx([0.3, 0.4], rel=1e-7)
    reports, lengths = feed(clip, [(6.0, 0.2)], keys=("a", "b"))
    assert lengths[0] == pytest.approx((0.3 * 1.05, 0.2), rel=1e-7)
    assert reports[0].clipped.tolist() == [True, False]


@pytest.mark.parametrize("warmup_steps", [1, 3])
def test_without_limits_gradients_are_the_same_to_the_last_bit(warmup_steps):
    clip = AdaGC(math.inf, math.inf, warmup_steps=warmup_steps)
    weight = nn.Parameter(torch.zeros(7))
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        weight.grad = 1e3 * torch.randn(7, generator=generator)
        before = weight.grad.clone()
        clip([("weight", weight)])
        assert torch.equal(weight.grad, before)


def test_after_the_warm_up_a_spike_cannot_raise_its_own_limit():
    generator = torch.Generator().manual_seed(1)
    norms = torch.rand(80, generator=generator, dtype=torch.float64) + 0.5
    norms[20::10] *= 1e4
    clip, beta, ratio = AdaGC(1.2, beta=0.9, warmup_steps=5), 0.9, 1.2
    feed(clip, norms[:5].tolist())
    for norm in norms[5:].tolist():
        before = averages(clip)[0]
        _, lengths = feed(clip, [norm])
        assert lengths[0][0] <= ratio * before * (1 + 1e-12)
        assert averages(clip)[0] <= before * (beta + (1 - beta) * ratio) * (1 + 1e-12)


def test_after_the_warm_up_other_tensors_change_nothing():
    sizes = [(1.0, 5.0, 2.0), (1.1, 50.0, 0.1), (9.0, 1.0, 3.0), (0.8, 900.0, 2.0)]
    together, alone = AdaGC(warmup_steps=1), AdaGC(warmup_steps=1)
    _, all_three = feed(together, sizes, keys=("a", "b", "c"))
    _, swapped = feed(alone, [(c, a) for a, _, c in sizes], keys=("c", "a"))
    assert [(length[2], length[0]) for length in all_three] == swapped


def test_a_tensor_first_seen_later_starts_with_its_first_norm_unclipped():
    clip = AdaGC(warmup_steps=2)
    _, lengths = feed(clip, [(1.0, None), (1.0, None), (1.0, 500.0), (1.0, 5000.0)], keys=("a", "late"))
    assert lengths[2][1] == pytest.approx(500.0, rel=1e-12)
    assert lengths[3][1] == pytest.approx(525.0, rel=1e-12)


def test_a_gradient_of_zero_does_not_freeze_its_tensor():
    clip = AdaGC(warmup_steps=3, lambda_abs=math.inf)
    _, lengths = feed(clip, [0.0, 2.0, 0.0, 2.0, 4.0])
    assert [length[0] for length in lengths] == pytest.approx([0.0, 2.0, 0.0, 2.0, 2.1], rel=1e-12)


@pytest.mark.parametrize("stop", [1, 3, 4, 9])
def test_a_resume_in_the_middle_of_the_warm_up_changes_nothing(stop):
    generator = torch.Generator().manual_seed(1)
    norms = (3 * torch.rand(20, generator=generator, dtype=torch.float64)).tolist()
    straight, first, second = (AdaGC(warmup_steps=5) for _ in range(3))
    _, expected = feed(straight, norms)
    feed(first, norms[:stop])
    second.load_state_dict(first.state_dict())
    assert feed(second, norms[stop:])[1] == expected[stop:]


def test_pytorch_optimizers_takes_the_same_steps():
    """Without a limit in the warm-up, where older versions of theirs compare with the squared norm."""
    theirs_module = pytest.importorskip("pytorch_optimizer")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    twin = copy.deepcopy(model)
    batches = [(torch.randn(16, 6), 10.0 ** (step % 4)) for step in range(12)]
    settings = {"lr": 1e-2, "weight_decay": 0.0}
    theirs = theirs_module.AdaGC(twin.parameters(), lambda_abs=math.inf, warmup_steps=3, **settings)
    ours = torch.optim.AdamW(model.parameters(), **settings)
    clip = AdaGC(lambda_abs=math.inf, warmup_steps=3)
    clip.attach(ours, model.named_parameters())
    clipped = 0
    for batch, size in batches:
        for net, optimizer in ((model, ours), (twin, theirs)):
            optimizer.zero_grad()
            (size * net(batch).square().mean()).backward()
            optimizer.step()
        clipped += int(clip.report.clipped.sum())
        for one, other in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert clipped > 10


@pytest.mark.parametrize("wrong", [{"lambda_rel": 0}, {"lambda_abs": -1}, {"beta": 1.5}, {"warmup_steps": 0}])
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(errors.UsageError):
        RelativeEMA(**wrong)
