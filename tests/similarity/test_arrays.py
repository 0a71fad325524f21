"""Features and indices as users hold them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from binderclip.errors import UsageError
from binderclip.similarity import EmbeddingSet
from binderclip.similarity.arrays import as_features, as_indices, as_ks


def test_features_are_the_same_numbers_whatever_holds_them() -> None:
    rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert as_features("x", rows) is rows
    for held in (rows.numpy(), rows.double().numpy(), rows.tolist()):
        assert torch.allclose(as_features("x", held).float(), rows)
    with pytest.raises(UsageError, match=r"image embeddings must be a tensor \(n, d\), such as torch.as_tensor\(X\)"):
        EmbeddingSet(rows.numpy(), "image")


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_indices_are_of_any_whole_number_type(dtype: str) -> None:
    array = np.array([2, 0, 1], dtype=dtype)
    for held in (array, torch.tensor([2, 0, 1], dtype=getattr(torch, dtype))):
        indices = as_indices("labels", held, 3)
        assert indices.dtype == torch.int64
        assert indices.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (torch.tensor(1), r"labels must be whole numbers, \(3,\); got int64 \(\)"),
        (np.eye(3, dtype=int), r"got int64 \(3, 3\)"),
        (torch.zeros(3), "got float32"),
        (np.zeros(3, dtype=bool), "got bool"),
        ([0, 1], r"got int64 \(2,\)"),
        (["a", "b", "c"], "got <U1"),
    ],
)
def test_indices_of_another_shape_or_type_are_refused(values, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        as_indices("labels", values, 3)


@pytest.mark.parametrize("values", [torch.tensor(1.0), np.zeros(3), [[1, 2]], [[1.0], [1.0, 2.0]], "rows", None])
def test_features_of_another_shape_or_type_are_refused(values) -> None:
    with pytest.raises(UsageError, match="x must be"):
        as_features("x", values)


def test_one_k_or_several() -> None:
    assert as_ks(5) == (5,)
    assert as_ks([1, np.int64(5)]) == (1, 5)
    for ks in (0, (), (1, 0), (1.5,), True):
        with pytest.raises(UsageError, match="ks must be whole numbers from 1"):
            as_ks(ks)
