"""CIE L*a*b* of sRGB pictures, white D65, and back; gradients pass."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)
_LINEAR = 6 / 29  # below its cube f is a line


def lab_of(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """L in [0, 100], a and b, of pictures in [0, 1]."""
    light = torch.where(images > 0.04045, ((images.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4, images / 12.92)
    xyz = torch.einsum("ij,bjhw->bihw", images.new_tensor(_XYZ), light) / images.new_tensor(_WHITE).view(3, 1, 1)
    f = torch.where(xyz > _LINEAR**3, xyz.clamp(min=_LINEAR**3) ** (1 / 3), xyz / (3 * _LINEAR**2) + 4 / 29)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def rgb_of(lab: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
    """Pictures cut at 0 and 1."""
    y = (lab[:, 0] + 16) / 116
    f = torch.stack([y + lab[:, 1] / 500, y, (y - lab[:, 2] / 200).clamp(min=0)], 1)
    xyz = torch.where(f > _LINEAR, f**3, (f - 4 / 29) * 3 * _LINEAR**2) * lab.new_tensor(_WHITE).view(3, 1, 1)
    light = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(lab.new_tensor(_XYZ)), xyz)
    rgb = torch.where(light > 0.0031308, 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055, 12.92 * light)
    return rgb.clamp(0, 1)
