"""Processing that makes nothing fake, alone and at random."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import gaussian_filter

from binderclip.data import PROCESSING, Degradation
from binderclip.data.distort.processing import resized_and_back
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


def test_the_key_the_epoch_and_the_seed_decide() -> None:
    rule = Degradation(p=0.5, seed=3)
    keys = [str(key) for key in range(8)]
    first = torch.stack([rule(IMAGE, key, 1) for key in keys])
    assert torch.equal(first, torch.stack([rule(IMAGE, key, 1) for key in keys]))
    assert not torch.equal(first, torch.stack([rule(IMAGE, key, 2) for key in keys]))
    assert not torch.equal(first, torch.stack([Degradation(p=0.5, seed=4)(IMAGE, key, 1) for key in keys]))


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"p": 1.5}, {"blur": (2.0, 1.0)}, {"quality": (0, 50)}):
        with pytest.raises(UsageError, match="Degradation"):
            Degradation(**wrong)  # type: ignore[arg-type]
