from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from binderclip import errors
from binderclip.optim import Clip, Constant, Min, NormClip, Scheduled, ZScore, schedule


def gradient(norm):
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    weight.grad = norm * torch.tensor([0.6, -0.8], dtype=torch.float64)
    return [weight]


def test_the_smaller_limit_counts_and_both_rules_remember():
    rule, alone = ZScore(warmup_steps=3), ZScore(warmup_steps=3)
    clip, other = Clip(Min(rule, 1.05)), Clip(alone)
    for norm in (0.9, 1.1, 1.0, 1.1, 30.0):
        report, single = clip(gradient(norm)), other(gradient(norm))
        assert float(report.limit) == min(float(single.limit), 1.05)
    assert torch.equal(rule.mean.values, alone.mean.values)
    restored = Min(ZScore(warmup_steps=3), 1.05)
    restored.load_state_dict(clip.threshold.state_dict())
    assert torch.equal(restored.rules[0].mean.values, rule.mean.values)
    with pytest.raises(errors.UsageError, match="at least one"):
        Min()


def test_a_scheduled_limit_follows_its_function_and_resumes():
    clip = Clip(Scheduled(schedule("linear", steps=4), of=2.0))
    assert [float(clip(gradient(100.0)).limit) for _ in range(5)] == [2.0, 1.5, 1.0, 0.5, 0.0]
    first, second = Clip(Scheduled(lambda step: step + 1)), Clip(Scheduled(lambda step: step + 1))
    for _ in range(3):
        first(gradient(1.0))
    second.load_state_dict(first.state_dict())
    assert float(second(gradient(100.0)).limit) == 4.0
    with pytest.raises(errors.UsageError, match="step 0 gave -1"):
        Clip(Scheduled(lambda step: -1.0))(gradient(1.0))


def test_a_step_the_host_knows_was_skipped_does_not_count():
    clip = Clip(Scheduled(lambda step: step), nonfinite="skip")
    clip(gradient(1.0))
    clip(gradient(math.nan))
    assert float(clip(gradient(1.0)).limit) == 1.0


def test_a_number_and_its_rule_are_the_same():
    ours, theirs = gradient(7.0), gradient(7.0)
    Clip(Min(Constant(3.0), Scheduled(lambda _: 0.5, of=4.0)), eps=1e-6, only_above=False)(ours)
    NormClip(2.0)(theirs)
    assert torch.equal(ours[0].grad, theirs[0].grad)
