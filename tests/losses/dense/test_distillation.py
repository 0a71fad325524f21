"""Losses of DeCLIP (p118, arXiv 2508.11256): loops and torch's own divergence, where they are zero, and errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import UsageError
from binderclip.losses import content_distillation, context_distillation, region_correlation


def cosines(features: torch.Tensor) -> torch.Tensor:
    unit = F.normalize(features, dim=-1)
    return unit @ unit.mT


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("rule", ["rows", "divergence"])
def test_turned_features_have_the_same_context(features: torch.Tensor, rule: str) -> None:
    turn, _ = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    loss = context_distillation(cosines(features @ turn), cosines(features), rule=rule)
    assert float(loss) < 1e-5
    assert float(context_distillation(cosines(features.flip(1)), cosines(features), rule=rule)) > 0.01


def test_context_row_by_row(features: torch.Tensor) -> None:
    other = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    student, teacher = cosines(features), cosines(other)
    pairs = [(student[b, i], teacher[b, i]) for b in range(2) for i in range(5)]
    rows = torch.stack([torch.linalg.vector_norm(one - two) for one, two in pairs]).mean()
    torch.testing.assert_close(context_distillation(student, teacher, rule="rows"), rows)
    divergence = sum(
        F.kl_div((one / 0.3).log_softmax(-1), (two / 0.3).softmax(-1), reduction="sum") for one, two in pairs
    )
    torch.testing.assert_close(context_distillation(student, teacher, temperature=0.3), divergence / 10)
    # The teacher is what is diverged from: it is no distance.
    assert not torch.isclose(context_distillation(teacher, student), context_distillation(student, teacher))


def test_the_distance_of_rows_pulls_as_hard_from_near_as_from_afar() -> None:
    for gap in (1e-3, 0.5):
        student = torch.full((1, 4, 4), gap, dtype=torch.float64, requires_grad=True)
        context_distillation(student, torch.zeros(1, 4, 4, dtype=torch.float64), rule="rows").backward()
        torch.testing.assert_close(student.grad, torch.full((1, 4, 4), 0.125, dtype=torch.float64), rtol=1e-5, atol=0)
    student = torch.zeros(1, 4, 4, requires_grad=True)
    context_distillation(student, torch.zeros(1, 4, 4), rule="rows").backward()
    assert bool((student.grad == 0).all())


def test_content_by_loops() -> None:
    generator = torch.Generator().manual_seed(3)
    regions, crops = torch.randn(3, 6, 2, 2, generator=generator), torch.randn(3, 6, generator=generator)
    terms = []
    for cells, crop in zip(regions.flatten(2).mT, crops, strict=True):
        weights = torch.stack([F.cosine_similarity(cell, crop, dim=0) for cell in cells]).softmax(0)
        pooled = sum(weight * cell for weight, cell in zip(weights, cells, strict=True))
        terms.append(1 - F.cosine_similarity(pooled, crop, dim=0))
    torch.testing.assert_close(content_distillation(regions, crops), torch.stack(terms).mean())
    # One cell is the region, and its length does not count.
    one = 3 * crops[:, :, None, None]
    torch.testing.assert_close(content_distillation(one, crops), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(content_distillation(-one, crops), torch.tensor(2.0))


def test_regions_by_torchs_divergence() -> None:
    generator = torch.Generator().manual_seed(4)
    student, teacher = torch.randn(2, 6, 2, 3, generator=generator), torch.randn(2, 4, 2, 3, generator=generator)
    one, two = (cosines(each.flatten(2).mT) for each in (student, teacher))
    want = F.kl_div(one.log_softmax(-1), two.softmax(-1), reduction="sum") / 12
    torch.testing.assert_close(region_correlation(student, teacher), want)
    assert float(region_correlation(5 * student, student)) == pytest.approx(0, abs=1e-6)


def test_what_does_not_fit_is_named() -> None:
    matrix = torch.eye(4)[None]
    with pytest.raises(UsageError, match="rows or divergence"):
        context_distillation(matrix, matrix, rule="squares")
    with pytest.raises(UsageError, match="two grids"):
        context_distillation(matrix, torch.eye(3)[None])
    with pytest.raises(UsageError, match="temperature"):
        context_distillation(matrix, matrix, temperature=0)
    with pytest.raises(UsageError, match="of the teacher"):
        region_correlation(torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 2, 1))
    with pytest.raises(UsageError, match="no region"):
        region_correlation(torch.zeros(0, 3, 2, 2), torch.zeros(0, 3, 2, 2))
