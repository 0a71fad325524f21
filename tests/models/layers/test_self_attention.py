from __future__ import annotations

import pytest
import torch
from timm.layers import Attention
from torch import nn

from binderclip.models.layers.fast_gradients import fast_gradients
from binderclip.models.layers.self_attention import SHORT

WIDTH, HEADS = 12, 3


def gradients(module, x, **arguments):
    """Output and gradients of a module called on a copy of x, by a loss that weighs every entry differently."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    out = (
        module(x, x, x, need_weights=False, **arguments)[0] if isinstance(module, nn.MultiheadAttention) else module(x)
    )
    weights = torch.linspace(-1, 2, out.numel()).view_as(out)
    (out.float() * weights).sum().backward()
    return [out.detach().float(), x.grad, *(p.grad for p in module.parameters())]


def masks(length):
    causal = torch.ones(length, length).tril().bool()
    return {
        "none": None,
        "additive": torch.zeros(length, length).masked_fill(~causal, -torch.inf),
        "boolean": ~causal,
    }


@pytest.mark.parametrize("length", [7, max(SHORT.values()) + 1])
@pytest.mark.parametrize("mask", ["none", "additive", "boolean"])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64, torch.bfloat16])
def test_multihead_attention_gives_torchs_values_and_gradients(length, mask, precision):
    torch.manual_seed(0)
    double = precision == torch.float64
    module = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).to(precision if double else torch.float32)
    x = torch.randn(2, length, WIDTH, dtype=next(module.parameters()).dtype)
    mask = masks(length)[mask]
    mask = mask.double() if double and mask is not None and mask.dtype != torch.bool else mask
    exact = gradients(module, x, attn_mask=mask)
    with fast_gradients(module), torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        assert type(module) is not nn.MultiheadAttention
        found = gradients(module, x, attn_mask=mask)
    for a, b in zip(found, exact, strict=True):
        close = 3e-2 if precision == torch.bfloat16 else 1e-5
        torch.testing.assert_close(a, b, rtol=close, atol=close * float(b.abs().max()))


@pytest.mark.parametrize("length", [7, max(SHORT.values()) + 1])
def test_timms_attention_gives_its_values_and_gradients(length):
    torch.manual_seed(0)
    module = Attention(WIDTH, HEADS, qkv_bias=True)
    x = torch.randn(2, length, WIDTH)
    exact = gradients(module, x)
    with fast_gradients(module):
        found = gradients(module, x)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


def test_what_is_not_plain_self_attention_is_left_to_torch():
    torch.manual_seed(0)
    x, other = torch.randn(2, 5, WIDTH), torch.randn(2, 6, WIDTH)
    module = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    calls = [((x, other, other), {}), ((x, x, x), {"key_padding_mask": padding}), ((x, x, x), {"need_weights": True})]
    expected = [module(*inputs, **settings) for inputs, settings in calls]
    with fast_gradients(module):
        found = [module(*inputs, **settings) for inputs, settings in calls]
    for (out, maps), (expected_out, expected_maps) in zip(found, expected, strict=True):
        torch.testing.assert_close(out, expected_out)
        torch.testing.assert_close(maps, expected_maps)
    odd = [
        nn.MultiheadAttention(WIDTH, HEADS),
        nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, kdim=4, vdim=4),
        nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, add_bias_kv=True),
        nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, add_zero_attn=True),
    ]
    with fast_gradients(nn.ModuleList(odd)):
        assert all(type(part) is nn.MultiheadAttention for part in odd)


def test_dropout_stays_torchs():
    module = nn.MultiheadAttention(WIDTH, HEADS, dropout=0.5, batch_first=True)
    x = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(3)
    expected = module(x, x, x, need_weights=False)[0]
    with fast_gradients(module):
        torch.manual_seed(3)
        torch.testing.assert_close(module(x, x, x, need_weights=False)[0], expected)
