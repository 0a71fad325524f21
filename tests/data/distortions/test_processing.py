"""Processing that makes nothing fake, alone and at random."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import gaussian_filter

from binderclip.data import PROCESSING, Degradation
from binderclip.data.distortions.processing import exposed, resized_and_back, sharpened
from binderclip.errors import UsageError

IMAGE = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))


def test_every_processing_keeps_shape_and_range_and_changes_the_picture() -> None:
    for name, change in PROCESSING.items():
        out = change(IMAGE[None])
        assert out.shape == (1, 3, 24, 32), name
        assert 0 <= float(out.min()) <= float(out.max()) <= 1
        assert not torch.equal(out, IMAGE[None])


def test_a_resize_removes_what_is_finer_than_half_the_resolution() -> None:
    stripes = (torch.arange(32) % 2).float().expand(1, 3, 24, 32)
    assert float(resized_and_back(stripes)[..., 4:-4].std()) < 0.05
    slow = torch.linspace(0, 1, 32).expand(1, 3, 24, 32)
    assert torch.allclose(resized_and_back(slow)[..., 4:-4], slow[..., 4:-4], atol=0.02)


def test_how_often_and_how_strongly_follows_the_settings() -> None:
    keys = [str(key) for key in range(200)]
    assert all(torch.equal(Degradation(p=0.0)(IMAGE, key), IMAGE) for key in keys[:5])
    changed = sum(not torch.equal(Degradation(p=0.3)(IMAGE, key), IMAGE) for key in keys)
    assert 200 * 0.51 - 30 < changed < 200 * 0.51 + 30  # either of two: 1 - 0.7^2
    # Blur alone, of one strength, against SciPy's.
    blurred = Degradation(blur=(1.5, 1.5), quality=(100, 100), p=1.0)(IMAGE, "a")
    wanted = torch.from_numpy(gaussian_filter(IMAGE.numpy(), (0, 1.5, 1.5), mode="mirror"))
    assert float((blurred - wanted).abs().mean()) < 0.03  # what the JPEG of quality 100 leaves
    assert float((IMAGE - wanted).abs().mean()) > 0.1


def test_sharpening_is_the_unsharp_mask_of_pillow() -> None:
    soft = (0.25 + 0.5 * IMAGE).double()
    wanted = soft.numpy() + 0.6 * (soft.numpy() - gaussian_filter(soft.numpy(), (0, 1.5, 1.5), mode="mirror"))
    assert torch.allclose(sharpened(soft[None], 0.6, 1.5)[0], torch.from_numpy(wanted).clamp(0, 1), atol=1e-6)
    assert torch.equal(sharpened(soft[None], 0.0)[0], soft)
    assert float(sharpened(IMAGE[None], 3.0).max()) == 1.0  # cut to the range


def test_more_processing_is_asked_for_and_leaves_the_draws_of_blur_and_jpeg_alone() -> None:
    keys = [str(key) for key in range(200)]
    plain = Degradation(p=0.3)
    same = Degradation(p=0.3, resize=(1.0, 1.0), sharpen=(0.0, 0.0), noise=(0.0, 0.0))  # each changes nothing
    for key in keys[:20]:
        assert torch.allclose(plain(IMAGE, key), same(IMAGE, key), atol=2 / 255)
    grey = IMAGE[:1].expand(3, -1, -1)  # its JPEG of quality 100 hardly changes it
    quiet: dict[str, object] = {"blur": (1e-3, 1e-3), "quality": (100, 100), "p": 0.3}
    for name, ends in (("resize", (0.5, 0.5)), ("sharpen", (1.0, 1.0)), ("noise", (0.1, 0.1))):
        rule = Degradation(**quiet, **{name: ends})  # type: ignore[arg-type]
        gaps = torch.stack([(rule(grey, key) - grey).abs().mean() for key in keys])
        assert 60 - 25 < int((gaps > 0.03).sum()) < 60 + 25, name
    flat = torch.full((3, 64, 64), 0.5)
    noisy = Degradation(blur=(1e-3, 1e-3), quality=(100, 100), p=1.0, noise=(0.1, 0.1))(flat, "a")
    assert 0.08 < float(noisy.mean(0).std()) * 3**0.5 < 0.12  # the chroma of a JPEG is coarser
    twice = [Degradation(p=1.0, noise=(0.1, 0.1))(flat, key) for key in ("a", "a", "b")]
    assert torch.equal(twice[0], twice[1])
    assert not torch.equal(twice[0], twice[2])


def test_the_key_the_epoch_and_the_seed_decide() -> None:
    rule = Degradation(p=0.5, seed=3)
    keys = [str(key) for key in range(8)]
    first = torch.stack([rule(IMAGE, key, 1) for key in keys])
    assert torch.equal(first, torch.stack([rule(IMAGE, key, 1) for key in keys]))
    assert not torch.equal(first, torch.stack([rule(IMAGE, key, 2) for key in keys]))
    assert not torch.equal(first, torch.stack([Degradation(p=0.5, seed=4)(IMAGE, key, 1) for key in keys]))


def test_settings_out_of_range_are_refused() -> None:
    for wrong in (
        {"p": 1.5}, {"blur": (2.0, 1.0)}, {"quality": (0, 50)}, {"resize": (0.0, 0.5)}, {"resize": (0.5, 1.5)},
        {"sharpen": (-1.0, 1.0)}, {"noise": (0.2, 0.1)}, {"noise": (0.0, float("inf"))},
    ):  # fmt: skip
        with pytest.raises(UsageError, match="Degradation"):
            Degradation(**wrong)  # type: ignore[arg-type]


def test_a_stop_less_halves_the_light() -> None:
    grey = torch.full((1, 3, 2, 2), 188 / 255)  # sRGB: 188 is half of the light of white
    white = torch.ones(1, 3, 2, 2)
    assert torch.allclose(exposed(white, -1), grey, atol=0.002)
    assert torch.allclose(exposed(grey, 1), white, atol=0.004)
    assert torch.allclose(exposed(white, 2), white)
    assert torch.allclose(exposed(IMAGE[None], 0), IMAGE[None], atol=1e-5)
    assert float(exposed(torch.zeros(1, 3, 2, 2), 3).abs().max()) == 0
