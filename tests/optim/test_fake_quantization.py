"""Fake quantisation against levels by hand, torch.ao's observers, and the form that p007 was measured with."""

from __future__ import annotations

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.optim import fake_quantize
from binderclip.optim.fake_quantization import (
    AffineGrid,
    Blocks,
    FixedRange,
    MaxAbs,
    MinMax,
    SignGrid,
    SpikeGrid,
    SymmetricGrid,
    fake_quant,
)
from binderclip.optim.surrogates import ClippedStraightThrough, MagnitudeAware, WindowSurrogate


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def p007_before(weight, bits, group_size):
    """What the 4-bit trainings of p007 computed with when they were measured."""
    top = 2**bits - 1
    flat = weight.detach().float().reshape(-1)
    missing = -len(flat) % group_size
    if missing:
        flat = torch.cat([flat, flat[-1:].expand(missing)])
    groups = flat.reshape(-1, group_size)
    low, high = groups.aminmax(dim=1, keepdim=True)
    scale = (high - low) / top
    flatness = scale <= 0
    scale = torch.where(flatness, 1.0, scale)
    zero = (-low / scale).round().clamp(0, top)
    levels = ((groups / scale).round() + zero).clamp(0, top)
    rounded = torch.where(flatness, groups, (levels - zero) * scale).reshape(-1)[: weight.numel()]
    return weight + (rounded.reshape(weight.shape).to(weight.dtype) - weight).detach()


@pytest.mark.parametrize(("bits", "size"), [(4, 64), (1, 7), (2, 16), (8, 1000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_p007_is_the_same_to_the_bit(bits, size, dtype):
    weight = (normal(9, 17) * 3 + 0.5).to(dtype)
    weight[0, :16] = 0.25
    assert torch.equal(fake_quantize(weight, bits, size), p007_before(weight, bits, size))


@pytest.mark.parametrize(
    "blocks", [Blocks(), Blocks(dim=0), Blocks(dim=1), Blocks(dim=-1), Blocks(size=7), Blocks(size=500)]
)
def test_blocks_come_back_and_are_each_quantised_alone(blocks):
    x = normal(3, 5, 4)
    rows = blocks.split(x)
    assert torch.equal(blocks.join(rows, x.shape), x)
    values = fake_quant(x, MinMax(), AffineGrid(2), blocks=blocks)
    for row in blocks.split(values):
        assert len(row.unique()) <= 4
    if blocks.dim is not None:
        for number in range(x.shape[blocks.dim]):
            alone = fake_quant(x.select(blocks.dim, number), MinMax(), AffineGrid(2))
            assert torch.equal(values.select(blocks.dim, number), alone)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_observers_of_torch_ao_find_the_same_values(bits):
    from torch.ao.quantization import FakeQuantize, MinMaxObserver, PerChannelMinMaxObserver

    x = normal(6, 50) + 0.3
    for observer, scheme, blocks, rule in (
        (MinMaxObserver, torch.per_tensor_affine, Blocks(), MinMax(include_zero=True)),
        (MinMaxObserver, torch.per_tensor_symmetric, Blocks(), MaxAbs()),
        (PerChannelMinMaxObserver, torch.per_channel_affine, Blocks(dim=0), MinMax(include_zero=True)),
        (PerChannelMinMaxObserver, torch.per_channel_symmetric, Blocks(dim=0), MaxAbs()),
    ):
        channel = {"ch_axis": 0} if observer is PerChannelMinMaxObserver else {}
        peer = FakeQuantize(
            observer=observer, quant_min=-(2 ** (bits - 1)), quant_max=2 ** (bits - 1) - 1, dtype=torch.qint8,
            qscheme=scheme, **channel,
        )  # fmt: skip
        torch.testing.assert_close(
            fake_quant(x, rule, AffineGrid(bits), blocks=blocks), peer(x), rtol=0, atol=2e-6, msg=str(scheme)
        )


@pytest.mark.parametrize("grid", [SymmetricGrid(3), SymmetricGrid(3, narrow=True), AffineGrid(3), SignGrid()])
def test_it_is_idempotent_and_keeps_its_levels(grid):
    x = normal(1000)
    once = fake_quant(x, FixedRange(-2.0, 2.0), grid)
    torch.testing.assert_close(fake_quant(once, FixedRange(-2.0, 2.0), grid), once, rtol=0, atol=1e-6)
    ends = isinstance(grid, SymmetricGrid) and not grid.narrow
    assert len(once.unique()) <= 2**3 + ends
    if not isinstance(grid, SignGrid):
        inside = (x.abs() <= 1.4).nonzero()
        assert (once - x)[inside].abs().max() <= 0.5 * 4 / 7 + 1e-6


def test_symmetric_levels_by_hand():
    x = torch.tensor([-3.0, -1.01, -0.49, 0.0, 0.26, 0.9, 7.0])
    signed = fake_quant(x, FixedRange(-1.0, 1.0), SymmetricGrid(2))
    assert signed.tolist() == [-1.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.0]
    assert fake_quant(x, FixedRange(-1.0, 1.0), SymmetricGrid(2, narrow=True)).tolist()[-2:] == [0.5, 0.5]
    unsigned = fake_quant(x, FixedRange(0.0, 1.0), SymmetricGrid(2, signed=False))
    assert unsigned.tolist() == [0.0, 0.0, 0.0, 0.0, 0.25, 1.0, 1.0]
    assert fake_quant(x, FixedRange(0.0, 0.9), SpikeGrid()).tolist() == [0, 0, 0, 0, 0, 1, 1]


def test_many_bits_change_nearly_nothing():
    x = normal(500)
    for grid in (SymmetricGrid(16), AffineGrid(16)):
        torch.testing.assert_close(fake_quant(x, MaxAbs(), grid), x, rtol=0, atol=2e-4)


def test_stochastic_rounding_is_unbiased_and_repeatable():
    x = normal(40).clamp(-2, 2)
    draws = 2000
    many = x.expand(draws, -1)
    for grid in (SymmetricGrid(2), AffineGrid(2, zero="lowest")):
        generator = torch.Generator().manual_seed(1)
        values = fake_quant(many, FixedRange(-2.0, 2.0), grid, stochastic=True, generator=generator)
        error = (values.mean(0) - x).abs()
        assert (error <= 4.5 * values.std(0) / draws**0.5 + 1e-6).all()
        again = fake_quant(
            many, FixedRange(-2.0, 2.0), grid, stochastic=True, generator=torch.Generator().manual_seed(1)
        )
        assert torch.equal(values, again)


def test_surrogates_are_their_formulas():
    x = torch.tensor([-4.0, -1.0, 0.0, 0.5, 1.0, 5.0], requires_grad=True)
    upstream = torch.arange(1.0, 7.0)
    for surrogate, factor in (
        (ClippedStraightThrough(), [0, 1, 1, 1, 1, 0]),
        (ClippedStraightThrough(inclusive=False), [0, 0, 1, 1, 0, 0]),
        (MagnitudeAware(), [0.25, 1, 1, 1, 1, 0.2]),
        (WindowSurrogate(0.0, 1.0, 0.5), [0, 0, 0, 0.5, 0.5, 0]),
    ):
        x.grad = None
        values = fake_quant(x, FixedRange(-1.0, 1.0), SymmetricGrid(4), surrogate=surrogate)
        (values * upstream).sum().backward()
        torch.testing.assert_close(x.grad, upstream * torch.tensor(factor), rtol=0, atol=1e-7)
    unsigned = fake_quant(
        x, FixedRange(0.0, 1.0), SymmetricGrid(4, signed=False), surrogate=MagnitudeAware()
    )  # clip(x) / x is 0 below 0
    assert torch.autograd.grad(unsigned.sum(), x)[0].tolist() == pytest.approx([0, 0, 1, 1, 1, 0.2])


def test_gradients_of_samples_come_from_vmap():
    from torch.func import grad, vmap

    x = normal(5, 8)

    def loss(row):
        return fake_quant(row, MaxAbs(), SymmetricGrid(3), surrogate=MagnitudeAware()).square().sum()

    expected = torch.stack([grad(loss)(row) for row in x])
    torch.testing.assert_close(vmap(grad(loss))(x), expected)


def test_blocks_without_a_range_give_no_nan_and_nan_shows():
    for value in (0.0, 0.7):
        x = torch.full((2, 3), value)
        for rule, grid in (
            (MaxAbs(), SymmetricGrid(4)),
            (MinMax(), AffineGrid(4)),
            (MinMax(), AffineGrid(4, zero="lowest")),
        ):
            torch.testing.assert_close(fake_quant(x, rule, grid, blocks=Blocks(dim=0)), x)
    broken = torch.tensor([[1.0, float("nan")], [1.0, 2.0]])
    values = fake_quant(broken, MaxAbs(), SymmetricGrid(4), blocks=Blocks(dim=0))
    assert values[0].isnan().all()
    assert values[1].tolist() == [1.0, 2.0]


def test_what_makes_no_sense_is_refused():
    for build, message in (
        (lambda: Blocks(dim=0, size=3), "give dim or size"),
        (lambda: Blocks(size=0), "size must be"),
        (lambda: SymmetricGrid(0), "bits must be"),
        (lambda: AffineGrid(25), "at most 24"),
        (lambda: AffineGrid(4, zero="none"), "zero must be one of"),
        (lambda: FixedRange(1.0, 0.0), "is empty"),
        (lambda: FixedRange(0.0, float("nan")), "high must be"),
        (lambda: WindowSurrogate(1.0, 1.0), "is empty"),
        (lambda: fake_quant(torch.zeros(0), MinMax(), AffineGrid(4)), "nothing to quantise"),
        (lambda: fake_quant(torch.zeros(3, dtype=torch.int64), MinMax(), AffineGrid(4)), "floating-point"),
        (lambda: fake_quant(torch.zeros(3), MinMax(), AffineGrid(4), blocks=Blocks(dim=1)), "dimension 1"),
    ):
        with pytest.raises(UsageError, match=message):
            build()
