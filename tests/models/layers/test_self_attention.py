from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import func, nn

from binderclip.models.layers.fast_gradients import fast_gradients
from binderclip.models.layers.self_attention import SHORT, attend, maps_are_faster

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
    gap = causal.clone()
    gap[3] = False  # a query without any key
    found = {"none": None}
    for name, keys in (("causal", causal), ("empty row", gap)):
        found[f"additive {name}"] = torch.zeros(length, length).masked_fill(~keys, -torch.inf)
        found[f"boolean {name}"] = ~keys
    return found


@pytest.mark.parametrize("length", [7, max(SHORT.values()) + 1])
@pytest.mark.parametrize("mask", masks(4))
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


@pytest.mark.parametrize("kind", ["additive", "boolean"])
def test_a_query_without_keys_gives_what_torchs_kernel_gives(kind):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 4, generator=generator, requires_grad=True) for _ in range(3))
    mask = torch.rand(2, 1, 5, 5, generator=generator) > 0.4
    mask[0, 0, 2] = False
    mask = mask if kind == "boolean" else torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    assert maps_are_faster(q)
    found, expected = attend(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(found, expected)
    assert bool((found[0, :, 2] == 0).all())
    upstream = torch.randn(found.shape, generator=generator)
    for a, b in zip(
        torch.autograd.grad(found, (q, k, v), upstream), torch.autograd.grad(expected, (q, k, v), upstream), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("length", [7, max(SHORT.values()) + 1])
@pytest.mark.parametrize("mask", ["none", "additive empty row", "boolean empty row"])
def test_autocast_leaves_float64_to_torchs_kernel(length, mask):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double()
    x, mask = torch.randn(2, length, WIDTH).double(), masks(length)[mask]
    mask = mask.double() if mask is not None and mask.dtype != torch.bool else mask
    with torch.autocast("cpu", torch.bfloat16):
        assert not maps_are_faster(x)
        assert maps_are_faster(x[:, :7].float())
        exact = gradients(module, x, attn_mask=mask)
        with fast_gradients(module):
            found = gradients(module, x, attn_mask=mask)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("mask", ["additive empty row", "boolean empty row"])
def test_timms_attention_keeps_its_own_way_with_masks(mask):
    torch.manual_seed(0)
    module = Attention(WIDTH, HEADS)
    x, mask = torch.randn(2, 7, WIDTH), masks(7)[mask]
    expected = module(x, attn_mask=mask)
    with fast_gradients(module):
        torch.testing.assert_close(module(x, attn_mask=mask), expected)
    assert not expected.isnan().any()


def test_timms_block_writes_short_maps_out(monkeypatch):
    calls = []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, **_: calls.append(q.shape) or v)
    block = Block(WIDTH, HEADS)
    with fast_gradients(block):
        block(torch.randn(2, 7, WIDTH))
        assert not calls
        block(torch.randn(2, max(SHORT.values()) + 1, WIDTH))
        assert calls


@pytest.mark.parametrize("mask", masks(4))
def test_function_transforms_give_what_they_give_of_torchs_attention(mask):
    torch.manual_seed(0)
    module, mask = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True), masks(5)[mask]
    x = torch.randn(2, 5, WIDTH)
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}

    def loss(parameters, x):
        arguments = {"need_weights": False, "attn_mask": mask}
        return func.functional_call(module, parameters, (x, x, x), arguments)[0].square().sum()

    def figures():
        grads = func.vmap(func.grad(loss, (0, 1)), (None, 0))(parameters, x[:, None])
        single = x.clone().requires_grad_()
        out = module(single, single, single, need_weights=False, attn_mask=mask)[0][:, :2].sum(2).flatten()
        return grads, torch.autograd.grad(out, single, torch.eye(len(out)), is_grads_batched=True)

    expected = figures()
    with fast_gradients(module):
        found = figures()
    torch.testing.assert_close(found, expected)


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
