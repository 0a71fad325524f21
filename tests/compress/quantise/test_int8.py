"""Int8 inference against torch.ao's own dynamic layers, observers, and the float model."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from binderclip.compress import AffineGrid, Blocks, Int8Attention, Int8Linear, MaxAbs, fake_quant, quantize_dynamic
from binderclip.errors import NotSupported, UsageError


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def peer(layer):
    """What torch.ao makes of a layer."""
    from torch.ao.quantization import per_channel_dynamic_qconfig
    from torch.ao.quantization import quantize_dynamic as ao_quantize

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ao_quantize(nn.Sequential(layer), {nn.Linear: per_channel_dynamic_qconfig})


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_layer_of_torch_ao_to_the_bit(bias):
    torch.manual_seed(0)
    layer, x = nn.Linear(48, 20, bias=bias), draws(5, 7, 48)
    ours = Int8Linear(layer.weight, layer.bias)
    assert torch.equal(ours(x), peer(copy.deepcopy(layer))(x))
    assert (ours.bias is None) != bias


def test_its_weights_are_those_of_one_fake_quantisation():
    weight = draws(6, 40)
    expected = fake_quant(weight, MaxAbs(), AffineGrid(8), blocks=Blocks(dim=0))
    inside = weight.abs() < weight.abs().amax(1, keepdim=True)  # the largest lies half-way between two codes
    torch.testing.assert_close(Int8Linear(weight).weight[inside], expected[inside], rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", ["none", "bool", "float", "heads", "padding"])
def test_attention_is_close_to_that_in_float(batch_first, mask):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(32, 4, batch_first=batch_first).eval()
    nn.init.normal_(layer.in_proj_bias)
    x = draws(3, 6, 32)
    causal = torch.ones(6, 6).triu(1).bool()
    settings = {
        "none": {},
        "bool": {"attn_mask": causal},
        "float": {"attn_mask": torch.zeros(6, 6).masked_fill(causal, -torch.inf)},
        "heads": {"attn_mask": causal.expand(3 * 4, 6, 6)},
        "padding": {"key_padding_mask": torch.zeros(3, 6).bool().index_fill(1, torch.tensor([5]), True)},
    }[mask]
    if not batch_first:
        x = x.transpose(0, 1)
    ours = Int8Attention(layer)
    with torch.no_grad():
        for need in (True, False):
            expected, weights = layer(x, x, x, need_weights=need, **settings)
            out, found = ours(x, x, x, need_weights=need, **settings)
            assert float((out - expected).norm() / expected.norm()) < 0.05
            assert (found is None) == (weights is None)
            if need:
                torch.testing.assert_close(found, weights, rtol=0, atol=0.03)
        other = draws(*x.shape, seed=1)
        expected, _ = layer(x, other, other, **settings)
        assert float((ours(x, other, other, **settings)[0] - expected).norm() / expected.norm()) < 0.05


def test_a_model_is_quantised_whole_and_stays_close():
    torch.manual_seed(0)
    attention = nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2), "head": nn.Linear(8, 3)})
    assert quantize_dynamic(attention, exclude="head") is attention
    assert isinstance(attention["attn"], Int8Attention)
    assert isinstance(attention["head"], nn.Linear)
    head = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16))
    x = draws(50, 32)
    plain = head(x).detach()
    quantize_dynamic(head)
    assert not head.training
    with torch.no_grad():
        cosine = nn.functional.cosine_similarity(head(x), plain)
        assert float(cosine.min()) > 0.999
        assert torch.equal(copy.deepcopy(head)(x), head(x))
    assert not list(head.parameters())


def test_what_cannot_be_done_is_refused_and_leaves_the_model():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).double())
    with pytest.raises(NotSupported, match="float32 on the CPU"):
        quantize_dynamic(net)
    assert isinstance(net[0], nn.Linear)
    with pytest.raises(UsageError, match="nothing to quantise"):
        quantize_dynamic(nn.Sequential(nn.Conv2d(3, 3, 1)))
    with pytest.raises(NotSupported, match="width"):
        Int8Attention(nn.MultiheadAttention(8, 2, kdim=4))
    with pytest.raises(UsageError, match="not all finite"):
        Int8Linear(torch.full((2, 2), float("nan")))
    layer = Int8Linear(draws(3, 4))
    with pytest.raises(UsageError, match="no gradient"):
        layer(draws(2, 4).requires_grad_())
    with pytest.raises(NotSupported, match="cannot be saved"):
        nn.Sequential(layer).state_dict()
    attention = Int8Attention(nn.MultiheadAttention(8, 2))
    with pytest.raises(NotSupported, match="batches of sequences"):
        attention(draws(3, 8), draws(3, 8), draws(3, 8))
