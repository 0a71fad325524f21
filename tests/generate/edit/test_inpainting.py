"""Inpainting (p120): untouched pixels, the exact conditional of a Gaussian, and skipped instances."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate import (
    GaussianDenoiser,
    KnownRegion,
    LatentDenoiser,
    NoiseSchedule,
    inpaint,
    outline_inpaint,
    sample,
)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mask() -> Tensor:
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, 3:13, 4:14] = 1
    return mask


@pytest.mark.parametrize("channels", [4, 9])
def test_pixels_outside_of_the_mask_stay_exactly_as_they_are(
    make_denoiser: Callable[..., LatentDenoiser], images: Tensor, mask: Tensor, channels: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    out = inpaint(make_denoiser(channels), images, mask, "a dog", num_inference_steps=3, generator=generator)
    assert torch.equal(out * (1 - mask), images * (1 - mask))
    assert bool(((out - images).abs().amax(1, keepdim=True) > 1e-3)[mask.bool()].float().mean() > 0.9)
    nothing = inpaint(make_denoiser(channels), images, 0 * mask, num_inference_steps=1)
    assert torch.equal(nothing, images)


def test_what_is_new_is_drawn_from_the_conditional_of_what_is_known() -> None:
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    denoiser = GaussianDenoiser(
        torch.tensor([0.5, -0.5], dtype=torch.float64), covariance, schedule=NoiseSchedule.linear()
    )
    known = torch.full((4000, 2), 1.5, dtype=torch.float64)
    mask = torch.tensor([1.0, 0.0], dtype=torch.float64)
    errors = []
    for resamples in (1, 20):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(4000, 2, generator=generator, dtype=torch.float64)
        out = sample(
            denoiser, x, hooks=[KnownRegion(known, mask, generator)], num_inference_steps=50, eta=1.0,
            resamples=resamples, generator=generator,
        )  # fmt: skip
        assert float((out[:, 1] - 1.5).abs().max()) < 1e-9
        errors.append(abs(float(out[:, 0].mean()) - (0.5 + 0.8 * (1.5 + 0.5))))
    assert errors[1] < 0.08 < errors[0]  # the conditional mean 2.1 needs resampling; once, both parts do not agree


def test_the_rim_stays_and_is_half_the_square_wide(tiny_denoiser: LatentDenoiser, images: Tensor, mask: Tensor) -> None:
    out, repainted = outline_inpaint(tiny_denoiser, images, mask, erosion=5, num_inference_steps=2)
    assert repainted.tolist() == [True, True]
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[5:11, 6:12] = True  # the box of 10 x 10 less two pixels on each side
    assert torch.equal(out[..., ~inside], images[..., ~inside])
    assert not torch.allclose(out[..., inside], images[..., inside], atol=1e-2)


def test_objects_with_too_little_inside_are_left_alone(
    tiny_denoiser: LatentDenoiser, images: Tensor, mask: Tensor
) -> None:
    mask[1] = 0
    mask[1, :, 7:9, 7:9] = 1
    out, repainted = outline_inpaint(tiny_denoiser, images, mask, erosion=3, num_inference_steps=2)
    assert repainted.tolist() == [True, False]
    assert torch.equal(out[1], images[1])
    out, repainted = outline_inpaint(tiny_denoiser, images, mask, erosion=15, num_inference_steps=2)
    assert not repainted.any()
    assert torch.equal(out, images)


def test_wrong_masks_and_settings_are_refused(tiny_denoiser: LatentDenoiser, images: Tensor, mask: Tensor) -> None:
    with pytest.raises(UsageError, match=r"mask must have shape \(2, 1, 16, 16\)"):
        inpaint(tiny_denoiser, images, mask[..., :8])
    with pytest.raises(UsageError, match="not finite"):
        inpaint(tiny_denoiser, images, mask * float("nan"))
    with pytest.raises(UsageError, match="erosion must be a whole number of at least 0"):
        outline_inpaint(tiny_denoiser, images, mask, erosion=-1)
    with pytest.raises(UsageError, match="least must lie"):
        outline_inpaint(tiny_denoiser, images, mask, least=2)
    with pytest.raises(UsageError, match="resamples must be a whole number of at least 1"):
        inpaint(tiny_denoiser, images, mask, resamples=0)
