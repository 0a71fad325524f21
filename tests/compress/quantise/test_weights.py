"""Weights in four bits: against fake quantisation within OCTAV's clips, counted bytes, and the means that they move."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from binderclip.compress import FakeQuant, PackedWeights, pack_weight, quantize_dynamic, quantize_weights
from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.models.files.compact import dequantise, pack_nibbles, unpack_nibbles


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Network(nn.Module):
    """A layer of each kind."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3)
        self.depthwise = nn.Conv2d(64, 64, 5, groups=64)
        self.table = nn.Embedding(40, 64)
        self.attn = nn.MultiheadAttention(64, 4, batch_first=True)
        self.out, self.tiny = nn.Linear(64, 24), nn.Linear(24, 3)
        self.bare = nn.Parameter(draws(64, 64))

    def forward(self, x):
        tokens = self.depthwise(self.stem(x)).flatten(2).transpose(1, 2)
        tokens = tokens + self.table(torch.arange(tokens.shape[1]))
        return self.tiny(self.out(self.attn(tokens, tokens, tokens, need_weights=False)[0]))


def test_two_codes_lie_in_a_byte_and_come_back():
    codes = torch.tensor([[-8, 7, 0, -1], [3, -4, 1, 2]])
    packed = pack_nibbles(codes)
    assert packed.tolist() == [[0 + 16 * 15, 8 + 16 * 7], [11 + 16 * 4, 9 + 16 * 10]]
    assert torch.equal(unpack_nibbles(packed).long(), codes)


@pytest.mark.parametrize("shape", [(6, 128), (6, 100), (5, 3, 3, 3), (4, 7), (3, 1)])
def test_a_weight_is_its_fake_quantisation_block_by_block(shape):
    weight = draws(*shape) * torch.logspace(-2, 1, shape[0]).view(-1, *[1] * (len(shape) - 1))
    packed = pack_weight("w", weight, 64)
    back = dequantise(packed)["w"]
    assert back.shape == weight.shape
    inputs = weight[0].numel()
    blocks = -(-inputs // 64)
    length = -(-inputs // blocks)
    length += length % 2
    assert packed["w"].shape == (shape[0], blocks, length // 2)
    assert packed["w"].dtype == torch.uint8
    rows = nn.functional.pad(weight.flatten(1), (0, blocks * length - inputs)).view(-1, length)
    expected = FakeQuant(4, dim=0, narrow=True)(rows).view(shape[0], -1)[:, :inputs].reshape(shape)
    step = FakeQuant(4, dim=0)._range(rows)[1].view(shape[0], blocks).amax(1) / 8
    wrong = (back - expected).flatten(1).abs().amax(1)
    # float16 moves a step by 2^-11 of itself, eight times; where that moves a number over half a step, by one more
    moved = ((back - expected).flatten(1).abs() > step[:, None] / 2).float().mean()
    assert bool((wrong <= step * 1.01).all())
    assert float(moved) < 0.02


def test_numbers_that_cannot_be_kept_are_refused():
    for weight in (torch.full((2, 4), float("nan")), torch.full((2, 4), float("inf")), torch.full((2, 4), 1e30)):
        with pytest.raises(UsageError, match="block of mine"):
            pack_weight("block of mine", weight)
    with pytest.raises(UsageError, match="size"):
        pack_weight("w", draws(2, 4), 1)
    zeros = dequantise(pack_weight("w", torch.zeros(2, 4)))["w"]
    assert torch.equal(zeros, torch.zeros(2, 4))


def test_codes_without_their_scales_or_for_another_shape_are_refused():
    packed = pack_weight("w", draws(4, 10))
    for damaged in (
        {name: tensor for name, tensor in packed.items() if name != "w::scale"},
        {name: tensor for name, tensor in packed.items() if name != "w::shape"},
        {**packed, "w::shape": torch.tensor([4, 500])},
        {**packed, "w::shape": torch.tensor([3, 10])},
        {**packed, "w::scale": packed["w::scale"][:2]},
    ):
        with pytest.raises(CheckpointError, match="4-bit weights w"):
            dequantise(damaged)


def network_and_pictures():
    torch.manual_seed(0)
    return Network().eval(), 1 + draws(8, 3, 10, 10)


def test_the_model_has_the_values_that_are_stored_and_four_bits_are_half_a_byte():
    net, x = network_and_pictures()
    whole = copy.deepcopy(net)
    packed = quantize_weights(net, lambda other: other(x), correct=False)
    assert isinstance(packed, PackedWeights)
    names = ["stem.weight", "table.weight", "attn.in_proj_weight", "attn.out_proj.weight", "out.weight"]
    assert packed.four == names
    assert packed.eight == ["depthwise.weight"]
    state, before = net.state_dict(), whole.state_dict()
    values = dequantise(packed.tensors)
    for name in state:
        changed = name in (*packed.four, *packed.eight)
        assert torch.equal(state[name], values[name] if changed else before[name]), name
    inputs = {name: before[name][0].numel() for name in names}
    outputs = {name: len(before[name]) for name in names}
    for name in names:
        size = 28 if inputs[name] == 27 else inputs[name]
        assert packed.tensors[name].numel() == outputs[name] * size // 2


def test_biases_take_out_the_mean_that_rounding_moved():
    net, x = network_and_pictures()
    whole, plain = copy.deepcopy(net), copy.deepcopy(net)
    quantize_weights(net, lambda other: other(x))
    quantize_weights(plain, lambda other: other(x), correct=False)
    for name in ("stem", "depthwise", "out"):
        first, second = whole.get_submodule(name), net.get_submodule(name)
        assert not torch.equal(first.bias, second.bias)
    with torch.no_grad():
        # the same inputs through both layers: exact in the mean, where no padding is added
        inputs = whole.stem(x)
        shift = (net.stem(x) - inputs).mean((0, 2, 3)).abs().max()
        moved = (plain.stem(x) - inputs).mean((0, 2, 3)).abs().max()
        assert float(shift) < 0.1 * float(moved)
    assert torch.equal(net.attn.in_proj_weight, plain.attn.in_proj_weight)
    assert not torch.equal(net.attn.in_proj_bias, plain.attn.in_proj_bias)
    assert not torch.equal(net.attn.out_proj.bias, plain.attn.out_proj.bias)


def test_what_cannot_be_done_is_refused():
    with pytest.raises(UsageError, match="nothing to quantise"):
        quantize_weights(nn.LayerNorm(4), lambda net: None)
    with pytest.raises(NotSupported, match="int8"):
        quantize_weights(quantize_dynamic(nn.Sequential(nn.Linear(4, 4))), lambda net: None)
    net, x = network_and_pictures()
    packed = quantize_weights(net, lambda other: other(x), exclude=["attn", "attn.*", "table", "out", "depthwise"])
    assert (packed.four, packed.eight) == (["stem.weight"], [])
