"""Quantised gradients (p141, arXiv 2408.14267): unbiased, of bounded variance, and of one bit a value on average."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from binderclip.compress import AGP, gradient_variance, quantize_groups
from binderclip.compress.quantise.gradients import _inclusion
from binderclip.errors import UsageError

DRAWS = 2000
FEW = 300


def gradients(seed=0):
    """Eight samples of very different size."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(8, 6, generator=g) * torch.logspace(0, -2, 8)[:, None]


def unbiased(values, gradient):
    """Within 4.5 standard errors of the mean of the draws, and rounding in float32."""
    error = values.std(0) / len(values) ** 0.5
    return bool(((values.mean(0) - gradient).abs() <= 4.5 * error + 1e-6).all())


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_rounding_is_unbiased_and_its_variance_is_bounded(bits):
    gradient, generator = gradients(), torch.Generator().manual_seed(1)
    quantize = partial(quantize_groups, bits=bits, generator=generator)
    values = quantize(gradient.repeat(DRAWS, 1)).reshape(DRAWS, *gradient.shape)
    low, high = gradient.aminmax(dim=1, keepdim=True)
    step = (high - low) / (2**bits - 1)  # a value's deviation is at most half a step
    assert ((values.mean(0) - gradient).abs() <= 4.5 * step / 2 / DRAWS**0.5 + 1e-6).all()
    variance = values.var(0)
    low, high = low[:, 0], high[:, 0]
    bound = 6 * (high - low) ** 2 / (4 * (2**bits - 1) ** 2)
    assert (variance.sum(1) <= 1.1 * bound).all()
    assert float(gradient_variance(gradient, quantize, FEW)) == pytest.approx(float(variance.sum()), rel=0.2)


def test_one_bit_is_the_minimum_and_the_maximum_of_a_group():
    gradient = gradients()
    for dim in (0, 1):
        values = quantize_groups(gradient, 1, dim)
        for group, source in zip(values.movedim(dim, 0), gradient.movedim(dim, 0), strict=True):
            ends = torch.stack([source.min(), source.max()])
            assert (group[:, None] - ends).abs().amin(1).max() < 1e-6


def test_many_bits_and_equal_values_are_kept():
    gradient = gradients()
    torch.testing.assert_close(quantize_groups(gradient, 24), gradient, rtol=0, atol=1e-5)
    assert torch.equal(quantize_groups(torch.full((2, 3), 1e-9), 1), torch.full((2, 3), 1e-9))


def test_bernoulli_pruning_is_unbiased_and_keeps_so_many_groups():
    gradient, agp = gradients(), AGP(4, "bernoulli", torch.Generator().manual_seed(2))
    values = torch.stack([agp(gradient) for _ in range(FEW)])
    assert unbiased(values, gradient)
    # 2 of 8 groups, by a sum of Bernoulli variables of a deviation below 1
    assert float((values != 0).any(2).sum(1).float().mean()) == pytest.approx(2, abs=4.5 / FEW**0.5)


def test_topk_pruning_keeps_the_largest_groups_as_they_are_rounded():
    gradient = gradients()
    generator = torch.Generator().manual_seed(3)
    values = AGP(4, generator=generator)(gradient)
    largest = set(gradient.abs().amax(1).topk(2).indices.tolist())
    assert set((values != 0).any(1).nonzero().ravel().tolist()) == largest
    rounded = quantize_groups(gradient, 4, generator=torch.Generator().manual_seed(3))
    for row in largest:
        assert torch.equal(values[row], rounded[row])
    channels = AGP(3)(gradient, dim=1)
    assert int((channels != 0).any(0).sum()) == 2
    assert int((AGP(8)(gradient[:3]) != 0).any(1).sum()) == 1, "at least one group"


@pytest.mark.parametrize(("size", "kept"), [([5, 1, 1, 1], 2), ([9, 8, 0.1, 0.1, 0.1], 3), ([1, 1, 1, 1], 1)])
def test_probabilities_share_what_is_kept(size, kept):
    size = np.array(size, dtype=float)
    scale = brentq(lambda c: np.minimum(c * size, 1).sum() - kept, 0, 1e6)
    torch.testing.assert_close(
        _inclusion(torch.tensor(size), kept).numpy().astype(float), np.minimum(scale * size, 1), rtol=1e-5, atol=1e-6
    )


def test_groups_of_zeros_are_left_out_and_all_others_kept_where_there_is_room():
    assert _inclusion(torch.tensor([5.0, 0.1, 0.0, 0.0]), 3).tolist() == [1, 1, 0, 0]
    assert torch.equal(AGP(1, "bernoulli")(torch.zeros(3, 2)), torch.zeros(3, 2))


def test_what_makes_no_sense_is_refused():
    for build, message in (
        (lambda: AGP(0), "bits must be"),
        (lambda: AGP(4, "best"), "mode must be one of"),
        (lambda: quantize_groups(torch.zeros(2, 2), 4, 2), "dimension 2"),
        (lambda: quantize_groups(torch.zeros(0, 2), 4), "nothing to quantise"),
        (lambda: gradient_variance(torch.zeros(2, 2), AGP(), 1), "draws must be"),
    ):
        with pytest.raises(UsageError, match=message):
            build()
