"""N:M masks and their ladders of p097 (arXiv 2402.04744) against brute force and the released code's sort."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from binderclip.compress import NMMask, StructureDecay, is_nm, nm_mask, to_semi_structured
from binderclip.errors import NotSupported, UsageError


def brute(row: list[float], n: int, m: int) -> list[bool]:
    """Of each group the n largest magnitudes, of equal ones the last."""
    kept = []
    for begin in range(0, len(row), m):
        group = row[begin : begin + m]
        order = sorted(range(len(group)), key=lambda i: (abs(group[i]), i))
        kept += [i in order[-n:] for i in range(len(group))]
    return kept


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4), (3, 8), (1, 16), (5, 16), (2, 20), (8, 64), (4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sorted_up_to", [0, 10**9])
def test_the_largest_of_each_group_stay(
    n: int, m: int, dtype: torch.dtype, sorted_up_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("binderclip.compress.weights.nm.SORTED", sorted_up_to)
    # few distinct values, so that many are equal, and a last group that is not full
    g = torch.Generator().manual_seed(n * m)
    weight = (torch.randint(-6, 7, (5, 2 * m + 3), generator=g) / 3).to(dtype)
    assert nm_mask(weight, n, m).tolist() == [brute(row, n, m) for row in weight.tolist()]


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 8), (1, 16), (2, 32)])
def test_masks_equal_those_of_the_released_code(n: int, m: int) -> None:
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(1))
    groups = weight.abs().reshape(-1, m)
    theirs = torch.ones_like(groups).scatter_(1, groups.argsort(1)[:, : m - n], 0.0).reshape(weight.shape)
    assert torch.equal(nm_mask(weight, n, m), theirs.bool())
    assert nm_mask(weight, n, m).reshape(-1, m).sum(1).eq(n).all()


def test_convolutions_are_grouped_over_their_input_channels() -> None:
    weight = torch.randn(3, 8, 2, 2, generator=torch.Generator().manual_seed(2))
    groups = weight.abs().permute(0, 2, 3, 1).reshape(-1, 4)
    theirs = torch.ones_like(groups).scatter_(1, groups.argsort(1)[:, :2], 0.0)
    assert torch.equal(nm_mask(weight, 2, 4), theirs.bool().reshape(3, 2, 2, 8).permute(0, 3, 1, 2))
    assert torch.equal(nm_mask(weight[..., 0, 0], 2, 4, dim=0), nm_mask(weight[..., 0, 0].T, 2, 4).T)


def test_more_than_one_chunk_is_one_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(9, 40, generator=torch.Generator().manual_seed(3))
    whole = nm_mask(weight, 3, 8)
    monkeypatch.setattr("binderclip.compress.weights.nm.SORTED", 0)
    monkeypatch.setattr("binderclip.compress.weights.nm.CHUNK", 16)
    assert torch.equal(nm_mask(weight, 3, 8), whole)


def test_a_weight_that_is_not_finite_is_kept_where_it_shows() -> None:
    weight = torch.tensor([[1.0, float("nan"), float("-inf"), 2.0]])
    assert nm_mask(weight, 2, 4).tolist() == [[False, True, True, False]]


def test_two_of_four_is_what_torchs_semi_structured_format_stores() -> None:
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(4)).half()
    sparse = weight * nm_mask(weight, 2, 4)
    assert is_nm(sparse, 2, 4)
    assert not is_nm(weight, 2, 4)
    packed, meta = sparse_semi_structured_from_dense_cutlass(sparse)
    assert packed.shape == (64, 64)
    assert torch.equal(sparse_semi_structured_to_dense_cutlass(packed, meta), sparse)


def test_conversion_says_what_it_lacks() -> None:
    layer = nn.Linear(8, 4)
    with pytest.raises(UsageError, match="2:4"):
        to_semi_structured(layer)
    with torch.no_grad():
        layer.weight *= nm_mask(layer.weight, 2, 4)
    with pytest.raises(NotSupported, match="CUDA"):
        to_semi_structured(layer)


def test_the_ladders_are_the_papers() -> None:
    def ladder(n: int, m: int, shape: str) -> list[str]:
        return [f"{frame.n}:{frame.m}" for frame in StructureDecay(n, m, shape).frames]

    # "15:16, 8:16, 4:16, 2:16, and 1:16" and 8N:8M to N:M
    assert ladder(1, 16, "stepwise") == ["15:16", "8:16", "4:16", "2:16", "1:16"]
    assert ladder(1, 8, "stepwise") == ["7:8", "4:8", "2:8", "1:8"]
    assert ladder(1, 8, "geometric") == ["8:64", "4:32", "2:16", "1:8"]
    assert ladder(3, 8, "stepwise") == ["7:8", "4:8", "3:8"]  # halving alone would stop at 4:8
    decay = StructureDecay(1, 8, "stepwise")
    assert [decay.at(step, 8).n for step in (0, 1, 2, 4, 5, 6, 7, 8, 100)] == [7, 7, 4, 2, 2, 1, 1, 1, 1]
    weight = torch.randn(4, 64)
    assert torch.equal(decay.mask(weight), NMMask(1, 8).mask(weight))


@pytest.mark.parametrize(
    "bad",
    [
        lambda: NMMask(0, 4),
        lambda: NMMask(5, 4),
        lambda: NMMask(1.5, 4),
        lambda: NMMask(float("nan"), 4),
        lambda: StructureDecay(4, 4),
        lambda: StructureDecay(1, 8, "sudden"),
        lambda: nm_mask(torch.ones(3), 1, 2),
        lambda: is_nm(torch.ones(2, 2), 3, 2),
    ],
)
def test_patterns_that_make_no_sense_are_refused(bad) -> None:
    with pytest.raises(UsageError):
        bad()
