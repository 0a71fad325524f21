"""Corruptions that know how far away each pixel is: fog, focus, and the camera moving forward."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.data.distortions.pieces import disc_blurred
from binderclip.errors import UsageError

LAYERS = 8
"""Depths that are blurred one by one: pixels between two of them are mixed."""
AIR = 0.9
"""Brightness of the fog."""


def fog(images: Tensor, depth: Tensor, density: float) -> Tensor:
    """I e^(-b d) + A (1 - e^(-b d)): what is far is lost in the light between."""
    through = torch.exp(-density * depth)
    return images * through + AIR * (1 - through)


def focus(images: Tensor, depth: Tensor, radius: float, at: float) -> Tensor:
    """Blur each pixel by a disc whose radius grows with its distance from the depth that is in focus."""
    side = min(images.shape[-2:])
    places = torch.linspace(0, 1, LAYERS, dtype=images.dtype, device=images.device)
    radii = [radius * side * abs(float(place) - at) for place in places]
    layers = torch.stack([disc_blurred(images, own) if own > 0 else images for own in radii])  # (L, B, 3, H, W)
    near = (depth * (LAYERS - 1)).clamp(0, LAYERS - 1)
    weight = (1 - (near[None] - torch.arange(LAYERS, device=images.device).view(-1, 1, 1, 1, 1)).abs()).clamp_min(0)
    return (weight * layers).sum(dim=0)


def forward_motion(images: Tensor, depth: Tensor, speed: float) -> Tensor:
    """Mean of the pictures while the camera moves ahead: near pixels fly outwards, those at depth 1 stay."""
    steps = max(6, math.ceil(speed * max(images.shape[-2:]) / 3))
    height, width = images.shape[-2:]
    y = (torch.arange(height, dtype=images.dtype, device=images.device) + 0.5) * 2 / height - 1
    x = (torch.arange(width, dtype=images.dtype, device=images.device) + 0.5) * 2 / width - 1
    total = torch.zeros_like(images)
    for step in range(steps + 1):
        scale = 1 / (1 + speed * step / steps * (1 - depth[:, 0]))  # (B, H, W)
        grid = torch.stack([x[None, None] * scale, y[None, :, None] * scale], dim=-1)
        total = total + F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return total / (steps + 1)


_KINDS: dict[str, tuple[Callable[[Tensor, Tensor, float], Tensor], tuple[float, ...]]] = {
    "fog": (fog, (0.5, 1.0, 1.6, 2.4, 3.5)),
    "near_focus": (lambda images, depth, radius: focus(images, depth, radius, 0.0), (0.01, 0.02, 0.03, 0.045, 0.06)),
    "far_focus": (lambda images, depth, radius: focus(images, depth, radius, 1.0), (0.01, 0.02, 0.03, 0.045, 0.06)),
    "forward_motion": (forward_motion, (0.05, 0.1, 0.16, 0.24, 0.35)),
}
CORRUPTIONS_3D: tuple[str, ...] = tuple(_KINDS)
"""Names of the corruptions by depth."""


def corrupt3d(
    images: Float[Tensor, "B 3 H W"], depth: Float[Tensor, "B 1 H W"], name: str, level: int
) -> Float[Tensor, "B 3 H W"]:
    """Corrupt pictures by what their depth says.

    Paper: Kar et al., 3D Common Corruptions and Data Augmentation (CVPR 2022, arXiv 2203.01441), as Toward a Holistic
    Evaluation of Robustness in CLIP Models (arXiv 2410.01534) uses it; strengths are our own.

    Args:
        images: floats in [0, 1].
        depth: 0 nearest to 1 farthest.
        name: one of `CORRUPTIONS_3D`: "fog", "near_focus" (what is far is blurred), "far_focus" (what is near is),
            "forward_motion".
        level: 0 (unchanged) to 5.

    Raises:
        UsageError: an unknown name or level, shapes that do not fit, or a depth outside [0, 1].
    """
    if name not in _KINDS:
        raise UsageError(f"corruption {name!r} is unknown; use {', '.join(CORRUPTIONS_3D)}")
    if not 0 <= level <= 5:
        raise UsageError(f"level {level} of {name} is not in 0..5")
    if images.ndim != 4 or depth.shape != (len(images), 1, *images.shape[-2:]):
        shapes = f"{tuple(images.shape)}, {tuple(depth.shape)}"
        raise UsageError(f"images (B, 3, H, W) need a depth (B, 1, H, W); got {shapes}")
    if not bool(((depth >= 0) & (depth <= 1)).all()):
        raise UsageError("depth must lie from 0, nearest, to 1, farthest")
    if level == 0:
        return images.clone()
    function, strengths = _KINDS[name]
    return function(images, depth.to(images), strengths[level - 1]).clamp(0, 1)
