"""The generator of ESRGAN: residual-in-residual dense blocks and nearest-neighbour upsampling."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import CheckpointError
from binderclip.models.files.released import NameTable, Rename, copy_renamed, read_released
from binderclip.settings import check_choice

RESIDUAL = 0.2
"""Factor on every residual."""


class _Dense(nn.Module):
    """Five convolutions, each of all maps before it."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        widths = [features + number * growth for number in range(5)]
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(width, growth if number < 4 else features, 3, padding=1) for number, width in enumerate(widths)]
        )

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        maps = [x]
        for number, layer in enumerate(self.convolutions):
            y = layer(torch.cat(maps, 1))
            maps.append(F.leaky_relu(y, 0.2) if number < 4 else y)
        return x + RESIDUAL * maps[-1]


class _Block(nn.Module):
    """Three dense blocks around which a residual runs."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(*[_Dense(features, growth) for _ in range(3)])

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return x + RESIDUAL * self.dense(x)


class RRDBNet(nn.Module):
    """Enlarge pictures two or four times.

    Args:
        scale: 2 or 4; every doubling is nearest-neighbour upsampling and a convolution.
        blocks: residual-in-residual dense blocks. Default the paper's 23.
        features: channels of the maps.
        growth: channels that each dense convolution adds.

    Raises:
        UsageError: another scale.

    Paper: ESRGAN (arXiv 1809.00219).

    Examples:
        >>> RRDBNet(2, blocks=1, features=8, growth=4)(torch.rand(1, 3, 16, 20)).shape
        torch.Size([1, 3, 32, 40])
    """

    def __init__(self, scale: int = 4, *, blocks: int = 23, features: int = 64, growth: int = 32) -> None:
        super().__init__()
        check_choice("scale", scale, (2, 4))
        self.scale = scale
        self.first = nn.Conv2d(3, features, 3, padding=1)
        self.body = nn.Sequential(*[_Block(features, growth) for _ in range(blocks)])
        self.behind = nn.Conv2d(features, features, 3, padding=1)
        self.up = nn.ModuleList([nn.Conv2d(features, features, 3, padding=1) for _ in range(scale // 2)])
        self.high = nn.Conv2d(features, features, 3, padding=1)
        self.last = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B 3 H W"]:
        """Enlarged pictures; they may leave [0, 1] a little."""
        x = self.first(images)
        x = x + self.behind(self.body(x))
        for layer in self.up:
            x = F.leaky_relu(layer(F.interpolate(x, scale_factor=2.0, mode="nearest")), 0.2)
        return self.last(F.leaky_relu(self.high(x), 0.2))

    @classmethod
    def from_released(cls, path: str | Path) -> RRDBNet:
        """A network with weights of ESRGAN, BasicSR or Real-ESRGAN, its size read from their shapes.

        The three generations of names are known: `model.1.sub.0.RDB1` of the first release, `RRDB_trunk.0.RDB1` of the
        official repository, `body.0.rdb1` of BasicSR (`RealESRGAN_x4plus.pth`, and the network of SFD).

        Args:
            path: of the file; nothing in it is run.

        Raises:
            CheckpointError: the file cannot be read, or holds another network, such as that of `RealESRGAN_x2plus.pth`,
                which folds the pixels of its input.
        """
        state = read_released(path)
        net = cls(**_settings(state, path)).eval()
        copy_renamed(net.state_dict(), state, NAMES, path)
        return net


_WHERE = r"(?:model\.1\.sub|RRDB_trunk|body)\.(\d+)\.(?:RDB|rdb)(\d)\.conv(\d)(?:\.0)?\.(weight|bias)"
NAMES = NameTable(
    "RRDBNet",
    (
        Rename(_WHERE, lambda m: f"body.{m[1]}.dense.{int(m[2]) - 1}.convolutions.{int(m[3]) - 1}.{m[4]}"),
        Rename(r"(?:model\.0|conv_first)\.(weight|bias)", r"first.\1"),
        Rename(r"(?:model\.1\.sub\.\d+|trunk_conv|conv_body)\.(weight|bias)", r"behind.\1"),
        Rename(r"(?:upconv|conv_up)(\d)\.(weight|bias)", lambda m: f"up.{int(m[1]) - 1}.{m[2]}"),
        Rename(r"(?:HRconv|conv_hr)\.(weight|bias)", r"high.\1"),
        Rename(r"conv_last\.(weight|bias)", r"last.\1"),
    ),
)
"""Three generations of names; `_sequential` adds the places of the first one's last layers, which hang on the scale."""


def _settings(state: dict[str, Tensor], path: str | Path) -> dict[str, Any]:
    """Scale and size of the network in a file, whose first generation's last layers are renamed in place.

    Raises:
        CheckpointError: no RRDBNet for pictures of three channels.
    """
    _sequential(state)
    blocks = {int(match[1]) for name in state if (match := re.fullmatch(_WHERE, name))}
    growing = next((value for name, value in state.items() if _is(name, "1", "weight")), None)
    first = next((state[name] for name in ("model.0.weight", "conv_first.weight") if name in state), None)
    ups = sum(bool(re.fullmatch(r"(?:upconv|conv_up)\d\.weight", name)) for name in state)
    if not blocks or growing is None or first is None or ups not in (1, 2):
        raise CheckpointError(f"{path} holds no RRDBNet: a first convolution, dense blocks and one or two upsamplings")
    if first.shape[1] != 3:
        raise CheckpointError(
            f"{path} holds an RRDBNet for {first.shape[1]} input channels, whose pictures are folded first; here they "
            "have 3"
        )
    return {"scale": 2 * ups, "blocks": max(blocks) + 1, "features": len(first), "growth": len(growing)}


def _is(name: str, convolution: str, kind: str) -> bool:
    match = re.fullmatch(_WHERE, name)
    return match is not None and (match[3], match[4]) == (convolution, kind)


def _sequential(state: dict[str, Tensor]) -> None:
    """Give the layers behind the trunk of the first release, numbers in a sequence, the names of the second."""
    places = sorted({int(m[1]) for name in state if (m := re.fullmatch(r"model\.(\d+)\.weight", name))})[1:]
    names = [f"upconv{number + 1}" for number in range(len(places) - 2)] + ["HRconv", "conv_last"]
    for place, name in zip(places, names, strict=False):
        for kind in ("weight", "bias"):
            if (old := f"model.{place}.{kind}") in state:
                state[f"{name}.{kind}"] = state.pop(old)
