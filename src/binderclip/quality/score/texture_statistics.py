"""Statistics of a picture's fine structure, for telling noise, specks, blur and compression from what it shows."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["TEXTURE", "texture_statistics"]

REACH, SIGMA = 3, 7 / 6
"""Of the window that brightness is normalised in: pixels to either side, and its standard deviation."""
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""(down, right) of the neighbour that a normalised pixel is multiplied with."""
OCTAVES = 4
BLOCK = 8
"""Side, in pixels, of JPEG's blocks."""
SMALL = 1e-4
"""Added before a logarithm; a fortieth of a step of 8-bit pixels."""
SPECK = 0.15
"""What a median takes away of a speck, at least."""
SAMPLES = 2**15
"""Places, at most, that a quantile is taken over."""
DETAIL, RESIDUE, FLATTEST = (0.5, 0.95, 0.99), (0.5, 0.9, 0.99, 0.999), (0.02, 0.1, 0.25, 0.5)
"""Quantiles: of the detail of an octave, of what a median takes away, of the blocks by their detail."""
TEXTURE = 2 * (3 + 4 * len(NEIGHBOURS)) + OCTAVES * (2 + len(DETAIL)) + 2 + len(RESIDUE) + len(FLATTEST) + 3
"""Statistics of a picture."""


def _log(values: Tensor) -> Tensor:
    return (values + SMALL).log10()


def _quantiles(values: Float[Tensor, "B N"], at: tuple[float, ...]) -> Float[Tensor, "B Q"]:
    some = values[:, :: max(1, values.shape[1] // SAMPLES)]
    return some.quantile(torch.tensor(at, dtype=values.dtype, device=values.device), dim=1).T


def _normalised(light: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 1 H W"]:
    """Brightness less its local mean, by its local standard deviation (Mittal et al. 2012, equation 1)."""
    line = torch.exp(-(torch.arange(-REACH, REACH + 1).to(light) ** 2) / (2 * SIGMA**2))
    line = line / line.sum()

    def mean(values: Tensor) -> Tensor:
        rows = F.conv2d(F.pad(values, (REACH, REACH, 0, 0), mode="replicate"), line.view(1, 1, 1, -1))
        return F.conv2d(F.pad(rows, (0, 0, REACH, REACH), mode="replicate"), line.view(1, 1, -1, 1))

    middle = mean(light)
    spread = (mean(light**2) - middle**2).clamp_min(1e-12).sqrt()
    return (light - middle) / (spread + 1 / 255)


def _moments(light: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B M"]:
    """What tells the shape of the normalised brightness, and of its products with four neighbours."""
    c = _normalised(light)
    square = c.square().mean((1, 2, 3))
    moments = [_log(square), _log(c.abs().mean((1, 2, 3)).square() / (square + SMALL)),
             _log(c.pow(4).mean((1, 2, 3)) / (square.square() + SMALL))]  # fmt: skip
    for down, right in NEIGHBOURS:
        product = (c * c.roll((down, right), (2, 3)))[..., 1:, 1:-1].flatten(1)
        below, above = product.clamp_max(0).square().mean(1), product.clamp_min(0).square().mean(1)
        moments += [product.mean(1), _log(product.abs().mean(1)), _log(below) / 2, _log(above) / 2]
    return torch.stack(moments, dim=1)


def _median(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Of 3 x 3 pixels, by its columns: that of their largest least, their middle median and their least largest one."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")

    def ordered(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        return torch.minimum(low, c), torch.maximum(low, torch.minimum(high, c)), torch.maximum(high, c)

    least, middle, largest = ordered(padded[..., :-2, :], padded[..., 1:-1, :], padded[..., 2:, :])

    def three(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return values[..., :-2], values[..., 1:-1], values[..., 2:]

    low = torch.maximum(torch.maximum(*three(least)[:2]), three(least)[2])
    high = torch.minimum(torch.minimum(*three(largest)[:2]), three(largest)[2])
    return ordered(low, ordered(*three(middle))[1], high)[1]


def _octaves(light: Float[Tensor, "B 1 H W"]) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B 1 h w"]]:
    """Mean, quantiles and share of the diagonal of the detail of octaves; and the detail of the finest."""
    moments, finest = [], None
    for _ in range(OCTAVES):
        light = light[..., : light.shape[2] // 2 * 2, : light.shape[3] // 2 * 2]
        a, b, c, d = light[..., ::2, ::2], light[..., ::2, 1::2], light[..., 1::2, ::2], light[..., 1::2, 1::2]
        across, down, diagonal = (a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2
        detail = (across**2 + down**2 + diagonal**2 + 1e-12).sqrt()
        finest = detail if finest is None else finest
        moments += [_log(detail.mean((1, 2, 3)))[:, None], _log(_quantiles(detail.flatten(1), DETAIL)),
                  _log(diagonal.abs().mean((1, 2, 3)) / (detail.mean((1, 2, 3)) + SMALL))[:, None]]  # fmt: skip
        light = (a + b + c + d) / 4
    assert finest is not None
    return torch.cat(moments, dim=1), finest


def _blockiness(light: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 3"]:
    """How much larger the steps between pixels are at every eighth, down and across; the share of no step."""
    ratios, still = [], []
    for dim in (2, 3):
        step = light.diff(dim=dim).abs()
        still.append((step < 0.5 / 255).to(step).mean((1, 2, 3)))
        line = step.mean(5 - dim).squeeze(1)  # (B, n)
        line = F.pad(line, (0, -line.shape[1] % BLOCK))
        phase = line.unflatten(1, (-1, BLOCK)).mean(1)  # (B, 8)
        ratios.append(_log(phase.amax(1)) - _log(phase.median(1).values))
    return torch.stack([*ratios, (still[0] + still[1]) / 2], dim=1)


def texture_statistics(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B T"]:
    """Moments of locally normalised brightness at two scales, detail by octave, what a median removes, and blocks.

    The moments are those behind BRISQUE's fits (Mittal, Moorthy, Bovik, "No-reference image quality assessment in the
    spatial domain", 2012), not the fitted parameters: a perceptron reads them as well.

    Args:
        images: in [0, 1]; 16 pixels at least on either side.
    """
    light = images.mean(1, keepdim=True)
    half = F.avg_pool2d(light, 2)
    details, finest = _octaves(light)
    residue = (images - _median(images)).abs()
    together = residue.mean(1)
    strongest = residue.amax(1).flatten(1)
    blocks = F.avg_pool2d(finest, BLOCK // 2).flatten(1)
    return torch.cat(
        [
            _moments(light), _moments(half), details, _log(_quantiles(strongest, RESIDUE)),
            _log((strongest > SPECK).to(light).mean(1, keepdim=True)), _log(together.mean((1, 2)))[:, None],
            _log(_quantiles(blocks, FLATTEST)), _blockiness(light),
        ],
        dim=1,
    )  # fmt: skip
