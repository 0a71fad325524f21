"""Lipschitz constants of a softmax layer, and the range of clip norms that they suggest."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from binderclip.errors import UsageError
from binderclip.privacy import (
    Ledger,
    clip_norm_range,
    per_sample_lipschitz,
    per_sample_norms,
    private_clip_range,
    suggest_clip,
)


def test_constants_bound_the_gradients_of_any_weights_and_the_bound_is_tight() -> None:
    torch.manual_seed(0)
    h, y = torch.randn(20, 6).double(), torch.randint(0, 4, (20,))
    bounds = {bias: per_sample_lipschitz(h, bias) for bias in (True, False)}
    for scale in (0.1, 1.0, 30.0):
        for bias in (True, False):
            layer = nn.Linear(6, 4, bias=bias).double()
            nn.init.normal_(layer.weight, std=scale)
            norms = per_sample_norms(
                layer, lambda m, x, y: F.cross_entropy(m(x), y, reduction="none"), h, y, method="vmap"
            )
            assert bool((norms <= bounds[bias] * (1 + 1e-12)).all())
    # certainly wrong: p = (0, 1) while y = 0
    residual = torch.tensor([[-1.0, 1.0]])
    outer = residual.T @ torch.cat([h[:1].float(), torch.ones(1, 1)], 1)
    assert float(outer.norm()) == pytest.approx(float(bounds[True][0]))
    assert per_sample_lipschitz(h, binary=True)[0] == pytest.approx(math.sqrt(float(h[0].square().sum()) + 1))
    unit = per_sample_lipschitz(F.normalize(h, dim=-1))
    torch.testing.assert_close(unit, torch.full((20,), 2.0).double())


def test_the_range_ends_at_the_smallest_constant() -> None:
    found = clip_norm_range(torch.tensor([3.0, 2.0, 8.0]))
    assert found.upper == 2.0
    assert found.grid == (2.0, 1.0, 0.5, 0.2, 0.1)
    assert suggest_clip(2, 3.0, 1000, 10, 1.0, 1e-5) == pytest.approx(
        3 * math.sqrt(1000 / math.sqrt(10 * math.log(1e5)))
    )
    with pytest.raises(UsageError, match="lipschitz"):
        clip_norm_range(torch.tensor([]))
    with pytest.raises(UsageError, match="suggest_clip"):
        suggest_clip(0, 1.0, 10, 10, 1.0, 1e-5)


def test_a_private_range_ends_at_a_low_quantile_and_pays_for_it() -> None:
    values = torch.linspace(2.0, 30.0, 2000).double()
    settings = {"lower": 0.5, "upper": 64.0, "quantile": 0.1}
    # almost without noise it is NumPy's quantile, to the width of the last interval: 128^(1/512)
    exact = private_clip_range(values, Ledger(), multiplier=1e-9, rounds=9, **settings)
    assert exact.upper == pytest.approx(np.quantile(values.numpy(), 0.1), rel=0.01)
    assert exact.grid == tuple(exact.upper * share for share in (1.0, 0.5, 0.25, 0.1, 0.05))
    ledger = Ledger()
    noisy = [
        private_clip_range(values, ledger, multiplier=10.0, generator=torch.Generator().manual_seed(seed), **settings)
        for seed in range(20)
    ]
    shares = [float((values < found.upper).double().mean()) for found in noisy]
    assert np.mean(np.abs(np.array(shares) - 0.1)) < 0.02
    assert len({found.upper for found in noisy}) > 1
    # twenty times eight rounds that see every record: one Gaussian of multiplier 10 / sqrt(160)
    assert ledger.epsilon(1e-5) == pytest.approx(Ledger([(10.0 / math.sqrt(160), 1.0, 1)]).epsilon(1e-5))


def test_the_noise_of_a_round_is_its_multiple_of_what_one_record_can_move() -> None:
    values = torch.full((10,), 0.9)  # all below the first middle, 1: the excess is 10 - .2 * 10 = 8
    generator = torch.Generator().manual_seed(0)
    settings = {"lower": 0.5, "upper": 2.0, "quantile": 0.2, "multiplier": 10.0, "rounds": 1}
    found = [private_clip_range(values, Ledger(), generator=generator, **settings).upper for _ in range(4000)]
    # a record moves the excess by at most .8, so its noise has deviation 8: one deviation below 0 in 15.9 % of cases
    assert np.mean(np.array(found) < 1) == pytest.approx(0.841, abs=0.02)


@pytest.mark.parametrize(
    "wrong", [{"lower": 0.0}, {"upper": 0.1}, {"quantile": 1.0}, {"multiplier": 0.0}, {"rounds": 0}]
)
def test_a_private_range_refuses(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="private_clip_range needs"):
        private_clip_range(torch.ones(3), Ledger(), **({"lower": 0.5, "upper": 2.0} | wrong))
