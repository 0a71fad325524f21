"""Transforms of embeddings beside one matrix product of their size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Row, compare
from binderclip.similarity.embeddings import EmbeddingSet
from binderclip.similarity.transforms import GapRemoval, Whitening


def run(*, count: int = 100_000, width: int = 512, fitted: int = 20_000, repeats: int = 7) -> list[Row]:
    """Random embeddings with a gap, two threads.

    Args:
        count: embeddings that are transformed.
        width: of each.
        fitted: embeddings that the transforms are fitted on.
        repeats: pairs.
    """
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(width, width, generator=generator) / width**0.5

    def drawn(number: int, shift: float) -> Tensor:
        return torch.randn(number, width, generator=generator) @ mixing + shift

    sets = [EmbeddingSet(drawn(fitted, 0.3), "image"), EmbeddingSet(drawn(fitted, -0.3), "text")]
    x, square = drawn(count, 0.3), torch.randn(width, width, generator=generator, dtype=torch.float64)
    made: dict[str, Any] = {"gap removal": GapRemoval().fit(*sets), "whitening": Whitening().fit(*sets)}
    return [_transform(name, lambda t=transform: t.transform(x, "image"), x, square, repeats)  # type: ignore[misc]
            for name, transform in made.items()]  # fmt: skip


def _transform(name: str, ours: Callable[[], Tensor], x: Tensor, square: Tensor, repeats: int) -> Row:
    return compare(
        f"{name} of {len(x):,} embeddings of width {x.shape[1]}",
        ours,
        lambda: (x.double() @ square).to(x),
        repeats=repeats,
        speedup=False,
        goal="at most 1.5 of its time",
        target=1.5,
        peer_name="one matrix product",
        note="float32 in and out, float64 in between, on both sides",
    )
