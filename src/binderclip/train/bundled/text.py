"""Distilling a sentence encoder into the small text tower: same embedding space, a twentieth of the weights.

The loss is the cosine distance to the teacher's embedding plus the mean squared difference of the two batches'
similarity matrices, which is what retrieval reads. The tower starts as a bag of words that already works: token
embeddings are the teacher's embeddings of the pieces, reduced by PCA, and the last position averages them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

__all__ = ["bag_of_words_start", "distil_loss", "encode_ids", "length_batches"]


def encode_ids(tower: TextTransformer, ids: Int[Tensor, "N L"]) -> Float[Tensor, "N E"]:
    """`tower(ids)` for ids cut to their longest text, so that short texts cost little. [EOT] is the highest id."""
    length = int((ids != 0).sum(1).max())
    ids = ids[:, :length]
    x = tower.token_embedding(ids) + tower.positional_embedding[:length]
    x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
    x = tower.ln_final(x)
    return x[torch.arange(len(x)), ids.argmax(1)].float() @ tower.text_projection.float()


def bag_of_words_start(
    tower: TextTransformer, pieces: Float[Tensor, "V E"], specials: Sequence[int], *, spread: float = 1.0
) -> None:
    """Start the tower, in place, as the mean of its pieces' teacher embeddings.

    Args:
        tower: a fresh causal tower of width W < E.
        pieces: the teacher's embedding of every piece of the vocabulary.
        specials: ids of pieces that mean nothing by themselves; their embeddings become zero.
        spread: root mean square of a token embedding's entries.
    """
    centre = pieces.mean(0)
    _, _, right = torch.linalg.svd(pieces - centre, full_matrices=False)
    basis = right[: tower.width]
    codes = (pieces - centre) @ basis.T
    codes = spread * codes / codes.pow(2).mean().sqrt()
    codes[list(specials)] = 0
    first = tower.transformer.resblocks[0].attn
    with torch.no_grad():
        tower.token_embedding.weight.copy_(codes)
        tower.positional_embedding.mul_(0.5)
        tower.text_projection.copy_(basis * tower.width**-0.5)
        width = tower.width
        first.in_proj_weight[: 2 * width].mul_(0.2)
        first.in_proj_weight[2 * width :].copy_(torch.eye(width))
        first.out_proj.weight.copy_(torch.eye(width))
        for block in tower.transformer.resblocks:
            block.mlp.c_proj.weight.mul_(0.2)
            if block.attn is not first:
                block.attn.out_proj.weight.mul_(0.2)


def distil_loss(
    student: Float[Tensor, "N E"], teacher: Float[Tensor, "N E"], *, similarity: float = 20.0
) -> Float[Tensor, ""]:
    """1 - cosine, plus `similarity` times the mean squared difference of the off-diagonal similarities."""
    student = nn.functional.normalize(student, dim=-1)
    cosine = (student * teacher).sum(-1)
    gap = student @ student.T - teacher @ teacher.T
    return (1 - cosine).mean() + similarity * gap.pow(2).mean()


def length_batches(
    ids: Int[Tensor, "N L"], weights: Float[Tensor, "N"], batch: int, generator: torch.Generator
) -> Iterator[Int[Tensor, "B"]]:
    """Endless batches of indices drawn by weight and grouped by length inside windows of 16 batches."""
    lengths = (ids != 0).sum(1)
    while True:
        window = torch.multinomial(weights, 16 * batch, replacement=True, generator=generator)
        window = window[lengths[window].argsort(stable=True)]
        for part in torch.randperm(16, generator=generator).tolist():
            yield window[part * batch : (part + 1) * batch]


def cosine_rate(step: int, steps: int, peak: float, *, warmup: int = 100, floor: float = 0.01) -> float:
    """Learning rate at `step`: linear warm-up, then half a cosine down to `floor` of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
