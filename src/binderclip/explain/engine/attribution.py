"""The result of every attribution method: signed maps on their own grids, drawn when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.explain.engine.placement import Box, render_map
from binderclip.numeric import check_number

DRAWN_SIDE = 1024
"""Longest side in pixels at which a map becomes colours, which are then enlarged to the picture's size."""

Finish = Literal["signed", "relu", "abs"]
Combine = Literal["sum", "mean", "product"]


@dataclass(frozen=True)
class Attribution:
    """Where the evidence for a target is.

    Attributes:
        layers: one signed map (B, h, w) a site, on the site's own grid, channels already reduced.
        boxes: the part of the image each of them covers.
        size: (h, w) of the images.
        value: (B,) the explained number of each image: cosine, logit, or what the target computes.
        method: name of the method.
        finish: what happens to signs before maps are drawn: kept, negative ones set to zero, or dropped.
        combine: how several sites become one map: their sum, or the mean or the geometric mean ("product") of the maps
            brought to [0, 1] one by one.
        align_corners: of the bilinear resizing of sites that cover the whole image.
        accounted: (B,) sum of all terms, where the method promises that they add up; see `completeness_error`.
        promised: (B,) what they should add up to.
        seen: the part of the image that the model's input shows, where `boxes` do not say: gradients at the pixels
            cover the image and are zero beyond a centre crop.
    """

    layers: tuple[Tensor, ...]
    boxes: tuple[Box, ...]
    size: tuple[int, int]
    value: Float[Tensor, "B"]
    method: str
    finish: Finish = "signed"
    combine: Combine = "sum"
    align_corners: bool = False
    accounted: Float[Tensor, "B"] | None = None
    promised: Float[Tensor, "B"] | None = None
    seen: Box | None = None

    def __len__(self) -> int:
        return len(self.value)

    def maps(self, size: tuple[int, int] | None = None, *, normalize: bool = False) -> Float[Tensor, "B H W"]:
        """One map an image, sites summed.

        Args:
            size: (h, w); default the size of the images.
            normalize: to [0, 1] image by image (a constant map becomes 0); signed maps are divided by their largest
                absolute value instead.
        """
        drawn = [
            render_map(self._finished(values), box, self.size, align_corners=self.align_corners)
            for values, box in zip(self.layers, self.boxes, strict=True)
        ]
        if self.combine == "sum":
            total = torch.stack(drawn).sum(dim=0)
        else:
            maps = torch.stack([_normalized(each, signed=self.finish == "signed") for each in drawn])
            total = maps.mean(dim=0) if self.combine == "mean" else maps.clamp(min=0).log().mean(dim=0).exp()
        if size is not None and tuple(size) != self.size:
            total = torch.nn.functional.interpolate(total[:, None], size=tuple(size), mode="bilinear")[:, 0]
        return _normalized(total, signed=self.finish == "signed") if normalize else total

    @property
    def blank(self) -> Bool[Tensor, "B"]:
        """Which images have a map that says nothing: every place has the same value, most often zero after ReLU.

        Such a map has no peak and no order of its pixels, so scores of maps leave it out.
        """
        flat = torch.stack([blank_maps(self._finished(values)) for values in self.layers])
        # Outside the model's input a map is zero, which is no contrast; and maps can cancel one another.
        silent = flat.any(dim=0) if self.combine == "product" else flat.all(dim=0)
        return silent | blank_maps(self.maps())

    def _finished(self, values: Tensor) -> Tensor:
        return {"signed": values, "relu": values.clamp(min=0), "abs": values.abs()}[self.finish].float()

    def completeness_error(self) -> Float[Tensor, "B"] | None:
        """How far the terms are from adding up to what they promise, relative to it; None where nothing is promised."""
        if self.accounted is None or self.promised is None:
            return None
        promised = self.promised.double()
        return ((self.accounted.double() - promised).abs() / promised.abs().clamp(min=1e-12)).float()

    def peak(self, index: int = 0) -> tuple[int, int]:
        """(x, y) in pixels of the strongest evidence of one image.

        Raises:
            UsageError: an index out of range, or a map that is `blank` there.
        """
        self._check(index)
        if bool(self.blank[index]):
            raise UsageError(f"the map of image {index} is blank: {self.method} finds no place that stands out")
        return peaks(self.maps())[index]

    def overlay(self, image: Any, index: int = 0, *, opacity: float = 0.85, note: bool = True) -> Image.Image:
        """The map drawn over its image.

        The picture is greyed so that colour means evidence only; values are cut at their 99.5th percentile, since a
        few single pixels would hide the rest, and unsigned ones start at their median. Signed maps are red for, blue
        against. What a centre crop kept from the model is darkened, and a frame stands around what it saw: no evidence
        there means that nobody looked.

        Args:
            image: the image, anything `data.open_image` takes; it is shown at its own size.
            index: which image of the batch.
            opacity: of the strongest evidence, in [0, 1].
            note: whether the word `blank` is written on a map that is.

        Raises:
            UsageError: an index or an opacity out of range.
        """
        from binderclip.data import open_image

        self._check(index)
        check_number("opacity", opacity, least=0, most=1)
        picture = open_image(image)
        heat = self._smoothed((picture.height, picture.width))[index]
        signed = self.finish == "signed"
        # Half of an unsigned map is below its median: noise that would tint the whole picture.
        heat = heat if signed else np.clip(heat - np.median(heat), 0, None)
        top = np.percentile(np.abs(heat), 99.5) or np.abs(heat).max() or 1.0
        heat = np.clip(heat / top, -1, 1)
        grey = np.asarray(picture.convert("L"), dtype=np.float32)[..., None] / 255
        base = 0.85 * (0.25 + 0.75 * grey) * np.ones(3, dtype=np.float32)
        weight = opacity * np.abs(heat)[..., None] ** 0.8
        colour = _enlarged(_colours(heat, signed=signed) * weight, base.shape[:2])
        shown = base * (1 - _enlarged(weight, base.shape[:2])) + colour
        seen = self._seen(picture.height, picture.width)
        shown[~seen] *= 0.4
        drawn = Image.fromarray((shown * 255).round().clip(0, 255).astype(np.uint8))
        if not seen.all():
            frame_seen(drawn, seen)
        return called_blank(drawn) if note and bool(self.blank[index]) else drawn

    def _smoothed(self, size: tuple[int, int]) -> Float[np.ndarray, "B h w"]:
        """The maps as they are drawn, at most `DRAWN_SIDE` long: a larger picture shows no finer regions."""
        shrunk = min(1.0, DRAWN_SIDE / max(size))
        maps = self.maps((max(1, round(size[0] * shrunk)), max(1, round(size[1] * shrunk)))).cpu().numpy()
        if min(self.layers[0].shape[-2:]) <= 64:
            return maps
        # Pixel gradients flicker from pixel to pixel; the eye wants regions. The map itself stays as it is.
        width = max(maps.shape[1:]) / 150
        return ndimage.gaussian_filter(maps, (0, width, width))

    def _drawn(self, images: Sequence[Any] | None, most: int) -> list[tuple[Image.Image, str]]:
        """(overlay, value) of the first images; without images the maps alone."""
        if images is not None and len(images) != len(self):
            raise UsageError(f"{len(images)} images for {len(self)} maps")
        plain = Image.new("RGB", (self.size[1], self.size[0]), "white")
        shown = [plain] * len(self) if images is None else images
        values = self.value.tolist()
        return [(self.overlay(shown[n], n), f"{self.method} {values[n]:.3f}") for n in range(min(most, len(self)))]

    def _repr_html_(self) -> str:
        """The maps, in a notebook; `plot(images)` draws them over their images."""
        from binderclip.display import MOST, sheet_html

        drawn: list[tuple[Image.Image | None, str]] = [*self._drawn(None, MOST)]
        return sheet_html([*drawn, *[(None, "")] * (len(self) - len(drawn))])

    def plot(self, images: Sequence[Any] | None = None) -> Any:
        """A matplotlib figure of the maps.

        Args:
            images: the images they explain, anything `data.open_image` takes; None draws the maps alone.

        Raises:
            UsageError: another number of images than of maps.
        """
        from binderclip.display import MOST, show_pictures

        return show_pictures(self._drawn(images, MOST))

    def ramp(self, width: int = 256) -> Image.Image:
        """The colours of `overlay` from the least to the most evidence, one pixel high."""
        signed = self.finish == "signed"
        heat = np.linspace(-1 if signed else 0, 1, width)[None]
        shown = 0.6 * (1 - np.abs(heat)[..., None]) + np.abs(heat)[..., None] * _colours(heat, signed=signed)
        return Image.fromarray((shown * 255).round().clip(0, 255).astype(np.uint8))

    def _seen(self, height: int, width: int) -> np.ndarray:
        """(height, width) bool: pixels that were part of the model's input."""
        seen = np.zeros((height, width), dtype=bool)
        down, right = height / self.size[0], width / self.size[1]
        for box in self.boxes if self.seen is None else [self.seen]:
            top, left = max(0, round(box.top * down)), max(0, round(box.left * right))
            seen[top : round((box.top + box.height) * down), left : round((box.left + box.width) * right)] = True
        return seen

    @property
    def cropped(self) -> bool:
        """Whether the model's input left out a part of the images."""
        return not bool(self._seen(*self.size).all())

    def _check(self, index: int) -> None:
        if not -len(self) <= index < len(self):
            raise UsageError(f"index {index}: there are {len(self)} images")


def peaks(maps: Float[Tensor, "B H W"]) -> list[tuple[int, int]]:
    """(x, y) of the largest value of each map; the first in reading order where several are equal.

    A blank map has none: see `blank_maps`.
    """
    width = maps.shape[-1]
    return [(place % width, place // width) for place in maps.flatten(1).argmax(dim=1).tolist()]


def blank_maps(maps: Float[Tensor, "B *size"]) -> Bool[Tensor, "B"]:
    """Which maps have one value everywhere, up to rounding: they order no pixels and point nowhere."""
    flat = maps.detach().flatten(1).float()
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    return high - low <= 1e-6 * torch.maximum(high.abs(), low.abs())


def called_blank(picture: Image.Image) -> Image.Image:
    """The picture with the word in its middle, as large as a thumbnail of it needs."""
    font = ImageFont.load_default(size=max(8, round(min(picture.size) / 6)))
    middle = (picture.width / 2, picture.height / 2)
    ImageDraw.Draw(picture).text(
        middle, "blank", fill="white", font=font, anchor="mm", stroke_width=1, stroke_fill="black"
    )
    return picture


def frame_seen(picture: Image.Image, seen: Bool[np.ndarray, "H W"]) -> None:
    """Draw a light frame with a dark edge around the bounds of `seen`."""
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if not len(rows):
        return
    width = max(1, round(max(picture.size) / 300))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1]))
    draw = ImageDraw.Draw(picture)
    draw.rectangle(box, outline=(20, 20, 20), width=2 * width)
    draw.rectangle(box, outline=(255, 255, 255), width=width)


def _normalized(maps: Tensor, signed: bool) -> Tensor:
    flat = maps.flatten(1)
    if signed:
        top = flat.abs().amax(dim=1)
        return maps / torch.where(top > 0, top, torch.ones_like(top))[:, None, None]
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    spread = torch.where(high > low, high - low, torch.ones_like(high))
    return (maps - low[:, None, None]) / spread[:, None, None]


def _enlarged(values: Float[np.ndarray, "h w C"], size: tuple[int, ...]) -> Float[np.ndarray, "H W C"]:
    """Colours or weights at a picture's size, which they have where it is small."""
    if values.shape[:2] == tuple(size):
        return values
    planes = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32))
    return torch.nn.functional.interpolate(planes[None], size=tuple(size), mode="bilinear")[0].permute(1, 2, 0).numpy()


def _colours(heat: np.ndarray, signed: bool) -> np.ndarray:
    from matplotlib import colormaps

    if signed:
        return colormaps["seismic"]((heat + 1) / 2)[..., :3]
    # The dark end of the map would look like shadow on the picture, so it starts at violet.
    return colormaps["plasma"](0.15 + 0.85 * heat.clip(0, 1))[..., :3]
