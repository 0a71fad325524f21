"""Fills of thin masks: against scikit-image, and slopes that are continued."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.restoration import inpaint_biharmonic

from binderclip.data import synthesize_fence
from binderclip.errors import UsageError
from binderclip.generate import biharmonic_fill


def smooth(count: int, height: int, width: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 5, 6, generator=g)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


def test_inside_it_is_what_scikit_image_fills() -> None:
    pictures = smooth(2, 40, 44)
    mask = torch.zeros(2, 1, 40, 44)
    mask[0, 0, 12:16, 8:36] = 1
    mask[1, 0, 8:30, 20:23] = 1
    mask[1, 0, 18:20, 10:34] = 1
    filled = biharmonic_fill(pictures * (1 - mask), mask)
    for ours, picture, hole in zip(filled, pictures, mask[:, 0].bool(), strict=True):
        theirs = inpaint_biharmonic(picture.double().numpy(), hole.numpy(), channel_axis=0)
        ends = [getattr(picture[:, ~hole], end)() for end in ("min", "max")]  # theirs is cut off at what is known
        np.testing.assert_allclose(ours.clamp(*ends).numpy(), theirs, atol=1e-5)


def test_a_slope_is_continued_and_the_rest_stays() -> None:
    slope = torch.linspace(0, 1, 30)[None, None, None].expand(1, 3, 20, 30).double()
    fence = synthesize_fence(slope, ["nets"], generator=torch.Generator().manual_seed(1))
    inside = fence.mask.clone()
    inside[..., :3], inside[..., -3:] = 0, 0  # across the border nothing differs, which is no slope
    broken = torch.where(inside > 0, float("nan"), slope)
    filled = biharmonic_fill(broken, inside)
    assert torch.allclose(filled, slope, atol=1e-9)
    assert torch.equal(filled[inside.expand_as(filled) == 0], slope[inside.expand_as(slope) == 0])


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (2, 2)])
def test_narrow_pictures_are_filled(size: tuple[int, int]) -> None:
    mask = torch.zeros(1, 1, *size)
    mask[..., -1, -1] = 1
    assert torch.allclose(biharmonic_fill(torch.full((1, 3, *size), 0.25), mask), torch.tensor(0.25), atol=1e-5)


def test_what_is_masked_everywhere_is_grey_and_what_does_not_match_is_refused() -> None:
    assert torch.equal(biharmonic_fill(torch.rand(1, 3, 4, 5), torch.ones(1, 1, 4, 5)), torch.full((1, 3, 4, 5), 0.5))
    with pytest.raises(UsageError, match="must be"):
        biharmonic_fill(torch.rand(1, 3, 4, 5), torch.ones(1, 1, 5, 4))
