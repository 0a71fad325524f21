"""An edit that a model made of a small copy of a picture, brought to the picture's own size.

What is added to the picture is the change alone, so that its detail stays. That is right where the edit has its edges
where the picture has them, as after a change of colour; where something moved, the picture's edges would shine through.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError

CHANGED, SURELY = 0.04, 0.16
"""Of a range of 1: below the first a value counts as unchanged by a model, above the second as changed."""
FAINT = 0.02
"""Root mean square slope of a colour a pixel, of a range of 1, below which an edge is noise."""
SIMILAR, LOWER = 0.5, 0.2
"""Cosine below which edges are others, and part of an edge's height below which it is gone."""
RADIUS, EPSILON = 2, 1e-3
"""Half a window in pixels of the small picture; of the guided filter, the variance of a colour that is an edge."""


def changed_share(before: Float[Tensor, "B 3 s t"], after: Float[Tensor, "B 3 s t"]) -> Float[Tensor, "B 1 s t"]:
    """Where an edit changed a picture: 0 where it left the colour as it was, 1 where it surely did not.

    Args:
        before, after: in [0, 1], what a model gives of the picture unedited and edited.
    """
    difference = (after - before).abs().amax(1, keepdim=True)
    share = ((difference - CHANGED) / (SURELY - CHANGED)).clamp(0, 1)
    return F.max_pool2d(share, 3, stride=1, padding=1)  # the edges of what was removed, too


def moved_edges(before: Float[Tensor, "B 3 s t"], after: Float[Tensor, "B 3 s t"]) -> Float[Tensor, " B"]:
    """Share of both pictures' edges, by height, that the other one has not there: 0 after a change of colour.

    Places where something changed are compared by their structure tensors, divided by the root of the trace so that
    an edge counts by its height; its sign and which colours make it do not count. Over 5 x 5 pixels the edges are
    others where the cosine of both is below a half, or where one picture has hardly a fifth of the other's. Slopes of a
    fiftieth of the range are noise.

    Args:
        before, after: in [0, 1], what a model gives of the picture unedited and edited.

    Returns:
        Shares in [0, 1]; 0 where nothing changed.

    Raises:
        UsageError: pictures of different sizes.
    """
    if before.shape != after.shape:
        raise UsageError(f"before and after must be of one size, got {tuple(before.shape)} and {tuple(after.shape)}")
    place = F.max_pool2d((changed_share(before, after) > 0.5).float(), 3, stride=1, padding=1)
    first, second = (place * _structure(images) for images in (before, after))

    def product(one: Tensor, two: Tensor) -> Tensor:
        return _window_mean((one * two).sum(1, keepdim=True) + FAINT**2 * place, RADIUS)

    inner, squares = product(first, second), (product(first, first), product(second, second))
    other = inner < SIMILAR * (squares[0] * squares[1]).sqrt()
    other |= inner < LOWER * torch.maximum(*squares)
    heights = first.norm(dim=1, keepdim=True) + second.norm(dim=1, keepdim=True)
    return (heights * other).sum((1, 2, 3)) / heights.sum((1, 2, 3)).clamp(min=torch.finfo(heights.dtype).tiny)


def add_change(
    original: Float[Tensor, "B 3 H W"], before: Float[Tensor, "B 3 s t"], after: Float[Tensor, "B 3 s t"]
) -> Float[Tensor, "B 3 H W"]:
    """A picture with what an edit changed of a small copy of it, in [0, 1]; the picture's own detail stays.

    In each window of the small copy the change is fitted by a linear function of the copy's three colours, and these
    functions are applied to the picture itself: the change ends where the picture has its edges, and a change that is
    the same everywhere is added as it is. What is as before up to a twenty-fifth of the range stays as it is.

    Args:
        original: in [0, 1], of any size that is not smaller.
        before, after: in [0, 1], what a model gives of the small copy unedited and edited.

    Raises:
        UsageError: pictures of different sizes, or an original that is smaller.

    Papers: fast guided filter (He and Sun, arXiv:1505.00996).
    """
    if before.shape != after.shape or original.shape[:2] != before.shape[:2]:
        shapes = ", ".join(str(tuple(each.shape)) for each in (original, before, after))
        raise UsageError(f"before and after must be of one size, and as many as the originals, got {shapes}")
    size, small = original.shape[-2:], before.shape[-2:]
    if size[0] < small[0] or size[1] < small[1]:
        raise UsageError(
            f"the original, of {size[0]} x {size[1]}, is smaller than its edit, of {small[0]} x {small[1]}"
        )
    change = (after - before) * changed_share(before, after)
    guide = F.interpolate(original, small, mode="bilinear", antialias=True, align_corners=False)
    slopes, offset = _local_fit(guide, change)
    result = original.clone()
    for colour in range(3):  # one by one, for memory: a photograph has millions of pixels
        weights = _enlarged(slopes[:, :, colour], size)
        result[:, colour] += (weights * original).sum(1) + _enlarged(offset[:, colour : colour + 1], size)[:, 0]
    return result.clamp_(0, 1)


def detail_ratio(
    original: Float[Tensor, "B 3 H W"], edited: Float[Tensor, "B 3 H W"], share: Float[Tensor, "B 1 s t"]
) -> Float[Tensor, " B"]:
    """How much of a picture's detail an edit has where it changed something: the energy that a small copy cannot hold.

    Of each picture what its copy at the share's size, enlarged again, lacks is squared and summed with the share as the
    weight; the ratio of both sums, 1 for as much detail as before. NaN where nothing changed or nothing is finer.

    Args:
        original, edited: in [0, 1], of one size.
        share: of `changed_share`, at the size of the small copy.
    """
    size = original.shape[-2:]
    weight = _enlarged(share, size)

    def energy(images: Tensor) -> Tensor:
        copy = F.interpolate(images, share.shape[-2:], mode="bilinear", antialias=True, align_corners=False)
        return (weight * (images - _enlarged(copy, size)).square()).sum((1, 2, 3))

    return energy(edited) / energy(original)


def _structure(images: Float[Tensor, "B 3 s t"]) -> Float[Tensor, "B 3 s t"]:
    """Structure tensors as vectors whose products are those of the matrices, divided by the root of the trace."""
    right = F.pad(images.diff(dim=3), (0, 1))
    down = F.pad(images.diff(dim=2), (0, 0, 0, 1))
    entries = [(right * right).mean(1), (down * down).mean(1), 2**0.5 * (right * down).mean(1)]
    tensors = _window_mean(torch.stack(entries, 1), 1)
    return tensors / (tensors[:, 0] + tensors[:, 1])[:, None].clamp(min=1e-12).sqrt()


def _local_fit(
    guide: Float[Tensor, "B 3 s t"], change: Float[Tensor, "B 3 s t"]
) -> tuple[Float[Tensor, "B 3 3 s t"], Float[Tensor, "B 3 s t"]]:
    """Slopes (guide's colour, change's colour) and offsets of the change, the mean of all windows at each pixel."""
    mean, target = _window_mean(guide, RADIUS), _window_mean(change, RADIUS)
    covariance, shared = (
        _window_mean((guide[:, :, None] * other[:, None]).flatten(1, 2), RADIUS).unflatten(1, (3, 3))
        - mean[:, :, None] * centre[:, None]
        for other, centre in ((guide, mean), (change, target))
    )
    ridge = EPSILON * torch.eye(3, dtype=guide.dtype, device=guide.device)
    slopes = torch.linalg.solve(covariance.permute(0, 3, 4, 1, 2) + ridge, shared.permute(0, 3, 4, 1, 2))
    slopes = slopes.permute(0, 3, 4, 1, 2)  # (B, 3, 3, s, t)
    offset = target - (mean[:, :, None] * slopes).sum(1)
    averaged = _window_mean(slopes.flatten(1, 2), RADIUS).unflatten(1, (3, 3))
    return averaged, _window_mean(offset, RADIUS)


def _window_mean(values: Float[Tensor, "B C s t"], radius: int) -> Float[Tensor, "B C s t"]:
    padded = F.pad(values, (radius,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, stride=1)


def _enlarged(values: Float[Tensor, "B C s t"], size: tuple[int, ...]) -> Float[Tensor, "B C H W"]:
    return F.interpolate(values, tuple(size), mode="bilinear", align_corners=False)
