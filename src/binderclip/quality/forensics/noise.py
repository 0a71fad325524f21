"""A detector that looks at the noise of windows all over a picture, and at nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from binderclip.errors import DataError, UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.quality.forensics.aide import NoiseExpert
from binderclip.quality.forensics.detector import Detector, DetectorOutput, Parts, PictureEncoder
from binderclip.quality.forensics.views import Places

SLACK = 8
"""Training looks at a part that is so many pixels smaller: blocks of JPEG and grids of generators lie anywhere."""


class NoiseDetector(Detector):
    """Detect generated pictures by the noise of windows at their own resolution, spread evenly; no model is needed.

    Each window goes through the SRM filters and a small residual network (`NoiseExpert`, the low-level expert of AIDE)
    to a logit, and the picture's logit is their mean. AIDE looks at the least and the most complex windows instead,
    which in large pictures are extremes that small training pictures never show.

    Args:
        model: not looked through; it may be named since detectors are made alike.
        grid: windows along each side of a picture; those of small pictures overlap. It may differ from that of the
            training: more windows give a surer mean.
        window: side in pixels.
        layers, channels, stem: of the residual network, see `NoiseExpert`.

    Raises:
        UsageError: a grid or window below 1.
        DataError: pictures smaller than a window.

    Paper of the expert: A Sanity Check for AI-generated Image Detection (arXiv 2406.19435).

    Examples:
        >>> detector = NoiseDetector(grid=2).eval()
        >>> detector.output(torch.rand(1, 3, 96, 80)).logit.shape
        torch.Size([1])
    """

    def __init__(
        self,
        model: PictureEncoder | str | None = None,
        *,
        grid: int = 3,
        window: int = 64,
        layers: Sequence[int] = (1, 1, 1, 1),
        channels: Sequence[int] = (16, 32, 64, 64),
        stem: int = 16,
    ) -> None:
        refuse_bare_module(model, "NoiseDetector")
        if min(grid, window, stem) < 1:
            raise UsageError(f"grid {grid}, window {window} and stem {stem} must be at least 1")
        settings = {
            "grid": grid, "window": window, "layers": list(layers), "channels": list(channels), "stem": stem,
        }  # fmt: skip
        super().__init__(None, settings)
        self.grid, self.window, self.patch = grid, window, window
        self.expert = NoiseExpert(layers, channels, bottleneck=False, side=window, stem=stem)
        self.line = nn.Linear(self.expert.width, 1)

    def mapped(self, image: Float[Tensor, "3 H W"]) -> Float[Tensor, "1 3 h w"]:
        """The middle of the picture, as many windows a side as it has room for and the grid has."""
        self._check(image.shape[-2:])
        height, width = (min(self.grid, extent // self.window) * self.window for extent in image.shape[-2:])
        top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
        return image[None, :, top : top + height, left : left + width]

    def view(self, images: Float[Tensor, "B 3 H W"], places: Places | None = None) -> Parts:
        """Windows (B, grid^2, 3, w, w), evenly from edge to edge.

        Args:
            images: in [0, 1], at their own size.
            places: of parts that are up to 8 pixels smaller, which training looks at; None for the whole.
        """
        self._check(images.shape[-2:])
        if places is not None:
            side = [max(extent - SLACK, self.window) for extent in images.shape[-2:]]
            images = torch.stack([_part(image, side, place) for image, place in zip(images, places, strict=True)])
        rows, columns = (self._starts(extent) for extent in images.shape[-2:])
        w = self.window
        return (torch.stack([images[..., top : top + w, left : left + w] for top in rows for left in columns], 1),)

    def features(self, views: Parts) -> Parts:
        """The windows: all that follows is trained."""
        return views

    def read(self, features: Parts) -> DetectorOutput:
        """The mean over windows of their logits, and of their vectors; each window's vector is a token."""
        windows = features[0]
        tokens = self.expert(windows.flatten(0, 1)).view(*windows.shape[:2], -1)  # (B, grid^2, F)
        return DetectorOutput(self.line(tokens)[..., 0].mean(1), tokens.mean(1), tokens)

    def objective(
        self, features: Parts, labels: Float[Tensor, "B"], patch_labels: Float[Tensor, "B N"] | None = None
    ) -> Float[Tensor, ""]:
        """Binary cross-entropy."""
        return functional.binary_cross_entropy_with_logits(self.read(features).logit, labels)

    def _starts(self, extent: int) -> list[int]:
        if self.grid == 1:
            return [(extent - self.window) // 2]
        return [round(step * (extent - self.window) / (self.grid - 1)) for step in range(self.grid)]

    def _check(self, size: Sequence[int]) -> None:
        if min(size) < self.window:
            raise DataError(
                f"{size[0]} x {size[1]} pixels: smaller than a window of {self.window}, whose noise this detector reads"
            )


def _part(image: Float[Tensor, "3 H W"], side: Sequence[int], place: tuple[float, float]) -> Float[Tensor, "3 h w"]:
    top, left = (int(offset * (extent - length + 1))
                 for offset, extent, length in zip(place, image.shape[-2:], side, strict=True))  # fmt: skip
    return image[:, top : top + side[0], left : left + side[1]]
