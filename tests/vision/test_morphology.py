"""Dilation and erosion by squares against SciPy's, of odd and even size, for bool and for numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.vision import dilate, erode


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 7, 50])
def test_masks_grow_and_shrink_as_in_scipy(size: int) -> None:
    mask = torch.rand(3, 2, 20, 24, generator=torch.Generator().manual_seed(size))
    square = np.ones((max(size, 1),) * 2)
    for morphology, reference, kept in ((dilate, ndimage.binary_dilation, 0.02), (erode, ndimage.binary_erosion, 0.97)):
        binary = mask < kept
        expected = torch.from_numpy(np.stack([reference(one.numpy(), square) for one in binary.flatten(0, 1)]))
        for given in (binary, binary.float(), binary.double()):
            grown: Tensor = morphology(given, size)
            assert grown.dtype == given.dtype
            assert torch.equal(grown.bool(), expected.view(mask.shape))


@pytest.mark.parametrize("size", [2, 3, 6])
def test_numbers_are_those_of_scipys_grey_morphology(size: int) -> None:
    values = torch.rand(9, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for morphology, reference in ((dilate, ndimage.grey_dilation), (erode, ndimage.grey_erosion)):
        expected = reference(values.numpy(), size=(size, size), mode="constant", cval=0.0)
        torch.testing.assert_close(morphology(values, size), torch.from_numpy(expected))


def test_a_mask_that_is_one_pixel_grows_to_the_square() -> None:
    mask = torch.zeros(1, 1, 9, 9)
    mask[..., 4, 4] = 1
    assert torch.equal(dilate(mask, 5)[0, 0, 2:7, 2:7], torch.ones(5, 5))
    assert float(dilate(mask, 5).sum()) == 25
    assert torch.equal(erode(dilate(mask, 5), 5), mask)


def test_the_mask_that_is_given_stays() -> None:
    mask = torch.zeros(4, 4)
    mask[1, 1] = 1
    before = mask.clone()
    dilate(mask, 3)
    erode(mask, 3)
    assert torch.equal(mask, before)


@pytest.mark.parametrize("size", [-1, 1.5])
def test_other_sizes_are_refused(size: float) -> None:
    for morphology in (dilate, erode):
        with pytest.raises(UsageError, match="size must be a whole number of at least 0"):
            morphology(torch.zeros(4, 4), size)
