from __future__ import annotations

import math

import pytest
import torch
from open_clip_train.scheduler import const_lr, cosine_lr

from binderclip import errors
from binderclip.optim import layerwise_gaussian_lr, schedule


class _Optimizer:
    def __init__(self) -> None:
        self.param_groups = [{"lr": 0.0}]


@pytest.mark.parametrize(("name", "peer"), [("cosine", cosine_lr), ("constant", const_lr)])
def test_rates_equal_open_clips(name, peer):
    theirs = peer(_Optimizer(), 2.0, 7, 50)
    ours = schedule(name, warmup=7, steps=50)
    for step in range(50):
        assert 2.0 * ours(step) == pytest.approx(theirs(step), abs=1e-12)


def test_linear_is_transformers_shape_after_the_warmup():
    ours = schedule("linear", warmup=10, steps=110)
    assert [ours(step) for step in (0, 9, 10, 60, 110, 500)] == pytest.approx([0.1, 1.0, 1.0, 0.5, 0.0, 0.0])


def test_floor_share_and_custom_shape():
    ours = schedule("cosine", warmup=0.1, steps=200, floor=0.2)
    assert ours.warmup == 20
    assert ours(200) == pytest.approx(0.2)
    assert ours(110) == pytest.approx(0.6)
    assert schedule(lambda p: math.exp(-p), steps=10)(5) == pytest.approx(math.exp(-0.5))


def test_works_as_a_lambda_lr():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=3.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule("linear", steps=4))
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([3.0, 2.25, 1.5, 0.75])


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"steps": 5, "warmup": 6}, {"steps": 5, "warmup": 1.5}, {"steps": 5, "floor": 2.0}]
)
def test_lengths_that_make_no_sense_are_refused(bad):
    with pytest.raises(errors.UsageError):
        schedule("cosine", **bad)


def test_unknown_shape_lists_the_known():
    with pytest.raises(errors.UsageError, match="constant, cosine, linear"):
        schedule("cosin", steps=3)


def test_a_gaussian_sweeps_over_the_layers():
    """p059 (arXiv 2505.23161): the normal density's shape, its centre at the first layer and then at the last."""
    multipliers = layerwise_gaussian_lr(5, width=0.7)
    for progress in (0.0, 0.3, 1.0):
        density = torch.distributions.Normal(4 * progress, 0.7).log_prob(torch.arange(5.0))
        peak = torch.distributions.Normal(0.0, 0.7).log_prob(torch.tensor(0.0))
        expected = (density - peak).exp().tolist()
        assert [multiplier(progress) for multiplier in multipliers] == pytest.approx(expected, rel=1e-5)
    assert [multiplier(0.5) for multiplier in layerwise_gaussian_lr(4, width=1e6)] == pytest.approx([1.0] * 4)
    assert layerwise_gaussian_lr(1)[0](0.7) == 1.0
    for arguments in ({"layers": 0}, {"layers": 3, "width": 0.0}, {"layers": 3, "width": math.nan}):
        with pytest.raises(errors.UsageError):
            layerwise_gaussian_lr(**arguments)
