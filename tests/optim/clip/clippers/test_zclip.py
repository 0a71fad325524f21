"""ZClip and its rule (p002, arXiv 2504.02507)."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import nn

from binderclip import errors
from binderclip.optim import Clip, ZClip, ZScore


def feed(clip, norms, dtype=torch.float64):
    """Limits and lengths afterwards of gradients of these norms."""
    weight = nn.Parameter(torch.zeros(2, dtype=dtype))
    limits, lengths = [], []
    for norm in norms:
        weight.grad = norm * torch.tensor([0.6, -0.8], dtype=dtype)
        limits.append(float(clip([("weight", weight)]).limit))
        lengths.append(float(weight.grad.norm()))
    return limits, lengths


def by_the_paper(norms, alpha=0.97, z_thresh=2.5, cap=1.0, eps=1e-6, warmup=25, option="adaptive_scaling", **other):
    """The published procedure on plain numbers, with its buffer."""
    buffer, mean, var, result = [], None, None, []
    for g in norms:
        if mean is None:
            buffer.append(g)
            if len(buffer) == warmup:
                mean, var = statistics.fmean(buffer), statistics.pvariance(buffer)
            result.append(g if cap is None else g * min(1.0, cap / (g + 1e-6)))
            continue
        target, std = None, math.sqrt(var)
        if other.get("mode") == "percentile":
            if g > mean + z_thresh * std:
                target = mean + z_thresh * std
        elif (g - mean) / (std + eps) > z_thresh:
            z = (g - mean) / (std + eps)
            eta = z / z_thresh
            target = mean if option == "mean" else other.get("factor", 1.0) * (mean + z_thresh * std / eta)
        limit = g if target is None else target
        if cap is not None:
            limit = min(limit, cap)
        result.append(g * limit / (g + 1e-6) if g > limit else g)
        if target is not None and other.get("skip"):
            continue
        seen = g if target is None else target
        mean = alpha * mean + (1 - alpha) * seen
        var = alpha * var + (1 - alpha) * (seen - mean) ** 2
    return result


SETTINGS = [
    {},
    {"max_grad_norm": None},
    {"max_grad_norm": 1.3, "alpha": 0.9, "z_thresh": 1.5, "warmup_steps": 4},
    {"max_grad_norm": None, "mode": "percentile", "warmup_steps": 1},
    {"max_grad_norm": None, "clip_option": "mean"},
    {"max_grad_norm": None, "clip_factor": 0.7, "skip_update_on_spike": True},
]
PLAIN = {"max_grad_norm": "cap", "warmup_steps": "warmup", "clip_option": "option", "clip_factor": "factor"}


@pytest.mark.parametrize("settings", SETTINGS)
def test_it_follows_the_published_procedure(settings):
    generator = torch.Generator().manual_seed(0)
    norms = (1 + 0.2 * torch.randn(150, generator=generator, dtype=torch.float64)).abs()
    norms[40::15] *= 30
    norms = norms.tolist()
    plain = {PLAIN.get(key, key): value for key, value in settings.items()}
    if "skip_update_on_spike" in plain:
        plain["skip"] = plain.pop("skip_update_on_spike")
    expected = by_the_paper(norms, **plain)
    assert expected != norms
    _, lengths = feed(ZClip(**settings), norms)
    assert lengths == pytest.approx(expected, rel=2e-6)


def test_constant_norms_are_never_clipped():
    limits, lengths = feed(ZClip(max_grad_norm=None), [1.0] * 60)
    assert limits == [math.inf] * 60
    assert lengths == pytest.approx([1.0] * 60, rel=1e-12)


@pytest.mark.parametrize("option", ["adaptive_scaling", "mean"])
def test_an_outliers_limit_in_closed_form(option):
    # mean 1, variance .01 after the warm-up; 2 lies ten deviations out, so eta is 4
    limits, lengths = feed(ZClip(max_grad_norm=None, warmup_steps=4, clip_option=option), [0.9, 1.1, 0.9, 1.1, 2.0])
    expected = {"adaptive_scaling": 1 + 2.5 * 0.1 / (4 / 1.00001), "mean": 1.0}[option]
    assert limits[-1] == pytest.approx(expected, rel=1e-6)
    assert lengths[-1] == pytest.approx(expected, rel=1e-5)


def test_the_limit_falls_towards_the_mean_as_the_outlier_grows():
    found = []
    for outlier in (1.3, 2.0, 10.0, 1e4):
        found.append(feed(ZClip(max_grad_norm=None, warmup_steps=2), [0.9, 1.1, outlier])[0][-1])
    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(1.0, abs=1e-4)
    assert found[0] < 1.25  # mean + z_thresh * std, the limit at the threshold itself


def test_unusually_small_norms_are_left_alone():
    limits, _ = feed(ZClip(max_grad_norm=None, warmup_steps=4), [0.9, 1.1, 0.9, 1.1, 1e-3])
    assert limits[-1] == math.inf


def test_statistics_see_the_outliers_limit_but_not_the_cap():
    _, freely = feed(ZClip(max_grad_norm=None, warmup_steps=4), [3.0, 3.2, 2.9, 3.1, 90.0, 3.3])
    rule = ZScore(warmup_steps=4)
    capped = ZClip(max_grad_norm=0.5, warmup_steps=4)
    feed(Clip(rule, eps=1e-6), [3.0, 3.2, 2.9, 3.1, 90.0, 3.3])
    _, lengths = feed(capped, [3.0, 3.2, 2.9, 3.1, 90.0, 3.3])
    assert lengths == pytest.approx([0.5] * 6, rel=1e-5)
    assert torch.equal(capped.threshold.rules[0].mean.values, rule.mean.values)
    assert freely[-1] == pytest.approx(3.3)


def test_alpha_one_freezes_the_statistics():
    clip = ZClip(alpha=1.0, max_grad_norm=None, warmup_steps=2)
    feed(clip, [0.9, 1.1])
    before = clip.state_dict()["threshold"]
    feed(clip, [5.0, 0.5, 1.0])
    assert repr(clip.state_dict()["threshold"]) == repr(before)


def test_without_a_z_limit_only_the_cap_is_left():
    norms = [0.3, 0.9, 2.0, 50.0, 1.2]
    assert feed(ZClip(z_thresh=math.inf, max_grad_norm=None, warmup_steps=2), norms)[1] == pytest.approx(norms)
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    expected = []
    for norm in norms:
        weight.grad = norm * torch.tensor([0.6, -0.8], dtype=torch.float64)
        nn.utils.clip_grad_norm_([weight], 1.0)
        expected.append(float(weight.grad.norm()))
    assert feed(ZClip(z_thresh=math.inf, warmup_steps=2), norms)[1] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("stop", [3, 10, 24, 25, 40])
def test_a_resume_in_the_middle_of_the_warm_up_changes_nothing(stop):
    generator = torch.Generator().manual_seed(1)
    norms = torch.rand(60, generator=generator, dtype=torch.float64) + 0.5
    norms[::9] *= 20
    straight, first, second = (ZClip(max_grad_norm=None) for _ in range(3))
    _, expected = feed(straight, norms.tolist())
    feed(first, norms[:stop].tolist())
    second.load_state_dict(first.state_dict())
    assert feed(second, norms[stop:].tolist())[1] == expected[stop:]


def test_by_tensor_every_tensor_has_its_own_statistics():
    clip = Clip(ZScore(warmup_steps=3), granularity="tensor", eps=1e-6)
    one, other = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    for step, norm in enumerate([1.0, 1.1, 0.9, 40.0]):
        one.grad = torch.tensor([norm, 0.0])
        other.grad = torch.tensor([0.0, 1000.0 + step])
        report = clip([("one", one), ("other", other)])
    assert report.clipped.tolist() == [True, False]


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": 1.1},
        {"z_thresh": 0.0},
        {"warmup_steps": 0},
        {"mode": "z"},
        {"clip_option": "none"},
        {"clip_factor": 0.0},
        {"max_grad_norm": -1.0},
    ],
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(errors.UsageError):
        ZClip(**wrong)
