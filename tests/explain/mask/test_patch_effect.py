"""p053: direct effects of patches, in closed form for a detector that adds up its patches."""

from __future__ import annotations

import math

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.explain import PatchEffects, patch_direct_effect, single_patch_scores

IMAGES = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
WEIGHT = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(1))


def additive(images: torch.Tensor) -> torch.Tensor:
    return (images * WEIGHT).sum((1, 2, 3)) - 2


def test_the_effect_of_a_patch_of_an_additive_score_is_its_own_term() -> None:
    found = patch_direct_effect(additive, IMAGES, patch=8, batch_size=3)
    terms = (IMAGES * WEIGHT).sum(1).unfold(1, 8, 8).unfold(2, 8, 8).sum((3, 4))
    assert found.effects.shape == (2, 2, 3)
    assert torch.allclose(found.effects, terms, atol=1e-4)
    # They add up to the score minus that of a black picture.
    assert torch.allclose(found.effects.sum((1, 2)), found.score - additive(torch.zeros_like(IMAGES)), atol=1e-3)


def test_logits_of_two_classes_give_their_difference_and_another_fill_stands_in() -> None:
    two = patch_direct_effect(lambda x: torch.stack([-additive(x), additive(x)], 1), IMAGES, patch=8)
    one = patch_direct_effect(additive, IMAGES, patch=8)
    assert torch.allclose(two.effects, 2 * one.effects, atol=1e-4)
    grey = patch_direct_effect(additive, IMAGES, patch=8, fill=0.5)
    terms = ((IMAGES - 0.5) * WEIGHT).sum(1).unfold(1, 8, 8).unfold(2, 8, 8).sum((3, 4))
    assert torch.allclose(grey.effects, terms, atol=1e-4)


def test_share_and_uniformity_in_closed_form() -> None:
    even = PatchEffects(torch.full((1, 4, 5), -2.0), torch.zeros(1), (8, 10))
    assert float(even.top_share(0.05)) == pytest.approx(1 / 20)
    assert float(even.top_share(0.06)) == pytest.approx(2 / 20)  # 1.2 patches are rounded up
    assert float(even.uniformity()) == pytest.approx(1.0)
    lone = torch.zeros(1, 4, 5)
    lone[0, 1, 2], lone[0, 3, 4] = -9.0, 1.0
    one = PatchEffects(lone, torch.tensor([1.0]), (8, 10))
    assert float(one.top_share(0.05)) == pytest.approx(0.9)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(20)
    assert float(one.uniformity()) == pytest.approx(entropy, abs=1e-5)
    # The strongest one speaks for the picture's own side.
    assert one.strongest().tolist() == [[3, 4]]
    assert PatchEffects(lone, torch.tensor([-1.0]), (8, 10)).strongest().tolist() == [[1, 2]]
    assert bool(PatchEffects(torch.zeros(1, 2, 2), torch.zeros(1), (4, 4)).top_share().isnan())


def test_it_draws_itself_over_the_picture() -> None:
    found = patch_direct_effect(additive, IMAGES, patch=8).attribution()
    assert found.maps().shape == (2, 16, 24)
    assert found.overlay((IMAGES[0].permute(1, 2, 0) * 255).byte().numpy(), note=False).size[0] >= 24


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="multiples of the patch, 7"):
        patch_direct_effect(additive, IMAGES, patch=7)
    with pytest.raises(UsageError, match="a score gives"):
        patch_direct_effect(lambda x: x.mean(1), IMAGES, patch=8)
    with pytest.raises(UsageError, match=r"share must be in \(0, 1\], got 0"):
        PatchEffects(torch.ones(1, 2, 2), torch.ones(1), (4, 4)).top_share(0)


def test_gini_is_the_mean_difference_of_all_pairs() -> None:
    effects = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(2))
    found = PatchEffects(effects, torch.zeros(3), (8, 10)).gini()
    for row, value in zip(effects.abs().flatten(1).double(), found, strict=True):
        pairs = (row[:, None] - row[None]).abs().mean()
        assert float(value) == pytest.approx(float(pairs / (2 * row.mean())), rel=1e-5)
    even = PatchEffects(torch.full((1, 4, 5), -2.0), torch.zeros(1), (8, 10)).gini()
    assert float(even) == pytest.approx(0, abs=1e-6)
    one = torch.zeros(2, 4, 5)
    one[0, 1, 1] = 3.0
    alone = PatchEffects(one, torch.zeros(2), (8, 10)).gini()
    assert float(alone[0]) == pytest.approx(1 - 1 / 20)
    assert math.isnan(float(alone[1]))


def test_pictures_tiled_with_one_patch_by_hand() -> None:
    found = single_patch_scores(additive, IMAGES, patch=8, batch_size=4)
    assert found.shape == (2, 2, 3)
    for row, image in enumerate(IMAGES):
        for y in range(2):
            for x in range(3):
                tile = image[:, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
                whole = torch.cat([torch.cat([tile] * 3, 2)] * 2, 1)
                assert float(found[row, y, x]) == pytest.approx(float(additive(whole[None])), abs=1e-4)
    two = single_patch_scores(lambda x: torch.stack([-additive(x), additive(x)], 1), IMAGES, patch=8)
    torch.testing.assert_close(two, 2 * found, atol=1e-4, rtol=0)
    with pytest.raises(UsageError, match="multiples of the patch"):
        single_patch_scores(additive, IMAGES, patch=7)
