"""Pictures behind fences: lattices, bars, wires, nets and strokes, each with the exact mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.data.augment.fill import gaussian_blur
from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.settings import check_choice

__all__ = ["FENCES", "Fenced", "synthesize_fence"]

_STROKES = 6
"""Line segments of a picture of strokes."""


@dataclass(frozen=True)
class Fenced:
    """Pictures behind fences.

    Attributes:
        image: what is seen.
        mask: 1 where the fence is, 0 elsewhere.
        pattern: of each picture.
    """

    image: Float[Tensor, "B 3 H W"]
    mask: Float[Tensor, "B 1 H W"]
    pattern: tuple[str, ...]


@dataclass(frozen=True)
class _Draws:
    """What is drawn for each picture, [B, 1, 1], in pixels and radians."""

    pitch: Tensor
    width: Tensor
    angle: Tensor
    sag: Tensor
    phase: Tensor
    generator: torch.Generator | None


Places = tuple[Tensor, Tensor]
"""Rows and columns of pixels, [H, 1] and [W], from the middle of the picture."""


def _across(places: Places, angle: Tensor, draws: _Draws, sag: Tensor) -> Tensor:
    """Distance from the nearest of parallel strands at an angle, which swing by `sag`, [B, H, W]."""
    rows, columns = places
    u = columns * angle.cos() + rows * angle.sin()  # across the strands
    v = rows * angle.cos() - columns * angle.sin()  # along them
    u = u + sag * torch.sin(2 * math.pi * v / (4 * draws.pitch) + draws.phase) + draws.phase * draws.pitch
    return (u.remainder(draws.pitch) - draws.pitch / 2).abs()


def _bars(places: Places, draws: _Draws) -> Tensor:
    return _across(places, draws.angle, draws, torch.zeros_like(draws.sag))


def _lattice(places: Places, draws: _Draws) -> Tensor:
    straight = torch.zeros_like(draws.sag)
    return torch.minimum(
        _across(places, draws.angle, draws, straight), _across(places, draws.angle + math.pi / 2, draws, straight)
    )


def _wires(places: Places, draws: _Draws) -> Tensor:
    return _across(places, draws.angle, draws, draws.sag)


def _nets(places: Places, draws: _Draws) -> Tensor:
    return torch.minimum(
        _across(places, draws.angle, draws, draws.sag), _across(places, draws.angle + math.pi / 3, draws, draws.sag)
    )


def _strokes(places: Places, draws: _Draws) -> Tensor:
    """Distance from the nearest of a few segments between random places."""
    rows, columns = places
    side = torch.tensor([len(rows), len(columns)], dtype=rows.dtype)
    count = len(draws.pitch)
    ends = torch.rand(count, _STROKES, 2, 2, generator=draws.generator).to(rows) - 0.5
    start, stop = (ends[:, :, end, None, None] * side.to(ends) for end in (0, 1))  # [B, S, 1, 1, 2]
    here = torch.stack([rows.expand(len(rows), len(columns)), columns.expand(len(rows), len(columns))], -1)
    along = stop - start  # [B, S, 1, 1, 2]
    reached = (((here - start) * along).sum(-1) / along.square().sum(-1).clamp(min=1e-6)).clamp(0, 1)
    return (here - start - reached[..., None] * along).norm(dim=-1).amin(1)


FENCES: dict[str, Callable[[Places, _Draws], Tensor]] = {
    "lattice": _lattice, "bars": _bars, "wires": _wires, "nets": _nets, "strokes": _strokes,
}  # fmt: skip
"""Kinds of fences: from places and draws to the distance from the nearest strand."""


def synthesize_fence(
    images: Float[Tensor, "B 3 H W"],
    patterns: Sequence[str] = ("lattice", "bars", "wires"),
    *,
    pitch: tuple[float, float] = (6.0, 14.0),
    width: tuple[float, float] = (1.0, 3.0),
    sag: tuple[float, float] = (0.5, 2.0),
    shadow: float = 0.0,
    generator: torch.Generator | None = None,
) -> Fenced:
    """Put a fence in front of each picture; everything is drawn for each by itself.

    A fence has a colour, strands that are darker at their edges, and any angle. Outside of the mask the picture is as
    it was, but for the shadow.

    Args:
        images: pictures in [0, 1].
        patterns: kinds that are drawn from: "lattice", "bars", "wires" (which sag), "nets" (sagging, at 60 degrees)
            and "strokes" (irregular).
        pitch: bounds of the distance of strands, in pixels, in [1, 1e4].
        width: bounds of their width, in pixels, in (0, 1e4].
        sag: bounds of the swing of what sags, in pixels, in [0, 1e4].
        shadow: how dark the fence's soft shadow is, one width to the right and down, in [0, 1].
        generator: of all draws.

    Raises:
        UsageError: pictures outside of [0, 1], no such pattern, or a number out of range.

    Paper: Deep Generative Adversarial Network for Occlusion Removal from a Single Image (arXiv 2409.13242).

    Examples:
        >>> import torch
        >>> picture = torch.rand(1, 3, 32, 32)
        >>> fence = synthesize_fence(picture)
        >>> torch.equal(fence.image * (1 - fence.mask), picture * (1 - fence.mask))
        True
    """
    _check(images, patterns, pitch, width, sag, shadow)
    count, (height, across) = len(images), images.shape[-2:]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(count, *(shape or (1, 1)), generator=generator, dtype=torch.float64) * (high - low) + low
        return drawn.to(images)

    draws = _Draws(
        uniform(*pitch), uniform(*width), uniform(0, math.pi), uniform(*sag), uniform(0, 2 * math.pi), generator
    )
    rows = torch.arange(height, device=images.device, dtype=images.dtype)[:, None] - (height - 1) / 2
    columns = torch.arange(across, device=images.device, dtype=images.dtype) - (across - 1) / 2
    kinds = torch.randint(len(patterns), (count,), generator=generator).tolist()
    distances = {name: FENCES[name]((rows, columns), draws) for name in dict.fromkeys(patterns[k] for k in kinds)}
    distance = torch.stack([distances[patterns[k]][i] for i, k in enumerate(kinds)])
    mask: Bool[Tensor, "B 1 H W"] = (distance < draws.width / 2)[:, None]
    shade = 1 - 0.5 * (2 * distance / draws.width).clamp(max=1).square()  # as of a round wire
    fence = (uniform(0, 1, 3, 1, 1) * shade[:, None]).clamp(0, 1)
    behind = images
    if shadow > 0:
        step = max(1, round(width[1]))
        fallen = torch.roll(mask.to(images), (step, step), (-2, -1))
        behind = images * (1 - shadow * gaussian_blur(fallen, width[1] / 2))
    return Fenced(torch.where(mask, fence, behind), mask.to(images), tuple(patterns[k] for k in kinds))


def _check(
    images: Tensor, patterns: Sequence[str], pitch: tuple[float, float], width: tuple[float, float],
    sag: tuple[float, float], shadow: float,
) -> None:  # fmt: skip
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        raise UsageError(f"pictures must be (B, 3, H, W), got {tuple(images.shape)}")
    if not bool(((images >= 0) & (images <= 1)).all()):  # NaN is neither
        raise UsageError("pictures must be in [0, 1]")
    if isinstance(patterns, str) or not patterns:
        raise UsageError(f"patterns must be some of {', '.join(FENCES)}, got {patterns!r}")
    for pattern in patterns:
        check_choice("patterns", pattern, FENCES)
    for name, bounds, least in (("pitch", pitch, 1.0), ("width", width, 1e-3), ("sag", sag, 0.0)):
        check_number(f"least {name}", bounds[0], least=least, most=1e4)
        check_number(f"most {name}", bounds[1], least=bounds[0], most=1e4)
    check_number("shadow", shadow, least=0, most=1)
