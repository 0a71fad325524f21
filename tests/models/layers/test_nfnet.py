"""p052 (arXiv 2102.06171): standardised convolutions, gains, variances and blocks, against statistics and timm."""

from __future__ import annotations

from functools import partial

import pytest
import timm.layers
import timm.models.nfnet
import torch
from scipy import integrate
from torch import nn
from torch.nn import functional as F

from binderclip import errors
from binderclip.models import ACTIVATION_GAINS, NFBlock, NFResNet, ScaledActivation, ScaledStdConv2d, expected_stds
from binderclip.optim import AGC, Clip, WeightRatio


def rough_(conv, seed=0):
    """Filters with a mean and a size, and gains that are not 1, so that the standardisation has something to do."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        conv.weight.copy_(0.3 + 2 * torch.randn(conv.weight.shape, generator=g))
        conv.gain.copy_(0.5 + torch.rand(conv.gain.shape, generator=g))
        if conv.bias is not None:
            conv.bias.copy_(torch.randn(conv.bias.shape, generator=g))
    return conv


@pytest.mark.parametrize("groups", [1, 4])
def test_filters_have_mean_0_and_variance_gain_squared_over_fan_in(groups):
    conv = rough_(ScaledStdConv2d(8, 12, 3, groups=groups))
    rows = conv.standardized_weight().detach().reshape(12, -1).numpy()
    assert rows.shape[1] == 8 // groups * 9 == conv.fan_in
    assert abs(rows.mean(1)).max() < 1e-6
    expected = conv.gain.detach().reshape(12).numpy() ** 2 / rows.shape[1]
    assert rows.var(1) == pytest.approx(expected, rel=1e-5)


def test_constant_filters_give_zero_and_no_nan():
    conv = ScaledStdConv2d(3, 2, 3)
    nn.init.ones_(conv.weight)
    out = conv(torch.randn(1, 3, 5, 5))
    out.sum().backward()
    assert float(out.detach().abs().max()) < 1e-5
    assert torch.isfinite(conv.weight.grad).all()


@pytest.mark.parametrize(("stride", "groups", "kernel"), [(1, 1, 3), (2, 4, 3), (1, 1, 1), (2, 1, 5)])
def test_convolution_and_its_gradients_are_timms(stride, groups, kernel):
    ours = rough_(ScaledStdConv2d(8, 12, kernel, stride=stride, groups=groups).double())
    theirs = timm.layers.ScaledStdConv2d(8, 12, kernel, stride=stride, groups=groups, eps=1e-14).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 8, 9, 9, dtype=torch.float64)
    one, other = ours(x), theirs(x)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    weights = torch.randn_like(one)
    for mine, their in zip(
        torch.autograd.grad((one * weights).sum(), list(ours.parameters())),
        torch.autograd.grad((other * weights).sum(), list(theirs.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(mine, their, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("dilation", "padding", "side"), [(2, 0, 5), (2, None, 9), (1, 2, 11)])
def test_dilated_and_padded_convolutions_without_a_bias_are_torchs_of_the_standard_filters(dilation, padding, side):
    conv = rough_(ScaledStdConv2d(4, 6, 3, dilation=dilation, padding=padding, bias=False).double())
    assert conv.bias is None
    flat = conv.weight.flatten(1)
    filters = (flat - flat.mean(1, keepdim=True)) / flat.std(1, correction=0, keepdim=True) / 36**0.5
    filters = filters.view_as(conv.weight) * conv.gain
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    expected = F.conv2d(x, filters, dilation=dilation, padding=dilation if padding is None else padding)
    found = conv(x)
    assert found.shape[-1] == side
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ACTIVATION_GAINS)
def test_gain_gives_unit_variance_by_quadrature(name):
    act = ScaledActivation(name)

    def moment(power):
        def integrand(x):
            value = float(act(torch.tensor(x, dtype=torch.float64)))
            return value**power * 0.3989422804014327 * 2.718281828459045 ** (-x * x / 2)

        return sum(integrate.quad(integrand, *ends, limit=200)[0] for ends in ((-9, 0), (0, 9)))

    assert moment(2) - moment(1) ** 2 == pytest.approx(1, abs=3e-3)


def statistics_block(**settings):
    return NFBlock(256, 256, group_width=64, squeeze_excite=0.5, skip_gain=1.0, alpha=0.5, **settings)


# s multiplies after the activation, so only relu is exact at any s; 1.11 is what six blocks of alpha .2 pile up
@pytest.mark.parametrize(("activation", "piled"), [("relu", 1.6), ("gelu", 1.11), ("silu", 1.11)])
def test_output_variance_at_the_start_is_the_expected_one(activation, piled):
    """Wide block, zero-padding's border cut away: s^2 + alpha^2, and 1 + alpha^2 behind a projection."""
    torch.manual_seed(0)
    for std, projection in ((1.0, False), (piled, False), (piled, True)):
        block = statistics_block(expected_std=std, projection=projection, activation=activation)
        x = std * torch.randn(4, 256, 14, 14)
        with torch.no_grad():
            # per channel over pictures and places: the mean of a channel is no part of its variance
            out = block(x)[:, :, 2:-2, 2:-2]
        variance = float(out.var((0, 2, 3)).mean())
        expected = (1.0 if projection else std**2) + 0.5**2
        assert variance == pytest.approx(expected, rel=0.05), (activation, std, projection)


def test_expected_stds_are_the_recursion_and_the_blocks_use_them():
    assert expected_stds((1, 3, 2), alpha=0.5) == [
        [1.0],
        [pytest.approx(1.25**0.5), pytest.approx(1.25**0.5), pytest.approx(1.5**0.5)],
        [pytest.approx(1.75**0.5), pytest.approx(1.25**0.5)],
    ]
    net = NFResNet(3, widths=(8, 8), depths=(2, 2), strides=(1, 2), stem=(8,), stem_stride=1, group_width=4, alpha=0.5)
    used = [1 / block.entry.scale for block in net.blocks]
    assert used == pytest.approx([1.0, 1.25**0.5, 1.5**0.5, 1.25**0.5])
    assert [block.projection is not None for block in net.blocks] == [True, False, True, False]


@pytest.mark.parametrize(("into", "out", "stride"), [(16, 16, 1), (16, 32, 1), (16, 32, 2)])
@pytest.mark.parametrize("size", [8, 7])
def test_block_is_timms_block(into, out, stride, size):
    ours = NFBlock(into, out, stride=stride, expected_std=1.3, group_width=4, activation="silu", skip_gain=0.7).double()
    for module in ours.modules():
        if isinstance(module, ScaledStdConv2d):
            rough_(module)
    act = partial(timm.models.nfnet.get_act_layer("silu"))

    class Scaled(nn.Module):
        def __init__(self, inplace=False):
            super().__init__()
            self.act = act()

        def forward(self, x):
            return self.act(x) * ACTIVATION_GAINS["silu"]

    theirs = timm.models.nfnet.NormFreeBlock(
        into,
        out,
        stride=stride,
        alpha=0.2,
        beta=1 / 1.3,
        bottle_ratio=0.5,
        group_size=4,
        reg=False,
        extra_conv=True,
        skipinit=True,
        attn_layer=partial(timm.layers.get_attn("se"), rd_ratio=0.5, rd_divisor=1),
        act_layer=Scaled,
        conv_layer=partial(timm.layers.ScaledStdConv2d, eps=1e-14),
    ).double()
    names = {"reduce": "conv1", "spatial": "conv2", "spatial2": "conv2b", "expand": "conv3"}
    names |= {"gate.down": "attn_last.fc1", "gate.up": "attn_last.fc2", "projection": "downsample.conv"}
    state = {}
    for key, value in ours.state_dict().items():
        module, _, leaf = key.rpartition(".")
        new = f"{names[module]}.{leaf}" if module else "skipinit_gain"
        state[new] = value[:, :, None, None] if "attn_last" in new and leaf == "weight" else value
    theirs.load_state_dict(state)
    x = torch.randn(2, into, size, size, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-9)


def test_skip_gain_starts_as_the_shortcut_and_can_leave_zero_under_agc():
    torch.manual_seed(0)
    block = NFBlock(16, 16, group_width=4)
    x = torch.randn(2, 16, 6, 6)
    assert torch.equal(block(x), x)
    optimizer = torch.optim.SGD(block.parameters(), lr=1.0)
    AGC(0.01).attach(optimizer, block.named_parameters())
    block(x).square().sum().backward()
    optimizer.step()
    assert 0 < abs(float(block.skip_gain.detach())) <= 1.001e-5
    assert not torch.equal(block(x), x)


def test_weight_ratio_limits_every_filter_and_scalar_of_a_block_by_hand():
    """The rule in `Clip` against the definition, filter by filter; the skip gain of 0 is limited by eps."""
    torch.manual_seed(0)
    block = NFBlock(16, 16, group_width=4).double()
    for parameter in block.parameters():
        parameter.grad = torch.randn_like(parameter)
    expected = {}
    for name, p in block.named_parameters():
        rows = [(p, p.grad)] if p.squeeze().ndim <= 1 else list(zip(p, p.grad, strict=True))
        limits = [0.02 * max(float(w.detach().norm()), 1e-3) for w, _ in rows]
        parts = [g * min(1.0, limit / float(g.norm())) for (_, g), limit in zip(rows, limits, strict=True)]
        expected[name] = torch.stack(parts).reshape(p.shape)
    rule = Clip(WeightRatio(0.02), granularity="unit", eps=1e-6, eps_mode="max")
    rule(block.named_parameters())
    for name, p in block.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-9, atol=0)
    assert abs(float(block.skip_gain.grad)) == pytest.approx(2e-5)
    with pytest.raises(errors.UsageError, match="clipping must be"):
        WeightRatio(-1.0)


def test_every_parameter_gets_a_gradient_once_the_skip_gains_are_open():
    torch.manual_seed(0)
    net = NFResNet(5, widths=(16, 32), depths=(2, 1), strides=(1, 2), stem=(8, 16), stem_stride=4, group_width=8)
    for block in net.blocks:
        nn.init.constant_(block.skip_gain, 0.5)
    net(torch.randn(3, 3, 32, 32)).logsumexp(1).sum().backward()
    assert [name for name, p in net.named_parameters() if not bool(p.grad.abs().sum() > 0)] == []


def test_drop_path_drops_whole_samples_keeps_the_mean_and_rests_in_evaluation():
    torch.manual_seed(0)
    block = NFBlock(16, 16, group_width=4, skip_gain=1.0, drop_path=0.4)
    x = torch.randn(1, 16, 5, 5).expand(2000, -1, -1, -1)
    with torch.no_grad():
        full = block.eval()(x[:1]) - x[:1]
        parts = (block.train()(x) - x) / full
    kept = parts.amax((1, 2, 3)) > 0.5
    torch.testing.assert_close(parts[~kept], torch.zeros_like(parts[~kept]), rtol=0, atol=1e-6)
    assert float((parts[kept] - 1 / 0.6).abs().median()) < 1e-3
    assert float(kept.float().mean()) == pytest.approx(0.6, abs=0.04)
    net = NFResNet(2, widths=(8,), depths=(4,), strides=(1,), stem=(8,), stem_stride=1, group_width=4, drop_path=0.4)
    assert [b.drop_path for b in net.blocks] == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_full_size_network_has_the_published_widths():
    with torch.device("meta"):
        net = NFResNet(1000, activation="gelu")
    assert net.head.weight.shape == (1000, 3072)
    assert [b.expand.out_channels for b in net.blocks] == [256] + [512] * 2 + [1536] * 6 + [1536] * 3
    # published: 71.5 million parameters
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(71.5, abs=0.1)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: ScaledStdConv2d(6, 8, 3, groups=4), "groups=4 must divide"),
        (lambda: ScaledStdConv2d(8, 8, 3, eps=0), "eps must be"),
        (lambda: ScaledActivation("mish"), "activation must be one of identity"),
        (lambda: NFBlock(8, 8), "narrower than one group of 128"),
        (lambda: NFBlock(8, 8, group_width=4, stride=3), "stride must be"),
        (lambda: NFBlock(8, 8, group_width=4, expected_std=0), "expected_std"),
        (lambda: NFBlock(8, 8, group_width=4, drop_path=1.0), "drop_path"),
        (lambda: NFBlock(8, 16, group_width=4, projection=False), "needs a projection"),
        (lambda: NFResNet(2, widths=(8,)), "must go together"),
        (lambda: NFResNet(2, stem_stride=2), "stem_stride"),
    ],
)
def test_mistakes_are_named(build, text):
    with pytest.raises(errors.UsageError, match=text):
        build()
