"""PaDiM: a Gaussian of normal features at every place, and the Mahalanobis distance from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.anomaly.mid_level import SIGMA, MidLevelFeatures, blurred_maps, mid_level_features
from binderclip.segment.anomaly.result import Anomalies, as_anomalies


class PaDiM:
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

    Example:
        >>> import torch
        >>> from binderclip.models import load_vision
        >>> detector = PaDiM(load_vision("lite0"), channels=8, size=64).fit(torch.rand(3, 3, 64, 64))
        >>> tuple(detector(torch.rand(1, 3, 64, 64)).maps.shape)
        (1, 64, 64)

    Paper: Defard et al., PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization (ICPR
    2020 workshops, arXiv 2011.08785).
    """

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
        self.backbone, self.strides, self.channels = backbone, tuple(strides), channels
        self.epsilon, self.sigma, self.size, self.seed = epsilon, sigma, size, seed
        self.normal: Tensor | None = None
        self._whole: tuple[Tensor, Tensor] | None = None

    def encode(self, images: Any, *, batch_size: int = 16) -> MidLevelFeatures:
        """Features of pictures, once for fitting and scoring, of the chosen channels."""
        found = mid_level_features(self.backbone, images, strides=self.strides, size=self.size, batch_size=batch_size)
        width = found.values.shape[-1]
        if self.channels is None or self.channels >= width:
            return found
        order = torch.randperm(width, generator=torch.Generator().manual_seed(self.seed))
        chosen = order[: self.channels].sort().values.to(found.values.device)
        return MidLevelFeatures(found.values[..., chosen], found.size)

    @torch.no_grad()
    def fit(self, images: Any, *, batch_size: int = 16) -> PaDiM:
        """The distribution of normal pictures, or of their `MidLevelFeatures`, instead of the one before.

        Raises:
            UsageError: fewer than two pictures. DataError: one that cannot be read.
        """
        found = images if isinstance(images, MidLevelFeatures) else self.encode(images, batch_size=batch_size)
        if len(found) < 2:
            raise UsageError("PaDiM needs at least two normal pictures: one has no covariance")
        self.normal = found.values
        self._whole = self._gaussian(found.values)
        return self

    def __call__(self, images: Any, *, batch_size: int = 16) -> Anomalies:
        """Score pictures, or their `MidLevelFeatures`.

        Raises:
            UsageError: no picture, or not fitted. DataError: a picture that cannot be read.
        """
        found = images if isinstance(images, MidLevelFeatures) else self.encode(images, batch_size=batch_size)
        return self.score(found)

    @torch.no_grad()
    def score(self, features: MidLevelFeatures, *, without: Int[Tensor, "B"] | None = None) -> Anomalies:
        """Scores and maps from features that are there already.

        Args:
            features: of the pictures, on the grid of the normal ones.
            without: for each picture a normal one that does not count: its own, when normal pictures are scored.

        Raises:
            UsageError: not fitted, another grid or width, or fewer than two normal pictures left.
        """
        if self.normal is None or self._whole is None:
            raise UsageError("there is no normal picture to compare with: call fit(images) first")
        if features.values.shape[1:] != self.normal.shape[1:]:
            raise UsageError(
                f"features {tuple(features.values.shape[1:])} do not fit those of the normal pictures, "
                f"{tuple(self.normal.shape[1:])}"
            )
        if without is not None and len(self.normal) < 3:
            raise UsageError("a normal picture can be left out of three at least: one has no covariance")
        maps = []
        for row in range(len(features)):
            mean, factor = self._whole
            if without is not None:
                others = [k for k in range(len(self.normal)) if k != int(without[row])]
                mean, factor = self._gaussian(self.normal[others])
            apart = (features.values[row].flatten(0, 1).to(mean) - mean)[..., None]
            solved = torch.linalg.solve_triangular(factor, apart, upper=False)
            maps.append(solved.square().sum(dim=(1, 2)).sqrt().unflatten(0, features.values.shape[1:3]))
        blurred = blurred_maps(torch.stack(maps).float(), features.size, self.sigma)
        return as_anomalies(blurred.amax(dim=(1, 2)), blurred)

    def _gaussian(self, values: Float[Tensor, "K h w D"]) -> tuple[Float[Tensor, "P D"], Float[Tensor, "P D D"]]:
        """Mean, and lower Cholesky factor of the covariance, at every place."""
        rows = values.flatten(1, 2).transpose(0, 1)
        mean = rows.mean(dim=1)
        centred = rows - mean[:, None]
        covariance = centred.mT @ centred / (rows.shape[1] - 1)
        covariance.diagonal(dim1=1, dim2=2).add_(self.epsilon)
        return mean, torch.linalg.cholesky(covariance)
