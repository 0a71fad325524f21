"""Overlapping patches (p063): the mean of a map's patches is the map, and the sum is the adjoint of taking them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.vision import fold_patches, unfold_patches
from binderclip.vision.edges.patches import PLACES, sum_patches


@pytest.mark.parametrize(("size", "height", "width"), [(1, 3, 4), (3, 3, 9), (5, 6, 11), (7, 20, 8)])
def test_the_mean_of_a_maps_patches_is_the_map(size: int, height: int, width: int) -> None:
    g = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, height, width, generator=g, dtype=torch.float64)
    patches = unfold_patches(maps, size)
    assert patches.shape == (2, 3, size, size, height - size + 1, width - size + 1)
    for i, j in ((0, 0), (height - size, width - size)):
        torch.testing.assert_close(patches[..., i, j], maps[..., i : i + size, j : j + size])
    torch.testing.assert_close(fold_patches(patches), maps)
    other = torch.randn(patches.shape, generator=g, dtype=torch.float64)
    torch.testing.assert_close((patches * other).sum(), (maps * sum_patches(other)).sum())


def test_a_mask_weighs_the_patches() -> None:
    """A density that is the sum of the masks: a pixel that one patch alone counts has that patch's value."""
    patches, mask = torch.zeros(2, 1, 1, 3, 3, 2, 1)
    patches[..., 0, 0], patches[..., 1, 0] = 5.0, 7.0
    mask[..., 0, 0] = 1.0
    mask[:, :, 1, 1, 1, 0] = 3.0
    folded = fold_patches(patches * mask, sum_patches(mask))
    assert float(folded[0, 0, 0, 0]) == pytest.approx(5, abs=1e-3)
    assert float(folded[0, 0, 2, 1]) == pytest.approx((5 + 3 * 7) / 4, abs=1e-3)
    assert float(folded[0, 0, 3, 0]) == 0


def test_sums_of_large_maps_and_their_gradients_are_those_of_the_fold() -> None:
    """Against torch's fold, which copies the patches; also of a view, whose patches share their memory."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 34, 36, dtype=torch.float64, generator=generator)
    patches = torch.randn(2, 3, 5, 5, 30, 32, dtype=torch.float64, generator=generator)
    assert patches[:, :, 0, 0].numel() > PLACES  # else the fold is taken itself
    for leaf, taken in ((patches, lambda x: x), (maps, lambda x: unfold_patches(x, 5))):
        results = []
        for add in (sum_patches, lambda x: F.fold(x.reshape(2, 75, 960), (34, 36), 5)):
            given = leaf.clone().requires_grad_()
            total = add(taken(given))
            total.square().sum().backward()
            results.append((total.detach(), given.grad))
        torch.testing.assert_close(results[0], results[1])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 5 x 5 pixels"):
        unfold_patches(torch.rand(1, 1, 4, 9), 5)
    with pytest.raises(UsageError, match="size"):
        unfold_patches(torch.rand(1, 1, 4, 9), 0)
    with pytest.raises(UsageError, match=r"\(B, C, R, R, h, w\)"):
        fold_patches(torch.rand(1, 1, 3, 2, 4, 4))
    with pytest.raises(UsageError, match="density must be of 6 x 6"):
        fold_patches(torch.rand(1, 1, 3, 3, 4, 4), torch.rand(1, 1, 4, 4))
