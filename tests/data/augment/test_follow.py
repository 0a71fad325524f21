"""Label maps that follow their pictures through an augmentation (p093)."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from binderclip.data import Augment, surface_normals
from binderclip.errors import UsageError

STILL = dict.fromkeys(("brightness", "contrast", "saturation", "hue", "grey", "paint"), 0.0)
KEYS = [f"picture {number}" for number in range(12)]


def painted(size: int = 32) -> torch.Tensor:
    """Pictures whose red says which of a few bands a pixel is in: what is seen is the label."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    bands = (x // 8 + 4 * (y // 8))[None].expand(len(KEYS), -1, -1)
    return bands


@pytest.mark.parametrize(
    "settings",
    [{"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "rotate": 0.0}, {"scale": (0.3, 0.9), "rotate": 0.0},
     {"scale": (0.4, 0.9), "rotate": 30.0}],
    ids=["flip", "crop", "turn"],
)  # fmt: skip
@pytest.mark.parametrize("channels", [3, 4])
def test_a_label_stays_with_what_is_seen(settings: dict, channels: int) -> None:
    labels = painted()
    pixels = (labels / 15)[:, None].expand(-1, 3, -1, -1)
    if channels == 4:
        pixels = torch.cat([pixels, torch.ones_like(pixels[:, :1])], 1)
    augment = Augment(32, white=1.0, flip=0.5, seed=3, **STILL, **settings)
    for epoch in (0, 1):
        seen = augment(pixels, KEYS, epoch)[:, 0] * 15
        moved = augment.follow(labels, KEYS, epoch, kind="classes", transparent=channels == 4)
        assert moved.dtype == labels.dtype
        known = moved >= 0
        right = ((seen - moved).abs() < 0.5)[known].float().mean()
        assert float(right) > 0.85  # all but the edges of bands, which pictures blend
        assert float(((seen - labels).abs() < 0.5).float().mean()) < float(right) - 0.1
        assert set(moved.unique().tolist()) <= {-1, *range(16)}
        if channels == 3 and not settings["rotate"]:
            assert bool(known.all())
    other = augment.follow(labels, KEYS, 2, kind="classes", transparent=channels == 4)
    assert not torch.equal(other, moved)


def test_a_mirror_turns_normals_around() -> None:
    height = torch.rand(len(KEYS), 16, 16)
    augment = Augment(16, scale=(1.0, 1.0), ratio=(1.0, 1.0), rotate=0.0, flip=1.0, white=1.0, **STILL)
    moved = augment.follow(surface_normals(height), KEYS, kind="normals")
    torch.testing.assert_close(moved, surface_normals(height.flip(-1)))
    depth = augment.follow(height, KEYS, kind="depth")
    torch.testing.assert_close(depth, height.flip(-1))


def test_normals_turn_with_the_picture() -> None:
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, 64),) * 2, indexing="ij")
    slope = F.normalize(torch.tensor([0.6, 0.2, 1.0]), dim=0)[:, None, None].expand(-1, 64, 64)
    height = -(0.6 * x + 0.2 * y)  # the plane with these normals
    augment = Augment(64, scale=(1.0, 1.0), ratio=(1.0, 1.0), rotate=40.0, flip=0.5, white=1.0, seed=5, **STILL)
    moved = augment.follow(slope[None].expand(len(KEYS), -1, -1, -1), KEYS, kind="normals")
    turned = augment.follow(height[None].expand(len(KEYS), -1, -1), KEYS, kind="depth")
    for normals, plane in zip(moved, turned, strict=True):
        inner = plane[24:40, 24:40]  # the gradient of the moved plane, by differences over many pixels
        across, down = (inner[:, 12:] - inner[:, :-12]).mean(), (inner[12:] - inner[:-12]).mean()
        step = 12 * 2 / 63
        expected = F.normalize(torch.stack([-across / step, -down / step, torch.tensor(1.0)]), dim=0)
        torch.testing.assert_close(normals[:, 32, 32], expected, rtol=0, atol=0.03)
    assert len({tuple(n[:, 32, 32].round(decimals=2).tolist()) for n in moved}) > 6


def test_beyond_a_transparent_picture_nothing_is_known() -> None:
    augment = Augment(16, scale=(2.0, 2.0), ratio=(1.0, 1.0), rotate=0.0, flip=0.0, white=1.0, **STILL)
    ones = torch.ones(len(KEYS), 16, 16)
    classes = augment.follow(ones.long(), KEYS, kind="classes", transparent=True)
    depth = augment.follow(ones, KEYS, kind="depth", transparent=True)
    normals = augment.follow(ones[:, None].expand(-1, 3, -1, -1), KEYS, kind="normals", transparent=True)
    outside = classes == -1
    assert 0.3 < float(outside.float().mean()) < 0.6  # half of the area of the crop
    assert torch.equal(depth.isnan(), outside)
    assert torch.equal(normals.abs().sum(1) == 0, outside)


def test_maps_and_keys_that_differ_in_number_are_refused() -> None:
    with pytest.raises(UsageError, match="12 keys for 2 label maps"):
        Augment(16).follow(torch.zeros(2, 4, 4), KEYS, kind="depth")
