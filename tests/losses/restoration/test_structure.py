"""SSIM as a loss (p022, arXiv 2406.01555): scikit-image inside, and black outside the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.losses import ssim_loss
from binderclip.losses.restoration.structure import similarity_map

OF_SKIMAGE = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}


def drawn(seed: int) -> Tensor:
    return torch.rand(1, 1, 24, 30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def skimages(x: Tensor, y: Tensor) -> np.ndarray:
    return structural_similarity(x[0, 0].numpy(), y[0, 0].numpy(), full=True, **OF_SKIMAGE)[1]


def test_inside_it_is_scikit_images() -> None:
    x, y = drawn(0), 0.7 * drawn(0) + 0.3 * drawn(1)
    inside = similarity_map(x, y, 11, 1.5)[0, 0, 5:-5, 5:-5].numpy()
    np.testing.assert_allclose(inside, skimages(x, y)[5:-5, 5:-5], atol=1e-12)


def test_outside_the_picture_is_black() -> None:
    x, y = drawn(0), 0.7 * drawn(0) + 0.3 * drawn(1)
    padded = [torch.nn.functional.pad(image, (10, 10, 10, 10)) for image in (x, y)]
    assert float(ssim_loss(x, y)) == pytest.approx(1 - skimages(*padded)[10:-10, 10:-10].mean(), abs=1e-12)


def test_mistakes_are_named() -> None:
    x = torch.zeros(1, 3, 8, 8)
    with pytest.raises(UsageError, match="one shape"):
        ssim_loss(x, x[:, :1])
    with pytest.raises(UsageError, match="window must be odd, got 4"):
        ssim_loss(x, x, window=4)
    with pytest.raises(UsageError, match="sigma"):
        ssim_loss(x, x, sigma=0.0)
