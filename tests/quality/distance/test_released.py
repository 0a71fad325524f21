"""Authors' weights of LPIPS and ST-LPIPS (p119): their names and shapes, their distances, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision.models import alexnet

from binderclip.errors import CheckpointError, UsageError
from binderclip.quality import LPIPS, create_metric

LINEAR = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models"
"""The authors' own linear weights of version 0.1, which torchmetrics carries."""
ALEX = (64, 192, 384, 256, 256)


def made(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


class Downsample(nn.Module):
    """The official blur: mirrored borders, [1, 2, 1] along both axes, stride 2."""

    def __init__(self, channels: int, border: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("filt", (row[:, None] * row / 16)[None, None].repeat(channels, 1, 1, 1))
        self.border = border

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (self.border,) * 4, mode="reflect"), self.filt, stride=2, groups=x.shape[1])


def official_alex(variant: str) -> tuple[list[nn.Module], tuple[int, ...]]:
    """The layers of the official AlexNet in their order, and how many lie in each slice."""
    border = 2 if variant == "shift_tolerant" else 1
    pools = lambda width: [nn.MaxPool2d(3, 1), Downsample(width, border)]  # noqa: E731
    stem = nn.Conv2d(3, 64, 11, stride=1 if variant == "shift_tolerant" else 2, padding=2)
    if variant == "shift_tolerant":
        first, sizes = [stem, Downsample(64, border), nn.ReLU()], (3, 4, 4, 2, 2)
    else:
        first, sizes = [stem, nn.ReLU(), Downsample(64, border)], (2, 5, 4, 2, 2)
    rest = [*pools(64), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), *pools(192), nn.Conv2d(192, 384, 3, padding=1)]
    rest += [nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()]
    return [*first, *rest], sizes


def official_vgg() -> tuple[list[nn.Module], tuple[int, ...]]:
    layers: list[nn.Module] = []
    before = 3
    for stage, (width, count) in enumerate(zip((64, 128, 256, 512, 512), (2, 2, 3, 3, 3), strict=True)):
        layers += [nn.MaxPool2d(2, 1), Downsample(before, 2)] if stage else []
        for _ in range(count):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
    return layers, (4, 6, 8, 8, 8)


class Official(nn.Module):
    """The official module tree, so that its `state_dict` has the names that the released files have."""

    def __init__(self, layers: list[nn.Module], sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.scaling_layer = nn.Module()
        self.scaling_layer.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None])
        self.scaling_layer.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[None, :, None, None])
        self.net, place, width = nn.Module(), 0, 0
        lins = []
        for stage, size in enumerate(sizes):
            part = nn.Sequential()
            for layer in layers[place : place + size]:
                part.add_module(str(place), layer)
                width = layer.out_channels if isinstance(layer, nn.Conv2d) else width
                place += 1
            setattr(self.net, f"slice{stage + 1}", part)
            lin = nn.Module()
            lin.model = nn.Sequential(nn.Dropout(), nn.Conv2d(width, 1, 1, bias=False))
            nn.init.uniform_(lin.model[1].weight)
            setattr(self, f"lin{stage}", lin)
            lins.append(lin)
        self.lins = nn.ModuleList(lins)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of pictures in [-1, 1], as the official program computes them."""
        a, b = ((z - self.scaling_layer.shift) / self.scaling_layer.scale for z in (x, y))
        total = torch.zeros(len(x))
        for stage, lin in enumerate(self.lins):
            part: Any = getattr(self.net, f"slice{stage + 1}")
            a, b = part(a), part(b)
            u, v = (z / (z.square().sum(1, keepdim=True).sqrt() + 1e-10) for z in (a, b))
            total += F.conv2d((u - v) ** 2, lin.model[1].weight).mean((1, 2, 3))
        return total


@pytest.mark.parametrize("variant", ["antialiased", "shift_tolerant", "vgg"])
@torch.no_grad()
def test_files_of_st_lpips_give_the_official_distances(variant: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = Official(*(official_vgg() if variant == "vgg" else official_alex(variant))).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = LPIPS.from_weights(tmp_path / "w.pth")
    wanted = ("vgg", "shift-tolerant") if variant == "vgg" else ("alex", variant.replace("_", "-"))
    assert (ours.net, ours.variant, ours.blur) == (*wanted, 3)
    x, y = made(2, 3, 64, 71), made(2, 3, 64, 71, seed=1)
    torch.testing.assert_close(ours(x, y), theirs(2 * x - 1, 2 * y - 1), rtol=1e-4, atol=1e-6)
    # What was converted once is a file of ours.
    again = create_metric("st-lpips", path=ours.save_weights(tmp_path / "ours.safetensors"))
    assert torch.equal(again(x, y), ours(x, y))


@torch.no_grad()
def test_the_state_of_lpips_gives_the_distances_of_lpips(tmp_path: Path) -> None:
    peer: Any = _LPIPS(pretrained=True, net="alex", pnet_rand=True, use_dropout=True)
    state = {name: value.contiguous().clone() for name, value in peer.state_dict().items()}
    save_file(state, tmp_path / "lpips.safetensors")
    ours = LPIPS.from_weights(tmp_path / "lpips.safetensors")
    x, y = made(2, 3, 64, 72), made(2, 3, 64, 72, seed=1)
    torch.testing.assert_close(ours(x, y), peer(x, y, normalize=True).flatten(), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_the_authors_linear_weights_go_with_torchvisions_trunk(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = alexnet(weights=None)
    torch.save(backbone.state_dict(), tmp_path / "alexnet.pth")
    with pytest.raises(CheckpointError, match=r"holds the linear weights alone: trunk= names torchvision's weights"):
        LPIPS.from_weights(LINEAR / "alex.pth")
    ours = LPIPS.from_weights(LINEAR / "alex.pth", trunk=tmp_path / "alexnet.pth")
    assert (ours.net, ours.variant) == ("alex", "vanilla")
    peer: Any = _LPIPS(pretrained=True, net="alex", pnet_rand=True, use_dropout=True)
    for name, layer in backbone.features.named_children():
        for part in peer.net.children():
            if isinstance(part, nn.Sequential) and name in dict(part.named_children()) and layer.state_dict():
                part[list(dict(part.named_children())).index(name)].load_state_dict(layer.state_dict())
    x, y = made(2, 3, 64, 72), made(2, 3, 64, 72, seed=1)
    torch.testing.assert_close(ours(x, y), peer(x, y, normalize=True).flatten(), rtol=1e-4, atol=1e-6)


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    state = Official(*official_alex("shift_tolerant")).state_dict()

    def saved(change: dict[str, Tensor | None], name: str = "w.pth") -> Path:
        merged = {**state, **change}
        torch.save({key: value for key, value in merged.items() if value is not None}, tmp_path / name)
        return tmp_path / name

    with pytest.raises(CheckpointError, match="five layers lin0 to lin4, and it has the layers 0, 1, 2, 3, 4, 5"):
        LPIPS.from_weights(saved({"lin5.model.1.weight": torch.ones(1, 8, 1, 1)}))
    with pytest.raises(CheckpointError, match="it has no lin0"):
        LPIPS.from_weights(saved({f"lin{n}.model.1.weight": None for n in range(5)}))
    with pytest.raises(CheckpointError, match=r"1 missing \(trunk.stages.1.2.bias\); 1 unexpected \(net.extra\)"):
        LPIPS.from_weights(saved({"net.slice2.5.bias": None, "net.extra": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"of another shape \(trunk.stages.0.0.bias \(3,\) for \(64,\)\)"):
        LPIPS.from_weights(saved({"net.slice1.0.bias": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        LPIPS.from_weights(saved({"net.slice1.0.bias": torch.full((64,), torch.nan)}))
    other = {f"lin{n}.model.1.weight": torch.ones(1, 8, 1, 1) for n in range(5)}
    torch.save(other, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="neither AlexNet's nor VGG-16's"):
        LPIPS.from_weights(tmp_path / "odd.pth")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "trunk.pth")
    with pytest.raises(CheckpointError, match="does not fit the trunk of LPIPS"):
        LPIPS.from_weights(LINEAR / "alex.pth", trunk=tmp_path / "trunk.pth")
    with pytest.raises(CheckpointError, match="there is no weight file"):
        LPIPS.from_weights(tmp_path / "absent.pth")
    mine = LPIPS("alex", widths=(4, 4, 4, 4, 4)).save_weights(tmp_path / "mine")
    with pytest.raises(UsageError, match="leave trunk out"):
        LPIPS.from_weights(mine, trunk=tmp_path / "trunk.pth")
