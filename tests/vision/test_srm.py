"""p168: the 30 high-pass filters of the spatial rich model."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import correlate

from binderclip.vision import SRMFilter, srm_filters


def test_there_are_thirty_different_ones_with_sum_zero_and_largest_value_one() -> None:
    kernels = srm_filters()
    assert kernels.shape == (30, 5, 5)
    assert float(kernels.sum((1, 2)).abs().max()) < 1e-6
    assert torch.allclose(kernels.abs().amax((1, 2)), torch.ones(30))
    assert len({tuple(kernel.flatten().tolist()) for kernel in kernels}) == 30
    # 8 + 4 + 8 of one direction, a square and four edges of 3 x 3 and of 5 x 5.
    assert (kernels != 0).sum((1, 2)).tolist() == [2] * 8 + [3] * 4 + [4] * 8 + [9] + [6] * 4 + [25] + [15] * 4


def test_known_kernels_are_among_them() -> None:
    kernels = [kernel.numpy() for kernel in srm_filters()]
    squares = {
        "3 x 3": np.pad(np.array([[-1, 2, -1], [2, -4, 2], [-1, 2, -1]]) / 4, 1),
        "5 x 5": np.array([[-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2],
                           [-1, 2, -2, 2, -1]]) / 12,
    }  # fmt: skip
    third = np.zeros((5, 5))
    third[2, 1:5] = np.array([1, -3, 3, -1]) / 3
    for wanted in (*squares.values(), third):
        assert sum(np.allclose(kernel, wanted) for kernel in kernels) == 1


def test_the_order_of_a_filter_is_the_degree_that_it_takes_away() -> None:
    x = torch.arange(12).float()
    places = torch.stack(torch.meshgrid(x, x, indexing="ij"))
    flat, ramp, bowl = torch.ones(12, 12), 2 * places[0] - places[1], places[0] ** 2 + places[1] ** 2
    found = [SRMFilter()(picture[None, None])[0, :, 2:-2, 2:-2].abs().amax((1, 2)) for picture in (flat, ramp, bowl)]
    assert float(found[0].max()) < 1e-4
    assert float(found[1][8:].max()) < 1e-3  # second order and higher
    assert float(found[1][:8].min()) > 0.5
    assert float(found[2][12:20].max()) < 1e-3  # third order
    assert float(found[2][8:12].min()) > 0.5


def test_channels_are_filtered_alike_and_summed_and_nothing_is_trained() -> None:
    images = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    layer = SRMFilter()
    out = layer(images)
    for number in (0, 10, 15, 22, 25):
        kernel = srm_filters()[number].numpy()
        wanted = sum(correlate(images[1, c].numpy(), kernel, mode="constant") for c in range(3))
        assert np.allclose(out[1, number].numpy(), wanted, atol=1e-5)
    assert not list(layer.parameters())
    assert not layer.state_dict()
