from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from binderclip.data import Augment
from binderclip.data.augment.augment import PLAIN, _grid, uniform
from binderclip.errors import UsageError

LUMA = torch.tensor([0.299, 0.587, 0.114])
STILL = {**PLAIN, "white": 1.0}
NO_JITTER = dict.fromkeys(("brightness", "contrast", "saturation", "hue", "grey"), 0.0)


def drawings(n: int = 6, size: int = 32, seed: int = 0) -> Tensor:
    """RGBA pictures: a coloured ellipse on nothing."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    out = rng.integers(0, 256, (n, 4, size, size), np.uint8)
    for picture in out:
        a, b = rng.uniform(0.2, 0.45, 2)
        picture[3] = ((x / a) ** 2 + (y / b) ** 2 < 1) * 255
    return torch.from_numpy(out)


def coordinates(n: int, size: int = 64) -> Tensor:
    """Opaque pictures whose red and green say where a pixel lies, in [0, 1] from border to border."""
    line = (torch.arange(size) + 0.5) / size
    picture = torch.stack([line.expand(size, size), line[:, None].expand(size, size), torch.full((size, size), 0.5)])
    return picture.expand(n, 3, size, size).contiguous()


def keys(n: int) -> list[str]:
    return [f"k{i}" for i in range(n)]


# --- randomness ------------------------------------------------------------------------------------------------------


def test_numbers_are_splitmix64_of_the_hash() -> None:
    import hashlib

    mask = (1 << 64) - 1
    state = int.from_bytes(hashlib.blake2b(b"5/3/cat", digest_size=8).digest(), "little")
    expected = []
    for _ in range(6):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        expected.append(((z ^ (z >> 31)) >> 40) / 2**24)
    assert uniform(5, ["dog", "cat"], 3, 6)[1].tolist() == expected


def test_numbers_are_uniform_and_differ_by_seed_epoch_and_key() -> None:
    sample = uniform(0, keys(2000), 0, 8)
    assert sample.min() >= 0
    assert sample.max() < 1
    counts = np.histogram(sample, 20, (0, 1))[0]
    assert ((counts - 800) ** 2 / 800).sum() < 44  # chi-square, 19 degrees of freedom, p = 0.001
    assert np.abs(np.corrcoef(sample.T) - np.eye(8)).max() < 0.09
    others = [uniform(1, ["k0"], 0, 4), uniform(0, ["k0"], 1, 4), uniform(0, ["k1"], 0, 4), sample[:1, :4]]
    assert len({tuple(other[0]) for other in others}) == 4


@settings(max_examples=15)
@given(st.permutations(range(6)), st.integers(1, 6), st.integers(0, 5), st.sampled_from([3, 4]))
def test_a_view_depends_on_seed_key_and_epoch_only(order: list[int], n: int, epoch: int, channels: int) -> None:
    pixels, names = drawings()[:, :channels], keys(6)
    augment = Augment(24, seed=7)
    whole = augment(pixels, names, epoch)
    chosen = order[:n]
    part = augment(pixels[chosen], [names[i] for i in chosen], epoch)
    assert torch.allclose(part, whole[chosen], atol=2e-6)
    assert not torch.allclose(augment(pixels, names, epoch + 1), whole, atol=1e-2)
    assert not torch.allclose(dataclasses.replace(augment, seed=8)(pixels, names, epoch), whole, atol=1e-2)


def test_parts_of_a_large_batch_are_put_together_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, names = drawings(9), keys(9)
    whole = Augment(16)(pixels, names)
    monkeypatch.setattr("binderclip.data.augment.augment._PART", 8 * 32 * 32)
    assert torch.allclose(Augment(16)(pixels, names), whole, atol=2e-6)


# --- what does not change --------------------------------------------------------------------------------------------


def test_plain_settings_composite_on_white_and_nothing_else() -> None:
    pixels = drawings()
    alpha = pixels[:, 3:].float() / 255
    expected = pixels[:, :3].float() / 255 * alpha + (1 - alpha)
    assert torch.allclose(Augment(32, **STILL)(pixels, keys(6)), expected, atol=1e-6)
    assert torch.allclose(Augment(32, **STILL)(pixels[:, :3], keys(6)), pixels[:, :3].float() / 255, atol=1e-6)
    smaller = F.interpolate(expected, size=(16, 16), mode="bilinear", antialias=True)
    assert torch.allclose(Augment(16, **STILL)(pixels, keys(6)), smaller, atol=1e-5)


def test_float_and_byte_pixels_agree_and_the_input_is_left_alone() -> None:
    pixels = drawings()
    before, floats = pixels.clone(), pixels.float() / 255
    kept = floats.clone()
    assert torch.allclose(Augment(20)(pixels, keys(6)), Augment(20)(floats, keys(6)), atol=1e-6)
    assert torch.equal(pixels, before)
    assert torch.equal(floats, kept)


@settings(max_examples=25)
@given(
    channels=st.sampled_from([3, 4]),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.integers(1, 32),
    strength=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_the_result_is_a_picture(channels: int, shape: tuple[int, int], size: int, strength: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.integers(0, 256, (3, channels, *shape), np.uint8))
    augment = Augment(
        size, scale=(0.2, 1.5), rotate=180 * strength, brightness=strength, contrast=strength, saturation=strength,
        hue=strength / 2, grey=strength, seed=seed,
    )  # fmt: skip
    views = augment(pixels, keys(3))
    assert views.shape == (3, 3, size, size)
    assert views.dtype == torch.float32
    assert torch.isfinite(views).all()
    assert views.min() >= 0
    assert views.max() <= 1


# --- geometry --------------------------------------------------------------------------------------------------------


def test_the_grid_is_torchs_affine_grid() -> None:
    theta = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(_grid(theta, 17), F.affine_grid(theta, [5, 1, 17, 17], align_corners=False), atol=1e-5)


def test_crops_turns_and_mirrors_are_what_the_settings_allow() -> None:
    n, size = 400, 32
    augment = Augment(
        size, scale=(0.25, 0.5), ratio=(0.8, 1.25), rotate=0, flip=0.5, **NO_JITTER
    )  # without a turn the crop lies inside the picture, so positions can be read from the colours
    views = augment(coordinates(n), keys(n))
    x, y = views[:, 0], views[:, 1]
    step_x, step_y = (x[:, 0, -1] - x[:, 0, 0]) / (size - 1) * size, (y[:, -1, 0] - y[:, 0, 0]) / (size - 1) * size
    area, ratio = step_x.abs() * step_y, step_x.abs() / step_y
    assert 0.25 - 0.01 < area.min() < 0.27
    assert 0.48 < area.max() < 0.5 + 0.01
    assert ratio.log().abs().max() < np.log(1.25) + 0.02
    assert ratio.log().abs().max() > np.log(1.2)
    assert 0.42 < (step_x < 0).float().mean() < 0.58
    straight = x - x[:, :1]  # no row differs from the first: nothing is turned
    assert straight.abs().max() < 0.01
    centre = x.mean((1, 2))
    assert centre.min() < 0.36
    assert centre.max() > 0.64


def test_turns_stay_within_the_angle_and_keep_right_angles() -> None:
    n, size = 200, 32
    views = Augment(size, scale=(0.2, 0.2), ratio=(1, 1), rotate=15, flip=0, **NO_JITTER)(coordinates(n), keys(n))
    middle = views[:, :2, 8:24, 8:24]  # away from borders that the reflection bends
    across = (middle[..., 15] - middle[..., 0]).mean(2)
    down = (middle[..., 15, :] - middle[..., 0, :]).mean(2)
    angle = torch.rad2deg(torch.atan2(across[:, 1], across[:, 0]))
    assert angle.abs().max() < 15.5
    assert angle.max() > 12
    assert angle.min() < -12
    cosine = (across * down).sum(1) / (across.norm(dim=1) * down.norm(dim=1))
    assert cosine.abs().max() < 0.02


def test_turning_a_wide_picture_does_not_shear_it() -> None:
    line = (torch.arange(96) + 0.5) / 32  # in units of the height, so that colours are distances
    picture = torch.stack([line.expand(32, 96) / 3, ((torch.arange(32) + 0.5) / 32)[:, None].expand(32, 96) / 3])
    pixels = torch.cat([picture, torch.full((1, 32, 96), 0.5)]).expand(60, 3, 32, 96)
    views = Augment(32, scale=(0.05, 0.05), ratio=(1, 1), rotate=45, flip=0, **NO_JITTER)(pixels, keys(60))
    middle = views[:, :2, 10:22, 10:22]
    across, down = (middle[..., 11] - middle[..., 0]).mean(2), (middle[..., 11, :] - middle[..., 0, :]).mean(2)
    inside = (views[:, 1].amin((1, 2)) > 0.01) & (views[:, 1].amax((1, 2)) < 0.32)  # no reflection at top or bottom
    assert inside.sum() > 10
    cosine = (across * down).sum(1) / (across.norm(dim=1) * down.norm(dim=1))
    assert cosine[inside].abs().max() < 0.03
    assert ((across.norm(dim=1) / down.norm(dim=1))[inside] - 1).abs().max() < 0.03


def test_shrinking_averages_instead_of_skipping() -> None:
    checks = ((torch.arange(256)[:, None] + torch.arange(256)) % 2 * 255).to(torch.uint8).expand(2, 3, 256, 256)
    views = Augment(32, scale=(1, 1), ratio=(0.9, 1.1), rotate=5, **NO_JITTER)(checks, keys(2))
    assert (views - 0.5).abs().max() < 0.02


# --- colour ----------------------------------------------------------------------------------------------------------


def colour_only(**settings: object) -> Augment:
    return Augment(32, **{**STILL, **settings})  # type: ignore[arg-type]


def test_each_jitter_changes_what_it_names() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).uniform(0.4, 0.6, (50, 3, 32, 32))).float()
    luma = torch.einsum("bchw,c->bhw", pixels, LUMA)
    factor = colour_only(brightness=0.3)(pixels, keys(50)) / pixels
    assert (factor.amax((1, 2, 3)) - factor.amin((1, 2, 3))).max() < 1e-5
    assert 0.7 <= factor.min() < 0.73
    assert 1.27 < factor.max() <= 1.3
    contrast = torch.einsum("bchw,c->bhw", colour_only(contrast=0.5)(pixels, keys(50)), LUMA)
    assert torch.allclose(contrast.mean((1, 2)), luma.mean((1, 2)), atol=1e-5)
    spread = contrast.std((1, 2)) / luma.std((1, 2))
    assert 0.5 <= spread.min() < 0.6
    assert 1.4 < spread.max() <= 1.501
    faded = torch.einsum("bchw,c->bhw", colour_only(saturation=0.9)(pixels, keys(50)), LUMA)
    assert torch.allclose(faded, luma, atol=1e-5)
    grey = colour_only(grey=1.0)(pixels, keys(50))
    assert torch.allclose(grey, luma[:, None].expand_as(grey), atol=1e-5)
    turned = colour_only(hue=0.5)(pixels, keys(50))
    assert torch.allclose(turned.sum(1), pixels.sum(1), atol=1e-5)
    assert torch.allclose(turned.square().sum(1), pixels.square().sum(1), atol=1e-5)
    assert (turned - pixels).abs().max() > 0.05


def test_a_third_of_the_hue_circle_permutes_the_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "binderclip.data.augment.augment.uniform", lambda seed, keys, epoch, n: np.full((len(keys), n), 1.0, np.float32)
    )
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.9
    turned = colour_only(hue=1 / 3)(pixels, keys(2))
    assert torch.allclose(turned, pixels[:, [2, 0, 1]], atol=1e-5)


# --- backgrounds -----------------------------------------------------------------------------------------------------


def test_jitter_leaves_the_background_and_hidden_colours_leave_the_picture() -> None:
    pixels = drawings(40)
    pixels[:, 0][pixels[:, 3] == 0] = 255  # red under what is transparent
    pixels[:, 1:3][(pixels[:, 3:] == 0).expand(-1, 2, -1, -1)] = 0
    hidden = pixels[:, 3] == 0
    views = colour_only(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1)(pixels, keys(40))
    assert (views.permute(0, 2, 3, 1)[hidden] == 1).all()
    black = pixels.clone()
    black[:, :3] = torch.where(hidden[:, None], black[:, :3], torch.zeros_like(black[:, :3]))
    moved = Augment(32, white=1.0, paint=0.0, **NO_JITTER)(black, keys(40))
    assert (moved[:, 0] - moved[:, 1]).abs().max() < 1e-6  # the hidden red never bleeds into the black


@pytest.mark.parametrize("kind", ["plain", "gradient", "noise"])
def test_kinds_of_background(kind: str) -> None:
    nothing = torch.zeros((200, 4, 8, 8), dtype=torch.uint8)
    nothing[:, :3] = 200
    views = Augment(32, background=(kind,), white=0.0, paint=0.0)(nothing, keys(200))
    within = views.flatten(2).std(2).mean(1)
    if kind == "plain":
        assert within.max() < 1e-6
    elif kind == "gradient":
        assert (within > 0.01).float().mean() > 0.9
        bend = views[..., 2:] - 2 * views[..., 1:-1] + views[..., :-2]
        assert bend.abs().max() < 1e-5  # straight along every row
    else:
        assert within.min() > 0.05
    assert 0.4 < views.mean() < 0.6
    assert views.mean((2, 3)).std(0).min() > 0.1  # every picture has its own
    white = Augment(32, background=(kind,), white=0.3, paint=0.0)(nothing, keys(200)).amin((1, 2, 3)) == 1
    assert 0.2 < white.float().mean() < 0.4


@pytest.mark.parametrize("paint", [0.0, 1.0])
def test_silhouettes_are_always_seen(paint: float) -> None:
    pixels = drawings(300)
    pixels[:, :3] = 0
    augment = Augment(
        32, background=("plain",), white=0.2, paint=paint, **{**NO_JITTER, "scale": (1, 1), "ratio": (1, 1)}
    )
    views = dataclasses.replace(augment, rotate=0, flip=0)(pixels, keys(300))
    luma = torch.einsum("bchw,c->bhw", views, LUMA)
    gap = (luma[:, 16, 16] - luma[:, 0, 0]).abs()
    assert gap.min() > 0.09
    painted = views[:, :, 16, 16].amax(1) > 0
    assert painted.float().mean() == paint


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 0}, "size"),
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"ratio": (2.0, 1.0)}, "ratio"),
        ({"flip": 1.5}, "flip"),
        ({"hue": 0.7}, "hue"),
        ({"background": ("stars",)}, r"stars.*plain, gradient, noise"),
        ({"background": ()}, "choose from"),
    ],
)
def test_wrong_settings(settings: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Augment(**{"size": 8, **settings})


def test_wrong_shapes() -> None:
    with pytest.raises(UsageError, match=r"\(2, 1, 8, 8\)"):
        Augment(8)(torch.zeros(2, 1, 8, 8), keys(2))
    with pytest.raises(UsageError, match="1 keys for 2"):
        Augment(8)(torch.zeros(2, 3, 8, 8), keys(1))
    assert Augment(8)(torch.zeros(0, 4, 8, 8), []).shape == (0, 3, 8, 8)
