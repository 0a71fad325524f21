"""ESRGAN's generator: its published size, a dense block written out, sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import CheckpointError, UsageError
from binderclip.quality import RRDBNet


def test_the_papers_network_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in RRDBNet().parameters()) == 16_697_987


@torch.no_grad()
def test_a_block_is_three_dense_ones_with_residuals_of_a_fifth() -> None:
    torch.manual_seed(0)
    net = RRDBNet(2, blocks=1, features=4, growth=3)
    x = torch.rand(1, 4, 6, 5)
    y = x
    for dense in net.body[0].dense.children():  # type: ignore[union-attr]
        a, b, c, d, e = dense.convolutions  # type: ignore[misc]
        x1 = F.leaky_relu(a(y), 0.2)
        x2 = F.leaky_relu(b(torch.cat([y, x1], 1)), 0.2)
        x3 = F.leaky_relu(c(torch.cat([y, x1, x2], 1)), 0.2)
        x4 = F.leaky_relu(d(torch.cat([y, x1, x2, x3], 1)), 0.2)
        y = y + 0.2 * e(torch.cat([y, x1, x2, x3, x4], 1))
    assert torch.allclose(net.body(x), x + 0.2 * y, atol=1e-6)
    small = torch.rand(2, 3, 6, 5)
    assert net(small).shape == (2, 3, 12, 10)
    assert RRDBNet(4, blocks=1, features=4, growth=3)(small).shape == (2, 3, 24, 20)
    with pytest.raises(UsageError, match="scale must be one of 2, 4, got 3"):
        RRDBNet(3)


def official_state(generation: str, scale: int) -> dict[str, Tensor]:
    """Random tensors under the names that ESRGAN's first release, its repository and BasicSR gave the layers."""
    generator = torch.Generator().manual_seed(0)
    features, growth, blocks = 6, 4, 2
    ups = scale // 2
    named = {
        "first": ["model.0", f"model.1.sub.{blocks}", *[f"model.{3 * (n + 1)}" for n in range(ups)],
                  f"model.{3 * ups + 2}", f"model.{3 * ups + 4}"],
        "repository": ["conv_first", "trunk_conv", *[f"upconv{n + 1}" for n in range(ups)], "HRconv", "conv_last"],
        "basicsr": ["conv_first", "conv_body", *[f"conv_up{n + 1}" for n in range(ups)], "conv_hr", "conv_last"],
    }[generation]  # fmt: skip
    shapes = [(features, 3), *[(features, features)] * (ups + 2), (3, features)]
    trunk = {"first": "model.1.sub.{}.RDB{}.conv{}.0", "repository": "RRDB_trunk.{}.RDB{}.conv{}",
             "basicsr": "body.{}.rdb{}.conv{}"}[generation]  # fmt: skip
    layers = dict(zip(named, shapes, strict=True))
    for block in range(blocks):
        for dense in (1, 2, 3):
            for conv in range(1, 6):
                out = features if conv == 5 else growth
                layers[trunk.format(block, dense, conv)] = (out, features + (conv - 1) * growth)
    state = {}
    for name, (out, inside) in layers.items():
        state[f"{name}.weight"] = 0.2 * torch.randn(out, inside, 3, 3, generator=generator)
        state[f"{name}.bias"] = 0.2 * torch.randn(out, generator=generator)
    return state


def official_forward(state: dict[str, Tensor], generation: str, scale: int, x: Tensor) -> Tensor:
    """The official forward pass by the named tensors alone."""
    names = [name.removesuffix(".weight") for name in state if name.endswith("weight")]
    outer, trunk = names[: 4 + scale // 2], names[4 + scale // 2 :]

    def conv(name: str, y: Tensor) -> Tensor:
        return F.conv2d(y, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    x = y = conv(outer[0], x)
    for block in range(2):
        start = y
        for dense in range(3):
            maps = [y]
            for place in range(5):
                z = conv(trunk[15 * block + 5 * dense + place], torch.cat(maps, 1))
                maps.append(F.leaky_relu(z, 0.2) if place < 4 else z)
            y = y + 0.2 * maps[-1]
        y = start + 0.2 * y
    x = x + conv(outer[1], y)
    for name in outer[2 : 2 + scale // 2]:
        x = F.leaky_relu(conv(name, x.repeat_interleave(2, 2).repeat_interleave(2, 3)), 0.2)
    return conv(outer[-1], F.leaky_relu(conv(outer[-2], x), 0.2))


@pytest.mark.parametrize("generation", ["first", "repository", "basicsr"])
@pytest.mark.parametrize("scale", [2, 4])
@torch.no_grad()
def test_files_of_all_three_generations_enlarge_as_the_official_network(
    generation: str, scale: int, tmp_path: Path
) -> None:
    state = official_state(generation, scale)
    torch.save({"params_ema": state} if generation == "basicsr" else state, tmp_path / "w.pth")
    net = RRDBNet.from_released(tmp_path / "w.pth")
    assert (net.scale, len(net.body), net.first.out_channels) == (scale, 2, 6)
    x = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(net(x), official_forward(state, generation, scale, x), rtol=1e-4, atol=1e-5)


def test_other_networks_are_refused(tmp_path: Path) -> None:
    state = official_state("basicsr", 4)
    for change, said in (
        ({"conv_first.weight": torch.zeros(6, 12, 3, 3)}, "for 12 input channels, whose pictures are folded first"),
        ({"body.1.rdb2.conv3.bias": None}, r"1 missing \(body.1.dense.1.convolutions.2.bias\)"),
        ({"conv_last.weight": torch.zeros(1, 6, 3, 3)}, r"last.weight \(1, 6, 3, 3\) for \(3, 6, 3, 3\)"),
        (dict.fromkeys(state, None) | {"x": torch.zeros(1)}, "holds no RRDBNet"),
    ):
        torch.save({k: v for k, v in {**state, **change}.items() if v is not None}, tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match=said):
            RRDBNet.from_released(tmp_path / "w.pth")
