"""The illumination network of CLIP-LIT (p024, arXiv 2303.17569): division, size, start, large pictures, mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import CheckpointError, UsageError
from binderclip.quality import IlluminationNet, load_enhancer, save_enhancer
from binderclip.quality.enhance.illumination import relit


def test_division_by_light() -> None:
    images = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    one = torch.ones(2, 1, 5, 7)
    assert torch.allclose(relit(images, one), images)
    assert torch.allclose(relit(images, 0.4 * one), (images / 0.4).clamp(max=1))
    assert bool((relit(images, 0 * one) == 1).all())  # no light is white, as in the official code


def test_parameters_are_those_of_the_official_network() -> None:
    net = IlluminationNet()
    # Counted by hand from the layers of the paper: 3x3 convolutions, those with a bias first.
    plain = sum(9 * a * b + b for a, b in ((3, 32), (32, 64), (64, 32), (32, 1)))
    residual = 9 * (8 * 32 * 32 + 4 * 64 * 64)
    pyramid = 4 * (32 * 8 + 1) + 9 * (32 + 4 * 8) * 32 + 1
    assert sum(p.numel() for p in net.parameters()) == plain + residual + pyramid
    weights = torch.cat([p.flatten() for name, p in net.named_parameters() if name.endswith("weight") and p.dim() == 4])
    assert float(weights.detach().std()) == pytest.approx(0.02, rel=0.02)


def test_edges_of_residual_blocks_are_mirrored() -> None:
    net = IlluminationNet(4, std=0.3)
    x = torch.rand(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    block = net.before[0]
    first = F.leaky_relu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), block.first.weight), 0.2)  # type: ignore[arg-type, union-attr]
    second = F.conv2d(F.pad(first, (1, 1, 1, 1), mode="reflect"), block.second.weight)  # type: ignore[arg-type, union-attr]
    assert torch.allclose(block(x), F.leaky_relu(x + second, 0.2), atol=1e-6)


def test_the_pyramid_joins_means_over_grids_of_1_2_3_and_6_to_the_map() -> None:
    net = IlluminationNet(4, std=0.3)
    x = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    pyramid, found = net.pyramid, [x]
    for bins, part, slope in zip((1, 2, 3, 6), pyramid.parts, pyramid.slopes, strict=True):
        means = x.reshape(1, 4, bins, 12 // bins, bins, 12 // bins).mean((3, 5))
        narrow = torch.einsum("nchw,oc->nohw", means, part.weight[:, :, 0, 0])  # type: ignore[union-attr, index]
        bent = torch.where(narrow > 0, narrow, slope.weight * narrow)  # type: ignore[union-attr, operator]
        found.append(F.interpolate(bent, (12, 12), mode="bilinear", align_corners=True))
    joined = F.conv2d(torch.cat(found, 1), pyramid.join.weight, padding=1)
    wanted = torch.where(joined > 0, joined, pyramid.slope.weight * joined)
    torch.testing.assert_close(pyramid(x), wanted)


def test_a_level_begins_with_the_picture_as_it_is() -> None:
    images = torch.rand(2, 3, 17, 23, generator=torch.Generator().manual_seed(0))
    net = IlluminationNet(8, level=1.0)
    with torch.no_grad():
        assert net(images).shape == (2, 1, 17, 23)
        assert torch.allclose(net.enhance(images), images, atol=0.02)
        net.last.bias.fill_(0.5)  # type: ignore[union-attr]
        assert torch.allclose(net.enhance(images), (2 * images).clamp(max=1), atol=0.03)


def test_a_bounded_network_never_darkens() -> None:
    images = torch.rand(2, 3, 17, 23, generator=torch.Generator().manual_seed(0))
    net = IlluminationNet(8, level=0.9, most=1.0)
    with torch.no_grad():
        assert torch.allclose(net(images), torch.full((2, 1, 17, 23), 0.9), atol=0.01)
        net.last.weight.normal_(0, 50)
        assert float(net(images).max()) <= 1
        assert bool((net.enhance(images) >= images - 1e-6).all())


def test_light_of_large_pictures_is_estimated_small_and_details_stay() -> None:
    net = IlluminationNet(8, std=0.1, level=0.6)
    torch.manual_seed(1)
    coarse = F.interpolate(torch.rand(1, 3, 6, 8), (48, 64), mode="bilinear")
    stripes = (0.2 * (torch.arange(64) % 2)).expand(1, 3, 48, 64)
    images = (0.7 * coarse + stripes).clamp(0, 1)
    with torch.no_grad():
        whole, small = net.enhance(images), net.enhance(images, longest=32)
        assert torch.equal(net.enhance(images, longest=64), whole)
        assert float((whole - small).abs().mean()) < 0.05
        # A blurred picture would have lost the stripes.
        assert float((small[..., 1::2] - small[..., ::2]).mean()) > 0.15
        assert net.enhance(images[..., :2], longest=20).shape == (1, 3, 48, 2)


def test_mistakes_are_named() -> None:
    for settings in ({"width": 0}, {"level": 0.0}, {"std": 0.0}):
        with pytest.raises(UsageError, match="width is at least 1"):
            IlluminationNet(**settings)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"level 1.0 must be below most 1.0"):
        IlluminationNet(4, level=1.0, most=1.0)
    with pytest.raises(UsageError, match="1 x 9 pixels are too small"):
        IlluminationNet(4)(torch.zeros(1, 3, 1, 9))
    with pytest.raises(UsageError, match="longest must be at least 2"):
        IlluminationNet(4).enhance(torch.zeros(1, 3, 9, 9), longest=1)


def official_state(width: int = 8) -> dict[str, Tensor]:
    """Random tensors under the names and of the shapes of the released `enhancement_model.pth`."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, out, inside in (("cond1", width, 3), ("cond_add1", 1, width), ("condx", 2 * width, width),
                              ("condy", width, 2 * width)):  # fmt: skip
        shapes |= {f"{name}.weight": (out, inside, 3, 3), f"{name}.bias": (out,)}
    for block in range(1, 7):
        wide = 2 * width if block in (3, 4) else width
        shapes |= {f"ResidualBlock{block}.conv{n}.weight": (wide, wide, 3, 3) for n in (1, 2)}
    for number in range(4):
        shapes |= {
            f"PPM1.features.{number}.1.weight": (width // 4, width, 1, 1),
            f"PPM1.features.{number}.2.weight": (1,),
        }
    shapes |= {"PPM1.fuse.0.weight": (width, 2 * width, 3, 3), "PPM1.fuse.1.weight": (1,)}
    return {f"module.{name}": 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def official_light(state: dict[str, Tensor], x: Tensor, edges: str) -> Tensor:
    """The official forward pass: the test script's network mirrors all edges but the pyramid's, the training script's
    those of the residual blocks only."""
    mode = {"zeros": "constant", "reflect": "reflect"}[edges]

    def conv(y: Tensor, name: str, mode: str) -> Tensor:
        padded = F.pad(y, (1, 1, 1, 1), mode=mode)
        return F.conv2d(padded, state[f"module.{name}.weight"], state.get(f"module.{name}.bias"))

    def residual(y: Tensor, number: int) -> Tensor:
        z = F.leaky_relu(conv(y, f"ResidualBlock{number}.conv1", "reflect"), 0.2)
        return F.leaky_relu(y + conv(z, f"ResidualBlock{number}.conv2", "reflect"), 0.2)

    y = residual(residual(F.leaky_relu(conv(x, "cond1", mode), 0.2), 1), 2)
    found = [y]
    for number, bins in enumerate((1, 2, 3, 6)):
        z = F.conv2d(F.adaptive_avg_pool2d(y, bins), state[f"module.PPM1.features.{number}.1.weight"])
        z = torch.where(z > 0, z, state[f"module.PPM1.features.{number}.2.weight"] * z)
        found.append(F.interpolate(z, y.shape[2:], mode="bilinear", align_corners=True))
    y = conv(torch.cat(found, 1), "PPM1.fuse.0", "constant")
    y = torch.where(y > 0, y, state["module.PPM1.fuse.1.weight"] * y)
    y = conv(residual(residual(conv(y, "condx", mode), 3), 4), "condy", mode)
    return F.relu(conv(residual(residual(y, 5), 6), "cond_add1", mode))


@pytest.mark.parametrize("edges", ["reflect", "zeros"])
@torch.no_grad()
def test_the_authors_file_gives_the_light_of_the_official_network(edges: str, tmp_path: Path) -> None:
    state = official_state()
    torch.save(state, tmp_path / "w.pth")
    net = IlluminationNet.from_released(tmp_path / "w.pth", edges=edges)  # type: ignore[arg-type]
    x = torch.rand(2, 3, 17, 23, generator=torch.Generator().manual_seed(1))
    expected = official_light(state, x, edges)
    assert expected.max() > 0
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)
    again, _ = load_enhancer(save_enhancer(net, tmp_path / "w.safetensors"))
    assert torch.equal(again(x), net(x))
    opened, card = load_enhancer(tmp_path / "w.pth")
    assert (opened.edges, card) == ("reflect", {})


def test_another_network_is_no_enhancer(tmp_path: Path) -> None:
    state = official_state()
    del state["module.condx.bias"]
    torch.save(state | {"module.more": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"1 missing \(widen.bias\); 1 unexpected \(more\)"):
        load_enhancer(tmp_path / "w.pth")
    with pytest.raises(UsageError, match="edges must be one of zeros, reflect, got 'black'"):
        IlluminationNet(8, edges="black")  # type: ignore[arg-type]
