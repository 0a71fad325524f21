"""Crops for QualiCLIP: they overlap, share their distortion and rise in strength; draws and mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import DataError, UsageError
from binderclip.quality.score import degraded_crops
from binderclip.quality.score.degraded_crops import DegradedCrops


def numbered(height: int, width: int) -> np.ndarray:
    """A picture whose colours say where a pixel lies."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.full_like(rows, 77)], -1).astype(np.uint8)


def test_two_crops_of_a_picture_overlap_by_half_of_each_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(degraded_crops, "distort", lambda images, kind, level, seed, *, library: images)
    source = numbered(90, 120)
    batches = DegradedCrops([source] * 200, 32, batch_size=200, seed=3)
    (batch,) = list(batches)
    assert batch.shape == (200, 2, 5, 3, 32, 32)
    corners = (batch[:, :, 0, :2, 0, 0] * 255).round().long()  # (200, 2, 2)
    for crops, places in zip(batch[:4], corners[:4], strict=True):
        for crop, (y, x) in zip(crops, places.tolist(), strict=True):
            wanted = torch.from_numpy(source[y : y + 32, x : x + 32]).permute(2, 0, 1) / 255
            assert torch.equal(crop, wanted.expand(5, 3, 32, 32))
    apart = (corners[:, 0] - corners[:, 1]).abs()
    assert int(apart.max()) == 16
    assert int(apart.min()) == 0
    # The whole picture is used.
    assert int(corners.amin()) == 0
    assert int(corners[..., 0].max()) > 50
    assert int(corners[..., 1].max()) > 80


def test_both_crops_and_all_levels_share_the_random_numbers() -> None:
    grey = torch.full((3, 40, 40), 128, dtype=torch.uint8)
    (batch,) = list(DegradedCrops([grey], 24, kinds=["gaussian_noise"], seed=1))
    assert torch.equal(batch[0, 0], batch[0, 1])
    noise = batch[0, 0] - 128 / 255
    inside = noise[4].abs() < 0.49
    ratio = (noise[4] / noise[0])[inside & (noise[0].abs() > 1e-3)]
    assert torch.allclose(ratio, torch.full_like(ratio, 0.30 / 0.04), rtol=1e-2)


def test_families_are_drawn_before_kinds() -> None:
    grey = [torch.full((3, 24, 24), 128, dtype=torch.uint8)] * 300
    # Five kinds of noise against one of light: the one of light comes every second time.
    kinds = ["gaussian_noise", "colour_noise", "shot_noise", "speckle_noise", "impulse_noise", "darken"]
    batch = torch.cat(list(DegradedCrops(grey, 16, kinds=kinds, batch_size=50, seed=0)))
    flat = batch[:, 0, 4].flatten(1).std(1) < 1e-6
    assert 0.4 < float(flat.float().mean()) < 0.6


def test_passes_differ_and_seeds_repeat(tmp_path: Path) -> None:
    paths = []
    for row in range(3):
        Image.fromarray(numbered(50, 60 + row)).save(tmp_path / f"{row}.png")
        paths.append(tmp_path / f"{row}.png")
    batches = DegradedCrops(paths, 24, batch_size=2, seed=5)
    first, second = list(batches), list(batches)
    assert [len(batch) for batch in first] == [2, 1]
    assert not torch.equal(first[0], second[0])
    again = list(DegradedCrops(paths, 24, batch_size=2, seed=5))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    small = next(iter(DegradedCrops(paths, 24, longest=30, seed=5)))
    assert small.shape[-2:] == (24, 24)


def test_mistakes_are_named_before_anything_is_made(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20)).save(tmp_path / "thin.png")
    with pytest.raises(DataError, match=r"thin\.png: 20 x 40 pixels are too few for crops of 24"):
        DegradedCrops([tmp_path / "thin.png"], 24)
    with pytest.raises(DataError, match="picture 0: 48 x 48"):
        DegradedCrops([torch.zeros(3, 48, 48)], 40, longest=32)
    with pytest.raises(UsageError, match="kinds 'rain' is unknown"):
        DegradedCrops([torch.zeros(3, 48, 48)], 24, kinds=["rain"])
    with pytest.raises(UsageError, match="images is empty"):
        DegradedCrops([], 24)
    with pytest.raises(UsageError, match="kinds is empty"):
        DegradedCrops([torch.zeros(3, 48, 48)], 24, kinds=[])
