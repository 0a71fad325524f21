"""p053: random patch replacement of a picture by its aligned copy."""

from __future__ import annotations

import pytest
import torch

from binderclip.data import RandomPatchReplacement
from binderclip.errors import UsageError

REAL = torch.rand(3, 3, 24, 16, generator=torch.Generator().manual_seed(0))
FAKE = 1 - REAL
KEYS = ["a", "b", "c"]


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("base", ["fake", "real"])
def test_exactly_so_many_patches_come_from_the_other_picture(ratio: float, base: str) -> None:
    mixed = RandomPatchReplacement(ratio, patch=8, base=base)(REAL, FAKE, KEYS, 2)  # type: ignore[arg-type]
    start, other = (FAKE, REAL) if base == "fake" else (REAL, FAKE)
    for image, labels, own, there in zip(mixed.images, mixed.patch_labels, start, other, strict=True):
        swapped = 0
        for row in range(3):
            for column in range(2):
                cell = (slice(None), slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
                from_other = torch.equal(image[cell], there[cell])
                assert from_other or torch.equal(image[cell], own[cell])
                generated = from_other != (base == "fake")
                assert bool(labels[row, column]) == generated
                swapped += from_other
        assert swapped == round(ratio * 6)
    assert mixed.labels.tolist() == [bool(labels.any()) for labels in mixed.patch_labels]


def test_ends_are_the_two_pictures_with_their_labels() -> None:
    none, all_ = (RandomPatchReplacement(ratio, patch=8)(REAL, FAKE, KEYS) for ratio in (0.0, 1.0))
    assert torch.equal(none.images, FAKE)
    assert none.labels.all()
    assert torch.equal(all_.images, REAL)
    assert not all_.labels.any()


def test_places_depend_on_key_epoch_and_seed_and_are_uniform() -> None:
    rule = RandomPatchReplacement(0.5, patch=8)
    assert torch.equal(rule.replaced(["b", "a"], (3, 2), 1).flip(0), rule.replaced(["a", "b"], (3, 2), 1))
    keys = [str(key) for key in range(2000)]
    first = rule.replaced(keys, (3, 2))
    assert not torch.equal(first, rule.replaced(keys, (3, 2), 1))
    assert not torch.equal(first, RandomPatchReplacement(0.5, patch=8, seed=1).replaced(keys, (3, 2)))
    assert float((first.float().mean(0) - 0.5).abs().max()) < 0.05


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="share"):
        RandomPatchReplacement(1.2)
    with pytest.raises(UsageError, match="base fake or real"):
        RandomPatchReplacement(base="both")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="pairs and a key for each"):
        RandomPatchReplacement(patch=8)(REAL, FAKE[:2], KEYS)
    with pytest.raises(UsageError, match="multiples of the patch, 16"):
        RandomPatchReplacement(patch=16)(REAL, FAKE, KEYS)
