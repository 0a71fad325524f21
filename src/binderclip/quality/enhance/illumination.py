"""A network that estimates how much light every pixel got, and pictures with that light made even."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.models.files.released import NameTable, Rename, copy_renamed, read_released
from binderclip.settings import check_choice

Edges = Literal["zeros", "reflect"]

TINY = 1e-9
"""What is added to the illumination before the division."""


def relit(images: Float[Tensor, "B 3 H W"], illumination: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Divide pictures by their illumination, cut at 0 and 1: 1 changes nothing, 0.5 doubles every value.

    Args:
        images: in [0, 1].
        illumination: 0 or more.
    """
    return (images / (illumination + TINY)).clamp(0, 1)


def _convolution(inside: int, outside: int, *, bias: bool = True, mirrored: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, padding=1, bias=bias, padding_mode="reflect" if mirrored else "zeros")


class _Residual(nn.Module):
    """Two convolutions without bias around which the input runs, mirrored at the edges."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, width, bias=False, mirrored=True)
        self.second = _convolution(width, width, bias=False, mirrored=True)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return F.leaky_relu(x + self.second(F.leaky_relu(self.first(x), 0.2)), 0.2)


class _Pyramid(nn.Module):
    """Means over the whole map and over grids of it, joined to the map itself."""

    def __init__(self, width: int, bins: tuple[int, ...]) -> None:
        super().__init__()
        self.bins, narrow = bins, max(width // 4, 1)
        self.parts = nn.ModuleList([nn.Conv2d(width, narrow, 1, bias=False) for _ in bins])
        self.slopes = nn.ModuleList([nn.PReLU() for _ in bins])
        self.join = _convolution(width + narrow * len(bins), width, bias=False)
        self.slope = nn.PReLU()

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        levels = [x]
        for bins, part, slope in zip(self.bins, self.parts, self.slopes, strict=True):
            pooled = slope(part(F.adaptive_avg_pool2d(x, bins)))  # (B, C/4, bins, bins)
            levels.append(F.interpolate(pooled, x.shape[2:], mode="bilinear", align_corners=True))
        return self.slope(self.join(torch.cat(levels, 1)))


class IlluminationNet(nn.Module):
    """Estimate the illumination of pictures: one number of 0 or more a pixel.

    A convolution to C channels, two residual blocks, pyramid pooling over grids of 1, 2, 3 and 6, two residual blocks
    of 2 C channels, two of C, and a convolution to one channel with ReLU; leaky ReLU (0.2) inside. All layers keep the
    picture's size.

    Args:
        width: C. Default the paper's 32.
        level: illumination that the network begins with, by the bias of its last convolution; None draws that bias as
            the official code does. About half of those networks begin with no light anywhere, where the gradient is
            zero: they are drawn again in the warm-up.
        std: standard deviation of the weights at the start. With the paper's 0.02 the estimate hardly depends on the
            picture at first, and thousands of steps pass before it does; 0.1 suits trainings of a few hundred.
        most: the estimate is `most` times a sigmoid instead of ReLU; 1 never darkens a pixel, by which weak models are
            pleased, and has a gradient everywhere. None: ReLU, as in the paper.
        edges: what the plain convolutions see beyond the border: `zeros` as in the official training script, or the
            picture mirrored (`reflect`) as in the official test script. Residual blocks always see it mirrored.

    Raises:
        UsageError: a width below 1, another number that is not above 0, or unknown edges.

    Paper: Iterative Prompt Learning for Unsupervised Backlit Image Enhancement (arXiv 2303.17569).

    Examples:
        >>> net = IlluminationNet(8, level=1.0)
        >>> net(torch.rand(2, 3, 40, 60)).shape
        torch.Size([2, 1, 40, 60])
    """

    def __init__(
        self, width: int = 32, *, level: float | None = None, std: float = 0.02, most: float | None = None,
        edges: Edges = "zeros",
    ) -> None:  # fmt: skip
        super().__init__()
        if width < 1 or not all(value is None or value > 0 for value in (level, std, most)):
            raise UsageError(
                f"width is at least 1, level, std and most above 0, got {width}, {level}, {std} and {most}"
            )
        if level is not None and most is not None and level >= most:
            raise UsageError(f"level {level} must be below most {most}")
        check_choice("edges", edges, get_args(Edges))
        self.width, self.level, self.std, self.most, self.edges = width, level, std, most, edges
        mirrored = edges == "reflect"
        self.first = _convolution(3, width, mirrored=mirrored)
        self.before = nn.Sequential(_Residual(width), _Residual(width))
        self.pyramid = _Pyramid(width, (1, 2, 3, 6))
        self.widen = _convolution(width, 2 * width, mirrored=mirrored)
        self.middle = nn.Sequential(_Residual(2 * width), _Residual(2 * width))
        self.narrow = _convolution(2 * width, width, mirrored=mirrored)
        self.behind = nn.Sequential(_Residual(width), _Residual(width))
        self.last = _convolution(width, 1, mirrored=mirrored)
        self.draw()

    @torch.no_grad()
    def draw(self) -> None:
        """Draw all weights anew, by torch's own generator."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
                module.weight.normal_(0.0, self.std)
            elif isinstance(module, nn.PReLU):
                module.reset_parameters()
        if self.level is not None:
            assert self.last.bias is not None
            level = self.level if self.most is None else math.log(self.level / (self.most - self.level))
            self.last.bias.fill_(level)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
        """The illumination.

        Args:
            images: in [0, 1], of two pixels or more on either side.

        Raises:
            UsageError: a smaller picture.
        """
        if min(images.shape[2:]) < 2:
            raise UsageError(
                f"pictures of {images.shape[2]} x {images.shape[3]} pixels are too small: 2 on either side"
            )
        x = self.before(F.leaky_relu(self.first(images), 0.2))
        x = self.middle(self.widen(self.pyramid(x)))
        x = self.last(self.behind(self.narrow(x)))
        return F.relu(x) if self.most is None else self.most * x.sigmoid()

    def enhance(self, images: Float[Tensor, "B 3 H W"], *, longest: int | None = None) -> Float[Tensor, "B 3 H W"]:
        """Pictures with even light, in [0, 1]; gradients reach the weights.

        Args:
            images: in [0, 1], of any size.
            longest: of larger pictures the illumination is estimated at this longer side in pixels and enlarged, which
                bounds time and memory; details stay, since the picture itself is divided. None: never.

        Raises:
            UsageError: `longest` below 2.
        """
        if longest is not None and longest < 2:
            raise UsageError(f"longest must be at least 2 pixels, got {longest}")
        height, width = images.shape[2:]
        if longest is None or max(height, width) <= longest:
            return relit(images, self(images))
        ratio = longest / max(height, width)
        size = (max(2, round(height * ratio)), max(2, round(width * ratio)))
        seen = F.interpolate(images, size, mode="bilinear", antialias=True)
        return relit(images, F.interpolate(self(seen), (height, width), mode="bilinear"))

    @classmethod
    def from_released(cls, path: str | Path, *, edges: Edges = "reflect") -> IlluminationNet:
        """A network with the weights of CLIP-LIT (`enhancement_model.pth`).

        Args:
            path: of the file; nothing in it is run.
            edges: as in the class. The official test script mirrors them, although training has zeros.

        Raises:
            CheckpointError: the file cannot be read, or holds another network.
        """
        state = read_released(path)
        first = state.get("cond1.weight")
        net = cls(32 if first is None or not first.ndim else len(first), edges=edges).eval()
        copy_renamed(net.state_dict(), state, NAMES, path)
        return net


_BLOCKS = ("before.0", "before.1", "middle.0", "middle.1", "behind.0", "behind.1")
_LAYERS = {"cond1": "first", "condx": "widen", "condy": "narrow", "cond_add1": "last"}
NAMES = NameTable(
    "IlluminationNet",
    (
        Rename(r"(cond1|condx|condy|cond_add1)\.(weight|bias)", lambda m: f"{_LAYERS[m[1]]}.{m[2]}"),
        Rename(r"ResidualBlock([1-6])\.conv1\.weight", lambda m: f"{_BLOCKS[int(m[1]) - 1]}.first.weight"),
        Rename(r"ResidualBlock([1-6])\.conv2\.weight", lambda m: f"{_BLOCKS[int(m[1]) - 1]}.second.weight"),
        Rename(r"PPM1\.features\.(\d)\.1\.weight", r"pyramid.parts.\1.weight"),
        Rename(r"PPM1\.features\.(\d)\.2\.weight", r"pyramid.slopes.\1.weight"),
        Rename(r"PPM1\.fuse\.0\.weight", "pyramid.join.weight"),
        Rename(r"PPM1\.fuse\.1\.weight", "pyramid.slope.weight"),
    ),
)
"""Names of CLIP-LIT's official program."""
