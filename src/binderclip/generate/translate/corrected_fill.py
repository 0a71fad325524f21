"""Paints masked parts of pictures: the smoothest continuation of what is around them, and its correction."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate.translate.gated_completion import GatedConv2d
from binderclip.numeric import check_whole

__all__ = ["CorrectedFill", "biharmonic_fill"]

_RATES = 1, 2, 4
"""Dilations at half the size."""
_GREY = 0.5
"""Of a picture that is masked everywhere, so that nothing is known of it."""


def biharmonic_fill(images: Float[Tensor, "B C H W"], mask: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B C H W"]:
    """Fill what is masked so that the sum of the squared Laplacian is the least: the biharmonic equation.

    Pixels outside of the mask stay, and nothing of those inside is looked at. Across the picture's border nothing
    differs. A picture that is masked everywhere becomes grey (0.5). Solved exactly, one picture after the other, so
    that a large picture is better filled window by window. Not differentiable.

    Args:
        images: finite numbers of any range.
        mask: above 0 where to fill.

    Raises:
        UsageError: a mask that does not match.

    Paper: On surface completion and image inpainting by biharmonic functions (Damelin and Hoang, 2018).

    Examples:
        >>> import torch
        >>> slope = torch.linspace(0, 1, 16).expand(1, 1, 16, 16)
        >>> mask = torch.zeros(1, 1, 16, 16)
        >>> mask[..., 6:9] = 1
        >>> bool((biharmonic_fill(slope * (1 - mask), mask) - slope).abs().max() < 1e-5)
        True
    """
    if images.ndim != 4 or mask.shape != (len(images), 1, *images.shape[2:]):
        raise UsageError(f"{tuple(images.shape)} and {tuple(mask.shape)} must be (B, C, H, W) and (B, 1, H, W)")
    result = images.detach().clone()
    for image, hole in zip(result, (mask[:, 0] > 0).cpu().numpy(), strict=True):
        if hole.all():
            image.fill_(_GREY)
        elif hole.any():
            values = _solved(image.cpu().double().numpy(), hole)  # (C, N)
            image[:, torch.from_numpy(hole).to(image.device)] = torch.from_numpy(values).to(image)
    return result


def _solved(image: Float[np.ndarray, "C H W"], hole: np.ndarray) -> Float[np.ndarray, "C N"]:
    """The values of the hole's pixels, row by row: A_hh u = -A_hk v for A = L^T L."""
    from scipy.sparse.linalg import splu

    channels, (height, width) = len(image), hole.shape
    inside = np.flatnonzero(hole.ravel())
    rows = _squared_laplacian(height, width)[inside]  # (N, H W)
    known = np.where(hole, 0, image).reshape(channels, -1)
    # Symmetric and positive: pivots from the diagonal keep the factors sparse.
    factors = splu(
        rows[:, inside].tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    return factors.solve(-(rows @ known.T)).T


@lru_cache(maxsize=8)
def _squared_laplacian(height: int, width: int) -> Any:
    """L^T L of a grid whose pixels differ from their four neighbours, (H W, H W)."""
    from scipy.sparse import diags_array, eye_array, kron

    def line(count: int) -> Any:
        neighbours = np.full(count, 2.0)
        neighbours[0] -= 1
        neighbours[-1] -= 1
        return diags_array(
            [np.ones(count - 1), -neighbours, np.ones(count - 1)], offsets=[-1, 0, 1], shape=(count, count)
        )

    laplacian = kron(line(height), eye_array(width)) + kron(eye_array(height), line(width))
    return (laplacian @ laplacian).tocsr()


class CorrectedFill(nn.Module):
    """Paints the masked part of a picture: the biharmonic fill, and what gated convolutions add to it.

    Untrained it is the fill. It takes the place of `CompletionNet` in an `OcclusionRemover` where training is short: a
    small completion network that paints from nothing stays below the fill of the same mask (the study of p116).

    Args:
        width: channels at full size, in [1, 4096].

    Raises:
        UsageError: a width out of range.

    After: Deep Generative Adversarial Network for Occlusion Removal from a Single Image (arXiv 2409.13242).

    Examples:
        >>> import torch
        >>> net = CorrectedFill(4)
        >>> picture, mask = torch.rand(1, 3, 18, 21), torch.ones(1, 1, 18, 21)
        >>> torch.equal(net(picture, mask), net(torch.rand(1, 3, 18, 21), mask))
        True
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        check_whole("width", width, least=1)
        if width > 4096:
            raise UsageError(f"width must be at most 4096, got {width}")
        self.width = width
        self.first, self.down = GatedConv2d(4, width), GatedConv2d(width, 2 * width, stride=2)
        self.middle = nn.ModuleList(GatedConv2d(2 * width, 2 * width, dilation=rate) for rate in _RATES)
        self.up, self.last = GatedConv2d(3 * width, width), nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, images: Float[Tensor, "B 3 H W"], mask: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 3 H W"]:
        """A picture in [0, 1], as given outside of the mask up to the correction, painted inside.

        Args:
            images: in [0, 1], of any size.
            mask: 1 where to paint; what is under it counts nowhere.

        Raises:
            UsageError: a picture and a mask that do not match.
        """
        return self.correct(biharmonic_fill(images, mask).clamp(0, 1), mask)

    def correct(self, filled: Float[Tensor, "B 3 H W"], mask: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 3 H W"]:
        """The same from a picture whose masked part is filled already.

        Args:
            filled: in [0, 1].
            mask: 1 where it was filled.
        """
        height, width = filled.shape[-2:]
        x = torch.cat([filled - 0.5, mask], 1)
        fine = self.first(F.pad(x, (0, width % 2, 0, height % 2), "replicate"))
        coarse = self.down(fine)
        for layer in self.middle:
            coarse = coarse + layer(coarse)
        up = F.interpolate(coarse, scale_factor=2, mode="nearest")
        correction = self.last(self.up(torch.cat([up, fine], 1)))[..., :height, :width]
        return (filled + correction).clamp(0, 1)
