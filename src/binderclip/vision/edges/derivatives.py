"""Edges from derivatives: the classical baseline of every edge detector."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from binderclip.numeric import check_number
from binderclip.vision.representation import picture_size


def sobel(images: Float[Tensor, "*batch H W"], *, floor: float = 0.0) -> Float[Tensor, "*batch H W"]:
    """Gradient magnitude by Sobel's kernels, in grey levels a pixel: a ramp of slope s gives s, a step of height h h/2.

    Borders repeat the outermost pixels. Differentiable except where the gradient vanishes.

    Args:
        images: grey pictures of any size, float32 or float64.
        floor: magnitude g becomes `sqrt(g^2 + floor^2)`, in [0, 1]; above 0 it is differentiable everywhere.

    Raises:
        UsageError: no pictures, another dtype, or a floor out of range.
    """
    check_number("floor", floor, least=0, most=1)
    height, width = picture_size(images)
    flat = functional.pad(images.reshape(-1, 1, height, width), (1, 1, 1, 1), mode="replicate")
    smooth, slope = images.new_tensor([1.0, 2.0, 1.0]) / 4, images.new_tensor([-1.0, 0.0, 1.0]) / 2
    down = torch.outer(slope, smooth)
    kernels = torch.stack([down, down.T])[:, None]
    return functional.conv2d(flat, kernels).pow(2).sum(dim=1).add(floor**2).sqrt().reshape(images.shape)
