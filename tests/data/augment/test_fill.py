from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from binderclip.data.augment.fill import FILLS, Fill, gaussian_blur
from binderclip.errors import UsageError


def images(batch: int = 3, side: int = 32) -> torch.Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_mean_and_zero_by_hand() -> None:
    x = images()
    assert torch.allclose(Fill("mean")(x)[1, 2], x[1, 2].mean().expand(32, 32))
    assert Fill("zero")(x).abs().max() == 0
    assert Fill("zero", value=(0.1, 0.2, 0.3))(x)[2, :, 5, 5].tolist() == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize("sigma", [0.7, 2.5, 12.0])
def test_blur_equals_scipy(sigma: float) -> None:
    x = images(2, 24).double()
    wanted = ndimage.gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="mirror", truncate=4)
    assert np.allclose(gaussian_blur(x, sigma).numpy(), wanted, atol=1e-9)
    along = ndimage.gaussian_filter(x.numpy(), (0, 0, 0, sigma), mode="mirror", truncate=4)
    assert np.allclose(gaussian_blur(x, (0, sigma)).numpy(), along, atol=1e-9)


def test_blur_fill_leaves_no_detail_and_keeps_the_mean() -> None:
    x = images()
    blurred = Fill("blur")(x)
    assert blurred.std((2, 3)).max() < 0.15 * x.std((2, 3)).min()
    assert torch.allclose(blurred.mean((2, 3)), x.mean((2, 3)), atol=0.02)


def test_noise_has_the_images_statistics_and_is_seeded() -> None:
    x = 0.5 + 0.1 * torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    noise = Fill("noise", seed=3)(x)
    assert torch.allclose(noise.mean((2, 3)), x.mean((2, 3)), atol=0.005)
    assert torch.allclose(noise.std((2, 3)), x.std((2, 3)), atol=0.005)
    assert torch.equal(noise, Fill("noise", seed=3)(x))
    assert not torch.equal(noise, Fill("noise", seed=4)(x))
    assert torch.equal(noise[:1], Fill("noise", seed=3)(x[:1]))  # the first image does not depend on the others
    neighbour = torch.corrcoef(torch.stack([(noise - x)[0, 0, :, 1:].flatten(), (noise - x)[0, 0, :, :-1].flatten()]))
    assert abs(float(neighbour[0, 1])) < 0.05


@pytest.mark.parametrize("rule", FILLS)
def test_apply_mixes_and_carries_gradients(rule: str) -> None:
    x, fill = images(), Fill(rule)
    keep = torch.zeros(3, 1, 32, 32, dtype=torch.bool)
    keep[..., :16] = True
    out = fill.apply(x, keep)
    assert torch.equal(out[..., :16], x[..., :16])
    assert torch.allclose(out[..., 16:], fill(x)[..., 16:])
    assert torch.equal(fill.apply(x, keep[:, 0]), out)
    soft = torch.full((3, 1, 32, 32), 0.25, requires_grad=True)
    fill.apply(x, soft).sum().backward()
    assert torch.allclose(soft.grad, (x - fill(x)).sum(1, keepdim=True), atol=1e-5)


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="mean, zero, blur, noise"):
        Fill("gray")
    with pytest.raises(UsageError, match="sigma"):
        Fill("blur", sigma=0)
