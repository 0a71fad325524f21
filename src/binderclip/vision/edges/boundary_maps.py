"""From junctions and a picture to maps: the colour of each wedge, and the mean of all patches over each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole
from binderclip.vision.edges.junctions import JunctionField
from binderclip.vision.edges.patches import fold_patches, sum_patches, unfold_patches

__all__ = ["BoundaryMaps", "render_boundaries", "square_masks"]


@dataclass(frozen=True, eq=False)
class BoundaryMaps:
    """What a field of junctions says of a picture: maps, and the patches of which they are the mean.

    Attributes:
        junctions: of h x w patches of side R, which lie within the picture.
        features: the picture with each wedge in its mean colour.
        distance: from the nearest boundary, in pixels.
        boundary: how much of a boundary each pixel is, in [0, 1].
        feature_patches, distance_patches, boundary_patches: the same, patch by patch.
        mask: weight of each patch's pixels in the mean.
        density: sum of the masks over each pixel.
        hidden: state of the network that gave the junctions; None without one.
    """

    junctions: JunctionField
    features: Float[Tensor, "B C H W"]
    distance: Float[Tensor, "B H W"]
    boundary: Float[Tensor, "B H W"]
    feature_patches: Float[Tensor, "B C R R h w"]
    distance_patches: Float[Tensor, "B R R h w"]
    boundary_patches: Float[Tensor, "B R R h w"]
    mask: Float[Tensor, "B R R h w"]
    density: Float[Tensor, "B H W"]
    hidden: Float[Tensor, "B h w D"] | None = None

    def probability(self, delta: float = 1.0) -> Float[Tensor, "B H W"]:
        """An edge map from the distances d, 1 / (1 + (d / delta)^2), as the paper draws it.

        Args:
            delta: distance in pixels at which it is one half.

        Raises:
            UsageError: a delta that is not positive.
        """
        check_number("delta", delta, above=0)
        return 1 / (1 + (self.distance / delta).square())


def square_masks(size: int, sides: Sequence[int]) -> Float[Tensor, "S R R"]:
    """Masks of patches of `size` pixels: 1 in the middle square of each side.

    Raises:
        UsageError: sides that are even, out of 1 to size, or none.
    """
    check_whole("size", size, least=1)
    if not sides or any(side < 1 or side > size or (size - side) % 2 for side in sides):
        raise UsageError(
            f"sides must be odd or even as the patch of {size} pixels is and at most as large, got {sides}"
        )
    off = (torch.arange(size) - (size - 1) / 2).abs()
    reach = torch.maximum(off[:, None], off)  # (R, R)
    return torch.stack([(reach < side / 2).float() for side in sides])


def render_boundaries(
    junctions: JunctionField,
    images: Float[Tensor, "B C H W"],
    size: int,
    *,
    mask: Float[Tensor, "B R R h w"] | None = None,
    eta: float = 1e-4,
    delta: float = 1e-3,
) -> BoundaryMaps:
    """Gather the mean colour of each wedge of each patch, and fold the patches into maps.

    Args:
        junctions: of all patches that lie within the picture, h = H - size + 1 and w = W - size + 1.
        images: of any number of channels, whose colours are averaged.
        size: side R of a patch in pixels.
        mask: weight of each patch's pixels, in the colours and in the maps; None: 1.
        eta, delta: softness of the wedges and of the boundaries, in patch coordinates.

    Raises:
        UsageError: junctions for another number of patches, or a softness that is not positive.
    """
    batch, _, height, width = images.shape
    h, w = junctions.vertex.shape[-2:]
    if (h + size - 1, w + size - 1) != (height, width) or len(junctions.vertex) != batch:
        raise UsageError(
            f"junctions must be of {batch} x {height - size + 1} x {width - size + 1} patches of side {size}, not of "
            f"{len(junctions.vertex)} x {h} x {w}"
        )
    weight = images.new_ones(batch, size, size, h, w) if mask is None else mask
    density = sum_patches(weight[:, None])
    patches = paint_wedges(images, junctions.wedges(size, eta=eta), weight)
    geometry = torch.stack([junctions.distance(size), junctions.boundary(size, delta=delta)], dim=1)
    maps = fold_patches(torch.cat([patches, geometry], dim=1) * weight[:, None], density)
    return BoundaryMaps(
        junctions=junctions,
        features=maps[:, :-2],
        distance=maps[:, -2],
        boundary=maps[:, -1],
        feature_patches=patches,
        distance_patches=geometry[:, 0],
        boundary_patches=geometry[:, 1],
        mask=weight,
        density=density[:, 0],
    )


def paint_wedges(
    images: Float[Tensor, "B C H W"], wedges: Float[Tensor, "B M R R h w"], mask: Float[Tensor, "B R R h w"]
) -> Float[Tensor, "B C R R h w"]:
    """Patches in which each wedge has its mean colour under the mask."""
    pixels = unfold_patches(images, wedges.shape[2])
    painted = torch.zeros((), dtype=images.dtype, device=images.device)
    # One wedge at a time: all of them at once would take M C R^2 numbers a patch.
    for wedge in wedges.split(1, dim=1):
        weight = wedge * mask[:, None]  # (B, 1, R, R, h, w)
        colour = (pixels * weight).sum((2, 3)) / (weight.sum((2, 3)) + 1e-10)  # (B, C, h, w)
        painted = painted + wedge * colour[:, :, None, None]
    return painted
