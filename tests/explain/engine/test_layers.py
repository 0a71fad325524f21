"""Where stages end, and the geometric mean of layers' maps (p066)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip.errors import NotSupported, UsageError
from binderclip.explain import NormGrad, combine_layers, layer_maps, stage_layers


class Block(nn.Module):
    def __init__(self, fed: int, width: int, stride: int) -> None:
        super().__init__()
        self.squeeze, self.conv = nn.Conv2d(fed, width, 1), nn.Conv2d(width, width, 3, stride, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.squeeze(x)).relu()


def residual_like() -> nn.Module:
    """A stem, three stages of blocks whose first layer still has the earlier resolution, pooling."""
    stages = [nn.Sequential(Block(4, 4, stride), Block(4, 4, 1)) for stride in (1, 2, 2)]
    parts = {"stem": nn.Conv2d(3, 4, 3, 2, 1), "one": stages[0], "two": stages[1], "three": stages[2]}
    net = nn.Sequential()
    for name, part in parts.items():
        net.add_module(name, part)
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", nn.Flatten())
    return net


def test_stages_end_at_the_last_block_of_each_resolution(conv_net: nn.Module) -> None:
    net = residual_like()
    assert stage_layers(net, torch.rand(2, 3, 32, 48)) == ["one", "two", "three"]
    assert stage_layers(net, torch.rand(3, 32, 48), count=2) == ["two", "three"]
    # A module that holds stages is none, though it gives a map, and neither is a convolution behind the last one.
    net = nn.Sequential(net[:4], nn.Conv2d(4, 8, 1), nn.Flatten())
    assert stage_layers(net, torch.rand(2, 3, 32, 48)) == ["0.one", "0.two", "0.three"]
    # Without blocks, the last part of each resolution.
    assert stage_layers(conv_net, torch.rand(1, 3, 12, 16)) == ["act1", "act2"]


def test_a_plain_transformer_gives_blocks_and_others_must_name_theirs(clip_model) -> None:
    images = torch.rand(2, 3, 32, 32)
    assert stage_layers(clip_model, images) == [0, 1]
    assert stage_layers(clip_model.predictor(["a dog", "a cat"]), images, count=1) == [1]
    with pytest.raises(NotSupported, match="name layers="):
        stage_layers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), images)
    with pytest.raises(UsageError, match="count"):
        stage_layers(clip_model, images, count=0)


def test_the_default_multiplies_the_stages(conv_net: nn.Module, images: torch.Tensor) -> None:
    found = NormGrad()(conv_net, images, 1)
    maps = [NormGrad(layers=name)(conv_net, images, 1).maps(normalize=True) for name in ("act1", "act2")]
    torch.testing.assert_close(found.maps(), (maps[0] * maps[1]).sqrt(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(combine_layers(found), found.maps(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer_maps(found)[1], NormGrad(layers="act2")(conv_net, images, 1).maps())


def test_weights_are_exponents_and_zero_wins() -> None:
    first = torch.tensor([[[0.0, 1.0], [2.0, 4.0]]])
    second = torch.tensor([[[7.0, 3.0], [5.0, 5.0]]])
    a, b = [0.0, 0.25, 0.5, 1.0], [1.0, 0.0, 0.5, 0.5]
    want = [x**0.75 * y**0.25 for x, y in zip(a, b, strict=True)]
    assert combine_layers([first, second], [3, 1]).flatten().tolist() == pytest.approx(want, abs=1e-6)
    # A layer with zero weight does not count, not even where it is zero.
    assert combine_layers([first, second], [0, 2]).flatten().tolist() == pytest.approx(b, abs=1e-6)


def test_constant_maps_give_numbers(conv_net: nn.Module) -> None:
    flat = torch.full((2, 3, 3), 5.0)
    assert combine_layers([flat, torch.rand(2, 3, 3)]).tolist() == torch.zeros(2, 3, 3).tolist()
    # Without any gradient all maps are 0.
    with torch.no_grad():
        conv_net.fc.weight.zero_()
    assert not NormGrad()(conv_net, torch.rand(1, 3, 12, 16), 0).maps().any()


def test_bad_maps_and_weights_are_named() -> None:
    with pytest.raises(UsageError, match="one shape"):
        combine_layers([torch.rand(1, 3, 3), torch.rand(1, 4, 4)])
    for weights in ([1.0], [-1.0, 2.0], [0.0, 0.0]):
        with pytest.raises(UsageError, match="weights"):
            combine_layers([torch.rand(1, 3, 3)] * 2, weights)
