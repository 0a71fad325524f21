"""BlurPool: SciPy's convolution and slicing, constants, stripes, plain subsampling, mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.vision import BlurPool


def made(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("size", "row"), [(2, [1, 1]), (3, [1, 2, 1]), (4, [1, 3, 3, 1]), (5, [1, 4, 6, 4, 1])])
@pytest.mark.parametrize("padding", ["same", "more"])
def test_it_is_a_mirrored_convolution_and_a_slice(size: int, row: list[int], padding: str) -> None:
    x = made(2, 3, 13, 16)
    found = BlurPool(size, padding=padding)(x)  # type: ignore[arg-type]
    kernel = np.outer(row, row) / sum(row) ** 2
    before = size - 1 if padding == "more" else (size - 1) // 2
    behind = size - 1 if padding == "more" else size // 2
    for image, maps in zip(x.numpy(), found.numpy(), strict=True):
        for channel, got in zip(image, maps, strict=True):
            padded = np.pad(channel, (before, behind), mode="reflect")
            whole = ndimage.correlate(padded, kernel, mode="constant", origin=-(size // 2))
            wanted = whole[: padded.shape[0] - size + 1, : padded.shape[1] - size + 1][::2, ::2]
            assert got == pytest.approx(wanted, abs=1e-6)


def test_constants_stay_and_stripes_go() -> None:
    assert torch.allclose(BlurPool(5)(torch.full((1, 2, 9, 9), 0.3)), torch.full((1, 2, 5, 5), 0.3))
    stripe = torch.tensor([0.0, 1.0]).repeat(8).expand(1, 1, 16, 16)
    assert torch.allclose(BlurPool(3)(stripe), torch.full((1, 1, 8, 8), 0.5))
    # Plain subsampling takes the stripe for black.
    assert float(BlurPool(1)(stripe).max()) == 0.0
    assert torch.equal(BlurPool(1, stride=3)(stripe), stripe[..., ::3, ::3])


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="padding must be one of same, more, got 'less'"):
        BlurPool(3, padding="less")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least 1"):
        BlurPool(0)
    with pytest.raises(UsageError, match="2 x 2 is too small"):
        BlurPool(3, padding="more")(torch.zeros(1, 1, 2, 2))
