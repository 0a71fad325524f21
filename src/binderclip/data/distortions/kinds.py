"""The 24 distortions: each takes images (B, 3, H, W) in [0, 1], its strength, and seeded draws.

Lengths are given for a shorter side of 224 pixels and scale with it; blurs keep half a pixel or so at any size, or the
first levels would do nothing to a small picture.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from binderclip.data.augment.fill import gaussian_blur as blurred
from binderclip.data.distortions.pieces import Draws, clouds, disc_blurred, filter_images, luma, sample_at

Images = Float[Tensor, "B 3 H W"]


def _unit(images: Tensor) -> float:
    """Pixels of this picture to one pixel of a 224 pixel picture."""
    return min(images.shape[-2:]) / 224


# -- noise


def gaussian_noise(images: Images, sigma: float, draws: Draws) -> Images:
    """Independent normal noise on every value."""
    return images + sigma * draws.normal(*images.shape[1:])


def colour_noise(images: Images, sigma: float, draws: Draws) -> Images:
    """Normal noise on the two chroma channels; the luma stays."""
    cb, cr = (sigma * draws.normal(2, *images.shape[-2:])).unbind(1)
    return images + torch.stack([1.402 * cr, -0.344136 * cb - 0.714136 * cr, 1.772 * cb], 1)


def shot_noise(images: Images, photons: float, draws: Draws) -> Images:
    """Poisson counts with `photons` for white."""
    return draws.poisson(images.clamp(0, 1) * photons) / photons


def speckle_noise(images: Images, sigma: float, draws: Draws) -> Images:
    """Normal noise in proportion to the value."""
    return images * (1 + sigma * draws.normal(*images.shape[1:]))


def impulse_noise(images: Images, share: float, draws: Draws) -> Images:
    """A share of the values is set to 0 or 1."""
    hit, side = draws.uniform(2, *images.shape[1:]).unbind(1)
    return torch.where(hit < share, (side < 0.5).to(images), images)


# -- blur


def gaussian_blur(images: Images, sigma: float, draws: Draws) -> Images:
    """Gaussian blur."""
    return blurred(images, sigma * _unit(images) + 0.25)


def defocus_blur(images: Images, radius: float, draws: Draws) -> Images:
    """Blur by a disc, as of a lens out of focus."""
    return disc_blurred(images, radius * _unit(images) + 0.4)


def motion_blur(images: Images, length: float, draws: Draws) -> Images:
    """Blur along a straight line in a random direction."""
    half = length * _unit(images) / 2 + 0.4
    reach = math.ceil(half + 0.5)
    angle = math.pi * draws.uniform(1, 1)
    taps = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    along = (taps * torch.cos(angle) + taps[:, None] * torch.sin(angle)).abs()
    across = (taps * torch.sin(angle) - taps[:, None] * torch.cos(angle)).abs()
    line = (half + 0.5 - along).clamp(0, 1) * (1 - across).clamp(0, 1)
    return filter_images(images, line / line.sum((1, 2), keepdim=True))


def zoom_blur(images: Images, zoom: float, draws: Draws) -> Images:
    """Mean of the picture zoomed in by 0 to `zoom`, as of a lens moved during exposure."""
    steps = max(6, math.ceil(zoom * max(images.shape[-2:]) / 3))
    total = torch.zeros_like(images)
    for step in range(steps + 1):
        scale = 1 / (1 + zoom * step / steps)
        theta = images.new_tensor([[scale, 0, 0], [0, scale, 0]]).expand(len(images), -1, -1)
        grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
        total = total + functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return total / (steps + 1)


def glass_blur(images: Images, reach: float, draws: Draws) -> Images:
    """Every pixel is read from a random place at most `reach` away, as through rippled glass."""
    dy, dx = (reach * _unit(images) * (2 * draws.uniform(2, *images.shape[-2:]) - 1)).unbind(1)
    return sample_at(images, dy, dx)


# -- compression and resolution


def compressed(images: Images, quality: int) -> Images:
    """JPEG compression and decompression (4:2:0) of pictures in [0, 1]; no gradient."""
    out = []
    for image in (images.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8):
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=quality)
        decoded = np.asarray(Image.open(buffer).convert("RGB"))
        out.append(torch.from_numpy(decoded.copy()).permute(2, 0, 1))
    return torch.stack(out).to(images) / 255


def jpeg(images: Images, quality: int, draws: Draws) -> Images:
    """JPEG compression and decompression."""
    return compressed(images, quality)


def _lift(x: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the 5/3 wavelet along the last axis: (smooth, detail) of half the length each."""
    even, odd = x[..., ::2], x[..., 1::2]
    detail = odd - (even + torch.cat([even[..., 1:], even[..., -1:]], -1)) / 2
    return even + (torch.cat([detail[..., :1], detail[..., :-1]], -1) + detail) / 4, detail


def _unlift(smooth: Tensor, detail: Tensor) -> Tensor:
    even = smooth - (torch.cat([detail[..., :1], detail[..., :-1]], -1) + detail) / 4
    odd = detail + (even + torch.cat([even[..., 1:], even[..., -1:]], -1)) / 2
    return torch.stack([even, odd], -1).flatten(-2)


def wavelet(images: Images, step: float, draws: Draws) -> Images:
    """Coarse quantisation of wavelet details, as JPEG 2000 at low rates: smeared edges and ringing; no gradient."""
    height, width = images.shape[-2:]
    depth = max(1, min(4, int(math.log2(min(height, width))) - 2))
    multiple = 2**depth
    padded = functional.pad(images.detach(), (0, -width % multiple, 0, -height % multiple), mode="replicate")
    smooth, bands = padded, []
    for level in range(depth):
        low, high = _lift(smooth)
        pairs = [_lift(part.transpose(-1, -2)) for part in (low, high)]
        width_of_step = step / 2**level  # coarse bands weigh more in the picture
        rounded = [torch.trunc(part / width_of_step) * width_of_step for part in (pairs[0][1], *pairs[1])]
        bands.append(rounded)
        smooth = pairs[0][0].transpose(-1, -2)
    for low_detail, high_smooth, high_detail in reversed(bands):
        low = _unlift(smooth.transpose(-1, -2), low_detail).transpose(-1, -2)
        smooth = _unlift(low, _unlift(high_smooth, high_detail).transpose(-1, -2))
    return smooth[..., :height, :width]


def pixelate(images: Images, share: float, draws: Draws) -> Images:
    """Averaged down to `share` of the size and enlarged again without smoothing."""
    height, width = images.shape[-2:]
    small = (max(1, round(height * share)), max(1, round(width * share)))
    return functional.interpolate(functional.interpolate(images, small, mode="area"), (height, width), mode="nearest")


def posterize(images: Images, values: int, draws: Draws) -> Images:
    """Rounded to so many values a channel."""
    return torch.round(images * (values - 1)) / (values - 1)


# -- light and colour


def contrast(images: Images, share: float, draws: Draws) -> Images:
    """Contrast lowered to a share around the image's mean luma."""
    mean = luma(images).mean((2, 3), keepdim=True)
    return mean + share * (images - mean)


def brighten(images: Images, gamma: float, draws: Draws) -> Images:
    """Tones raised by a gamma curve, and a veil of light."""
    lifted = images.clamp(min=1e-6) ** (1 / gamma)
    return lifted + (1 - lifted) * 0.04 * (gamma - 1)


def darken(images: Images, gamma: float, draws: Draws) -> Images:
    """Tones lowered by a gamma curve, and less light."""
    return images.clamp(min=1e-6) ** gamma * (1 - 0.06 * (gamma - 1))


def saturate(images: Images, factor: float, draws: Draws) -> Images:
    """Chroma multiplied by `factor` > 1."""
    grey = luma(images)
    return grey + factor * (images - grey)


def desaturate(images: Images, factor: float, draws: Draws) -> Images:
    """Chroma multiplied by `factor` < 1."""
    return saturate(images, factor, draws)


def colour_shift(images: Images, distance: float, draws: Draws) -> Images:
    """Red and blue moved apart in a random direction, as by a poor lens."""
    angle = 2 * math.pi * draws.uniform(1, 1)
    dy, dx = distance * _unit(images) * torch.sin(angle), distance * _unit(images) * torch.cos(angle)
    full = torch.ones_like(images[:, 0])
    red = sample_at(images[:, :1], dy * full, dx * full)
    blue = sample_at(images[:, 2:], -dy * full, -dx * full)
    return torch.cat([red, images[:, 1:2], blue], 1)


# -- weather and geometry


def fog(images: Images, thickness: float, draws: Draws) -> Images:
    """A pale, uneven veil."""
    veil = thickness * (0.55 + 0.45 * clouds(draws, *images.shape[-2:]))[:, None]
    return images + veil * (0.86 - images)


def snow(images: Images, amount: float, draws: Draws) -> Images:
    """Falling flakes of three sizes, and some whiteness over all."""
    height, width = images.shape[-2:]
    slant = draws.uniform(1, 1) - 0.5
    cover = torch.zeros(len(images), height, width, dtype=images.dtype, device=images.device)
    for size, density in ((0.7, 0.004), (1.3, 0.002), (2.2, 0.0008)):
        flakes = (draws.uniform(height, width) < density / max(_unit(images), 0.25) ** 2).to(images)
        radius = max(size * _unit(images), 0.55)
        reach = math.ceil(3 * radius)
        taps = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
        spot = torch.exp(
            -0.5 * (((taps - slant * taps[:, None]) / radius) ** 2 + (taps[:, None] / (1.6 * radius)) ** 2)
        )
        cover = torch.maximum(cover, filter_images(flakes[:, None], spot)[:, 0])
    veil = (amount * (1.2 * cover.clamp(0, 1) + 0.25)).clamp(0, 1)[:, None]
    return images + veil * (0.97 - images)


def elastic(images: Images, reach: float, draws: Draws) -> Images:
    """Bent by a smooth random field that moves points by up to `reach`."""
    field = blurred(draws.normal(2, *images.shape[-2:]), 9 * _unit(images))
    field = field / field.abs().amax((1, 2, 3), keepdim=True)
    dy, dx = (reach * _unit(images) * field).unbind(1)
    return sample_at(images, dy, dx)


def scramble(images: Images, share: float, draws: Draws) -> Images:
    """A share of the cells of a 16 x 16 grid shows what lies up to two cells away."""
    height, width = images.shape[-2:]
    rows, columns = min(16, height), min(16, width)
    pick = draws.uniform(rows, columns)
    moved = (pick.flatten(1).argsort(1).argsort(1).reshape(pick.shape) < share * rows * columns).to(images)
    offset = torch.floor(5 * draws.uniform(2, rows, columns)) - 2
    offset = torch.where((offset == 0).all(1, keepdim=True), torch.ones_like(offset), offset)
    steps = images.new_tensor([round(height / rows), round(width / columns)])[:, None, None]
    field = functional.interpolate(offset * steps * moved[:, None], (height, width), mode="nearest")
    return sample_at(images, field[:, 0], field[:, 1], mode="nearest")
