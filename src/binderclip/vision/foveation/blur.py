"""Blur that grows with eccentricity, structural similarity, and the blur that keeps as much as another transform."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data.augment.fill import gaussian_blur
from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.vision.foveation.texture import cached_regions

__all__ = ["FoveatedBlur", "match_strength", "matched_uniform_blur", "ssim_map"]

TAPS, WIDTH, C1, C2 = 11, 1.5, 0.01**2, 0.03**2
"""The window and the constants of SSIM for pictures in [0, 1]."""
LUMA = (0.299, 0.587, 0.114)
HALVINGS = 40


def ssim_map(images: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"]) -> Float[Tensor, "B H W"]:
    """Structural similarity of grey pictures around every pixel: 1 where they are equal.

    A Gaussian window of 11 taps and 1.5 pixels, mirrored at the border (edge pixels are repeated); biased covariances.

    Args:
        images: in [0, 1]; three channels are weighted as luma, others averaged.
        reference: of the same shape.

    Raises:
        UsageError: different shapes.

    Paper: Image Quality Assessment: From Error Visibility to Structural Similarity (IEEE TIP 2004).
    """
    if images.ndim != 4 or images.shape != reference.shape:
        raise UsageError(f"pictures (B, C, H, W) of one shape, got {tuple(images.shape)}, {tuple(reference.shape)}")
    x, y = _grey(images), _grey(reference)
    mean_x, mean_y, xx, yy, xy = _windowed(torch.cat([x, y, x * x, y * y, x * y], 1)).unbind(1)
    var_x, var_y, covariance = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    return (2 * mean_x * mean_y + C1) * (2 * covariance + C2) / ((mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2))


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    return (images * torch.tensor(LUMA).to(images)[:, None, None]).sum(1, keepdim=True)


def _windowed(maps: Tensor) -> Tensor:
    taps = torch.arange(TAPS, dtype=torch.float64) - TAPS // 2
    kernel = (-0.5 * (taps / WIDTH) ** 2).exp()
    kernel = (kernel / kernel.sum()).to(maps)
    flat = maps.flatten(0, 1)[:, None]
    for axis in (-2, -1):
        at = torch.arange(-(TAPS // 2), flat.shape[axis] + TAPS // 2) % (2 * flat.shape[axis])
        at = torch.minimum(at, 2 * flat.shape[axis] - 1 - at)  # ... b a | a b c | c b ...
        shape = (1, 1, -1, 1) if axis == -2 else (1, 1, 1, -1)
        flat = F.conv2d(flat.index_select(axis, at.to(flat.device)), kernel.reshape(shape))
    return flat[:, 0].reshape(maps.shape)


class FoveatedBlur(nn.Module):
    """Pictures whose periphery is blurred: each ring of pooling regions by a Gaussian as wide as its regions are large.

    The standard deviation is `coefficient` times the radius of the ring's regions, and 0 in the fovea; rings are
    blended by their windows, so there are no steps. It is one blur for each ring, and differentiable.

    Args:
        coefficient: standard deviation by radius, in [0, 10]; 0 leaves pictures as they are.
        scale: of the regions, in [0.05, 2].
        fixation, field_deg, fovea_deg: of `PoolingRegions`.

    Raises:
        UsageError: a value out of range; at the call, no (B, C, H, W).

    Paper: Emergent Properties of Foveated Perceptual Systems (arXiv 2006.07991).
    """

    def __init__(
        self, coefficient: float, *, scale: float = 0.4, fixation: tuple[float, float] = (0.5, 0.5),
        field_deg: float = 26.0, fovea_deg: float = 0.25,
    ) -> None:  # fmt: skip
        super().__init__()
        check_number("coefficient", coefficient, least=0, most=10)
        self.coefficient, self.scale, self.field_deg = float(coefficient), float(scale), float(field_deg)
        geometry = {"fixation": fixation, "field_deg": field_deg, "fovea_deg": fovea_deg}
        self._geometry = tuple(geometry.items())
        cached_regions((1, 1), self.scale, self._geometry)  # refuses what is out of range

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Blurred pictures."""
        if images.ndim != 4:
            raise UsageError(f"pictures must be (B, C, H, W), not {tuple(images.shape)}")
        size = (images.shape[2], images.shape[3])
        masks, radius = cached_regions(size, self.scale, self._geometry).ring_masks()
        sigmas = (radius * (self.coefficient * max(size) / self.field_deg)).tolist()
        total = masks[0].to(images) * images
        for mask, sigma in zip(masks[1:], sigmas[1:], strict=True):
            total = total + mask.to(images) * gaussian_blur(images, sigma)
        return total


def match_strength(
    transform: Callable[[float], Float[Tensor, "B C H W"]], reference: Float[Tensor, "B C H W"], similarity: float, *,
    most: float, tolerance: float = 1e-3,
) -> float:  # fmt: skip
    """The strength at which a transform's pictures have a mean SSIM to the reference, by halving an interval.

    Args:
        transform: from a strength to pictures; more strength has to give less similarity.
        reference: the pictures they are compared with.
        similarity: the mean SSIM that is asked for, in [-1, 1].
        most: the largest strength that is tried, in (0, 1e6].
        tolerance: of the mean SSIM, in [1e-6, 1].

    Raises:
        UsageError: a value out of range, or pictures that are still more similar at the largest strength.

    Paper: Emergent Properties of Foveated Perceptual Systems (arXiv 2006.07991).
    """
    check_number("similarity", similarity, least=-1, most=1)
    check_number("most", most, above=0, most=1e6)
    check_number("tolerance", tolerance, least=1e-6, most=1)
    with torch.no_grad():
        low, high = 0.0, float(most)
        last = float(ssim_map(transform(high), reference).mean())
        if last > similarity + tolerance:
            raise UsageError(f"a strength of {most:g} still has an SSIM of {last:.3f}, more than {similarity:.3f}")
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            value = float(ssim_map(transform(middle), reference).mean())
            if abs(value - similarity) <= tolerance:
                return middle
            low, high = (middle, high) if value > similarity else (low, middle)
    raise UsageError(f"no strength up to {most:g} has an SSIM of {similarity:.3f} to {tolerance:g}: it may jump there")


def matched_uniform_blur(
    reference: Float[Tensor, "B C H W"], transformed: Float[Tensor, "B C H W"], *, tolerance: float = 1e-3
) -> float:
    """Standard deviation in pixels of the uniform blur that keeps as much as a transform did, by mean SSIM.

    Args:
        reference: pictures before the transform (its `reference` where it decodes them).
        transformed: pictures after it.
        tolerance: of the mean SSIM.

    Raises:
        UsageError: different shapes, or pictures that are less similar than any blur makes them.

    Paper: Emergent Properties of Foveated Perceptual Systems (arXiv 2006.07991).
    """
    similarity = float(ssim_map(transformed, reference).mean())
    return match_strength(
        lambda sigma: gaussian_blur(reference, sigma), reference, similarity, most=max(reference.shape[-2:]) / 2,
        tolerance=tolerance,
    )  # fmt: skip
