"""Edge maps one pixel wide: non-maximum suppression across each edge."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.numeric import check_number, check_whole
from binderclip.vision.representation import picture_size

__all__ = ["thin_edges"]


@torch.no_grad()
def thin_edges(
    probability: Float[Tensor, "*batch H W"],
    *,
    smoothing: int = 1,
    direction_smoothing: int = 4,
    radius: int = 1,
    slack: float = 1.01,
    border: int = 5,
) -> Float[Tensor, "*batch H W"]:
    """Set to 0 every pixel that is no maximum across its edge; without a gradient.

    The defaults are those with which results on BSDS500 and BIPED are published. Across an edge is the direction in
    which the smoothed map curves most, an eigenvector of its Hessian, where the toolbox takes an approximation.

    Args:
        probability: of an edge at each pixel, of any size.
        smoothing: r of the triangle filter 1, 2, ..., r + 1, ..., 2, 1 over the map, in pixels; 0 for none.
        direction_smoothing: the same for the map whose Hessian gives the directions.
        radius: how many pixels on each side a maximum is compared with.
        slack: a pixel stays while it times this is at least each of its neighbours.
        border: within so many pixels of the border the map falls linearly to 0 first; 0 for not at all.

    Returns:
        The smoothed map where it is a maximum, else 0.

    Raises:
        UsageError: no maps, another dtype, a radius below 1, a negative filter or border, or a slack below 1.

    Examples:
        >>> import torch
        >>> ridge = torch.tensor([0.1, 0.4, 0.9, 0.4, 0.1]).repeat(5, 1)
        >>> (thin_edges(ridge, border=0) > 0).int()[2].tolist()
        [0, 0, 1, 0, 0]
    """
    height, width = picture_size(probability)
    for name, value, least in (
        ("smoothing", smoothing, 0),
        ("direction_smoothing", direction_smoothing, 0),
        ("radius", radius, 1),
        ("border", border, 0),
    ):
        check_whole(name, value, least=least)
    check_number("slack", slack, least=1)
    maps = probability.reshape(-1, 1, height, width)
    across = _direction_across(_triangle(maps, direction_smoothing)[:, 0])  # (N, H, W), radians from the x axis
    maps = _triangle(maps, smoothing)
    rows, columns = (torch.arange(n, dtype=maps.dtype, device=maps.device) for n in (height, width))
    maximum = torch.ones_like(maps[:, 0], dtype=torch.bool)
    for step in (*range(-radius, 0), *range(1, radius + 1)):
        x = columns + step * across.cos()
        y = rows[:, None] + step * across.sin()
        # Positions in [-1, 1], where -1 and 1 are the centres of the outermost pixels.
        grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], dim=-1)
        neighbour = F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=True)[:, 0]
        maximum &= maps[:, 0] * slack >= neighbour
    thin = maps[:, 0] * maximum
    if border:
        rise = [torch.minimum(at, at.flip(0)).clamp(max=border) / border for at in (rows, columns)]
        thin = thin * torch.minimum(rise[0][:, None], rise[1])
    return thin.reshape(probability.shape)


def _triangle(maps: Float[Tensor, "N 1 H W"], radius: int) -> Float[Tensor, "N 1 H W"]:
    """Triangle filter down and across; the border is repeated."""
    if not radius:
        return maps
    rise = torch.arange(1, radius + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.cat([rise, rise.new_tensor([radius + 1]), rise.flip(0)]) / (radius + 1) ** 2
    padded = F.pad(maps, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[None, None, :, None]), kernel[None, None, None])


def _direction_across(maps: Float[Tensor, "N H W"]) -> Float[Tensor, "N H W"]:
    """Angle of the eigenvector of the Hessian's eigenvalue of largest magnitude."""
    dy, dx = _slope(maps, 1), _slope(maps, 2)
    dxx, dyy, dxy = _slope(dx, 2), _slope(dy, 1), _slope(dx, 1)
    highest = 0.5 * torch.atan2(2 * dxy, dxx - dyy)  # of the higher eigenvalue, which is the larger where the trace > 0
    return torch.where(dxx + dyy >= 0, highest, highest + torch.pi / 2)


def _slope(maps: Float[Tensor, "N H W"], axis: int) -> Float[Tensor, "N H W"]:
    """Central differences along an axis, one-sided at its ends; 0 along an axis of one pixel."""
    return torch.gradient(maps, dim=axis)[0] if maps.shape[axis] > 1 else torch.zeros_like(maps)
