"""What an anomaly detector gives back: a score a picture and a map that can be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number


@dataclass(frozen=True)
class Anomalies:
    """Scores of N pictures and of their places; higher is more anomalous.

    Attributes:
        scores: (N,) of the pictures.
        maps: (N, h, w) on the detector's own grid, never normalised picture by picture: that would hide which picture
            is anomalous.
    """

    scores: Float[Tensor, "N"]
    maps: Float[Tensor, "N h w"]

    def __len__(self) -> int:
        return len(self.scores)

    def maps_at(self, size: tuple[int, int], index: int | None = None) -> Float[Tensor, "N H W"]:
        """The maps at a size (h, w) in pixels, bilinear; of one picture alone with `index`."""
        chosen = self.maps if index is None else self.maps[index : index + 1]
        return F.interpolate(chosen[:, None].float(), size=size, mode="bilinear", align_corners=False)[:, 0]

    def limits(self) -> tuple[float, float]:
        """Ends of one colour scale for all pictures: the median of all places, and the 99.9th percentile."""
        flat = self.maps.flatten().double().cpu().numpy()
        low, high = np.percentile(flat, [50, 99.9])
        return float(low), float(high) if high > low else float(low) + 1e-6

    def overlay(
        self, image: Any, index: int = 0, *, limits: tuple[float, float] | None = None, opacity: float = 0.35
    ) -> Image.Image:
        """The picture with what is anomalous tinted and outlined, on one scale for all pictures.

        Where nothing is, the picture is pale; where something is, it keeps its own colours below the tint, so that a
        red defect is seen to be red. The line goes where the scale is half full.

        Args:
            image: the picture, anything `data.open_image` takes; it is shown at its own size.
            index: which of the N.
            limits: (least, largest) value of the colour scale; those of `limits()` by default.
            opacity: of the strongest tint, in [0, 1].

        Raises:
            UsageError: an index out of range, limits that are not ascending, or an opacity out of range.
        """
        from binderclip.data import open_image

        if not 0 <= index < len(self):
            raise UsageError(f"index {index}: there are {len(self)} pictures")
        check_number("opacity", opacity, least=0, most=1)
        low, high = self.limits() if limits is None else limits
        if not low < high:
            raise UsageError(f"limits must be (least, largest), not {(low, high)}")
        picture = open_image(image)
        values = self.maps_at((picture.height, picture.width), index)[0].cpu().numpy()
        return paint_heat(picture, ((values - low) / (high - low)).clip(0, 1), opacity)

    def _drawn(self, images: Sequence[Any] | None, most: int) -> list[tuple[Image.Image, str]]:
        """(overlay, score), most anomalous first; without images the maps alone."""
        if images is not None and len(images) != len(self):
            raise UsageError(f"{len(images)} pictures for {len(self)} maps")
        side = self.maps.shape[-1] * max(1, 160 // self.maps.shape[-1])
        plain = Image.new("RGB", (side, side * self.maps.shape[-2] // self.maps.shape[-1]), "white")
        limits, scores = self.limits(), self.scores.tolist()
        order = self.scores.argsort(descending=True, stable=True).tolist()[:most]
        return [
            (self.overlay(plain if images is None else images[n], n, limits=limits), f"#{n}: {scores[n]:.3f}")
            for n in order
        ]

    def _repr_html_(self) -> str:
        """The maps on one scale with their scores, most anomalous first, in a notebook."""
        from binderclip.display import MOST, sheet_html

        drawn: list[tuple[Image.Image | None, str]] = [*self._drawn(None, MOST)]
        return sheet_html([*drawn, *[(None, "")] * (len(self) - len(drawn))])

    def plot(self, images: Sequence[Any] | None = None) -> Any:
        """A matplotlib figure of the maps on one scale, most anomalous first.

        Args:
            images: the N pictures, anything `data.open_image` takes; None draws the maps alone.

        Raises:
            UsageError: another number of pictures.
        """
        from binderclip.display import MOST, show_pictures

        return show_pictures(self._drawn(images, MOST))


def paint_heat(picture: Image.Image, heat: Float[np.ndarray, "H W"], opacity: float = 0.35) -> Image.Image:
    """A picture, paled where a heat in [0, 1] is 0, tinted where it is high, with a line where it is a half."""
    from matplotlib import colormaps

    own = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    grey = own.mean(axis=2, keepdims=True)
    pale = 0.3 + 0.65 * (0.35 * own + 0.65 * grey)
    strength = heat[..., None] ** 0.8
    base = pale * (1 - strength) + own * strength
    # The dark end of the colours would look like shadow on the picture, so they start at violet.
    colour = colormaps["plasma"](0.15 + 0.85 * heat)[..., :3]
    weight = opacity * strength
    shown = base * (1 - weight) + colour * weight
    for width, tone in ((3, 0.1), (1, 1.0)):
        shown[_outline(heat >= 0.5, width * max(1, round(max(heat.shape) / 500)))] = tone
    return Image.fromarray((shown * 255).round().clip(0, 255).astype(np.uint8))


def _outline(inside: np.ndarray, width: int) -> np.ndarray:
    """Pixels within `width` / 2 of the edge of a region, not those of the picture's own border."""
    from scipy import ndimage

    if not inside.any() or inside.all():
        return np.zeros_like(inside)
    steps = (width + 1) // 2
    grown = ndimage.binary_dilation(inside, iterations=steps)
    return grown & ~ndimage.binary_erosion(inside, iterations=max(1, steps - 1), border_value=1)


def as_anomalies(scores: Tensor, maps: Tensor) -> Anomalies:
    """Checked to be finite and to fit together.

    Raises:
        UsageError: shapes that differ, or NaN.
    """
    if maps.ndim != 3 or scores.shape != maps.shape[:1]:
        raise UsageError(f"scores {tuple(scores.shape)} and maps {tuple(maps.shape)} do not fit together")
    if not bool(torch.isfinite(scores).all()) or not bool(torch.isfinite(maps).all()):
        raise UsageError("anomaly scores are NaN or infinite: is the model's precision too low?")
    return Anomalies(scores, maps)
