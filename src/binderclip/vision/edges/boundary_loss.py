"""What boundary attention is trained by: maps and patches near the truth near its edges, and near each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_fields, check_number
from binderclip.vision.edges.boundary_maps import BoundaryMaps
from binderclip.vision.edges.patches import sum_patches, unfold_patches

__all__ = ["BoundaryLoss"]


@dataclass(frozen=True, kw_only=True)
class BoundaryLoss:
    """Squared errors of maps and patches, weighted by how near an edge is, and of patches against the maps they make.

    A pixel at distance d from an edge weighs exp(-decay (d + 1)) (m + constant), with m the weight of junctions. A
    pixel of a patch weighs that, times its part of the patch's mask, over the sum of d + constant in the patch. Patches
    are compared whole; the released program compares them after the mask has darkened them.

    Args:
        features, distance: weights of the maps' errors.
        patch_features, patch_distance: weights of the patches' errors.
        feature_consistency, boundary_consistency: weights of the patches' distances from the maps, which are not moved
            by them.
        decay: how fast pixels lose weight away from edges, a pixel.
        constant: weight of a pixel far from junctions, and of distance 0.
        discount: each output weighs this times the one after it.

    Raises:
        UsageError: a weight that is negative or not finite, or a constant or discount that is not positive.

    Paper: Boundary Attention: Learning to Find Faint Boundaries at Any Resolution (arXiv 2401.00935).
    """

    features: float = 1.0
    distance: float = 1e-3
    patch_features: float = 1.0
    patch_distance: float = 1e-3
    feature_consistency: float = 20.0
    boundary_consistency: float = 1e-2
    decay: float = 0.1
    constant: float = 0.3
    discount: float = 0.3

    def __post_init__(self) -> None:
        check_fields(self)
        for name, value in vars(self).items():
            divides = name in ("constant", "discount")
            check_number(name, value, above=0 if divides else None, least=None if divides else 0)

    def __call__(
        self,
        outputs: Sequence[BoundaryMaps],
        clean: Float[Tensor, "B C H W"],
        distances: Float[Tensor, "B H W"],
        junction_weight: Float[Tensor, "B H W"] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss, a mean over pixels and pictures.

        Args:
            outputs: of the last iterations, the last one last.
            clean: the pictures without noise.
            distances: of each pixel from the nearest edge, in pixels.
            junction_weight: m, such as `KaleidoShapes.junction_weight`; None: 1 everywhere.

        Raises:
            UsageError: no outputs, or truths of another size.
        """
        if not outputs:
            raise UsageError("outputs must be of one iteration at least")
        size = outputs[0].distance.shape
        if distances.shape != size or clean.shape != outputs[0].features.shape:
            raise UsageError(
                f"clean must be {tuple(outputs[0].features.shape)} and distances {tuple(size)} as the outputs are, not "
                f"{tuple(clean.shape)} and {tuple(distances.shape)}"
            )
        junctions = torch.ones_like(distances) if junction_weight is None else junction_weight
        pixel = torch.exp(-self.decay * (distances + 1)) * (junctions + self.constant)  # (B, H, W)
        weights = [self.discount ** (len(outputs) - k) for k in range(len(outputs))]
        losses = [self._one(output, clean, distances, pixel) for output in outputs]
        return sum((w * loss for w, loss in zip(weights, losses, strict=True)), pixel.new_zeros(())) / sum(weights)

    def _one(self, maps: BoundaryMaps, clean: Tensor, distances: Tensor, pixel: Tensor) -> Tensor:
        """The loss of one output."""
        side = maps.mask.shape[1]
        seen = pixel * (maps.density > 0)
        patch = (
            maps.mask / (maps.mask.sum((1, 2), keepdim=True) + 1e-4)
            * unfold_patches(seen[:, None], side)[:, 0]
            / unfold_patches(distances[:, None] + self.constant, side)[:, 0].sum((1, 2), keepdim=True)
        )  # (B, R, R, h, w)  # fmt: skip

        def against(patches: Tensor, truth: Tensor) -> Tensor:
            """Squared error of patches (B, C, R, R, h, w) against the patches of a map, summed over channels."""
            return (patches - unfold_patches(truth, side)).square().sum(1)

        features, distance, boundary = (
            maps.feature_patches, maps.distance_patches[:, None], maps.boundary_patches[:, None]
        )  # fmt: skip
        of_patches = patch * (
            self.patch_features * against(features, clean)
            + self.patch_distance * against(distance, distances[:, None])
            + self.feature_consistency * against(features, maps.features.detach())
            + self.boundary_consistency * against(boundary, maps.boundary.detach()[:, None])
        )
        of_maps = seen * (
            self.features * (maps.features - clean).square().sum(1)
            + self.distance * (maps.distance - distances).square()
        )
        return (of_maps + sum_patches(of_patches[:, None])[:, 0]).mean()
