"""AutoClip and its rule (p005, arXiv 2007.14469)."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from torch import nn

from binderclip import errors
from binderclip.optim import AutoClip, Clip, HistoryQuantile


def feed(clip, norms, dtype=torch.float64):
    """Reports and lengths afterwards of gradients of these norms."""
    weight = nn.Parameter(torch.zeros(2, dtype=dtype))
    reports, lengths = [], []
    for norm in norms:
        weight.grad = torch.tensor([norm, 0.0], dtype=dtype)
        reports.append(clip([("weight", weight)]))
        lengths.append(float(weight.grad.norm()))
    return reports, lengths


def random_norms(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    norms = torch.rand(count, generator=generator, dtype=torch.float64) + 0.1
    norms[3::5] = norms[2::5][: len(norms[3::5])]  # ties
    norms[::7] *= 50
    return norms.tolist()


@pytest.mark.parametrize("percentile", [0.0, 3.7, 10.0, 50.0, 66.6, 99.0, 100.0])
def test_the_limit_is_numpys_percentile_at_every_step(percentile):
    norms = random_norms(600)  # grows beyond the first block of memory
    reports, lengths = feed(AutoClip(percentile), norms)
    for step, report in enumerate(reports):
        expected = numpy.percentile(norms[: step + 1], percentile)
        assert float(report.limit) == expected
        assert lengths[step] == pytest.approx(norms[step] * min(1.0, expected / (norms[step] + 1e-6)), rel=1e-12)


@pytest.mark.parametrize("window", [1, 2, 5, 300])
@pytest.mark.parametrize("percentile", [0.0, 30.0, 100.0])
def test_a_window_forgets_what_is_older(window, percentile):
    norms = random_norms(700, seed=1)
    reports, _ = feed(AutoClip(percentile, window=window), norms)
    for step, report in enumerate(reports):
        assert float(report.limit) == numpy.percentile(norms[max(0, step + 1 - window) : step + 1], percentile)


def test_percentile_100_clips_nothing():
    norms = random_norms(50)
    reports, lengths = feed(AutoClip(100), norms)
    assert lengths == pytest.approx(norms, rel=1e-4, abs=1e-6)
    assert not any(bool(report.clipped) for report in reports)


def test_falling_norms_are_never_and_rising_ones_always_clipped():
    falling, _ = feed(AutoClip(50), [10.0 / (step + 1) for step in range(40)])
    assert not any(bool(report.clipped) for report in falling)
    rising, _ = feed(AutoClip(50), [float(step + 1) for step in range(40)])
    assert not bool(rising[0].clipped)
    assert all(bool(report.clipped) for report in rising[1:])


@pytest.mark.parametrize("percentile", [10.0, 75.0])
def test_the_share_of_clipped_steps_is_the_percentiles(percentile):
    generator = torch.Generator().manual_seed(3)
    norms = torch.rand(2000, generator=generator, dtype=torch.float64).tolist()
    reports, _ = feed(AutoClip(percentile), norms)
    share = sum(bool(report.clipped) for report in reports) / len(reports)
    q = 1 - percentile / 100
    assert abs(share - q) < 3 * math.sqrt(q * (1 - q) / len(norms))


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("stop", [0, 1, 19, 30, 290])
def test_the_history_survives_a_resume(window, stop, tmp_path):
    norms = random_norms(320, seed=2)
    straight, first, second = (AutoClip(30, window=window) for _ in range(3))
    expected, _ = feed(straight, norms)
    feed(first, norms[:stop])
    torch.save(first.state_dict(), tmp_path / "state")
    second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    found, _ = feed(second, norms[stop:])
    assert [float(r.limit) for r in found] == [float(r.limit) for r in expected[stop:]]


def test_a_history_of_another_window_is_refused():
    other = AutoClip(window=3)
    feed(other, [1.0, 2.0])
    with pytest.raises(errors.UsageError, match="window=3"):
        AutoClip().load_state_dict(other.state_dict())


def test_what_is_not_finite_never_joins_the_history():
    clip = AutoClip(50, nonfinite="skip")
    feed(clip, [1.0, 3.0])
    weight = nn.Parameter(torch.zeros(2))
    for bad in (math.nan, math.inf):
        weight.grad = torch.tensor([bad, 0.0])
        assert bool(clip([("weight", weight)]).skipped)
    assert float(feed(clip, [5.0])[0][0].limit) == 3.0


def test_blocks_that_come_later_start_their_own_history():
    clip = Clip(HistoryQuantile(50), granularity="tensor")
    one, other = (nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))
    history = {"one": [], "other": []}
    for step in range(12):
        present = {"one": one} | ({"other": other} if step > 4 and step % 3 else {})
        for name, parameter in present.items():
            history[name].append(float((7 * step) % 5 + 1))
            parameter.grad = torch.tensor([history[name][-1]], dtype=torch.float64)
        report = clip(present.items())
        assert report.limit.tolist() == [numpy.percentile(history[name], 50) for name in present]


@pytest.mark.parametrize("wrong", [{"percentile": -1}, {"percentile": 101}, {"percentile": math.nan}, {"window": 0}])
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(errors.UsageError):
        AutoClip(**wrong)
