"""TextSpan for every head of a tower on 2,000 images, against the algorithm written out with N x M products."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.harness import Row, compare
from binderclip.explain import Span, TextSpan

IMAGES, TEXTS, WIDTH, HEADS, CHOSEN, RANK = 2000, 3498, 512, 48, 10, 80


def run(
    *, repeats: int = 3, images: int = IMAGES, texts: int = TEXTS, width: int = WIDTH, heads: int = HEADS
) -> list[Row]:
    """The comparison on made-up outputs with the spectrum of real ones.

    Args:
        repeats: pairs.
        images: N.
        texts: M.
        width: of the shared space.
        heads: how many heads are described; 48 are the last four blocks of ViT-B.
    """
    outputs, pool = _made(images, texts, width, heads)
    ours, theirs = describe(outputs[:2], pool), [written_out(rows, pool) for rows in outputs[:2]]
    assert [list(span.index) for span in ours] == theirs, "the two choose different texts"
    return [
        compare(
            f"TextSpan, {heads} heads, {images:,} images, {CHOSEN} of {texts:,} texts, width {width}, rank {RANK}",
            lambda: describe(outputs, pool),
            lambda: [written_out(rows, pool) for rows in outputs],
            repeats=repeats,
            warmup=0,
            unit="s",
            goal="at least 5x",
            target=5.0,
            peer_name="N x M products at every step",
            note="float64 on both sides; the same texts in the same order on the two heads that are compared first",
        )
    ]


def describe(outputs: Tensor, pool: Tensor) -> list[Span]:
    """Ours, head by head."""
    span = TextSpan(CHOSEN, RANK)
    return [span(rows, pool) for rows in outputs]


def written_out(outputs: Tensor, pool: Tensor) -> list[int]:
    """The peer: the steps of the paper as they stand, on a copy of outputs and texts."""
    outputs, pool = outputs.double(), pool.double()
    directions = torch.linalg.svd(outputs, full_matrices=False)[2][:RANK]
    pool = pool @ directions.T @ directions
    outputs = outputs - outputs.mean(0)
    chosen = []
    for _ in range(CHOSEN):
        best = int((outputs @ pool.T).std(0).argmax())
        text = pool[best].clone()
        length = text @ text
        outputs = outputs - torch.outer(outputs @ text / length, text)
        pool = pool - torch.outer(pool @ text / length, text)
        chosen.append(best)
    return chosen


def _made(images: int, texts: int, width: int, heads: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.arange(1, width + 1) ** -0.75
    outputs = torch.randn(heads, images, width, generator=generator) * spectrum + 0.2
    pool = torch.nn.functional.normalize(torch.randn(texts, width, generator=generator), dim=-1)
    return outputs, pool
