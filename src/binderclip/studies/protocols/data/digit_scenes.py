"""Pictures of four digits, 2 x 2, of which a caption names one, and the exact denoiser of such captions."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from binderclip.generate import Denoiser, GaussianDenoiser

__all__ = ["CELL", "ScenesDenoiser", "apart", "digits", "scenes", "together"]

SHRINKAGE, UNLIKE = 0.01, 4
CELL = (torch.arange(16)[:, None] // 8 * 2 + torch.arange(16) // 8).flatten()
"""The cell of each of 16 x 16 pixels, [256]."""


class ScenesDenoiser(Denoiser):
    """The exact denoiser of four cells of any class, normally distributed each; "a 3" says that one of them is a 3."""

    mean: Tensor
    variances: Tensor
    basis: Tensor
    offset: Tensor

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__()
        rows = [images[labels == label].flatten(1) for label in range(10)]
        ridge = SHRINKAGE * torch.eye(64)
        parts = [GaussianDenoiser(own.mean(0), own.T.cov(correction=0) + ridge) for own in rows]
        for name in ("mean", "variances", "basis"):  # [10, 64], [10, 64], [10, 64, 64]
            self.register_buffer(name, torch.stack([getattr(part, name) for part in parts]))
        self.register_buffer("offset", torch.einsum("cd,cde->ce", self.mean, self.basis))

    def cells(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """U^T E[eps | cell, class] [R, 4, 10, 64] and log p(cell | class) - log p(cell) [R, 4, 10]."""
        exploding, sigma = self.schedule.to_variance_exploding(x, t)
        sigma = torch.as_tensor(sigma).reshape(-1, 1, 1, 1)
        coordinates = torch.einsum("rkd,cde->rkce", apart(exploding), self.basis) - self.offset
        total = self.variances + sigma**2
        log_density = -0.5 * (coordinates.square() / total + total.log()).sum(-1)
        evidence = log_density - log_density.logsumexp(-1, keepdim=True) + math.log(len(self.mean))
        return coordinates * sigma / total, evidence

    def attention(self, x: Tensor, t: Tensor, word: int) -> Tensor:
        """p(the cell that the word is about | x_t), [R, 4]: what cross-attention to the word is here."""
        return self.cells(x, t)[1][..., word].softmax(1)

    def forward(self, x: Tensor, t: Tensor, conditions: Sequence[Hashable] = (None,)) -> Tensor:
        rotated, evidence = self.cells(x, t)
        words = torch.tensor(conditions).repeat_interleave(len(x) // len(conditions))
        rows = torch.arange(len(x))
        place = evidence[rows, :, words].softmax(1)[..., None]  # [R, 4, 1]
        named = torch.zeros_like(evidence)
        named[rows, :, words] = 1.0
        weights = place * named + (1 - place) * evidence.softmax(-1)  # of the classes in each cell
        return together(torch.einsum("rkce,cde->rkd", weights[..., None] * rotated, self.basis))


def apart(x: Tensor) -> Tensor:
    """Pictures [R, 1, 16, 16] as cells [R, 4, 64]."""
    return x.reshape(-1, 2, 8, 2, 8).transpose(2, 3).reshape(-1, 4, 64)


def together(cells: Tensor) -> Tensor:
    """Cells as pictures."""
    return cells.reshape(-1, 2, 2, 8, 8).transpose(2, 3).reshape(-1, 1, 16, 16)


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits in [-1, 1], [N, 64], and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.data / 8 - 1).float(), torch.tensor(data.target)


def scenes(
    denoiser: ScenesDenoiser, images: Tensor, labels: Tensor, pair: tuple[int, int], count: int, g: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Pictures with one digit of the source class among three that are least like the target, and the cell of the one.

    The three are of the `UNLIKE` classes whose mean digits are farthest from the target's.
    """
    source, target = pair
    distances = torch.cdist(denoiser.mean[target][None], denoiser.mean)[0]
    unlike = distances.argsort(descending=True)[:UNLIKE]
    own, rest = images[labels == source], images[torch.isin(labels, unlike[unlike != source])]
    cells = rest[torch.randint(len(rest), (count, 4), generator=g)]
    true = torch.randint(4, (count,), generator=g)
    cells[torch.arange(count), true] = own[torch.randperm(len(own), generator=g)[:count]]
    return together(cells), true
