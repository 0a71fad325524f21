"""Average precision of same-object patch pairs, against scikit-learn's and limiting cases."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import average_precision_score

from binderclip.errors import UsageError
from binderclip.evaluate import patch_affinity
from binderclip.evaluate.dense.patch_affinity import patch_owners


def _two_objects() -> torch.Tensor:
    masks = torch.zeros(2, 2, 24, 24, dtype=torch.bool)
    masks[0, 0, :12, :12] = True
    masks[0, 1, 16:, 12:] = True
    masks[1, 0, 4:20, 8:16] = True
    return masks


def test_owners_need_half_a_patch():
    masks = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    masks[0, 0, :4, :2] = True  # half of the first patch
    masks[0, 0, 4:, :1] = True  # a quarter of the third
    assert patch_owners(masks, (2, 2)).tolist() == [[0, -1, -1, -1]]
    assert patch_owners(masks, (2, 2), covered=0.25).tolist() == [[0, -1, 0, -1]]
    assert patch_owners(masks, (2, 2), covered=0.6).tolist() == [[-1] * 4]
    features = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    assert patch_affinity(features, masks, covered=0.25).chance == pytest.approx(1 / 3)
    with pytest.raises(UsageError, match="owns two patches"):
        patch_affinity(features, masks)


@pytest.mark.parametrize("centre", [True, False])
def test_equals_scikit_learn(centre):
    torch.manual_seed(0)
    features, masks = torch.randn(2, 5, 6, 6), _two_objects()
    found = patch_affinity(features, masks, centre=centre)
    owners = patch_owners(masks, (6, 6))
    expected, among, chance = [], [], []
    for image in range(2):
        x = features[image].flatten(1).T
        x = x - x.mean(0) if centre else x
        x = x / x.norm(dim=1, keepdim=True)
        rows, others, shares = [], [], []
        for q in range(36):
            if owners[image, q] < 0:
                continue
            kept = [j for j in range(36) if j != q]
            right = (owners[image, kept] == owners[image, q]).numpy()
            scores = (x[kept] @ x[q]).numpy()
            rows.append(average_precision_score(right, scores))
            shares.append(right.mean())
            inside = (owners[image, kept] >= 0).numpy()
            others.append(average_precision_score(right[inside], scores[inside]))
        expected.append(sum(rows) / len(rows))
        chance.append(sum(shares) / len(shares))
        if len(set(owners[image].tolist()) - {-1}) > 1:
            among.append(sum(others) / len(others))
    assert found.per_image.tolist() == pytest.approx(expected, abs=1e-5)
    assert found.precision == pytest.approx(sum(expected) / 2, abs=1e-5)
    assert found.among_objects == pytest.approx(sum(among) / len(among), abs=1e-5)
    assert found.chance == pytest.approx(sum(chance) / 2, abs=1e-5)


def test_the_masks_themselves_are_perfect_and_noise_is_chance():
    masks = _two_objects()
    exact = torch.nn.functional.one_hot(patch_owners(masks, (6, 6)) + 1, 3).float().mT.unflatten(2, (6, 6))
    assert patch_affinity(exact, masks, centre=False).precision == pytest.approx(1)
    torch.manual_seed(0)
    fine = patch_affinity(torch.randn(2, 64, 24, 24), masks)
    assert fine.precision == pytest.approx(fine.chance, abs=0.03)


def test_errors():
    with pytest.raises(UsageError, match="2 images"):
        patch_affinity(torch.randn(1, 3, 4, 4), _two_objects())
    with pytest.raises(UsageError, match="finer grid"):
        patch_affinity(torch.randn(2, 3, 4, 4), _two_objects() & False)
