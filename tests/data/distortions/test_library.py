from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_sample_images

from binderclip.data.distortions.kinds import _lift, _unlift
from binderclip.data.distortions.library import DISTORTIONS, FAMILIES, LEVELS, distort, distort_levels
from binderclip.data.distortions.pieces import filter_images
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.errors import UsageError


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Two photographs, whole and in part, and two scenes, at 96 px."""
    found = []
    for photo in load_sample_images().images:
        for box in ((0, 0, 640, 427), (200, 100, 420, 320)):
            small = Image.fromarray(photo).resize((96, 96), Image.Resampling.LANCZOS, box=box)
            found.append(torch.from_numpy(np.array(small)).permute(2, 0, 1) / 255)
    drawn = scenes(3, 2, 96, objects=3, area=(0.08, 0.2), background="noise").images
    return torch.cat([torch.stack(found), drawn])


def error(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).square().flatten(1).mean(1)


def test_there_are_24_in_families() -> None:
    assert len(DISTORTIONS) == len(set(DISTORTIONS)) == 24
    assert sorted(name for names in FAMILIES.values() for name in names) == sorted(DISTORTIONS)


@pytest.mark.parametrize("name", DISTORTIONS)
@pytest.mark.parametrize("side", [96, 48])
def test_each_level_is_worse_than_the_one_before_on_every_picture(name: str, side: int, pictures: torch.Tensor) -> None:
    images = torch.nn.functional.interpolate(pictures, (side, side), mode="area")
    for seed in (0, 7):
        series = distort_levels(images, name, seed)
        assert series.shape == (len(images), LEVELS + 1, 3, side, side)
        assert torch.equal(series[:, 0], images)
        errors = torch.stack([error(series[:, level], images) for level in range(LEVELS + 1)], 1)
        assert (errors[:, 1:] > errors[:, :-1]).all(), errors
        assert errors[:, 1].mean() < 0.35 * errors[:, -1].mean()  # the first level is mild beside the last
        assert errors[:, -1].mean() > 0.002
        assert series.min() >= 0
        assert series.max() <= 1


@pytest.mark.parametrize("name", DISTORTIONS)
def test_an_image_depends_on_its_seed_and_level_only(name: str, pictures: torch.Tensor) -> None:
    whole = distort(pictures, name, 3, seed=10)
    assert torch.equal(whole, distort(pictures, name, 3, seed=10))
    assert torch.allclose(distort(pictures[2], name, 3, seed=12), whole[2], atol=1e-6)
    order = [3, 0, 2]
    mixed = distort(pictures[order], name, [3, 0, 3], seed=[13, 5, 12])
    assert torch.allclose(mixed[0], whole[3], atol=1e-6)
    assert torch.equal(mixed[1], pictures[0])
    assert torch.allclose(mixed[2], whole[2], atol=1e-6)
    assert mixed.dtype == pictures.dtype


@pytest.mark.parametrize(
    "name", [*FAMILIES["noise"], "motion_blur", "glass_blur", "colour_shift", *FAMILIES["weather and geometry"]]
)
def test_seeds_differ(name: str, pictures: torch.Tensor) -> None:
    assert not torch.allclose(distort(pictures, name, 3, seed=0), distort(pictures, name, 3, seed=100), atol=1e-3)


@pytest.mark.parametrize("shape", [(40, 71), (33, 20)])
@pytest.mark.parametrize("name", DISTORTIONS)
def test_any_shape(name: str, shape: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    assert distort(images, name, 5).shape == images.shape
    assert torch.isfinite(distort(images.double(), name, 2)).all()


def test_noise_levels_have_the_stated_statistics() -> None:
    grey = torch.full((1, 3, 256, 256), 0.5)
    noisy = distort(grey, "gaussian_noise", 2)
    assert float(noisy.std()) == pytest.approx(0.08, rel=0.02)
    assert float(noisy.mean()) == pytest.approx(0.5, abs=0.002)
    shot = distort(grey, "shot_noise", 2)
    assert float(shot.var()) == pytest.approx(0.5 / 35, rel=0.05)  # variance of a Poisson count is its mean
    hit = (distort(grey, "impulse_noise", 4) != 0.5).float().mean()
    assert float(hit) == pytest.approx(0.12, abs=0.005)
    chroma = distort(grey, "colour_noise", 1)  # weak enough that nothing is cut at 0 or 1
    luma = (chroma * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    assert float((luma - 0.5).abs().max()) < 1e-4


def test_filters_against_scipy(pictures: torch.Tensor) -> None:
    kernels = torch.rand(len(pictures), 5, 5, generator=torch.Generator().manual_seed(0))
    ours = filter_images(pictures, kernels)
    for image, kernel, out in zip(pictures, kernels, ours, strict=True):
        wanted = [ndimage.correlate(channel.numpy(), kernel.numpy(), mode="nearest") for channel in image]
        assert np.allclose(out.numpy(), np.stack(wanted), atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES["blur"])
def test_blurs_keep_a_constant(name: str) -> None:
    flat = torch.tensor([0.2, 0.5, 0.9])[None, :, None, None].expand(1, 3, 64, 64)
    assert torch.allclose(distort(flat.contiguous(), name, 5), flat, atol=1e-5)


def test_the_wavelet_inverts_itself() -> None:
    x = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    assert torch.allclose(_unlift(*_lift(x)), x, atol=1e-12)
    ramp = torch.arange(24.0)
    assert torch.allclose(_lift(ramp)[1][:-1], torch.zeros(11))  # straight lines have no detail


def test_colour_distortions_by_hand(pictures: torch.Tensor) -> None:
    grey = distort(pictures, "desaturate", 5)
    assert torch.allclose(grey[:, 0], grey[:, 2], atol=1e-6)
    wanted = (pictures * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    assert torch.allclose(grey[:, 1], wanted, atol=1e-6)
    assert torch.allclose(distort(pictures, "contrast", 4).std((1, 2, 3)), 0.26 * pictures.std((1, 2, 3)), rtol=0.12)
    assert (distort(pictures, "brighten", 2) >= pictures - 1e-6).all()
    assert (distort(pictures, "darken", 2) <= pictures + 1e-6).all()
    assert len(distort(pictures, "posterize", 5).unique()) == 3


def test_scramble_moves_whole_cells_only(pictures: torch.Tensor) -> None:
    out = distort(pictures, "scramble", 3)
    cells = (out != pictures).any(1).reshape(len(out), 16, 6, 16, 6).any(4).any(2)
    assert float(cells.float().mean()) <= 0.27
    source = {tuple(v) for v in (pictures[0].permute(1, 2, 0).reshape(-1, 3)).tolist()}
    assert all(tuple(v) in source for v in out[0].permute(1, 2, 0).reshape(-1, 3).tolist())


def test_gradients_pass_where_there_are_any(pictures: torch.Tensor) -> None:
    for name in set(DISTORTIONS) - {"jpeg", "wavelet", "shot_noise", "posterize"}:
        x = pictures[:1].clone().requires_grad_()
        distort(x, name, 1).sum().backward()
        assert x.grad is not None
        assert x.grad.abs().sum() > 0, name


def test_mistakes_are_named(pictures: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="gaussian_noise, colour_noise"):
        distort(pictures, "blurr", 1)
    with pytest.raises(UsageError, match=r"level 6 of jpeg is not in 0\.\.5"):
        distort(pictures, "jpeg", 6)
    with pytest.raises(UsageError, match="float images"):
        distort((pictures * 255).byte(), "jpeg", 1)
    with pytest.raises(UsageError, match="one level and one seed"):
        distort(pictures, "jpeg", [1, 2])
