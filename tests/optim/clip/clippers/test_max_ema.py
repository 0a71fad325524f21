from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip import errors
from binderclip.optim import Clip, MaxEMA


def clip_of(**settings):
    return Clip(MaxEMA(0.9), granularity="tensor", statistic="max", action="rescale", **settings)


def feed(clip, grads):
    weight = nn.Parameter(torch.zeros(len(grads[0]), dtype=torch.float64))
    for grad in grads:
        weight.grad = torch.tensor(grad, dtype=torch.float64)
        report = clip([("weight", weight)])
    return report, weight.grad.tolist()


def test_the_average_is_corrected_and_includes_the_current_maximum_unclipped():
    clip, maxima, average = clip_of(), [1.0, 3.0, 0.5, 20.0, 2.0], 0.0
    for step, largest in enumerate(maxima, start=1):
        average = 0.9 * average + 0.1 * largest
        report, _ = feed(clip, [[0.1, -largest]])
        assert float(report.limit) == pytest.approx(average / (1 - 0.9**step), rel=1e-12)


def test_offending_entries_keep_their_ratios_and_the_others_stay():
    # maxima 1 and 8: the limit is (.9 * .1 + .1 * 8) / (1 - .81) = 89 / 19
    bound = 89 / 19
    _, grad = feed(clip_of(), [[1.0, 0.0, 0.0, 0.0], [-8.0, 6.0, 4.0, -0.5]])
    assert grad == pytest.approx([-bound, 6.0 * bound / 8, 4.0, -0.5], rel=1e-12)


def test_the_first_step_limits_nothing():
    grad = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    weight = nn.Parameter(torch.zeros(1000))
    weight.grad = grad.clone()
    Clip(MaxEMA(), granularity="tensor", statistic="max", action="rescale")([weight])
    assert torch.equal(weight.grad, grad)


def test_a_resume_changes_nothing():
    grads = [[float(step % 5 + 1), 0.3] for step in range(12)]
    straight, first, second = (clip_of() for _ in range(3))
    expected, _ = feed(straight, grads)
    feed(first, grads[:7])
    second.load_state_dict(first.state_dict())
    found, _ = feed(second, grads[7:])
    assert torch.equal(found.limit, expected.limit)


def test_a_decay_that_makes_no_sense():
    with pytest.raises(errors.UsageError, match="theta"):
        MaxEMA(1.0)
