"""Int8 attention against torch's own in float, and the record of int8 layers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from binderclip.compress import Int8Attention
from binderclip.errors import NotSupported, UsageError
from binderclip.models.layers.int8.attention import int8_record, set_int8
from binderclip.models.layers.pruned import PrunedAttention


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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


def test_attention_that_lost_heads_has_an_int8_form():
    torch.manual_seed(0)
    layer, x = PrunedAttention(32, 2, 8).eval(), draws(3, 6, 32)
    with torch.no_grad():
        expected, _ = layer(x, x, x, need_weights=False)
        ours = Int8Attention(layer)
        out, _ = ours(x, x, x, need_weights=False)
    assert float((out - expected).norm() / expected.norm()) < 0.05
    torch.testing.assert_close(ours.in_proj_weight, layer.in_proj_weight.detach(), rtol=0, atol=0.01)
    assert torch.equal(ours.in_proj_bias, layer.in_proj_bias)


def test_a_record_and_a_state_dict_make_the_model_again():
    torch.manual_seed(0)

    def network():
        return nn.ModuleDict(
            {"attn": nn.MultiheadAttention(8, 2), "table": nn.Embedding(5, 8), "norm": nn.LayerNorm(8)}
        )

    first = network()
    set_int8(first, {"layers": ["attn", "table"]})
    assert int8_record(first) == {"layers": ["attn", "table"]}
    assert int8_record(network()) == {}
    second = network()
    set_int8(second, int8_record(first))
    assert not any(parameter.requires_grad for parameter in second.parameters())
    x = draws(4, 2, 8)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(first["attn"](x, x, x)[0], second["attn"](x, x, x)[0])


@pytest.mark.parametrize(
    "record", [None, [], {}, {"layers": []}, {"layers": "attn"}, {"layers": [3]}, {"layers": ["norm"]},
               {"layers": ["attn"], "bits": 8}, {"layers": ["nowhere"]}]
)  # fmt: skip
def test_a_record_that_does_not_fit_is_refused(record):
    network = nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2), "norm": nn.LayerNorm(8)})
    with pytest.raises(UsageError, match=r"model_cfg\.int8"):
        set_int8(network, record)
    assert isinstance(network["attn"], nn.MultiheadAttention)


def test_attention_of_another_kind_is_refused():
    with pytest.raises(NotSupported, match="width"):
        Int8Attention(nn.MultiheadAttention(8, 2, kdim=4))
    attention = Int8Attention(nn.MultiheadAttention(8, 2))
    with pytest.raises(NotSupported, match="batches of sequences"):
        attention(draws(3, 8), draws(3, 8), draws(3, 8))
