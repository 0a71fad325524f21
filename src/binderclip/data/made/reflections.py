"""Pictures through glass: a transmitted picture and a blurred reflected one, mixed as the paper mixes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole

__all__ = ["Reflected", "synthesize_reflection"]

_GAMMA = 2.2
_OVERFLOW = 1.3
"""How much of the mean excess over white is taken from the reflection, as in the released code."""


@dataclass(frozen=True)
class Reflected:
    """Pictures through glass and the two layers that they are made of.

    Attributes:
        image: what is seen, in [0, 1].
        transmission: the layer behind the glass, attenuated; in [0, 1].
        reflection: the layer in front of it, blurred and attenuated; in [0, 1].
        screen: mixed as `T + R - T R`, otherwise as `T + R` with the excess over white taken from R.
        linear: mixed in linear light, that is after a power of 2.2.
    """

    image: Float[Tensor, "B 3 H W"]
    transmission: Float[Tensor, "B 3 H W"]
    reflection: Float[Tensor, "B 3 H W"]
    screen: Bool[Tensor, " B"]
    linear: Bool[Tensor, " B"]


def synthesize_reflection(
    transmission: Float[Tensor, "B 3 H W"],
    reflection: Float[Tensor, "B 3 H W"],
    *,
    transmission_weight: tuple[float, float] = (0.6, 1.0),
    reflection_weight: tuple[float, float] = (0.2, 1.0),
    sigma: tuple[float, float] = (2.0, 5.0),
    kernel_sizes: Sequence[int] = (5, 7, 9, 11),
    kernel_weights: Sequence[float] = (0.1, 0.2, 0.3, 0.4),
    screen: float = 0.7,
    linear: float = 0.5,
    generator: torch.Generator | None = None,
) -> Reflected:
    """Mix each picture with the blurred reflection of another one.

    The reflected picture is blurred by a Gaussian kernel (black outside the picture), both are weighted, T = a T0 and
    R = b R0, and mixed; all that is drawn is drawn for each picture by itself. In the additive case R is lowered by
    1.3 times the mean excess over white before it is added; the layer that is given back is not.

    Args:
        transmission, reflection: pictures in [0, 1].
        transmission_weight, reflection_weight: bounds of a and b, in [0, 1].
        sigma: bounds of the blur's standard deviation, in pixels, at most 100.
        kernel_sizes: sides of the kernel, odd, at most 255; the defaults are meant for 224 pixels.
        kernel_weights: how often each side is drawn.
        screen: probability of mixing by `T + R - T R`.
        linear: probability of mixing in linear light.
        generator: of all draws.

    Raises:
        UsageError: pictures that do not match or leave [0, 1], or a setting out of range.

    Paper: Towards Flexible Interactive Reflection Removal with Human Guidance (arXiv 2406.01555).

    Examples:
        >>> import torch
        >>> glass = synthesize_reflection(torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16), screen=1.0, linear=0.0)
        >>> t, r = glass.transmission, glass.reflection
        >>> torch.allclose(glass.image, t + r - t * r, atol=1e-6)
        True
    """
    _check_layers(transmission, reflection)
    _check_settings(transmission_weight, reflection_weight, sigma, kernel_sizes, kernel_weights, screen, linear)
    count = len(transmission)

    def uniform(bounds: tuple[float, float]) -> Tensor:
        drawn = torch.rand(count, generator=generator, dtype=torch.float64) * (bounds[1] - bounds[0]) + bounds[0]
        return drawn.to(transmission)[:, None, None, None]

    chance = torch.as_tensor(kernel_weights, dtype=torch.float)
    sizes = torch.as_tensor(kernel_sizes)[chance.multinomial(count, replacement=True, generator=generator)]
    blurred = _blurred(reflection, sizes, uniform(sigma))
    a, b = uniform(transmission_weight), uniform(reflection_weight)
    screened = torch.rand(count, generator=generator) < screen
    in_linear = torch.rand(count, generator=generator) < linear
    power = (1 + (_GAMMA - 1) * in_linear.double()).to(transmission)[:, None, None, None]
    t, r = a * transmission**power, b * blurred**power
    mixed = torch.where(screened.to(t.device)[:, None, None, None], t + r - t * r, _added(t, r)).clamp(0, 1)
    image, behind, mirrored = (layer ** (1 / power) for layer in (mixed, t, r))
    return Reflected(image, behind, mirrored, screened, in_linear)


def _added(t: Tensor, r: Tensor) -> Tensor:
    """T + R, less the excess over white, which R alone gives up."""
    total = t + r
    over = total > 1
    excess = ((total - 1) * over).flatten(1).sum(1) / over.flatten(1).sum(1).clamp(min=1)  # mean over what overflows
    return t + (r - _OVERFLOW * excess[:, None, None, None]).clamp(min=0)


def _blurred(images: Tensor, sizes: Tensor, sigma: Tensor) -> Tensor:
    """Each picture under a Gaussian kernel of its own side and deviation."""
    count, channels = images.shape[:2]
    reach = int(sizes.max()) // 2
    taps = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    row = torch.exp(-0.5 * (taps / sigma.view(-1, 1)) ** 2)  # [B, K]
    row = row * (taps.abs() <= (sizes.to(images.device) // 2)[:, None])
    row = (row / row.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]  # [3B, 1, K]
    flat = images.reshape(1, count * channels, *images.shape[-2:])
    flat = F.conv2d(flat, row[..., None], padding=(reach, 0), groups=count * channels)
    return F.conv2d(flat, row[:, :, None], padding=(0, reach), groups=count * channels).reshape(images.shape)


def _check_layers(transmission: Tensor, reflection: Tensor) -> None:
    shape = transmission.shape
    if shape != reflection.shape or len(shape) != 4 or shape[1] != 3 or not transmission.numel():
        raise UsageError(
            f"pictures must be (B, 3, H, W) of one shape, got {tuple(shape)} and {tuple(reflection.shape)}"
        )
    for name, layer in (("transmission", transmission), ("reflection", reflection)):
        if not bool(((layer >= 0) & (layer <= 1)).all()):  # NaN is neither
            raise UsageError(f"{name} must be in [0, 1]")


def _check_settings(
    transmission_weight: tuple[float, float], reflection_weight: tuple[float, float], sigma: tuple[float, float],
    kernel_sizes: Sequence[int], kernel_weights: Sequence[float], screen: float, linear: float,
) -> None:  # fmt: skip
    for name, bounds in (("transmission_weight", transmission_weight), ("reflection_weight", reflection_weight)):
        check_number(f"least {name}", bounds[0], least=0, most=1)
        check_number(f"most {name}", bounds[1], least=bounds[0], most=1)
    check_number("least sigma", sigma[0], least=1e-3, most=100)
    check_number("most sigma", sigma[1], least=sigma[0], most=100)
    for size in kernel_sizes:
        check_whole("kernel size", size, least=1)
        if size % 2 == 0 or size > 255:
            raise UsageError(f"kernel sizes must be odd and at most 255, got {size}")
    for weight in kernel_weights:
        check_number("kernel weight", weight, least=0, most=1e6)
    if len(kernel_sizes) != len(kernel_weights) or not sum(kernel_weights) > 0:
        raise UsageError(f"{len(kernel_sizes)} kernel sizes need as many weights, and one above 0")
    check_number("screen", screen, least=0, most=1)
    check_number("linear", linear, least=0, most=1)
