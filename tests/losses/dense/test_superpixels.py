"""p161 (SegCLIP): the loss of assignments within superpixels against loops, and superpixels of patches by counting."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses import SuperpixelKL, patch_superpixels


def test_it_is_both_divergences_from_the_mean_of_the_superpixel() -> None:
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(0, 3, (2, 6), generator=generator)
    regions = torch.randint(0, 2, (2, 6), generator=generator)
    hard = F.one_hot(chosen, 3).mT.float()
    total = 0.0
    for b in range(2):
        for i in range(6):
            alike = [j for j in range(6) if regions[b, j] == regions[b, i]]
            mean = [sum(float(chosen[b, j] == g) for j in alike) / len(alike) for g in range(3)]
            own = [float(chosen[b, i] == g) for g in range(3)]
            p, q = ([math.exp(x) / sum(map(math.exp, each)) for x in each] for each in (own, mean))
            total += sum(q[g] * math.log(q[g] / p[g]) + p[g] * math.log(p[g] / q[g]) for g in range(3)) / 2
    assert total > 0.1
    assert float(SuperpixelKL()(hard, regions)) == pytest.approx(total / (2 * 6 * 3), rel=1e-5)


def test_it_is_nothing_where_each_superpixel_agrees() -> None:
    hard = F.one_hot(torch.tensor([[0, 1, 1, 2]]), 3).mT.float()
    loss = SuperpixelKL()
    assert float(loss(hard, torch.tensor([[0, 1, 2, 3]]))) == 0  # each patch its own
    assert float(loss(hard, torch.tensor([[5, 7, 7, 9]]))) == 0
    assert float(loss(hard, torch.tensor([[5, 5, 7, 9]]))) > 0
    assert float(loss(torch.ones(1, 1, 4), torch.zeros(1, 4, dtype=torch.long))) == 0  # one group
    assert float(loss(hard[:, :, [0, 0, 0, 0]], torch.zeros(1, 4, dtype=torch.long))) == 0


def test_its_gradient_draws_a_patch_to_its_superpixel() -> None:
    scores = torch.tensor([[[4.0, 4.0, -4.0], [-4.0, -4.0, 4.0]]], requires_grad=True)  # the third disagrees
    SuperpixelKL()(scores.softmax(1), torch.zeros(1, 3, dtype=torch.long)).backward()
    assert scores.grad is not None
    assert float(scores.grad[0, 0, 2]) < 0 < float(scores.grad[0, 1, 2])


def test_a_patch_has_its_most_frequent_id_or_the_mean() -> None:
    generator = torch.Generator().manual_seed(1)
    regions = torch.randint(0, 4, (2, 6, 9), generator=generator)
    found, mean = patch_superpixels(regions, 3), patch_superpixels(regions, 3, rule="mean")
    assert found.shape == mean.shape == (2, 6)
    for b in range(2):
        for n in range(6):
            row, column = 3 * (n // 3), 3 * (n % 3)
            pixels = regions[b, row : row + 3, column : column + 3].flatten().tolist()
            counts = Counter(pixels)
            most = max(counts.values())
            assert int(found[b, n]) == min(value for value, count in counts.items() if count == most)
            assert int(mean[b, n]) == sum(pixels) // 9
    assert not torch.equal(found, mean)


def test_what_does_not_belong_together_is_said() -> None:
    with pytest.raises(UsageError, match=r"\(B, G, N\)"):
        SuperpixelKL()(torch.ones(2, 3, 4), torch.zeros(2, 3, dtype=torch.long))
    for size, rule in (((5, 6), "majority"), ((6, 6), "median")):
        with pytest.raises(UsageError, match="majority or mean"):
            patch_superpixels(torch.zeros(size, dtype=torch.long), 3, rule=rule)  # type: ignore[arg-type]
