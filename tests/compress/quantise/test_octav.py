"""OCTAV (p036, arXiv 2206.06501): clips of least error on known densities, and gradients that know the magnitude."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import norm
from torch import nn
from torch.nn.utils import parametrize

from binderclip.compress import FakeQuant, Octav, octav_clip
from binderclip.errors import UsageError


def normal_error(clip, bits):
    """J of the paper for unit normal values, integrated in closed form."""
    within = 4.0**-bits / 3 * clip**2 * (1 - 2 * norm.sf(clip))
    return within + 2 * ((1 + clip**2) * norm.sf(clip) - clip * norm.pdf(clip))


def quantiles(distribution, count=200_001):
    """Values that stand for a density, as its quantiles: no noise of sampling."""
    return torch.from_numpy(distribution.ppf((np.arange(count) + 0.5) / count)).double()


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_normal_values_have_the_fixed_point_and_nearly_the_least_error(bits):
    noise = 4.0**-bits / 3

    def excess(clip):  # E[|x|; |x| > s] = 2 pdf(s)
        return clip * (noise * (1 - 2 * norm.sf(clip)) + 2 * norm.sf(clip)) - 2 * norm.pdf(clip)

    clip = float(octav_clip(quantiles(norm), bits, iters=60))
    assert clip == pytest.approx(brentq(excess, 0.5, 8), rel=2e-3)
    least = minimize_scalar(lambda s: normal_error(s, bits), bounds=(0.5, 8), method="bounded")
    assert normal_error(clip, bits) <= 1.005 * least.fun
    # Published minimisers, and the paper's fixed point lies above them.
    assert least.x == pytest.approx({2: 1.69, 3: 2.14, 4: 2.55, 6: 3.28, 8: 3.92}[bits], abs=0.006)
    assert clip > least.x - 0.01


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_laplace_values_solve_their_equation(bits):
    from scipy.stats import laplace

    solution = brentq(lambda s: 4.0**-bits / 3 * s * math.expm1(s) - 1, 1e-3, 30)
    assert float(octav_clip(quantiles(laplace), bits, iters=60)) == pytest.approx(solution, rel=5e-3)


@pytest.mark.parametrize("bits", [4, 6])
def test_the_error_of_the_quantiser_itself_is_nearly_least(bits):
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0))

    def squared(clip):
        module = FakeQuant(bits, clip=float(clip))
        return float((module(x) - x).square().mean())

    least = min(squared(clip) for clip in np.linspace(1.5, 4.5, 61))
    assert squared(octav_clip(x, bits)) <= 1.05 * least
    assert squared(octav_clip(x, bits)) < 0.75 * squared(x.abs().max())


def test_ten_passes_are_enough_and_any_scale_and_order_do():
    x = torch.randn(3000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    clip = octav_clip(x, 4)
    assert float(octav_clip(x, 4, iters=50)) == pytest.approx(float(clip), rel=1e-3)
    torch.testing.assert_close(octav_clip(1e3 * x, 4), 1e3 * clip)
    torch.testing.assert_close(octav_clip(x.flip(0), 4), clip)
    torch.testing.assert_close(octav_clip(torch.cat([x, torch.zeros(5000).double()]), 4), clip)
    _, counting = Octav(4, count_zeros=True)(torch.cat([x, torch.zeros(5000).double()])[None])
    assert float(counting) < float(clip) * 0.95
    torch.testing.assert_close(octav_clip(x, 24, iters=200), x.abs().max())


def test_codes_without_sign_have_half_the_step():
    x = torch.randn(3000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).abs()
    torch.testing.assert_close(octav_clip(x, 3, signed=False), octav_clip(x, 4))


def test_every_row_has_its_own_clip():
    x = torch.randn(4, 30, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 0.1, 0.0])[:, None]
    clips = octav_clip(x, 3, dim=0)
    assert clips.shape == (4,)
    for row, clip in zip(x, clips, strict=True):
        torch.testing.assert_close(octav_clip(row, 3), clip)
    torch.testing.assert_close(octav_clip(x.T, 3, dim=1), clips)
    assert clips[3] == 0


def test_what_is_not_finite_shows():
    assert octav_clip(torch.tensor([1.0, math.nan]), 4).isnan()
    assert octav_clip(torch.tensor([1.0, math.inf]), 4).isnan()


def test_gradients_of_clipped_values():
    x = torch.tensor([-4.0, -0.5, 0.0, 0.5, 2.0])
    for grad, factor in (
        ("ste", [1, 1, 1, 1, 1]),
        ("clipped_ste", [0, 1, 1, 1, 0]),
        ("mad", [0.25, 1, 1, 1, 0.5]),
    ):
        leaf = x.clone().requires_grad_()
        FakeQuant(3, clip=1.0, grad=grad)(leaf).sum().backward()
        torch.testing.assert_close(leaf.grad, torch.tensor(factor, dtype=torch.float32))
    # s is no path for gradients: with its own clip, the sum of the factors is that of the clip held fixed
    leaf = x.clone().requires_grad_()
    FakeQuant(3)(leaf).sum().backward()
    clip = float(octav_clip(x, 3))
    torch.testing.assert_close(leaf.grad, (clip / x.abs()).clamp(max=1))


def test_a_running_clip_is_the_mean_that_evaluation_uses():
    module = FakeQuant(4, clip="max", momentum=0.25)
    with pytest.raises(UsageError, match="seen no batch"):
        module.eval()(torch.ones(3))
    module.train()
    for largest in (2.0, 4.0):
        module(torch.tensor([0.1, -largest]))
    assert float(module.running_clip) == pytest.approx(2.5)
    other = FakeQuant(4, clip="max", momentum=0.25).eval()
    other.load_state_dict(module.state_dict())
    assert float(other(torch.tensor([9.0]))) == pytest.approx(2.5)
    unsigned = FakeQuant(4, momentum=0.5, signed=False)
    assert float(unsigned(torch.tensor([-1.0, 3.0, 3.0]))[0]) == 0


def test_a_layer_trains_full_weights_behind_quantised_ones():
    torch.manual_seed(0)
    layer = nn.Linear(50, 4)
    plain = layer.weight.detach().clone()
    parametrize.register_parametrization(layer, "weight", FakeQuant(2, dim=0))
    assert all(len(row.unique()) <= 5 for row in layer.weight.detach())
    x = torch.randn(8, 50)
    layer(x).square().sum().backward()
    clips = octav_clip(plain, 2, dim=0)[:, None]
    expected = (2 * layer(x).detach()).T @ x * (clips / plain.abs()).clamp(max=1)
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, expected)


def test_what_makes_no_sense_is_refused():
    for build, message in (
        (lambda: FakeQuant(0), "bits must be"),
        (lambda: FakeQuant(4, clip="best"), "clip must be one of"),
        (lambda: FakeQuant(4, clip=0.0), "clip must be"),
        (lambda: FakeQuant(4, clip=math.nan), "clip must be"),
        (lambda: FakeQuant(4, grad="none"), "grad must be one of"),
        (lambda: FakeQuant(4, momentum=0.0), "momentum must be"),
        (lambda: FakeQuant(4, momentum=0.5, dim=0), "leave dim out"),
        (lambda: octav_clip(torch.ones(3), 4, iters=0), "iterations must be"),
        (lambda: octav_clip(torch.ones(0), 4), "nothing to quantise"),
    ):
        with pytest.raises(UsageError, match=message):
            build()
