"""Int8 layers against torch.ao's own dynamic and static layers, observers, and the float layers."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from binderclip.compress import AffineGrid, Blocks, Int8Conv2d, Int8Embedding, Int8Linear, MaxAbs, fake_quant
from binderclip.errors import NotSupported, UsageError
from binderclip.models.layers.int8.layers import check_float_weights


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


def peer_convolution(layer, x):
    """What torch.ao makes of a convolution that was calibrated on x; 7 bits go in and 8 come out."""
    from torch.ao.quantization import (
        MinMaxObserver,
        QConfig,
        QuantStub,
        convert,
        default_per_channel_weight_observer,
        prepare,
    )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = nn.Sequential(QuantStub(), layer).eval()
        weight = default_per_channel_weight_observer
        net[0].qconfig = QConfig(activation=MinMaxObserver.with_args(reduce_range=True), weight=weight)
        net[1].qconfig = QConfig(activation=MinMaxObserver.with_args(reduce_range=False), weight=weight)
        prepare(net, inplace=True)(x)
        return convert(net)


@pytest.mark.parametrize(("kernel", "stride", "padding", "bias"), [(1, 1, 0, True), (3, 2, 1, True), (3, 1, 0, False)])
def test_a_convolution_is_that_of_torch_ao_to_the_bit(kernel, stride, padding, bias):
    torch.manual_seed(0)
    layer = nn.Conv2d(24, 10, kernel, stride, padding, bias=bias)
    x = draws(2, 24, 9, 9)
    with torch.no_grad():
        y = layer(x)
    ends = [tuple(map(float, torch.aminmax(one))) for one in (x, y)]
    ours, other = Int8Conv2d(layer, *ends), draws(2, 24, 9, 9, seed=1)
    assert torch.equal(ours(other), peer_convolution(copy.deepcopy(layer), x)(other).dequantize())
    assert float((ours(x) - y).norm() / y.norm()) < 0.05
    assert (ours.bias is None) != bias


def test_a_table_is_rounded_by_rows():
    weight = draws(30, 16) * torch.logspace(-3, 1, 30)[:, None]
    table, ids = Int8Embedding(weight), torch.tensor([[3, 0], [29, 3]])
    step = weight.abs().amax(1) / 127.5
    assert bool(((table(ids) - weight[ids]).abs() <= step[ids, None] * 1.0001).all())
    assert torch.equal(table(ids), table.weight[ids])


def layers():
    """One of each kind, and an input of it."""
    torch.manual_seed(0)
    convolution = Int8Conv2d(nn.Conv2d(4, 6, 1), (-3.0, 3.0), (-2.0, 2.0))
    return {
        "linear": (Int8Linear(draws(6, 4), draws(6)), draws(3, 4)),
        "bare": (Int8Linear(draws(6, 4)), draws(3, 4)),
        "convolution": (convolution, draws(2, 4, 5, 5)),
        "embedding": (Int8Embedding(draws(6, 4)), torch.tensor([0, 5])),
    }


@pytest.mark.parametrize("kind", layers())
def test_a_state_dict_holds_the_codes_and_gives_the_same_layer(kind):
    layer, x = layers()[kind]
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    assert state["int8_codes"].dtype == torch.int8
    assert {tensor.dtype for name, tensor in state.items() if name != "int8_codes"} == {torch.float32}
    expected = layer(x)
    other = copy.deepcopy(layer)
    assert torch.equal(other(x), expected)
    zeros = {name: torch.zeros_like(tensor) + (name == "int8_scale") for name, tensor in state.items()}
    other.load_state_dict(zeros)
    assert not torch.equal(other(x), expected)
    assert torch.equal(layer(x), expected)  # the copy is another one
    other.load_state_dict(state)
    assert torch.equal(other(x), expected)
    with pytest.raises(RuntimeError, match="int8_codes"):
        other.load_state_dict({**state, "int8_codes": state["int8_codes"][:2]})
    with pytest.raises(RuntimeError, match="int8_scale"):
        other.load_state_dict({name: tensor for name, tensor in state.items() if name != "int8_scale"})
    with pytest.raises(RuntimeError, match="running"):
        other.load_state_dict({**state, "running": torch.zeros(1)})


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_a_gradient_is_refused_where_it_is_asked_for(kind):
    layer, x = layers()[kind]
    out = layer(x.requires_grad_())
    assert torch.equal(out.detach(), layer(x.detach()))
    with pytest.raises(NotSupported, match="no gradient"):
        out.sum().backward()
    assert x.grad is None


def test_warnings_of_torch_about_its_tensors_stay_inside(recwarn):
    layer, x = layers()["convolution"]
    layer(x)
    assert not [one for one in recwarn if issubclass(one.category, UserWarning)]


def test_what_cannot_be_done_is_refused():
    with pytest.raises(UsageError, match="not all finite"):
        Int8Linear(torch.full((2, 2), float("nan")))
    with pytest.raises(NotSupported, match="float32 on the CPU"):
        Int8Embedding(draws(2, 2).double())
    with pytest.raises(UsageError, match="not finite"):
        Int8Conv2d(nn.Conv2d(3, 3, 1), (0.0, float("nan")), (0.0, 1.0))
    with pytest.raises(NotSupported, match="reflect"):
        Int8Conv2d(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), (0.0, 1.0), (0.0, 1.0))
    check_float_weights(nn.Linear(2, 2), "mine")
    with pytest.raises(NotSupported, match="mine computes in int8"):
        check_float_weights(nn.Sequential(Int8Linear(draws(2, 2))), "mine")
