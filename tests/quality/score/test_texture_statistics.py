"""Texture statistics by SciPy and NumPy, what each group of them answers to, and pictures that have none."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy import ndimage
from torch import Tensor

from binderclip.data import load_data
from binderclip.data.images import to_tensor
from binderclip.quality.score.texture_statistics import TEXTURE, texture_statistics

MOMENTS, HALF, DETAIL = slice(0, 19), slice(19, 38), slice(38, 58)
RESIDUE, FLATTEST, BLOCKS = slice(58, 64), slice(64, 68), slice(68, 71)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return next(iter(load_data("photographs"))).image.convert("RGB").resize((192, 128))


def of(picture: Image.Image | Tensor) -> np.ndarray:
    image = to_tensor(picture)[None] if isinstance(picture, Image.Image) else picture
    return texture_statistics(image.double())[0].numpy()


def logarithm(value: float) -> float:
    return float(np.log10(value + 1e-4))


def test_moments_are_those_of_scipys_windows(picture: Image.Image) -> None:
    light = to_tensor(picture).double().mean(0).numpy()
    blur = {"sigma": 7 / 6, "radius": 3, "mode": "nearest"}
    middle = ndimage.gaussian_filter(light, **blur)
    spread = np.sqrt(np.maximum(ndimage.gaussian_filter(light**2, **blur) - middle**2, 1e-12))
    c = (light - middle) / (spread + 1 / 255)
    square = (c**2).mean()
    wanted = [logarithm(square), logarithm(abs(c).mean() ** 2 / (square + 1e-4))]
    wanted.append(logarithm((c**4).mean() / (square**2 + 1e-4)))
    for pairs in (c[1:, 1:-1] * c[1:, :-2], c[1:, 1:-1] * c[:-1, 1:-1], c[1:, 1:-1] * c[:-1, :-2],
                  c[1:, 1:-1] * c[:-1, 2:]):  # fmt: skip
        wanted += [pairs.mean(), logarithm(abs(pairs).mean())]
        wanted += [logarithm((part**2).mean()) / 2 for part in (pairs.clip(max=0), pairs.clip(min=0))]
    assert of(picture)[MOMENTS] == pytest.approx(wanted, abs=1e-6)


def test_moments_of_the_second_scale_are_those_of_half_the_picture(picture: Image.Image) -> None:
    image = to_tensor(picture).double()
    half = image.view(3, 64, 2, 96, 2).mean((2, 4))
    assert of(picture)[HALF] == pytest.approx(of(half[None])[MOMENTS], abs=1e-9)


def test_blocks_of_one_colour_have_steps_at_every_eighth_pixel_alone() -> None:
    # 8 rows of 8 columns of blocks, each .1 brighter than the one to its left: 7 steps in 63, one phase of eight.
    image = (0.1 * torch.arange(8, dtype=torch.double)).repeat_interleave(8).expand(1, 3, 64, 64)
    down, across, still = of(image)[BLOCKS]
    assert down == pytest.approx(0)
    assert across == pytest.approx(logarithm(0.1 * 7 / 8) - logarithm(0), abs=1e-9)
    assert still == pytest.approx((1 + 56 / 63) / 2)


def test_what_a_median_takes_away_is_scipys(picture: Image.Image) -> None:
    image = to_tensor(picture).double()
    away = np.abs(image.numpy() - ndimage.median_filter(image.numpy(), size=(1, 3, 3), mode="nearest"))
    strongest = away.max(0)
    wanted = [logarithm(value) for value in np.quantile(strongest, [0.5, 0.9, 0.99, 0.999])]
    wanted += [logarithm((strongest > 0.15).mean()), logarithm(away.mean())]
    assert of(picture)[RESIDUE] == pytest.approx(wanted, abs=1e-6)


def test_detail_of_an_octave_is_haars() -> None:
    # A checkerboard of single pixels has diagonal detail in the finest octave alone, one of 2 x 2 in the next.
    fine = torch.from_numpy(np.indices((64, 64)).sum(0) % 2).double().expand(1, 3, 64, 64)
    coarse = fine[..., :32, :32].repeat_interleave(2, 2).repeat_interleave(2, 3)
    none, full = logarithm(1e-6), logarithm(1.0)
    for image, octave in ((fine, 0), (coarse, 1)):
        detail = of(image)[DETAIL].reshape(4, 5)
        assert detail[octave] == pytest.approx([full] * 5, abs=1e-3)
        assert detail[np.arange(4) != octave, :4] == pytest.approx(np.full((3, 4), none), abs=1e-3)


def test_each_group_answers_to_its_fault(picture: Image.Image) -> None:
    plain = of(picture)
    pixels = np.asarray(picture)
    rng = np.random.default_rng(0)
    noisy = of(Image.fromarray((pixels + 20 * rng.standard_normal(pixels.shape)).clip(0, 255).astype(np.uint8)))
    specks = pixels.copy()
    specks[rng.random(pixels.shape[:2]) < 0.02] = 255
    blurred = of(picture.filter(ImageFilter.GaussianBlur(2)))
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=10)
    saved = of(Image.open(held).convert("RGB"))
    assert (noisy[FLATTEST] > plain[FLATTEST] + 0.15).all()  # in the smoothest parts, too
    assert of(Image.fromarray(specks))[RESIDUE][4] > plain[RESIDUE][4] + 0.2
    assert (blurred[DETAIL].reshape(4, 5)[0, :4] < plain[DETAIL].reshape(4, 5)[0, :4] - 0.15).all()
    assert (saved[BLOCKS] > plain[BLOCKS] + 0.05).all()


@pytest.mark.parametrize("size", [(16, 16), (17, 40), (130, 23)])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, None])
def test_small_and_empty_pictures_have_finite_statistics_and_gradients(
    size: tuple[int, int], value: float | None
) -> None:
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    image = (image if value is None else torch.full_like(image, value)).requires_grad_(True)
    found = texture_statistics(image)
    assert found.shape == (2, TEXTURE)
    assert torch.isfinite(found).all()
    found.sum().backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()
