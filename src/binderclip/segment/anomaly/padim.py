"""PaDiM: a Gaussian of normal features at every place, and the Mahalanobis distance from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.anomaly.mid_level import SIGMA, MidLevelDetector, MidLevelFeatures


class PaDiM(MidLevelDetector):
    """Anomalies by the distribution of normal features at each place: for parts that always lie the same way.

    The maps of three strides are stacked, and some of their channels taken at random. Each place of the grid has the
    mean and covariance of its features over the normal pictures, 0.01 added to the diagonal. A picture's map is the
    Mahalanobis distance of its features, its score the largest value of the blurred map.

    Args:
        backbone: an `ImageClassifier` such as `load_vision("lite0")`; the paper's are ResNet-18 and WideResNet-50.
        strides: of the maps, in pixels a cell; the paper's first three stages.
        channels: how many are taken; None for all. The paper takes 100 of ResNet-18's 448.
        epsilon: added to the diagonal of covariances.
        sigma: of the maps' blur, in pixels of the input.
        size: side of the input in pixels; None for the backbone's own.
        seed: of the choice of channels.

    Raises:
        UsageError: no channel, or an epsilon that is not positive.

    Examples:
        >>> import torch
        >>> from binderclip.models import load_vision
        >>> detector = PaDiM(load_vision("lite0"), channels=8, size=64).fit(torch.rand(3, 3, 64, 64))
        >>> tuple(detector(torch.rand(1, 3, 64, 64)).maps.shape)
        (1, 64, 64)

    Paper: Defard et al., PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization (ICPR
    2020 workshops, arXiv 2011.08785).
    """

    least = 2  # one picture has no covariance
    by_place = True

    def __init__(
        self,
        backbone: Any,
        *,
        strides: Sequence[int] = (4, 8, 16),
        channels: int | None = 100,
        epsilon: float = 0.01,
        sigma: float = SIGMA,
        size: int | None = None,
        seed: int = 0,
    ) -> None:
        if channels is not None and channels < 1:
            raise UsageError(f"channels must be at least 1, not {channels}")
        if not epsilon > 0:
            raise UsageError(f"epsilon must be positive, not {epsilon}: few pictures give singular covariances")
        super().__init__(backbone, strides=strides, neighbourhood=1, sigma=sigma, size=size, seed=seed)
        self.channels, self.epsilon = channels, epsilon

    def encode(self, images: Any, *, batch_size: int = 16) -> MidLevelFeatures:
        """Features of pictures, once for fitting and scoring, of the chosen channels."""
        features = super().encode(images, batch_size=batch_size)
        width = features.values.shape[-1]
        if self.channels is None or self.channels >= width:
            return features
        order = torch.randperm(width, generator=torch.Generator().manual_seed(self.seed))
        chosen = order[: self.channels].sort().values.to(features.values.device)
        return MidLevelFeatures(features.values[..., chosen], features.size)

    def _learn(self, values: Float[Tensor, "K h w D"]) -> tuple[Float[Tensor, "P D"], Float[Tensor, "P D D"]]:
        """Mean, and lower Cholesky factor of the covariance, at every place."""
        rows = values.flatten(1, 2).transpose(0, 1)
        mean = rows.mean(dim=1)
        centred = rows - mean[:, None]
        covariance = centred.mT @ centred / (rows.shape[1] - 1)
        covariance.diagonal(dim1=1, dim2=2).add_(self.epsilon)
        return mean, torch.linalg.cholesky(covariance)

    def _compare(self, values: Float[Tensor, "h w D"], learnt: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:
        """Mahalanobis distances."""
        mean, factor = learnt
        apart = (values.flatten(0, 1).to(mean) - mean)[..., None]  # (P, D, 1)
        solved = torch.linalg.solve_triangular(factor, apart, upper=False)
        return solved.square().sum(dim=(1, 2)).sqrt().unflatten(0, values.shape[:2]), None
