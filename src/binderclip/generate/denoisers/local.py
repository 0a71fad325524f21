"""New pictures out of patches of a set of pictures: the optimal denoiser of a set as seen through a patch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate.denoisers.denoiser import Denoiser
from binderclip.generate.denoisers.exact import MixtureDenoiser
from binderclip.generate.denoisers.schedule import NoiseSchedule
from binderclip.numeric import check_number, check_whole

__all__ = ["LocalMixtureDenoiser", "patch_side"]

MEMORY = 2**24
"""Numbers of one table of distances that are held at once, 64 MB in float32."""


def patch_side(sigma: float, side: int) -> int:
    """The default side of a patch: odd, a quarter of the picture's side at sigma 1, and as the root of sigma elsewhere.

    Networks look at less of a picture the less noise there is; the paper measures their patches, and this is the shape
    of what it finds. From sigma 64 on a patch around any place covers the whole picture. With patches of twice the side
    what is sampled is mostly one of the set.

    Args:
        sigma: noise level in the variance-exploding coordinates, for pictures in [-1, 1].
        side: the longer side of the pictures.

    Raises:
        UsageError: a noise level that is negative, or a side below 1.
    """
    check_number("sigma", sigma, least=0)
    check_whole("side", side, least=1)
    return min(2 * side - 1, max(3, 2 * int(side * sigma**0.5 / 8) + 1))


class LocalMixtureDenoiser(Denoiser):
    """Predicts each place from the patch around it: the mean of a set's places, weighted by whose patch it probably is.

    For the place v, `D(x, sigma)[v] = sum_iu w_iu x_i[u]` over pictures i and places u with
    `w_iu ~ p_i exp(-|x - x_i|^2 / (2 sigma^2))`, the distance over the patches around v and u. What is sampled is no
    picture of the set but a mosaic of its patches that fit each other, for patches grow with the noise: the layout
    comes from whole pictures, details from wherever they fit. Places of a patch beyond the border of x are not
    compared; pictures of the set go on beyond theirs as their edges are.

    A call costs `rows x pictures x (2 reach + 1)^2 x places` squared differences, whatever the patch, as sums over
    patches are sums along rows and columns.

    Args:
        pictures: the set.
        weights: how likely each is, default equal; or the weights of each condition, by its name.
        reach: how many places a patch may be moved; 0 takes each from its own place (the paper's local score machine),
            the pictures' side takes it from anywhere (the equivariant one).
        patch: from sigma to the side of the patch, odd; default `patch_side`.
        schedule: as of `Denoiser`.

    Raises:
        UsageError: pictures that are not (N, C, H, W), no picture, a value that is not finite, weights as of
            `MixtureDenoiser`, or a reach below 0; when it is called, pictures of another shape, or a patch whose side
            is even.

    Paper: Kamb and Ganguli, An Analytic Theory of Creativity in Convolutional Diffusion Models (arXiv 2412.20292).

    Examples:
        >>> black_and_white = torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 1, 1, 8)
        >>> denoiser = LocalMixtureDenoiser(black_and_white, patch=lambda sigma: 3)
        >>> half = torch.tensor([-1.0, -1, -1, -1, 1, 1, 1, 1]).reshape(1, 1, 1, 8)
        >>> denoiser.denoise(half, torch.tensor([0.2])).flatten().tolist()
        [-1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0]
    """

    pictures: Tensor
    log_weights: Tensor

    def __init__(
        self,
        pictures: Float[Tensor, "N C H W"],
        weights: Float[Tensor, " N"] | Mapping[Any, Tensor] | None = None,
        *,
        reach: int = 0,
        patch: Callable[[float], int] | None = None,
        schedule: NoiseSchedule | None = None,
    ) -> None:
        super().__init__(schedule)
        if pictures.ndim != 4:
            raise UsageError(f"pictures must have shape (N, C, H, W), not {tuple(pictures.shape)}")
        check_whole("reach", reach, least=0)
        whole = MixtureDenoiser(pictures, weights)  # which checks them
        side = max(pictures.shape[-2:])
        self.reach, self._rows = min(reach, side - 1), whole._rows
        self.patch = patch if patch is not None else lambda sigma: patch_side(sigma, side)
        self.register_buffer("pictures", whole.pictures)
        self.register_buffer("log_weights", whole.log_weights)

    def forward(
        self, x: Float[Tensor, "R C H W"], t: Int[Tensor, " R"], conditions: Sequence[Hashable] = (None,)
    ) -> Float[Tensor, "R C H W"]:
        exploding, sigma = self.schedule.to_variance_exploding(x, t)
        assert isinstance(sigma, Tensor)
        levels = sigma.flatten()
        return (exploding - self.denoise(exploding, levels, conditions)) / levels.reshape(-1, 1, 1, 1)

    def denoise(
        self, x: Float[Tensor, "R C H W"], sigma: Float[Tensor, " R"], conditions: Sequence[Hashable] = (None,)
    ) -> Float[Tensor, "R C H W"]:
        """The mean of the set's places, each place by its patch.

        Args:
            x: noisy pictures in variance-exploding coordinates.
            sigma: the noise level of each, above 0.
            conditions: of each block of rows.
        """
        if x.shape[1:] != self.pictures.shape[1:]:
            raise UsageError(f"x must be a batch of shape {tuple(self.pictures.shape[1:])}, not {tuple(x.shape)}")
        if not conditions or len(x) % len(conditions):
            raise UsageError(f"{len(x)} rows do not come in blocks of {len(conditions)} conditions")
        unknown = [condition for condition in conditions if condition not in self._rows]
        if unknown:
            raise UsageError(f"unknown condition {unknown[0]!r}: this denoiser knows {', '.join(map(str, self._rows))}")
        each = len(x) // len(conditions)
        tables = [self.log_weights[self._rows[condition]] for condition in conditions]
        return torch.stack(
            [self._picture(x[row], float(sigma[row]), tables[row // each]) for row in range(len(x))]
        )  # fmt: skip

    def _picture(
        self, x: Float[Tensor, "C H W"], sigma: float, log_weights: Float[Tensor, " N"]
    ) -> Float[Tensor, "C H W"]:
        """One picture, by a softmax over pictures and moves whose parts are summed as they come."""
        size = self.patch(sigma)
        check_whole("patch", size, least=1)
        if size % 2 == 0:
            raise UsageError(f"the side of a patch must be odd, so that it has a middle, not {size}")
        height, width = x.shape[-2:]
        reach = self.reach
        extended = F.pad(self.pictures, (reach,) * 4, mode="replicate")
        chunk = max(1, MEMORY // (x.numel() or 1))
        most = x.new_full((height, width), -torch.inf)
        total, mean = torch.zeros_like(most), torch.zeros_like(x)
        for down in range(-min(reach, height - 1), min(reach, height - 1) + 1):
            for right in range(-min(reach, width - 1), min(reach, width - 1) + 1):
                top, left = reach + down, reach + right
                moved = extended[:, :, top : top + height, left : left + width]  # x_i[v + move]
                outside = _outside(height, width, down, right, x.device)
                for first in range(0, len(moved), chunk):
                    part = moved[first : first + chunk]
                    distance = _patch_sums((x - part).square().sum(1), size)  # [n, H, W]
                    logits = log_weights[first : first + chunk, None, None] - distance / (2 * sigma**2)
                    logits = logits.masked_fill(outside, -torch.inf)
                    high = torch.maximum(most, logits.amax(0))
                    # no place that is the first one has been seen where both are -inf
                    kept = torch.where(most == -torch.inf, 0.0, (most - high).exp())
                    scale = torch.where(logits == -torch.inf, 0.0, (logits - high).exp())
                    total = total * kept + scale.sum(0)
                    mean = mean * kept + torch.einsum("nhw,nchw->chw", scale, part)
                    most = high
        return mean / total


def _patch_sums(values: Float[Tensor, "N H W"], size: int) -> Float[Tensor, "N H W"]:
    """Sums over the part of the patch around every place that lies inside, by running sums along both axes.

    In float64, since a running sum of thousands of squares has less precision than their differences need.
    """
    sums = values.double()
    for axis in (1, 2):
        length, half = values.shape[axis], size // 2
        running = F.pad(sums.cumsum(axis), (1, 0) if axis == 2 else (0, 0, 1, 0))
        place = torch.arange(length, device=values.device)
        upto, start = (place + half + 1).clamp(max=length), (place - half).clamp(min=0)
        sums = running.index_select(axis, upto) - running.index_select(axis, start)
    return sums.to(values)


def _outside(height: int, width: int, down: int, right: int, device: torch.device) -> Tensor:
    """Places [H, W] whose moved place lies beyond the border of a picture."""
    rows = torch.arange(height, device=device)[:, None] + down
    columns = torch.arange(width, device=device)[None] + right
    return (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
