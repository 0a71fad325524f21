"""Planted defects: exact masks, pictures untouched elsewhere, the same for the same seed."""

from __future__ import annotations

import pytest
import torch

from binderclip.data import plant_defects
from binderclip.errors import UsageError


def test_only_the_defect_changes_and_its_mask_says_where() -> None:
    images = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    found = plant_defects(images, 3, defects=(1, 2))
    assert torch.equal(images, before)
    changed = (found.images - images).abs().amax(dim=1) > 1e-6
    for mask, moved, kinds in zip(found.masks, changed, found.kinds, strict=True):
        assert 0 < int(mask.sum()) < 0.2 * mask.numel()
        assert float((moved & mask).sum()) >= 0.95 * float(mask.sum())
        # Beyond the mask only the soft rim: within two pixels.
        near = torch.nn.functional.max_pool2d(mask[None].float(), 5, stride=1, padding=2)[0] > 0
        assert not bool((moved & ~near).any())
        assert 1 <= len(kinds) <= 2
        assert set(kinds) <= {"scratch", "spot"}
    assert float(found.images.min()) >= 0
    assert float(found.images.max()) <= 1


def test_a_picture_depends_on_seed_and_place_only_and_strength_scales_it() -> None:
    images = torch.full((4, 3, 48, 48), 0.5)
    whole, part = plant_defects(images, 5), plant_defects(images[:2], 5)
    assert torch.equal(whole.images[:2], part.images)
    assert not torch.equal(whole.masks, plant_defects(images, 6).masks)
    faint = plant_defects(images, 5, strength=0.5)
    assert torch.equal(faint.masks, whole.masks)
    assert torch.allclose(faint.images - 0.5, (whole.images - 0.5) / 2, atol=1e-6)
    assert plant_defects(images[:0], 0).masks.shape == (0, 48, 48)


def test_mistakes_are_named() -> None:
    good = torch.zeros(1, 3, 32, 32)
    for images, options, said in [
        (torch.zeros(3, 32, 32), {}, "must be"),
        (torch.full((1, 3, 32, 32), 2.0), {}, r"in \[0, 1\]"),
        (good, {"defects": 0}, "at least 1"),
        (good, {"strength": 0.0}, "strength must be"),
    ]:
        with pytest.raises(UsageError, match=said):
            plant_defects(images, 0, **options)
