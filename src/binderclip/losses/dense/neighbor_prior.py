"""What the labels around a pixel say about it: class proportions and other statistics of a window."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_number

__all__ = ["Prior", "counted_pixels", "neighbor_prior", "smoothing_kernel"]

Prior: TypeAlias = Literal[
    "mean",
    "gaussian",
    "max",
    "min",
    "median",
    "mode",
    "image_proportions_l1",
    "image_proportions_l2",
    "bilateral",
    "gradient",
]
Border: TypeAlias = Literal["replicate", "zeros"]
#: Label that is always left out, as in 8-bit label maps on disk.
VOID = 255
_ORDER = ("max", "min", "median", "mode")
_BY_IMAGE = ("image_proportions_l1", "image_proportions_l2", "bilateral", "gradient")


def smoothing_kernel(size: int = 3, sigma: float = 1.0, *, own: bool = True) -> Float[Tensor, "d d"]:
    """Gaussian weights of a window, summing to 1.

    Args:
        size: side d of the window in pixels, odd.
        sigma: of the Gaussian, in pixels.
        own: give the centre half of all weight, as spatially varying label smoothing does; else the plain Gaussian.

    Raises:
        UsageError: a side that is even or below 1 (below 3 with `own`), or a sigma that is not positive.
    """
    if size < (3 if own else 1) or size % 2 == 0:
        raise UsageError(f"size must be odd and at least {3 if own else 1}, not {size}")
    check_number("sigma", sigma, above=0)
    place = torch.arange(size, dtype=torch.float64) - size // 2
    kernel = torch.exp(-(place[:, None] ** 2 + place**2) / (2 * sigma**2))
    if own:
        kernel[size // 2, size // 2] = 0
        kernel[size // 2, size // 2] = kernel.sum()
    return (kernel / kernel.sum()).float()


def counted_pixels(labels: Integer[Tensor, "B H W"], classes: int, ignore_index: int = -1) -> Bool[Tensor, "B H W"]:
    """Pixels that have a class: neither `ignore_index` nor 255 (which is a class where there are more than 255).

    Raises:
        UsageError: no label map (B, H, W), fewer than one class, or a label that is no class.
    """
    if labels.ndim != 3 or labels.dtype.is_floating_point or labels.dtype == torch.bool:
        raise UsageError(f"labels must be integers (B, H, W), not {labels.dtype} of shape {tuple(labels.shape)}")
    check_number("classes", classes, least=1)
    labels = labels.long()  # -1 is 255 to an 8-bit map
    counted = labels != ignore_index
    if classes <= VOID:
        counted &= labels != VOID
    # On an accelerator the look at the values would stop the queue at every step; there the kernels assert it.
    if labels.device.type == "cpu" and bool(counted.any()):
        seen = labels[counted]
        if not 0 <= int(seen.min()) <= int(seen.max()) < classes:
            raise UsageError(
                f"labels run from {int(seen.min())} to {int(seen.max())}; classes are 0 to {classes - 1} and "
                f"{ignore_index} is ignored"
            )
    return counted


@torch.no_grad()
def neighbor_prior(
    labels: Integer[Tensor, "B H W"],
    classes: int,
    *,
    prior: Prior = "mean",
    size: int = 3,
    sigma: float = 1.0,
    border: Border = "replicate",
    images: Float[Tensor, "B C H W"] | None = None,
    ignore_index: int = -1,
) -> Float[Tensor, "B K H W"]:
    """What the window around each pixel says about its class, without a gradient.

    Ignored pixels are in no window; weights are shared among the others. `mean`, `gaussian` and the image proportions
    sum to 1 over the classes, `max`, `min`, `median` and `mode` are one-hot, `bilateral` and `gradient` are not
    normalised.

    Args:
        labels: classes 0..K-1.
        classes: their number K.
        prior: `mean`: the share of each class in the window, the pixel included. `gaussian`: half the pixel's own
            class, half the Gaussian average of its neighbours. `max`, `min`, `median`, `mode`: that statistic of the
            class numbers (which have no order: ablations; of two medians the lower, of equally frequent classes the
            lowest). `image_proportions_l1`, `image_proportions_l2`: shares weighted by exp(-|x_j - x|) or
            exp(-(x_j - x)^2), so that neighbours count that look like the pixel. `gradient`: the mean of
            |x_j - x| [y_j = k] over the window; `bilateral`: the same times a Gaussian.
        size: side d of the window in pixels, odd.
        sigma: of the Gaussian, in pixels, for `gaussian` and `bilateral`.
        border: beyond the image stand copies of its border, or `zeros`: class 0 (and black), which makes corners 5/9
            background. The authors' program does the latter, save for `gaussian`.
        images: in [0, 1], for the priors that look at them; distances are means over the channels.
        ignore_index: label that is left out (255 is too).

    Returns:
        float32. Where the whole window is ignored, zeros.

    Raises:
        UsageError: an unknown prior or border, an even size, a label that is no class, or images that are missing,
            of another size or not in [0, 1].

    Paper: Neighbor-Aware Calibration of Segmentation Networks with Penalty-Based Constraints (arXiv 2401.14487).
    """
    check_prior(prior, size, sigma, border)
    counted = counted_pixels(labels, classes, ignore_index)
    inside = _windows(counted, size, border, fill=True)
    near = _windows(labels.long().masked_fill(~counted, 0), size, border)
    if prior in _ORDER:
        return _statistic(near, inside, classes, prior)
    weights = inside.float() * _weights(prior, labels, images, size, sigma, border)
    total = inside.float() if prior in ("bilateral", "gradient") else weights
    weights = weights / total.sum(1, keepdim=True).clamp(min=1e-12)
    return _shares(near, weights, classes)


def check_prior(prior: str, size: int, sigma: float, border: str) -> None:
    """Refuse settings that `neighbor_prior` cannot use."""
    if prior not in get_args(Prior):
        raise UsageError(f"no prior {prior!r}; there are {', '.join(get_args(Prior))}")
    if border not in get_args(Border):
        raise UsageError(f"border must be 'replicate' or 'zeros', not {border!r}")
    smoothing_kernel(size, sigma, own=prior == "gaussian")


def _weights(
    prior: str, labels: Tensor, images: Tensor | None, size: int, sigma: float, border: Border
) -> Float[Tensor, "..."]:
    """Weight of each place of each window, broadcast over (B, d * d, H, W)."""
    if prior == "mean":
        return torch.ones((), device=labels.device)
    if prior in ("gaussian", "bilateral"):
        kernel = smoothing_kernel(size, sigma, own=prior == "gaussian").to(labels.device).reshape(1, -1, 1, 1)
        if prior == "gaussian":
            return kernel
    if images is None:
        raise UsageError(f"prior {prior!r} compares pixels: call the loss with images= of shape (B, C, H, W) in [0, 1]")
    if images.ndim != 4 or (images.shape[0], *images.shape[2:]) != tuple(labels.shape):
        raise UsageError(f"images {tuple(images.shape)} do not belong to labels {tuple(labels.shape)}")
    x = images.float()
    if x.device.type == "cpu" and x.numel() and not 0 <= float(x.min()) <= float(x.max()) <= 1:
        raise UsageError(f"images must lie in [0, 1], not in [{float(x.min()):.3g}, {float(x.max()):.3g}]")
    gaps = _windows(x, size, border) - x[:, :, None]
    if prior == "image_proportions_l2":
        return torch.exp(-gaps.square().mean(1))
    away = gaps.abs().mean(1)
    if prior == "image_proportions_l1":
        return torch.exp(-away)
    return away * kernel if prior == "bilateral" else away


def _windows(maps: Tensor, size: int, border: str, *, fill: bool = False) -> Tensor:
    """The d * d neighbours of each pixel as a new axis: (B, H, W) -> (B, d * d, H, W), channels stay in front."""
    height, width = maps.shape[-2:]
    if border == "replicate":
        reach = torch.arange(-(size // 2), size // 2 + 1, device=maps.device)
        rows = (torch.arange(height, device=maps.device)[:, None] + reach).clamp(0, height - 1)
        columns = (torch.arange(width, device=maps.device)[:, None] + reach).clamp(0, width - 1)
        windows = maps[..., rows.T[:, None, :, None], columns.T[None, :, None, :]]
        return windows.flatten(-4, -3)
    padded = F.pad(maps, (size // 2,) * 4, value=fill)
    return padded.unfold(-2, size, 1).unfold(-2, size, 1).flatten(-2).movedim(-1, -3)


def _shares(near: Int[Tensor, "B n H W"], weights: Float[Tensor, "B n H W"], classes: int) -> Float[Tensor, "B K H W"]:
    """Summed weight of each class."""
    shape = (near.shape[0], classes, *near.shape[2:])
    return torch.zeros(shape, device=near.device).scatter_add_(1, near, weights.expand(near.shape).contiguous())


def _statistic(
    near: Int[Tensor, "B n H W"], inside: Bool[Tensor, "B n H W"], classes: int, prior: str
) -> Float[Tensor, "B K H W"]:
    """One-hot statistic of the class numbers that count."""
    last = near.masked_fill(~inside, classes)
    number = inside.sum(1)
    if prior == "max":
        statistic = near.masked_fill(~inside, -1).amax(1)
    elif prior == "min":
        statistic = last.amin(1)
    elif prior == "median":
        statistic = last.sort(dim=1).values.gather(1, ((number - 1).clamp(min=0) // 2)[:, None])[:, 0]
    else:
        statistic = _shares(near, inside.float(), classes).argmax(1)
    ids = torch.arange(classes, device=near.device)[:, None, None]
    return ((statistic[:, None] == ids) & (number > 0)[:, None]).float()
