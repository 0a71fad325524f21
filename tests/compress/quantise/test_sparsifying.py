"""Sparsifying activations (p040, arXiv 2402.16184): mean-field moments by quadrature, and networks that follow them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import nn

from binderclip.compress import ClippedReLU, ClippedSoftThreshold, CriticalInit, critical_init
from binderclip.errors import UsageError


def quadrature(init, variance, power=2):
    """E[phi(sqrt(q) Z)^2] by SciPy, phi written anew."""

    def phi(x):
        if init.kind == "relu":
            return min(max(x - init.tau, 0.0), init.m)
        return math.copysign(min(max(abs(x) - init.tau, 0.0), init.m), x)

    kinks = [k / math.sqrt(variance) for k in (-init.tau - init.m, -init.tau, init.tau, init.tau + init.m)]
    inside = [k for k in kinks if abs(k) < 12]
    return quad(lambda z: phi(math.sqrt(variance) * z) ** power * norm.pdf(z), -12, 12, points=inside, limit=200)[0]


def test_activations_by_hand():
    x = torch.tensor([-9.0, -1.5, -0.5, 0.0, 0.9, 1.5, 9.0])
    assert ClippedReLU(1.0, 2.0)(x).tolist() == [0, 0, 0, 0, 0, 0.5, 2]
    assert ClippedSoftThreshold(1.0, 2.0)(x).tolist() == [-2, -0.5, 0, 0, 0, 0.5, 2]
    assert ClippedReLU(1.0)(x)[-1] == 8
    torch.testing.assert_close(ClippedSoftThreshold(1.0)(x), nn.functional.softshrink(x, 1.0))
    x.requires_grad_()
    for module, factor in ((ClippedReLU(1.0, 2.0), [0, 0, 0, 0, 0, 1, 0]), (ClippedSoftThreshold(1.0, 2.0), None)):
        (gradient,) = torch.autograd.grad(module(x).sum(), x)
        assert gradient.tolist() == (factor or [0, 1, 0, 0, 0, 1, 0])


@pytest.mark.parametrize("kind", ["relu", "soft"])
@pytest.mark.parametrize("sparsity", [0.6, 0.85])
@pytest.mark.parametrize("m", [math.inf, 0.5, 2.0])
@pytest.mark.parametrize("variance", [1.0, 4.0])
def test_moments_slope_and_curvature_are_those_of_quadrature(kind, sparsity, m, variance):
    init = critical_init(kind, sparsity, m, variance=variance)
    step = 1e-3 * variance
    at = [init.weight_variance * quadrature(init, variance + k * step) + init.bias_variance for k in (-1, 0, 1)]
    assert at[1] == pytest.approx(variance, rel=1e-6), "a fixed point"
    assert init.slope == pytest.approx((at[2] - at[0]) / (2 * step), abs=1e-5)
    assert init.curvature == pytest.approx((at[2] - 2 * at[1] + at[0]) / step**2, abs=2e-3)
    assert init.variance_map(1.2 * variance) == pytest.approx(
        init.weight_variance * quadrature(init, 1.2 * variance) + init.bias_variance, rel=1e-6
    )
    draws = np.random.default_rng(0).normal(0, math.sqrt(variance), 200_000)
    magnitude = draws if kind == "relu" else np.abs(draws)
    slope_one = ((magnitude > init.tau) & (magnitude < init.tau + m)).mean()
    assert init.weight_variance * slope_one == pytest.approx(1, abs=0.02), "chi_1"
    assert float((magnitude <= init.tau).mean()) == pytest.approx(init.sparsity, abs=0.005)


def test_without_a_threshold_or_a_clip_it_is_he_initialisation():
    init = critical_init("relu", 0.5)
    assert isinstance(init, CriticalInit)
    assert (init.tau, init.weight_variance) == (0, pytest.approx(2))
    assert (init.bias_variance, init.slope, init.curvature) == pytest.approx((0, 1, 0), abs=1e-9)
    assert init.variance_map(3.7) == pytest.approx(3.7)


@pytest.mark.parametrize(
    ("kind", "sparsity", "curvature"), [("relu", 0.7, 0.30), ("relu", 0.9, 1.12), ("soft", 0.9, 1.70)]
)
def test_published_curvatures_without_a_clip(kind, sparsity, curvature):
    init = critical_init(kind, sparsity)
    assert init.slope == pytest.approx(1)
    assert init.curvature == pytest.approx(curvature, abs=0.006)


def test_the_clip_makes_the_fixed_point_stable():
    slopes = [critical_init("relu", 0.7, m).slope for m in (0.5, 1.0, 1.5, 2.0)]
    assert slopes == pytest.approx([0.20, 0.47, 0.72, 0.89], abs=0.006)
    for kind in ("relu", "soft"):
        init = critical_init(kind, 0.8, v_prime=0.7)
        assert init.slope == pytest.approx(0.7)
        variance = 1.2
        for _ in range(60):
            variance = init.variance_map(variance)
        assert variance == pytest.approx(1, abs=1e-4)
    loose, variance = critical_init("soft", 0.8), 1.2
    for _ in range(20):
        variance = loose.variance_map(variance)
    assert variance > 10, "unclipped it diverges"


def test_wide_networks_follow_the_map():
    generator = torch.Generator().manual_seed(0)
    for init, stable in ((critical_init("relu", 0.8, v_prime=0.7), True), (critical_init("relu", 0.8), False)):
        x = torch.randn(4, 600, generator=generator) * math.sqrt(2.0)
        layer, activation = nn.Linear(600, 600), init.activation()
        zeros = []
        for _ in range(25):
            init.apply_(layer, generator)
            with torch.no_grad():
                active = activation(x)
                x = layer(active)
            zeros.append(float((active == 0).float().mean()))
        if stable:
            assert float(x.var()) == pytest.approx(1, abs=0.2)
            assert zeros[-1] == pytest.approx(0.8, abs=0.03)
        else:
            assert float(x.var()) > 3


def test_convolutions_are_drawn_by_their_fan_in():
    init = critical_init("soft", 0.7, 1.0)
    conv = nn.Conv2d(16, 64, 3)
    init.apply_(conv, torch.Generator().manual_seed(0))
    assert float(conv.weight.detach().var()) * 144 == pytest.approx(init.weight_variance, rel=0.05)
    assert float(conv.bias.detach().var()) == pytest.approx(init.bias_variance, rel=0.5)


def test_what_makes_no_sense_is_refused():
    init = critical_init("soft", 0.7, 1.0)
    for build, message in (
        (lambda: ClippedReLU(-1.0), "tau must be"),
        (lambda: ClippedReLU(1.0, 0.0), "m must be"),
        (lambda: ClippedSoftThreshold(float("nan")), "tau must be"),
        (lambda: critical_init("tanh", 0.7), "kind must be one of"),
        (lambda: critical_init("relu", 0.4), "sparsity must be"),
        (lambda: critical_init("soft", 1.0), "sparsity must be"),
        (lambda: critical_init("relu", 0.7, 1.0, v_prime=0.5), "give one of the two"),
        (lambda: critical_init("relu", 0.7, v_prime=1.0), "v_prime must be"),
        (lambda: init.variance_map(0.0), "variance must be"),
        (lambda: init.apply_(nn.Linear(3, 3, bias=False)), "bias=True"),
        (lambda: init.apply_(nn.ReLU()), "no weight"),
    ):
        with pytest.raises(UsageError, match=message):
            build()
