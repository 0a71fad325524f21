"""DexiNed (p110, arXiv 2112.02250): outputs, names and shapes of the released network, and what each skip carries."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from binderclip.errors import CheckpointError, UsageError
from binderclip.vision import DexiNed, load_dexined

# Mean, standard deviation and two pixels, (5, 7) and (20, 40), of the seven maps that the authors' own `model.py` gives
# for the weights and the picture below.
RELEASED = (
    (0.338375, 0.054964, 0.327111, 0.327111),
    (0.404068, 0.114144, 0.395644, 0.395644),
    (0.207943, 0.182054, 0.322472, -0.024627),
    (0.307269, 0.021722, 0.294294, 0.319806),
    (0.390831, 0.001941, 0.391125, 0.391472),
    (0.308611, 0.035077, 0.306279, 0.308404),
    (-0.384829, 0.097157, -0.440866, -0.256114),
)
PARAMETERS = 35_215_245
# What the released program has and never uses: a 1 x 1 convolution with its normalisation, and one of a single channel.
UNUSED = {
    "side_5.conv.weight": (256, 512, 1, 1), "side_5.conv.bias": (256,),
    "side_5.bn.weight": (256,), "side_5.bn.bias": (256,), "side_5.bn.running_mean": (256,),
    "side_5.bn.running_var": (256,), "side_5.bn.num_batches_tracked": (),
    "block_cat.bn.weight": (1,), "block_cat.bn.bias": (1,), "block_cat.bn.running_mean": (1,),
    "block_cat.bn.running_var": (1,), "block_cat.bn.num_batches_tracked": (),
}  # fmt: skip
# Names and shapes of some tensors of the released checkpoint, of every kind.
SHAPES = {
    "block_1.conv1.weight": (32, 3, 3, 3), "block_1.bn2.running_var": (64,), "block_2.conv2.weight": (128, 128, 3, 3),
    "dblock_3.denselayer2.conv1.weight": (256, 256, 3, 3), "dblock_4.denselayer1.norm1.weight": (512,),
    "dblock_5.denselayer3.conv2.bias": (512,), "dblock_6.denselayer1.conv1.weight": (256, 512, 3, 3),
    "side_1.conv.weight": (128, 64, 1, 1), "side_4.bn.bias": (512,), "pre_dense_2.conv.weight": (256, 128, 1, 1),
    "pre_dense_6.conv.weight": (256, 512, 1, 1), "up_block_2.features.2.weight": (1, 1, 2, 2),
    "up_block_4.features.5.weight": (16, 16, 8, 8), "up_block_5.features.11.weight": (1, 1, 16, 16),
    "up_block_6.features.9.weight": (1, 16, 1, 1), "block_cat.conv.weight": (1, 6, 1, 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def network() -> DexiNed:
    return fill(DexiNed()).eval()


def fill(network: DexiNed) -> DexiNed:
    """Waves in place of random weights, so that any program can make the same ones from the names."""
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        code = sum(map(ord, name))
        wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * (0.7 + 0.013 * (code % 17)) + code)
        if "up_block" in name:
            value = 0.3 + 0.1 * wave if name.endswith("bias") else wave / tensor[0].numel() ** 0.5
        elif tensor.ndim == 4:
            value = wave * (2 / tensor[0].numel()) ** 0.5
        else:
            value = 1 + 0.2 * wave if name.endswith(("running_var", "weight")) else 0.1 * wave
        tensor.copy_(value.reshape(tensor.shape))
    return network


def picture() -> Tensor:
    return 0.5 + 0.4 * torch.sin(torch.arange(3 * 32 * 48, dtype=torch.float64) * 0.11).reshape(1, 3, 32, 48).float()


@torch.no_grad()
def test_the_seven_maps_are_those_of_the_released_program(network: DexiNed) -> None:
    maps = network(picture())[0].double()
    own = torch.stack([maps.mean((1, 2)), maps.std((1, 2)), maps[:, 5, 7], maps[:, 20, 40]], dim=1)
    torch.testing.assert_close(own, torch.tensor(RELEASED, dtype=torch.float64), rtol=1e-4, atol=5e-6)
    probability = network.probability(picture())
    torch.testing.assert_close(probability, maps[-1:].sigmoid().float())
    averaged = network.probability(picture(), fusion="mean")
    torch.testing.assert_close(averaged, maps.sigmoid().mean(0, keepdim=True).float())


def test_a_released_checkpoint_opens(network: DexiNed, tmp_path: Path) -> None:
    state = network.state_dict()
    assert {name: tuple(state[name].shape) for name in SHAPES} == SHAPES
    unused = {name: torch.zeros(shape) for name, shape in UNUSED.items()}
    trained = sum(unused[name].numel() for name in UNUSED if name.endswith(("weight", "bias")))
    assert sum(p.numel() for p in network.parameters()) + trained == PARAMETERS
    released = {f"module.{name}": value for name, value in (state | unused).items()}
    assert len(released) == 319
    torch.save(released, tmp_path / "10_model.pth")
    loaded = load_dexined(tmp_path / "10_model.pth")
    assert not loaded.training
    torch.testing.assert_close(loaded.state_dict(), state)
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"does not fit DexiNed of width 32: \d+ missing"):
        load_dexined(tmp_path / "other.pth")


@pytest.mark.parametrize("size", [(16, 16), (33, 50), (1, 40)])
def test_maps_are_as_large_as_the_picture(size: tuple[int, int]) -> None:
    assert DexiNed(width=2).eval()(torch.rand(2, 3, *size)).shape == (2, 7, *size)


def test_every_map_sees_the_first_convolution_and_every_module_is_used() -> None:
    torch.manual_seed(0)
    network = DexiNed(width=2)
    for k in range(1, 7):  # positive before the ReLUs of one channel, whose death would hide a gradient
        for layer in getattr(network, f"up_block_{k}").features:
            if not isinstance(layer, nn.ReLU):
                layer.weight.data.abs_()
                nn.init.constant_(layer.bias, 1.0)
    maps = network(torch.rand(2, 3, 32, 32))
    for k in range(7):
        gradient = torch.autograd.grad(maps[:, k].square().sum(), network.block_1.conv1.weight, retain_graph=True)[0]
        assert float(gradient.abs().max()) > 0
    maps.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@torch.no_grad()
def test_skips_lead_around_the_blocks() -> None:
    """The side and pre-dense maps that the card names change the maps behind them, and no map before them."""
    torch.manual_seed(1)
    network = DexiNed(width=2).eval()
    before = network.blocks(picture())
    for name, first in (("side_1", 3), ("pre_dense_3", 3), ("side_2", 4), ("pre_dense_2", 4), ("pre_dense_4", 4),
                        ("side_3", 5), ("pre_dense_5", 5), ("side_4", 6), ("pre_dense_6", 6)):  # fmt: skip
        bias = getattr(network, name).bn.bias
        bias += 1
        changed = [not torch.equal(a, b) for a, b in zip(before, network.blocks(picture()), strict=True)]
        bias -= 1
        assert changed.index(True) == first - 1, name


def test_what_is_no_picture_is_refused() -> None:
    network = DexiNed(width=2)
    for images in (torch.rand(1, 1, 16, 16), torch.zeros(1, 3, 16, 16, dtype=torch.uint8), torch.rand(1, 3, 0, 16)):
        with pytest.raises(UsageError, match=r"images must be float \(B, 3, H, W\)"):
            network(images)
    with pytest.raises(UsageError, match="fusion must be one of fused, mean"):
        network.probability(picture(), fusion="max")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="width must be a whole number of at least 1"):
        DexiNed(0)
