"""Foveated style transfer: features become noise with the statistics of their own region, more in larger regions."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.vision.foveation.codec import BlockCodec, FeatureCodec
from binderclip.vision.foveation.regions import EPSILON, SLOPE, PoolingRegions, WindowKind, texture_strength

__all__ = ["FoveatedTexture", "adain", "coral"]


def adain(content: Float[Tensor, "B C *map"], style: Float[Tensor, "B C *other"]) -> Float[Tensor, "B C *map"]:
    """Give every channel of a map the mean and the standard deviation of another map's (AdaIN).

    Standard deviations are roots of the unbiased variance plus 1e-5.

    Args:
        content: the maps that are normalised; at least two places.
        style: the maps whose statistics they get, of as many channels.

    Raises:
        UsageError: other numbers of maps or channels, or fewer than two places.

    Paper: Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization (arXiv 1703.06868).
    """
    if content.ndim < 3 or style.ndim < 3 or content.shape[:2] != style.shape[:2]:
        raise UsageError(f"maps (B, C, ...) of the same B and C, got {tuple(content.shape)} and {tuple(style.shape)}")
    if min(content[0, 0].numel(), style[0, 0].numel()) < 2:
        raise UsageError("a standard deviation needs at least two places of a map")
    shape = (*content.shape[:2], *(1,) * (content.ndim - 2))
    rows, other = content.flatten(2), style.flatten(2)
    gain = ((other.var(2) + EPSILON) / (rows.var(2) + EPSILON)).sqrt().reshape(shape)
    return (content - rows.mean(2).reshape(shape)) * gain + other.mean(2).reshape(shape)


def coral(source: Float[Tensor, "B C H W"], target: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C H W"]:
    """Give the colours of one picture the mean, the spread and the correlations of another's (CORAL).

    With standardised channels X, `M = sqrt(X_t X_t' + 1) sqrt(X_s X_s' + 1)^-1` and covariances that are not divided by
    the number of pixels; then the target's deviation and mean.

    Args:
        source: the picture that is recoloured.
        target: whose colours it gets; a flat channel has correlations of 0.

    Raises:
        UsageError: other numbers of pictures or channels.

    Paper: Return of Frustratingly Easy Domain Adaptation (arXiv 1511.05547), as in arXiv 1705.10041.
    """
    if source.ndim != 4 or target.ndim != 4 or source.shape[:2] != target.shape[:2]:
        raise UsageError(f"pictures (B, C, H, W) of the same B and C: {tuple(source.shape)}, {tuple(target.shape)}")
    rows, root_s, _, _ = _standardised(source)
    _, root_t, mean, std = _standardised(target)
    moved = root_t @ torch.linalg.solve(root_s, rows)
    return (moved * std + mean).reshape(source.shape)


def _standardised(images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Channels [B C P] of mean 0 and deviation 1, the root of their scatter plus 1, their means and deviations."""
    rows = images.flatten(2)
    mean, std = rows.mean(2, keepdim=True), rows.std(2, keepdim=True)
    rows = (rows - mean) / std.clamp(min=1e-12)
    values, vectors = torch.linalg.eigh(rows @ rows.mT + torch.eye(rows.shape[1]).to(rows))
    return rows, (vectors * values.clamp(min=0).sqrt()[:, None]) @ vectors.mT, mean, std


@lru_cache(maxsize=32)
def cached_regions(size: tuple[int, int], scale: float, options: tuple[tuple[str, Any], ...]) -> PoolingRegions:
    """`PoolingRegions`, made once for each size and setting."""
    return PoolingRegions(size, scale, **dict(options))


class FoveatedTexture(nn.Module):
    """Pictures whose periphery is texture: they look alike when fixated, though their pixels differ (NeuroFovea).

    Noise in the colours of the picture goes through the same encoder; in every region its features get the mean and
    the standard deviation of the picture's features there, and `alpha` of them is mixed in. Alpha grows with the
    region; the fovea, and regions of fewer than two places of the map, stay as they are. All regions are done by three
    sparse products.

    Compare its pictures with `reference`, not with the originals: encoder and decoder change them too.

    Args:
        codec: encoder and decoder; default blocks of 2 x 2 pixels with an exact inverse. For the authors' pictures load
            their weights into `FeatureCodec.adain()` and give pictures of 512 x 512.
        scale: of the regions, in [0.05, 2].
        slope: of `texture_strength`, per degree, in [0, 100]; 0 gives the reference.
        fixation, field_deg, fovea_deg, windows: of `PoolingRegions`.

    Raises:
        UsageError: a value out of range.

    Paper: Towards Metamerism via Foveated Style Transfer (arXiv 1705.10041).
    """

    def __init__(
        self, codec: FeatureCodec | None = None, *, scale: float = 0.4, slope: float = SLOPE,
        fixation: tuple[float, float] = (0.5, 0.5), field_deg: float = 26.0, fovea_deg: float = 0.25,
        windows: WindowKind = "smooth",
    ) -> None:  # fmt: skip
        super().__init__()
        check_number("slope", slope, least=0, most=100)
        self.codec = BlockCodec() if codec is None else codec
        self.scale, self.slope = float(scale), float(slope)
        geometry = {"fixation": fixation, "field_deg": field_deg, "fovea_deg": fovea_deg, "windows": windows}
        self._geometry = tuple(geometry.items())
        self.regions((1, 1))  # refuses what is out of range

    def regions(self, size: tuple[int, int]) -> PoolingRegions:
        """The regions of a map of a size."""
        return cached_regions(size, self.scale, self._geometry)

    def strength(self, size: tuple[int, int]) -> Float[Tensor, "R"]:
        """Alpha of each region of a map of a size: 0 for the fovea and for fewer than two places."""
        regions = self.regions(size)
        alpha = texture_strength(regions.radius_deg, self.slope) * (regions.pixels >= 2)
        return torch.where(torch.arange(len(alpha)) == 0, torch.zeros_like(alpha), alpha)

    def reference(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """What encoder and decoder alone make of pictures, in [0, 1]."""
        return self.codec.decode(self.codec.encode(images)).clamp(0, 1)

    def mixed(
        self,
        content: Float[Tensor, "B C H W"],
        noise: Float[Tensor, "B C H W"],
        alpha: Float[Tensor, "R"] | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """Features whose regions are moved towards noise of their own statistics.

        Args:
            content: features of pictures.
            noise: features of noise.
            alpha: by region, in [0, 1]; default `strength`.

        Raises:
            UsageError: maps of different shapes, or not one alpha for each region.
        """
        if content.shape != noise.shape:
            raise UsageError(f"noise must have the content's shape {tuple(content.shape)}, not {tuple(noise.shape)}")
        regions = self.regions((content.shape[2], content.shape[3]))
        weight = (self.strength(regions.size) if alpha is None else alpha).to(content)
        if weight.shape != (len(regions),):
            raise UsageError(f"alpha must have one value for each of {len(regions)} regions, not {tuple(weight.shape)}")
        to, own = regions.statistics(content), regions.statistics(noise)
        gain = to.std / own.std
        # (1 - a) C + a (gain Z + shift), written back by windows: three maps of one product.
        parts = torch.cat([gain, to.mean - gain * own.mean, torch.ones_like(gain[..., :1])], 2) * weight[:, None]
        maps = regions.spread(parts)
        times, plus, amount = maps.split([content.shape[1], content.shape[1], 1], 1)
        return (1 - amount) * content + times * noise + plus

    def forward(
        self, images: Float[Tensor, "B 3 H W"], *, noise: Float[Tensor, "B 3 H W"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B 3 H W"]:  # fmt: skip
        """Foveated pictures, in [0, 1].

        Args:
            images: in [0, 1].
            noise: to make texture of, of the pictures' shape; default normally distributed.
            generator: draws it.

        Raises:
            UsageError: no (B, 3, H, W), or noise of another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not len(images):
            raise UsageError(f"pictures must be (B, 3, H, W), not {tuple(images.shape)}")
        if noise is None:
            drawn = torch.randn(images.shape, generator=generator, dtype=torch.float64)
            noise = drawn.to(images)
        if noise.shape != images.shape:
            raise UsageError(f"noise must have the pictures' shape {tuple(images.shape)}, not {tuple(noise.shape)}")
        content = self.codec.encode(images)
        return self.codec.decode(self.mixed(content, self.codec.encode(coral(noise, images)))).clamp(0, 1)
