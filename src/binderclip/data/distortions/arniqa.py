"""ARNIQA's 24 distortions with their released strengths, those of KADID-10k made for photographs of any size.

Lengths are pixels, whatever the size of the picture. Formulas are those of the official program, with two exceptions:
pictures are read as RGB where it exchanges red and blue before Lab and HSV, and `colorshift` cuts the edges at their
percentiles, where it reads the indices of a sort.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from binderclip.data.distortions.kinds import compressed
from binderclip.data.distortions.lab import lab_of, rgb_of
from binderclip.data.distortions.pieces import Draws, filter_images, luma, sample_at
from binderclip.errors import UsageError

Images = Float[Tensor, "B 3 H W"]
Kernel = Float[Tensor, "k k"]
PATCH, BLOCK = 16, 32
"""Sides of the patches that move and of the coloured blocks."""
PATCHES, BLOCKS, IMPULSES = 100, 10, 0.03
"""The most of them, and the largest share of impulses: all levels draw so many, of which lower ones use the first."""


# -- kernels


@cache
def gaussian_kernel(sigma: float, side: int) -> Kernel:
    """A sampled Gaussian of `side` x `side`, sum 1."""
    taps = torch.arange(side, dtype=torch.float64) - side // 2
    row = torch.exp(-taps.square() / (2 * sigma**2))
    kernel = row.outer(row)
    kernel[kernel < torch.finfo(torch.float64).eps * kernel.max()] = 0
    return (kernel / kernel.sum()).float()


@cache
def disc_kernel(radius: int, samples: int = 2000) -> Kernel:
    """How much of each pixel a disc covers, sum 1: heights of the disc integrated over the pixel's width."""
    offsets = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples - 0.5
    columns = torch.arange(-radius, radius + 1, dtype=torch.float64)
    reach = (radius**2 - (columns[:, None] + offsets).square()).clamp(min=0).sqrt()  # (k, samples)
    rows = columns.abs()[:, None, None]
    height = torch.where(rows == 0, 2 * reach.clamp(max=0.5), (reach - rows + 0.5).clamp(0, 1))
    kernel = height.mean(-1)
    return (kernel / kernel.sum()).float()


def motion_kernels(length: int, angle: Float[Tensor, "B"]) -> Float[Tensor, "B k k"]:
    """Lines of `length` pixels through the middle at an angle in degrees: one minus the distance to the line."""
    half = (max(1, length) - 1) / 2
    reach = math.ceil(half + 1)
    taps = torch.arange(-reach, reach + 1, dtype=torch.float64)
    phi = (angle.double().cpu() % 180)[:, None, None] * math.pi / 180
    along = taps * phi.cos() - taps[:, None] * phi.sin()
    across = (-taps[:, None] * phi.cos() - taps * phi.sin()).abs()
    outside = torch.hypot(taps, taps[:, None]) >= half
    distance = torch.where(outside & (across <= 1), torch.hypot(across, half - along.abs()), across)
    kernel = (1 - distance).clamp(min=0)
    return (kernel / kernel.sum((1, 2), keepdim=True)).to(angle)


def _blurred(images: Float[Tensor, "B C H W"], kernel: Kernel) -> Float[Tensor, "B C H W"]:
    return filter_images(images, kernel.expand(len(images), -1, -1))


def _window(sigma: float) -> int:
    return 2 * math.ceil(2 * sigma) + 1


# -- blur


def gaublur(images: Images, sigma: float, draws: Draws) -> Images:
    """Gaussian blur."""
    return _blurred(images, gaussian_kernel(sigma, _window(sigma)))


def lensblur(images: Images, radius: int, draws: Draws) -> Images:
    """Blur by a disc."""
    return _blurred(images, disc_kernel(radius))


def motionblur(images: Images, length: int, draws: Draws) -> Images:
    """Blur along a line at a whole angle of 0 to 180 degrees."""
    return filter_images(images, motion_kernels(length, torch.floor(181 * draws.uniform(1)[:, 0])))


# -- colour


def colordiff(images: Images, amount: float, draws: Draws) -> Images:
    """The colours of Lab blurred and multiplied by the amount."""
    lab = lab_of(images)
    sigma = 1.5 * amount + 2
    colours = amount * _blurred(lab[:, 1:], gaussian_kernel(sigma, _window(sigma)))
    return _cut(rgb_of(torch.cat([lab[:, :1], colours], 1)))


def colorshift(images: Images, pixels: float, draws: Draws) -> Images:
    """Green moved where the picture has edges, in a random direction of the first quadrant."""
    padded = functional.pad(luma(images), (1, 1, 1, 1), mode="replicate")
    dx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    dy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    edges = _blurred(torch.hypot(dy, dx), gaussian_kernel(4, _window(4)))[:, 0]
    low, high = edges.amin((1, 2), keepdim=True), edges.amax((1, 2), keepdim=True)
    edges = torch.where(low < high, (edges - low) / (high - low).clamp(min=1e-12), edges)
    ends = torch.quantile(edges.flatten(1).double(), edges.new_tensor([0.01, 0.99]).double(), dim=1).to(edges)
    edges = edges.clamp(ends[0][:, None, None], ends[1][:, None, None])
    a = draws.uniform(2)
    steps = torch.round(a / a.square().sum(1, keepdim=True).sqrt() * pixels)  # (B, 2), down and along
    down, along = (-steps[:, i, None, None].expand_as(edges) for i in (0, 1))
    moved = sample_at(images[:, 1:2], down, along, border="border")[:, 0]
    green = moved * edges + images[:, 1] * (1 - edges)
    return torch.stack([images[:, 0], green, images[:, 2]], 1)


def colorsat1(images: Images, factor: float, draws: Draws) -> Images:
    """The saturation of HSV times a factor: distances from the largest channel, which stays."""
    value = images.amax(1, keepdim=True)
    return value - factor * (value - images)


def colorsat2(images: Images, factor: float, draws: Draws) -> Images:
    """The colours of Lab times a factor."""
    lab = lab_of(images)
    return _cut(rgb_of(torch.cat([lab[:, :1], factor * lab[:, 1:]], 1)))


def _cut(images: Images) -> Images:
    """To whole values of a byte, downwards."""
    return torch.trunc(images * 255) / 255


# -- compression


def jpeg(images: Images, quality: int, draws: Draws) -> Images:
    """JPEG of the picture in bytes, cut downwards; no gradient."""
    return compressed(_cut(images.clamp(0, 1)), quality)


def jpeg2000(images: Images, ratio: int, draws: Draws) -> Images:
    """JPEG 2000 at a compression ratio; no gradient."""
    out = []
    # Eight halvings at most, as many as the picture has room for.
    resolutions = max(1, min(8, int(math.log2(min(images.shape[-2:]))) + 1))
    for image in (images.detach().cpu().clamp(0, 1) * 255).to(torch.uint8):
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(
            buffer, "JPEG2000", quality_mode="rates", quality_layers=[ratio], num_resolutions=resolutions,
            progression="LRCP",
        )  # fmt: skip
        out.append(torch.from_numpy(np.asarray(Image.open(buffer).convert("RGB")).copy()).permute(2, 0, 1))
    return torch.stack(out).to(images) / 255


# -- noise


def whitenoise(images: Images, variance: float, draws: Draws) -> Images:
    """Normal noise."""
    return images + math.sqrt(variance) * draws.normal(*images.shape[1:])


def whitenoise_cc(images: Images, variance: float, draws: Draws) -> Images:
    """Normal noise on Y, Cb and Cr."""
    y = luma(images)
    cb, cr = (images[:, 2:] - y) * 0.564, (images[:, :1] - y) * 0.713
    y, cb, cr = (torch.cat([y, cb, cr], 1) + math.sqrt(variance) * draws.normal(*images.shape[1:])).split(1, 1)
    return torch.cat([y + 1.403 * cr, y - 0.714 * cr - 0.344 * cb, y + 1.773 * cb], 1)


def impulsenoise(images: Images, share: float, draws: Draws) -> Images:
    """A share of the values, drawn with repetition, becomes 0 and 1 in turn."""
    size = images[0].numel()
    # All levels draw as many as the last one and use the first of them.
    places = torch.floor(draws.uniform(int(IMPULSES * size)) * size).long().clamp(max=size - 1)[:, : int(share * size)]
    flat = images.flatten(1).scatter(1, places[:, 1::2], 1.0)
    return flat.scatter(1, places[:, ::2], 0.0).view_as(images)


def multnoise(images: Images, variance: float, draws: Draws) -> Images:
    """Normal noise in proportion to the value."""
    return images * (1 + math.sqrt(variance) * draws.normal(*images.shape[1:]))


# -- brightness and contrast


def _bent(x: Tensor, amount: float) -> Tensor:
    """The parabola through (0, 0), (1/2, (1 + amount) / 2) and (1, 1), cut at 0 and 1."""
    return (x + 2 * amount * x * (1 - x)).clamp(0, 1)


def brighten(images: Images, amount: float, draws: Draws) -> Images:
    """A raised tone curve, two thirds on the channels and a third on the lightness of Lab."""
    lab = lab_of(images)
    lighter = rgb_of(torch.cat([100 * _bent(lab[:, :1] / 100, amount), lab[:, 1:]], 1))
    return (2 * _bent(images, amount) + lighter) / 3


def darken(images: Images, amount: float, draws: Draws) -> Images:
    """A lowered tone curve on the channels."""
    return _bent(images, -amount)


def meanshift(images: Images, amount: float, draws: Draws) -> Images:
    """Every value moved by the amount."""
    return images + amount


def lincontrchange(images: Images, amount: float, draws: Draws) -> Images:
    """The spline through (0, 0), (.3, 1/4 - amount/4), (1/2, 1/2), (.7, 3/4 + amount/4) and (1, 1).

    Not-a-knot and odd about the middle, it is one cubic: 1/2 + u (1 - c/4) + c u^3, u = x - 1/2.
    """
    u = images - 0.5
    cubic = (0.2 - 0.25 - amount / 4) / 0.042
    return 0.5 + u * (1 - cubic / 4) + cubic * u**3


def nonlincontrchange(images: Images, offset: float, draws: Draws) -> Images:
    """Values mapped from [0, 1] to 1/2 +- the offset."""
    return 0.5 + 2 * offset * (images - 0.5)


def highsharpen(images: Images, amount: float, draws: Draws) -> Images:
    """The lightness of Lab plus the amount times what a Gaussian of sigma 6 in a window of 13 takes from it."""
    lab = lab_of(images)
    lightness = lab[:, :1]
    sharper = lightness + amount * (lightness - _blurred(lightness, gaussian_kernel(6, 13)))
    return rgb_of(torch.cat([sharper, lab[:, 1:]], 1))


# -- places


def jitter(images: Images, sigma: float, draws: Draws) -> Images:
    """Five times every pixel is read from a place moved by normal numbers of so many pixels."""
    for _ in range(5):
        dy, dx = (sigma * draws.normal(2, *images.shape[-2:])).unbind(1)
        images = sample_at(images, dy, dx, border="border")
    return images


def noneccpatch(images: Images, count: int, draws: Draws) -> Images:
    """Patches of 16 pixels a side are copied up to eight pixels away, one after the other."""
    height, width = images.shape[-2:]
    room = [extent - 2 * PATCH - PATCH for extent in (height, width)]
    _need_room("noneccpatch", images, 3 * PATCH)
    u = draws.uniform(PATCHES, 4).cpu()
    out = images.clone()
    for image, numbers in zip(out, u.tolist(), strict=True):
        for down, along, up, aside in numbers[:count]:
            y, x = round(down * room[0]) + PATCH, round(along * room[1]) + PATCH
            to_y, to_x = round((up - 0.5) * PATCH + y), round((aside - 0.5) * PATCH + x)
            patch = image[:, y : y + PATCH, x : x + PATCH].clone()
            image[:, to_y : to_y + PATCH, to_x : to_x + PATCH] = patch
    return out


def pixelate(images: Images, strength: float, draws: Draws) -> Images:
    """The nearest pixels at 0.95 - strength^0.6 of the size, enlarged again."""
    height, width = images.shape[-2:]
    ratio = 0.95 - strength**0.6
    small = (max(1, int(height * ratio)), max(1, int(width * ratio)))
    return functional.interpolate(functional.interpolate(images, small, mode="nearest"), (height, width))


def quantization(images: Images, levels: int, draws: Draws) -> Images:
    """So many equal steps of all values, stretched to [0, 1]."""
    inner = [int(255 * step / levels) for step in range(1, levels)]
    edges = torch.tensor([0, *inner, 256], dtype=images.dtype, device=images.device)
    steps = torch.bucketize((images * 255).contiguous(), edges).to(images)
    low, high = steps.amin((1, 2, 3), keepdim=True), steps.amax((1, 2, 3), keepdim=True)
    return torch.where(low < high, (steps - low) / (high - low).clamp(min=1), steps)


def colorblock(images: Images, count: int, draws: Draws) -> Images:
    """Blocks of 32 pixels a side in random colours."""
    _need_room("colorblock", images, BLOCK)
    u = draws.uniform(BLOCKS, 5).cpu()
    out = images.clone()
    for image, numbers in zip(out, u, strict=True):
        for down, along, *colour in numbers[:count].tolist():
            y, x = (math.floor(v * (side - BLOCK)) for v, side in zip((down, along), image.shape[-2:], strict=True))
            image[:, y : y + BLOCK, x : x + BLOCK] = image.new_tensor(colour)[:, None, None]
    return out


def _need_room(name: str, images: Images, side: int) -> None:
    if min(images.shape[-2:]) < side:
        raise UsageError(f"{name} needs pictures of {side} pixels a side, not {tuple(images.shape[-2:])}")


ARNIQA: dict[str, tuple[Callable, tuple]] = {
    "gaublur": (gaublur, (0.1, 0.5, 1, 2, 5)),
    "lensblur": (lensblur, (1, 2, 4, 6, 8)),
    "motionblur": (motionblur, (1, 2, 4, 6, 10)),
    "colordiff": (colordiff, (1, 3, 6, 8, 12)),
    "colorshift": (colorshift, (1, 3, 6, 8, 12)),
    "colorsat1": (colorsat1, (0.4, 0.2, 0.1, 0, -0.4)),
    "colorsat2": (colorsat2, (1, 2, 3, 6, 9)),
    "jpeg2000": (jpeg2000, (16, 32, 45, 120, 170)),
    "jpeg": (jpeg, (43, 36, 24, 7, 4)),
    "whitenoise": (whitenoise, (0.001, 0.002, 0.003, 0.005, 0.01)),
    "whitenoiseCC": (whitenoise_cc, (0.0001, 0.0005, 0.001, 0.002, 0.003)),
    "impulsenoise": (impulsenoise, (0.001, 0.005, 0.01, 0.02, 0.03)),
    "multnoise": (multnoise, (0.001, 0.005, 0.01, 0.02, 0.05)),
    "brighten": (brighten, (0.1, 0.2, 0.4, 0.7, 1.1)),
    "darken": (darken, (0.05, 0.1, 0.2, 0.4, 0.8)),
    "meanshift": (meanshift, (0, 0.08, -0.08, 0.15, -0.15)),
    "jitter": (jitter, (0.05, 0.1, 0.2, 0.5, 1)),
    "noneccpatch": (noneccpatch, (20, 40, 60, 80, 100)),
    "pixelate": (pixelate, (0.01, 0.05, 0.1, 0.2, 0.5)),
    "quantization": (quantization, (20, 16, 13, 10, 7)),
    "colorblock": (colorblock, (2, 4, 6, 8, 10)),
    "highsharpen": (highsharpen, (1, 2, 3, 6, 12)),
    "lincontrchange": (lincontrchange, (0.0, 0.15, -0.4, 0.3, -0.6)),
    "nonlincontrchange": (nonlincontrchange, (0.4, 0.3, 0.2, 0.1, 0.05)),
}
"""By their official names, with the released strengths of levels 1 to 5."""

GROUPS: dict[str, tuple[str, ...]] = {
    "blur": ("gaublur", "lensblur", "motionblur"),
    "color_distortion": ("colordiff", "colorshift", "colorsat1", "colorsat2"),
    "jpeg": ("jpeg2000", "jpeg"),
    "noise": ("whitenoise", "whitenoiseCC", "impulsenoise", "multnoise"),
    "brightness_change": ("brighten", "darken", "meanshift"),
    "spatial_distortion": ("jitter", "noneccpatch", "pixelate", "quantization", "colorblock"),
    "sharpness_contrast": ("highsharpen", "lincontrchange", "nonlincontrchange"),
}
"""The official groups."""

UNORDERED: tuple[str, ...] = ("meanshift", "lincontrchange")
"""Their levels go to and fro, so that a higher one need not look worse."""
