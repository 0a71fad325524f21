"""Blur before subsampling, so that a network changes little where its input is shifted by a pixel."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.settings import check_choice

Padding = Literal["same", "more"]


class BlurPool(nn.Module):
    """Blur every channel with a binomial filter, then keep every `stride`-th row and column.

    The picture is mirrored at its border. A filter of one number is plain subsampling.

    Args:
        size: k, numbers of the filter: 3 is [1, 2, 1] / 4 along either axis, 5 is [1, 4, 6, 4, 1] / 16.
        stride: of the subsampling.
        padding: `same` mirrors (k - 1) / 2 pixels on every side, `more` k - 1 of them, so that maps grow by k - 1.

    Raises:
        UsageError: a size or stride below 1, an unknown padding, or a map that is too small to be mirrored.

    Papers: Making Convolutional Networks Shift-Invariant Again (arXiv 1904.11486); `more`: Shift-tolerant Perceptual
    Similarity Metric (arXiv 2207.13686).

    Examples:
        >>> BlurPool(3)(torch.ones(1, 2, 8, 8)).shape
        torch.Size([1, 2, 4, 4])
    """

    kernel: Tensor

    def __init__(self, size: int = 3, *, stride: int = 2, padding: Padding = "same") -> None:
        super().__init__()
        if min(size, stride) < 1:
            raise UsageError(f"size and stride must be at least 1, got {size} and {stride}")
        check_choice("padding", padding, get_args(Padding))
        self.size, self.stride, self.padding = size, stride, padding
        row = torch.tensor([math.comb(size - 1, i) for i in range(size)], dtype=torch.float32)
        self.register_buffer("kernel", row.outer(row) / row.sum() ** 2, persistent=False)
        around = size - 1 if padding == "more" else (size - 1) / 2
        self.around = (math.floor(around), math.ceil(around)) * 2

    def extra_repr(self) -> str:
        return f"{self.size}, stride={self.stride}, padding={self.padding!r}"

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """The blurred and subsampled map."""
        if self.size == 1:
            return x[..., :: self.stride, :: self.stride]
        if min(x.shape[-2:]) <= self.around[1]:
            height, width = x.shape[-2:]
            raise UsageError(f"a map of {height} x {width} is too small to mirror {self.around[1]} pixels of it")
        channels = x.shape[1]
        kernel = self.kernel.to(x).expand(channels, 1, -1, -1)
        return F.conv2d(F.pad(x, self.around, mode="reflect"), kernel, stride=self.stride, groups=channels)
