"""Hypercorrelations of MSI (p068, arXiv 2212.04673): cosines by loops, and what each use of the support means."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import UsageError
from binderclip.segment import hypercorrelation
from binderclip.segment.few_shot import hypercorrelations


def maps(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_it_is_the_positive_part_of_cosines() -> None:
    query, support = maps(0, 2, 5, 3, 2), maps(1, 2, 5, 3, 3)
    found = hypercorrelation(query, support)
    assert found.shape == (2, 3, 2, 3, 3)
    for b, i, j, k, n in product(range(2), range(3), range(2), range(3), range(3)):
        cosine = F.cosine_similarity(query[b, :, i, j], support[b, :, k, n], dim=0)
        assert found[b, i, j, k, n].item() == pytest.approx(max(float(cosine), 0.0), abs=1e-4)
    assert 0 <= float(found.min()) < float(found.max()) <= 1


def test_a_picture_agrees_with_itself_and_scale_does_not_count() -> None:
    one = maps(2, 6, 4, 4)
    diagonal = hypercorrelation(one, one).flatten(0, 1).flatten(1).diagonal()
    assert torch.allclose(diagonal, torch.ones(16), atol=1e-4)
    assert torch.allclose(hypercorrelation(3 * one, one), hypercorrelation(one, 7 * one), atol=1e-4)
    assert not hypercorrelation(one, torch.zeros_like(one)).any()


def test_what_of_the_support_is_correlated(colours: Any) -> None:
    pixels = maps(3, 2, 3, 32, 32)
    mask = torch.zeros(2, 32, 32)
    mask[:, :16] = 1
    query, support = colours(maps(4, 2, 3, 32, 32)), colours.support(pixels, mask)
    full, masked, both = (hypercorrelations(query, support, of=of) for of in ("full", "masked", "msi"))
    for level, (f, m, b) in enumerate(zip(full, masked, both, strict=True)):
        assert torch.equal(b, torch.cat([f, m], 1))
        assert f.shape[1] == (1, 1, 2)[level]
        half = f.shape[-2] // 2
        assert torch.allclose(f[..., :half, :], m[..., :half, :])  # cells of the target are as they were
        assert not m[..., half:, :].any()  # black has no direction here
        assert f[..., half:, :].any()
    finest = hypercorrelations(query, support, of="features")[2]
    assert torch.allclose(finest[..., :4, :], full[2][..., :4, :], atol=1e-4)
    assert not finest[..., 4:, :].any()


def test_a_mask_of_everything_makes_both_halves_equal(colours: Any) -> None:
    query = colours(maps(5, 1, 3, 32, 32))
    support = colours.support(maps(6, 1, 3, 32, 32), torch.ones(1, 32, 32))
    for level in hypercorrelations(query, support):
        first, second = level.chunk(2, dim=1)
        assert torch.equal(first, second)


def test_what_does_not_belong_together_is_said(colours: Any) -> None:
    with pytest.raises(UsageError, match=r"\(2, 3, 4, 4\) and support \(2, 5, 4, 4\) differ"):
        hypercorrelation(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
    support = colours.support(torch.ones(1, 3, 32, 32), torch.ones(1, 32, 32))
    with pytest.raises(UsageError, match="support 'half' is unknown; there are msi, masked, features, full"):
        hypercorrelations(support.whole, support, of="half")  # type: ignore[arg-type]
