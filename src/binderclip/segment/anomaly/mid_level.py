"""Features of an image network's middle, place by place: what PatchCore and PaDiM compare normal pictures by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.data.augment.fill import gaussian_blur
from binderclip.errors import NotSupported, UsageError
from binderclip.segment.anomaly.result import Anomalies, as_anomalies

SIGMA = 4.0
"""Standard deviation of the blur of maps, in pixels of the network's input, as in both papers."""

Detector = TypeVar("Detector", bound="MidLevelDetector")


@dataclass(frozen=True)
class MidLevelFeatures:
    """Features of B pictures on one grid.

    Attributes:
        values: (B, h, w, D), the maps of all strides on the finest grid, channels side by side.
        size: (h, w) of the network's input in pixels.
    """

    values: Float[Tensor, "B h w D"]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> MidLevelFeatures:
        return replace(self, values=self.values[rows])


@torch.no_grad()
def mid_level_features(
    backbone: Any,
    images: Any,
    *,
    strides: Sequence[int],
    size: int | None = None,
    neighbourhood: int = 1,
    batch_size: int = 16,
) -> MidLevelFeatures:
    """The maps of several strides, each averaged over a neighbourhood, coarse ones resized to the finest, stacked.

    Args:
        backbone: an `ImageClassifier`, such as `load_vision("lite0")`.
        images: one or many, anything the backbone takes; squashed to a square, since a crop would hide a border.
        strides: pixels a cell, of those the backbone has.
        size: side of the input in pixels; None for the backbone's own.
        neighbourhood: side of the average in cells, odd; 1 for none.
        batch_size: pictures that go through at once.

    Raises:
        UsageError: no picture, no stride or one the backbone does not have, an even neighbourhood.
        NotSupported: a backbone without maps.
        DataError: a picture that cannot be read.
    """
    if not hasattr(backbone, "feature_maps"):
        raise NotSupported(f"{type(backbone).__name__} gives no maps of its middle: take load_vision('lite0')")
    if neighbourhood < 1 or neighbourhood % 2 == 0:
        raise UsageError(f"neighbourhood must be odd, such as 3, not {neighbourhood}")
    if not strides:
        raise UsageError("strides is empty: give at least one, such as (8, 16)")
    items = list(images) if isinstance(images, (list, tuple)) else images
    if isinstance(items, (list, Tensor)) and not len(items):
        raise UsageError("images is empty: give at least one")
    before = backbone.preprocess
    # A crop would hide a damaged border.
    backbone.preprocess = replace(before.at(size), resize_mode="squash")
    try:
        maps = backbone.feature_maps(items, strides=sorted(strides), batch_size=batch_size)
        side = backbone.preprocess.size
    finally:
        backbone.preprocess = before
    if neighbourhood > 1:
        # The border counts as if nothing were beyond it.
        pad = neighbourhood // 2
        maps = [F.avg_pool2d(each, neighbourhood, 1, pad, count_include_pad=False) for each in maps]
    grid = maps[0].shape[-2:]
    resized = [maps[0], *(F.interpolate(each, size=grid, mode="bilinear", align_corners=False) for each in maps[1:])]
    return MidLevelFeatures(torch.cat(resized, dim=1).permute(0, 2, 3, 1).contiguous(), (int(side[0]), int(side[1])))


class MidLevelDetector(ABC):
    """Features of a network's middle, learnt from normal pictures: what PatchCore and PaDiM share.

    Args:
        backbone: an `ImageClassifier` such as `load_vision("lite0")`.
        strides: of the maps, in pixels a cell.
        neighbourhood: side of the average of features in cells.
        sigma: of the maps' blur, in pixels of the input; 0 for none.
        size: side of the input in pixels; None for the backbone's own.
        seed: of what the method draws.
    """

    least: ClassVar[int] = 1
    """Fewest normal pictures there must be."""
    by_place: ClassVar[bool] = False
    """Whether pictures are compared place by place, which takes one grid."""

    def __init__(
        self, backbone: Any, *, strides: Sequence[int], neighbourhood: int, sigma: float, size: int | None, seed: int
    ) -> None:
        self.backbone, self.strides, self.neighbourhood = backbone, tuple(strides), neighbourhood
        self.sigma, self.size, self.seed = sigma, size, seed
        self.normal: Float[Tensor, "K h w D"] | None = None
        self._learnt: Any = None

    @abstractmethod
    def _learn(self, values: Float[Tensor, "K h w D"]) -> Any:
        """What is kept of normal pictures."""

    @abstractmethod
    def _compare(self, values: Float[Tensor, "h w D"], learnt: Any) -> tuple[Float[Tensor, "h w"], Tensor | None]:
        """Distances of a picture's places, and its score; None for the largest value of the blurred map."""

    def encode(self, images: Any, *, batch_size: int = 16) -> MidLevelFeatures:
        """Features of pictures, once for fitting and scoring."""
        return mid_level_features(
            self.backbone, images, strides=self.strides, size=self.size, neighbourhood=self.neighbourhood,
            batch_size=batch_size,
        )  # fmt: skip

    @torch.no_grad()
    def fit(self: Detector, images: Any, *, batch_size: int = 16) -> Detector:
        """Learn normal pictures, or their `MidLevelFeatures`, instead of those before.

        Raises:
            UsageError: too few pictures. DataError: one that cannot be read.
        """
        features = images if isinstance(images, MidLevelFeatures) else self.encode(images, batch_size=batch_size)
        if len(features) < self.least:
            raise UsageError(f"{type(self).__name__} needs at least {self.least} normal pictures, not {len(features)}")
        self.normal, self._learnt = features.values, self._learn(features.values)
        return self

    def __call__(self, images: Any, *, batch_size: int = 16) -> Anomalies:
        """Score pictures, or their `MidLevelFeatures`.

        Raises:
            UsageError: no picture, or not fitted. DataError: a picture that cannot be read.
        """
        features = images if isinstance(images, MidLevelFeatures) else self.encode(images, batch_size=batch_size)
        return self.score(features)

    @torch.no_grad()
    def score(self, features: MidLevelFeatures, *, without: Int[Tensor, "B"] | None = None) -> Anomalies:
        """Scores and maps from features that are there already.

        Args:
            features: of the pictures.
            without: for each picture the number of a normal one to leave out, its own when normal pictures are scored:
                what is learnt is then learnt again from the others, as if it had never been there.

        Raises:
            UsageError: not fitted, features that do not fit those of the normal pictures, or nothing left to compare
                with.
        """
        if self.normal is None:
            raise UsageError("there is no normal picture to compare with: call fit(images) first")
        first = 1 if self.by_place else 3
        if features.values.shape[first:] != self.normal.shape[first:]:
            raise UsageError(
                f"features {tuple(features.values.shape[1:])} do not fit those of the normal pictures, "
                f"{tuple(self.normal.shape[1:])}"
            )
        if without is not None and without.shape != (len(features),):
            raise UsageError(f"without must be one number for each of {len(features)} pictures, not {without.tolist()}")
        maps, scores = [], []
        learnt = self._learnt
        for row, each in enumerate(features.values):
            if without is not None:
                learnt = self._learn(self._others(int(without[row])))
            apart, score = self._compare(each, learnt)
            maps.append(apart)
            scores.append(score)
        resized = F.interpolate(
            torch.stack(maps)[:, None].float(), size=features.size, mode="bilinear", align_corners=False
        )
        blurred = gaussian_blur(resized, self.sigma)[:, 0]
        largest = blurred.amax(dim=(1, 2))
        chosen = [high if score is None else score for high, score in zip(largest, scores, strict=True)]
        return as_anomalies(torch.stack(chosen), blurred)

    def _others(self, left_out: int) -> Float[Tensor, "K h w D"]:
        """The normal pictures but one."""
        assert self.normal is not None
        count = len(self.normal)
        if not 0 <= left_out < count:
            raise UsageError(f"normal picture {left_out} cannot be left out: there are 0..{count - 1}")
        if count <= self.least:
            raise UsageError(
                f"{type(self).__name__} can leave a normal picture out of {self.least + 1} at least, not of {count}"
            )
        return torch.cat([self.normal[:left_out], self.normal[left_out + 1 :]])
