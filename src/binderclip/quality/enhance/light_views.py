"""Views of square pictures that prompts of light learn from: mirrored, turned and zoomed."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.data.uniform import uniform
from binderclip.errors import UsageError

TURN, ZOOM = math.pi / 2, (0.5, 1.5)


def view_matrices(count: int, seed: int) -> Float[Tensor, "V 2 3"]:
    """Affine maps from places of a view to places of its picture, the first of them the identity.

    The others mirror along both axes and transpose, each with probability 1/2, and turn by up to a right angle either
    way and zoom either axis by 0.5 to 1.5, both with probability 0.3, as CLIP-LIT (arXiv 2303.17569) does.

    Args:
        count: V, 1 or more.
        seed: of the draw.

    Raises:
        UsageError: a count below 1.
    """
    if count < 1:
        raise UsageError(f"views must be at least 1, got {count}")
    matrices = [torch.eye(2)]
    for draws in uniform(seed, [f"light/{number}" for number in range(1, count)], 0, 8).tolist() if count > 1 else []:
        across, down, swap, turned, zoomed, angle, wide, high = draws
        matrix = torch.diag(torch.tensor([-1.0 if across < 0.5 else 1.0, -1.0 if down < 0.5 else 1.0]))
        if swap < 0.5:
            matrix = matrix.flip(1)
        if zoomed < 0.3:
            low, span = ZOOM[0], ZOOM[1] - ZOOM[0]
            matrix = matrix @ torch.diag(torch.tensor([1 / (low + span * wide), 1 / (low + span * high)]))
        if turned < 0.3:
            turn = TURN * (2 * angle - 1)
            cosine, sine = math.cos(turn), math.sin(turn)
            matrix = matrix @ torch.tensor([[cosine, -sine], [sine, cosine]])
        matrices.append(matrix)
    return F.pad(torch.stack(matrices), (0, 1))  # no shift


def mirrored_view(images: Float[Tensor, "B 3 s s"], matrix: Float[Tensor, "2 3"]) -> Float[Tensor, "B 3 s s"]:
    """One view of all pictures, mirrored at the edges.

    Args:
        images: square.
        matrix: of `view_matrices`.
    """
    grid = F.affine_grid(matrix.to(images)[None].expand(len(images), -1, -1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
