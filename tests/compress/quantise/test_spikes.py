"""Hoyer spikes (p006, arXiv 2212.10170): thresholds by loops, the window of the gradient, running means."""

from __future__ import annotations

import pytest
import torch

from binderclip.compress import HoyerSpike
from binderclip.errors import UsageError
from binderclip.losses import hoyer_square


def potentials(seed=0):
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return x * torch.tensor([0.3, 1, 3])[:, None, None]


def extremum(values):
    clamped = [min(max(v, 0.0), 1.0) for v in values.ravel().tolist()]
    return sum(v * v for v in clamped) / sum(clamped)


def test_thresholds_are_those_of_a_loop_over_channels():
    x = potentials()
    spike = HoyerSpike(3)
    with torch.no_grad():
        spike.v.fill_(-2.0)
    out = spike(x)
    for channel in range(3):
        threshold = extremum(x[:, channel] / 2)
        assert threshold <= 1
        assert torch.equal(out[:, channel], (x[:, channel] / 2 >= threshold).float())
        assert float(spike.running_threshold[channel]) == pytest.approx(0.1 * threshold, rel=1e-5)
    layer = HoyerSpike(3, mode="layer")
    assert torch.equal(layer(x), (x >= extremum(x)).float())
    assert torch.equal(HoyerSpike(3, mode="fixed")(x), (x >= 1).float())
    assert out.mean() >= HoyerSpike(3, mode="fixed")(x / 2).mean()
    assert float(layer.penalty.detach()) == pytest.approx(float(hoyer_square(x.clamp(0, 1))))


def test_the_extremum_of_equal_potentials_is_their_value():
    x = torch.zeros(4, 1)
    x[:2] = 0.3
    spike = HoyerSpike(1, momentum=1.0)
    assert spike(x)[:, 0].tolist() == [1, 1, 0, 0]
    assert float(spike.running_threshold) == pytest.approx(0.3)


def test_the_gradient_is_a_window_and_reaches_the_scale():
    x = torch.tensor([-1.0, 0.0, 0.1, 1.0, 4.0, 4.1])[:, None].requires_grad_()
    upstream = torch.arange(1.0, 7.0)[:, None]
    spike = HoyerSpike(1)
    with torch.no_grad():
        spike.v.fill_(2.0)
    (spike(x) * upstream).sum().backward()
    window = torch.tensor([0, 0, 0.5, 0.5, 0.5, 0])[:, None]  # 0 < x / 2 <= 2
    torch.testing.assert_close(x.grad, upstream * window / 2)
    torch.testing.assert_close(spike.v.grad, (upstream * window * -x.detach() / 4).sum())
    literal = HoyerSpike(1, literal=True)
    leaf = torch.tensor([-1.0, 0.5, 1.5])[:, None].requires_grad_()
    literal(leaf).sum().backward()
    assert leaf.grad[:, 0].tolist() == [0, 0.5, 0], "the clamp leaves nothing outside"


def test_evaluation_uses_the_running_threshold_of_the_state():
    spike = HoyerSpike(3, momentum=0.5)
    for seed in range(3):
        spike(potentials(seed))
    expected = torch.zeros(3)
    for seed in range(3):
        x = potentials(seed)
        expected = 0.5 * expected + 0.5 * torch.tensor([extremum(x[:, c]) for c in range(3)])
    torch.testing.assert_close(spike.running_threshold, expected)
    other = HoyerSpike(3).eval()
    other.load_state_dict(spike.state_dict())
    x = potentials(9)
    assert torch.equal(other(x), (x >= expected[:, None, None]).float())
    assert torch.equal(other.running_threshold, spike.running_threshold), "evaluation moves nothing"


def test_silent_layers_spike_nowhere_and_stay_finite():
    x = -torch.rand(4, 2)
    channel, layer = HoyerSpike(2), HoyerSpike(2, mode="layer")
    layer(torch.rand(4, 2))
    before = layer.running_threshold.clone()
    for spike in (channel, layer):
        assert not spike(x).any()
        assert float(spike.penalty) == 0
    torch.testing.assert_close(channel.running_threshold, torch.full((2,), 0.1))
    torch.testing.assert_close(layer.running_threshold, before)


def test_what_makes_no_sense_is_refused():
    for build, message in (
        (lambda: HoyerSpike(0), "num_features must be"),
        (lambda: HoyerSpike(3, mode="best"), "mode must be one of"),
        (lambda: HoyerSpike(3, momentum=0.0), "momentum must be"),
        (lambda: HoyerSpike(3, threshold_scale=float("nan")), "threshold_scale must be"),
        (lambda: HoyerSpike(3)(torch.zeros(2, 4)), "3 channels"),
    ):
        with pytest.raises(UsageError, match=message):
            build()
