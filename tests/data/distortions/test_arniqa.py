"""ARNIQA's distortions (p138's): the released strengths, and every formula against another library or by hand."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from scipy.interpolate import CubicSpline
from skimage import color
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.io import decode_jpeg, encode_jpeg

from binderclip.data import LIBRARIES, distort, distort_levels
from binderclip.data.distortions.arniqa import ARNIQA, UNORDERED, disc_kernel, motion_kernels
from binderclip.data.distortions.lab import lab_of, rgb_of
from binderclip.errors import UsageError
from binderclip.quality.score.degraded_crops import DegradedCrops

pytestmark = pytest.mark.filterwarnings("ignore:Conversion from CIE-LAB")

OFFICIAL = {
    "gaublur": [0.1, 0.5, 1, 2, 5], "lensblur": [1, 2, 4, 6, 8], "motionblur": [1, 2, 4, 6, 10],
    "colordiff": [1, 3, 6, 8, 12], "colorshift": [1, 3, 6, 8, 12], "colorsat1": [0.4, 0.2, 0.1, 0, -0.4],
    "colorsat2": [1, 2, 3, 6, 9], "jpeg2000": [16, 32, 45, 120, 170], "jpeg": [43, 36, 24, 7, 4],
    "whitenoise": [0.001, 0.002, 0.003, 0.005, 0.01], "whitenoiseCC": [0.0001, 0.0005, 0.001, 0.002, 0.003],
    "impulsenoise": [0.001, 0.005, 0.01, 0.02, 0.03], "multnoise": [0.001, 0.005, 0.01, 0.02, 0.05],
    "brighten": [0.1, 0.2, 0.4, 0.7, 1.1], "darken": [0.05, 0.1, 0.2, 0.4, 0.8],
    "meanshift": [0, 0.08, -0.08, 0.15, -0.15], "jitter": [0.05, 0.1, 0.2, 0.5, 1],
    "noneccpatch": [20, 40, 60, 80, 100], "pixelate": [0.01, 0.05, 0.1, 0.2, 0.5],
    "quantization": [20, 16, 13, 10, 7], "colorblock": [2, 4, 6, 8, 10], "highsharpen": [1, 2, 3, 6, 12],
    "lincontrchange": [0, 0.15, -0.4, 0.3, -0.6], "nonlincontrchange": [0.4, 0.3, 0.2, 0.1, 0.05],
}  # fmt: skip
"""The official table of strengths."""


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """(3, 96, 112) in whole bytes."""
    image = Image.fromarray(load_sample_images().images[0]).resize((112, 96), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def at(photo: Tensor, name: str, level: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3), distorted."""
    return distort(photo, name, level, seed, library="arniqa").permute(1, 2, 0).numpy()


def close(found: np.ndarray, expected: np.ndarray, atol: float = 2e-4) -> None:
    np.testing.assert_allclose(found, expected.clip(0, 1), atol=atol)


def gaussian(sigma: float, side: int) -> np.ndarray:
    taps = np.arange(side) - side // 2
    kernel = np.exp(-(taps[:, None] ** 2 + taps**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def blurred(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return np.stack([ndimage.correlate(image[..., c], kernel, mode="nearest") for c in range(image.shape[-1])], -1)


def test_kinds_and_strengths_are_the_released_ones() -> None:
    assert {name: list(strengths) for name, (_, strengths) in ARNIQA.items()} == OFFICIAL
    library = LIBRARIES["arniqa"]
    assert sorted(name for group in library.families.values() for name in group) == sorted(OFFICIAL)
    assert [len(group) for group in library.families.values()] == [3, 4, 2, 4, 3, 5, 3]
    # What goes to and fro is no ladder.
    assert set(library.kinds) - set(library.ordered) == {"meanshift", "lincontrchange"}


@pytest.mark.parametrize("level", [1, 3, 5])
def test_blurs(photo: Tensor, level: int) -> None:
    image = photo.permute(1, 2, 0).double().numpy()
    sigma, radius = OFFICIAL["gaublur"][level - 1], OFFICIAL["lensblur"][level - 1]
    close(at(photo, "gaublur", level), blurred(image, gaussian(sigma, 2 * math.ceil(2 * sigma) + 1)))
    # The disc's cover of each pixel, counted on a fine grid.
    fine = (np.arange((2 * radius + 1) * 200) + 0.5) / 200 - radius - 0.5
    inside = (fine[:, None] ** 2 + fine**2 < radius**2).reshape(2 * radius + 1, 200, 2 * radius + 1, 200)
    cover = inside.mean((1, 3))
    np.testing.assert_allclose(disc_kernel(int(radius)).numpy(), cover / cover.sum(), atol=3e-4)
    close(at(photo, "lensblur", level), blurred(image, cover / cover.sum()), atol=1e-3)


def matlab_motion(length: int, degrees: float) -> np.ndarray:
    """fspecial('motion') as MATLAB documents it: one quadrant of distances to a line, unfolded."""
    half, phi = (length - 1) / 2, math.radians(degrees % 180)
    c, s = math.cos(phi), math.sin(phi)
    sign = 1 if c >= 0 else -1
    sx, sy = int(half * c + sign - length * 2.2204e-16), int(half * s + 1 - length * 2.2204e-16)
    x, y = np.meshgrid(np.arange(0, sx + sign, sign), np.arange(sy + 1))
    d = y * c - x * s
    last = (np.hypot(x, y) >= half) & (np.abs(d) <= 1)
    d[last] = np.hypot(d[last], half - np.abs((x[last] + d[last] * s) / c))
    quadrant = np.maximum(1 - np.abs(d), 0)
    h, w = quadrant.shape
    whole = np.zeros((2 * h - 1, 2 * w - 1))
    whole[:h, :w] = quadrant[::-1, ::-1]
    whole[h - 1 :, w - 1 :] = quadrant
    whole /= whole.sum()
    return whole[::-1] if c > 0 else whole


@pytest.mark.parametrize("length", [1, 2, 4, 6, 10])
def test_motion_kernels_are_matlabs(length: int) -> None:
    angles = [0, 17, 45, 62, 89, 91, 120, 151, 179, 180]
    for kernel, angle in zip(motion_kernels(length, torch.tensor(angles).double()), angles, strict=True):
        expected = matlab_motion(length, angle)
        pads = [(side - n) // 2 for side, n in zip(kernel.shape, expected.shape, strict=True)]
        np.testing.assert_allclose(kernel.numpy(), np.pad(expected, [(p, p) for p in pads]), atol=1e-9)


def test_lab_is_that_of_scikit_image(photo: Tensor) -> None:
    image = photo.permute(1, 2, 0).numpy()
    np.testing.assert_allclose(lab_of(photo[None])[0].permute(1, 2, 0).numpy(), color.rgb2lab(image), atol=1e-3)
    far = color.rgb2lab(image) * np.array([1.1, 3.0, 3.0])
    back = rgb_of(torch.from_numpy(far).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(back, color.lab2rgb(far), atol=1e-5)


@pytest.mark.parametrize("level", [1, 3, 5])
def test_colours(photo: Tensor, level: int) -> None:
    image = photo.permute(1, 2, 0).double().numpy()
    lab = color.rgb2lab(image)
    step = 1.01 / 255  # values are cut to bytes, and rounding may fall on either side
    amount = OFFICIAL["colordiff"][level - 1]
    kernel = gaussian(1.5 * amount + 2, 2 * math.ceil(3 * amount + 4) + 1)
    spread = np.concatenate([lab[..., :1], amount * blurred(lab[..., 1:], kernel)], -1)
    close(at(photo, "colordiff", level), np.trunc(color.lab2rgb(spread) * 255) / 255, atol=step)
    factor = OFFICIAL["colorsat2"][level - 1]
    close(at(photo, "colorsat2", level), np.trunc(color.lab2rgb(lab * [1, factor, factor]) * 255) / 255, atol=step)
    # HSV with another saturation: value minus saturation times what the hue takes from each channel.
    hsv, own = color.rgb2hsv(image), OFFICIAL["colorsat1"][level - 1]
    pure = color.hsv2rgb(np.stack([hsv[..., 0], np.ones_like(hsv[..., 0]), np.ones_like(hsv[..., 0])], -1))
    close(at(photo, "colorsat1", level), hsv[..., 2:] * (1 - own * hsv[..., 1:2] * (1 - pure)))


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
def test_tone_curves(photo: Tensor, level: int) -> None:
    image = photo.permute(1, 2, 0).double().numpy()

    def parabola(middle: float, x: np.ndarray) -> np.ndarray:
        return np.polyval(np.polyfit([0, 0.5, 1], [0, middle, 1], 2), x).clip(0, 1)

    up, down = 0.5 + OFFICIAL["brighten"][level - 1] / 2, 0.5 - OFFICIAL["darken"][level - 1] / 2
    lab = color.rgb2lab(image)
    lab[..., 0] = 100 * parabola(up, lab[..., 0] / 100)
    close(at(photo, "brighten", level), (2 * parabola(up, image) + color.lab2rgb(lab)) / 3)
    close(at(photo, "darken", level), parabola(down, image))
    close(at(photo, "meanshift", level), image + OFFICIAL["meanshift"][level - 1])
    amount = OFFICIAL["lincontrchange"][level - 1]
    ends = [0, 0.25 - amount / 4, 0.5, 0.75 + amount / 4, 1]
    close(at(photo, "lincontrchange", level), CubicSpline([0, 0.3, 0.5, 0.7, 1], ends, bc_type="not-a-knot")(image))
    low, high = 0.5 - OFFICIAL["nonlincontrchange"][level - 1], 0.5 + OFFICIAL["nonlincontrchange"][level - 1]
    close(at(photo, "nonlincontrchange", level), low + (high - low) * image)
    lab = color.rgb2lab(image)
    mask = OFFICIAL["highsharpen"][level - 1] * (np.eye(13)[6][:, None] * np.eye(13)[6] - gaussian(6, 13))
    mask[6, 6] += 1
    lab[..., 0] = ndimage.correlate(lab[..., 0], mask, mode="nearest")
    close(at(photo, "highsharpen", level), color.lab2rgb(lab), atol=2e-3)


@pytest.mark.parametrize("level", [1, 5])
def test_compression(photo: Tensor, level: int) -> None:
    data = (photo * 255).byte()
    coded = decode_jpeg(encode_jpeg(data, quality=int(OFFICIAL["jpeg"][level - 1]))).permute(1, 2, 0).numpy() / 255
    assert np.abs(at(photo, "jpeg", level) - coded).mean() < 1 / 255  # two builds of the codec
    buffer = io.BytesIO()
    Image.fromarray(data.permute(1, 2, 0).numpy()).save(
        buffer, "JPEG2000", quality_mode="rates", quality_layers=[OFFICIAL["jpeg2000"][level - 1]], num_resolutions=7
    )
    np.testing.assert_array_equal((at(photo, "jpeg2000", level) * 255).round(), np.asarray(Image.open(buffer)))
    assert len(buffer.getvalue()) < 1.1 * data.numel() / OFFICIAL["jpeg2000"][level - 1] + 200


def test_noise_has_the_released_variances() -> None:
    grey = torch.full((3, 256, 256), 0.5)
    for level in (1, 5):
        for name, factor in (("whitenoise", 1.0), ("multnoise", 0.25)):
            variance = factor * OFFICIAL[name][level - 1]
            assert float((at(grey, name, level) - 0.5).var()) == pytest.approx(variance, rel=0.05)
        # By the inverse of the colour transform: Y + 1.403 Cr and so on of independent noise.
        red, green, blue = np.moveaxis(at(grey, "whitenoiseCC", level) - 0.5, -1, 0)
        own = OFFICIAL["whitenoiseCC"][level - 1]
        found = [float(part.var()) / own for part in (red, green, blue)]
        assert found == pytest.approx([1 + 1.403**2, 1 + 0.714**2 + 0.344**2, 1 + 1.773**2], rel=0.05)
        values, counts = np.unique(at(grey, "impulsenoise", level), return_counts=True)
        hits = OFFICIAL["impulsenoise"][level - 1] * grey.numel()
        assert values.tolist() == [0.0, 0.5, 1.0]
        assert counts[[0, 2]] == pytest.approx([hits / 2, hits / 2], rel=0.03)


def test_edges_move_with_the_green_channel_and_even_ground_does_not() -> None:
    picture = torch.full((3, 64, 64), 0.2)
    picture[:, 24:40, 24:40] = 0.9
    found = distort(picture, "colorshift", 3, 1, library="arniqa")
    assert torch.equal(found[[0, 2]], picture[[0, 2]])
    assert torch.allclose(found[1, :6, :6], picture[1, :6, :6])
    # Down and to the right by six pixels together, where there is most of an edge.
    rows, columns = (np.average(np.arange(64), weights=(found[1] - 0.2).clamp(min=0).numpy().sum(a)) for a in (1, 0))
    assert rows >= 31.5
    assert columns >= 31.5
    assert rows + columns > 64


def test_places(photo: Tensor) -> None:
    image = photo.permute(1, 2, 0).numpy()
    # Five draws of displacement on a ramp, away from the border.
    ramp = torch.linspace(0, 1, 512).expand(3, 512, 512).contiguous()
    moved = (at(ramp, "jitter", 4) - ramp.permute(1, 2, 0).numpy())[40:-40, 40:-40, 0]
    expected, grid = ramp[0].numpy(), np.mgrid[:512, :512]
    rng = np.random.default_rng(0)
    for _ in range(5):
        shifts = 0.5 * rng.standard_normal((2, 512, 512))
        expected = ndimage.map_coordinates(expected, grid - shifts, order=1, mode="nearest")
    other = (expected - ramp[0].numpy())[40:-40, 40:-40]
    assert float(moved.std()) == pytest.approx(float(other.std()), rel=0.02)
    assert abs(float(moved.mean())) < 0.02 * float(moved.std())
    for level in (1, 5):
        share = 0.95 - OFFICIAL["pixelate"][level - 1] ** 0.6
        small = [int(side * share) for side in image.shape[:2]]
        down = [np.floor(np.arange(n) * side / n).astype(int) for n, side in zip(small, image.shape, strict=False)]
        up = [np.floor(np.arange(side) * n / side).astype(int) for n, side in zip(small, image.shape, strict=False)]
        close(at(photo, "pixelate", level), image[np.ix_(*down)][np.ix_(*up)])
        levels = int(OFFICIAL["quantization"][level - 1])
        edges = np.concatenate([[0], np.linspace(0, 255, levels + 1)[1:-1].astype(int), [256]])
        steps = np.searchsorted(edges, (photo * 255).permute(1, 2, 0).numpy(), side="left").astype(float)
        close(at(photo, "quantization", level), (steps - steps.min()) / (steps.max() - steps.min()))
        # Copied patches hold colours of the picture itself; blocks are of one colour each and as many as said.
        colours = {tuple(c) for c in image.reshape(-1, 3).tolist()}
        patched = at(photo, "noneccpatch", level)
        assert {tuple(c) for c in patched.reshape(-1, 3).tolist()} <= colours
        assert (patched != image).any(-1).mean() > 0.02
        blocks = at(photo, "colorblock", level)
        changed = (blocks != image).any(-1)
        fresh = np.unique(blocks[changed], axis=0)
        assert 1 <= len(fresh) <= OFFICIAL["colorblock"][level - 1]
        assert changed.sum() <= OFFICIAL["colorblock"][level - 1] * 32 * 32


@pytest.mark.parametrize("name", OFFICIAL)
def test_pictures_and_seeds_are_as_in_our_own_library(name: str, photo: Tensor) -> None:
    pair = torch.stack([photo, photo.flip(-1)])
    whole = distort(pair, name, 3, seed=10, library="arniqa")
    assert whole.shape == pair.shape
    assert whole.dtype == pair.dtype
    assert float(whole.min()) >= 0
    assert float(whole.max()) <= 1
    assert torch.allclose(distort(photo.flip(-1), name, 3, seed=11, library="arniqa"), whole[1], atol=1e-5)
    series = distort_levels(pair, name, 5, library="arniqa")
    errors = (series - pair[:, None]).square().flatten(2).mean(2)
    assert errors[:, 0].max() == 0
    if name not in UNORDERED:
        assert bool((errors[:, 5] > errors[:, 1]).all())


def test_mistakes_are_named(photo: Tensor) -> None:
    for run, said in (
        (lambda: distort(photo, "gaublur", 1), "distortion 'gaublur' is unknown; use gaussian_noise"),
        (
            lambda: distort(photo, "gaussian_blur", 1, library="arniqa"),
            "'gaussian_blur' is unknown; use gaublur",
        ),
        (
            lambda: distort(photo, "gaublur", 1, library="kadid"),
            "'kadid' is unknown: one of binderclip, arniqa",
        ),
        (lambda: distort(photo[:, :40], "noneccpatch", 1, library="arniqa"), "needs pictures of 48 pixels a side"),
        (lambda: distort(photo[:, :30], "colorblock", 1, library="arniqa"), "needs pictures of 32 pixels a side"),
    ):
        with pytest.raises(UsageError, match=said):
            run()


def test_crops_for_ranking_take_the_library(photo: Tensor) -> None:
    crops: Any = DegradedCrops([photo], 64, library="arniqa", seed=3)
    names = {name for group in crops.groups for name in group}
    assert names == set(OFFICIAL) - {"meanshift", "lincontrchange"}
    assert next(iter(crops)).shape == (1, 2, 5, 3, 64, 64)
    with pytest.raises(UsageError, match="kinds 'fog' is unknown; use gaublur"):
        DegradedCrops([photo], 64, kinds=["fog"], library="arniqa")
