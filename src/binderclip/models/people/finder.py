"""Faces on a photograph, and which of its pixels are people: two small networks of MediaPipe's, run by torch.

Papers: Bazarevsky et al., BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs, 2019 (arXiv 1907.05047), of
which the detector is the model for up to five metres; the segmenter is a MobileNetV3 (Howard et al., 2019, arXiv
1905.02244) with a light decoder, for people of up to two metres' distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torchvision.ops import nms

from binderclip.errors import UsageError
from binderclip.models.files.checkpoint import configured
from binderclip.models.files.folders import Folder, bundled_of, read_folder
from binderclip.models.people.graph import OperationGraph

__all__ = ["KIND", "Face", "PeopleFinder", "crop_around", "load_people"]

KIND = "people"
BUNDLED = "people"
CERTAIN = 0.65
"""Of a face's probability: of the 14 outlines of people of the split "choose" 9 have such a face, among them all whose
face is wider than a tenth of the picture but one, in a dark room; of the 299 photographs of "learn" and "choose"
without people two have, a chimpanzee and a koala."""
OVERLAP = 0.3
"""Intersection over union beyond which two boxes are one face, as MediaPipe sets it."""
AROUND = (2.0, 1.5, 5.0)
"""Of a face's height: what a crop of its person takes to either side of the middle, above and below. MediaPipe sees the
picture as a whole; a person far off is too small there (on two outlines of "choose" the crops give an IoU of .79
and .66, the whole picture 0 and .56)."""


@dataclass(frozen=True)
class Face:
    """A face that was found.

    Attributes:
        box: (x, y, x, y) in pixels, from the brows to the chin; it may reach beyond the picture.
        probability: that it is one.
    """

    box: tuple[float, float, float, float]
    probability: float


class PeopleFinder:
    """Finds faces, and the pixels of people about whom a face says that they are there.

    Args:
        faces: network of 192 x 192 pixels in [-1, 1], whose outputs are boxes and logits on a grid.
        people: network of 256 x 256 pixels in [0, 1], whose output is a probability at each of them.
        sides: of both, in pixels.

    No gradient runs through it.
    """

    def __init__(self, faces: OperationGraph, people: OperationGraph, *, sides: tuple[int, int]) -> None:
        self._faces, self._people, self.sides = faces.eval(), people.eval(), sides

    def to(self, device: torch.device | str) -> PeopleFinder:
        """Itself, on a device."""
        self._faces.to(device)
        self._people.to(device)
        return self

    @torch.no_grad()
    def faces(self, image: Float[Tensor, "3 H W"], *, certain: float = CERTAIN) -> list[Face]:
        """Faces of a picture, the surest first.

        Args:
            image: in [0, 1], any size; seen at 192 pixels, so that a face below 1/12 of the longer side may be missed.
            certain: the least probability, in (0, 1).

        Raises:
            UsageError: a probability out of range.
        """
        if not 0 < certain < 1:
            raise UsageError(f"certain={certain}: a probability between 0 and 1")
        side, (height, width) = self.sides[0], image.shape[-2:]
        longest = max(height, width)
        size = (max(1, round(height * side / longest)), max(1, round(width * side / longest)))
        small = _resized(image, size)
        left, top = (side - size[1]) // 2, (side - size[0]) // 2  # the picture in the middle of a black square
        padded = functional.pad(small, (left, side - size[1] - left, top, side - size[0] - top))
        boxes, logits = sorted(self._faces(2 * padded[None] - 1), key=lambda each: -each.shape[1])  # 16 numbers, 1
        probability = logits[0, 0].clamp(-100, 100).sigmoid().flatten()  # (n,)
        grid = logits.shape[-1]
        step = torch.arange(probability.numel(), device=image.device)
        centre = torch.stack([step % grid, step // grid], 1).add(0.5) / grid  # (n, 2) of the square
        numbers = boxes[0].flatten(1).T[:, :4] / side  # x, y of the middle less the place's, width and height
        middle, extent = numbers[:, :2] + centre, numbers[:, 2:]
        scale = longest / side
        corners = torch.cat([middle - extent / 2, middle + extent / 2], 1) * side  # (n, 4) pixels of the square
        corners = (corners - corners.new_tensor([left, top, left, top])) * scale
        sure = (probability >= certain).nonzero()[:, 0]
        kept = sure[nms(corners[sure], probability[sure], OVERLAP)].tolist()
        return [
            Face((x0, y0, x1, y1), value)
            for (x0, y0, x1, y1), value in zip(corners[kept].tolist(), probability[kept].tolist(), strict=True)
        ]

    @torch.no_grad()
    def people(self, image: Float[Tensor, "3 H W"], faces: Sequence[Face] = ()) -> Float[Tensor, "h w"]:
        """Probability at each place that it shows a person, on a grid of at most 512 along the longer side.

        It is the largest of what the network says of the whole picture, and of a crop about each face. Without a face
        it finds whatever stands in front, a basket or a cow: ask `faces` first.

        Args:
            image: in [0, 1], any size.
            faces: of `faces`.
        """
        height, width = image.shape[-2:]
        scale = min(1.0, 2 * self.sides[1] / max(height, width))
        grid = (max(1, round(height * scale)), max(1, round(width * scale)))
        probability = self._seen(image, grid)
        for face in faces:
            top, bottom, left, right = crop_around(face, height, width, AROUND)
            # A crop that is nearly the picture says nothing new.
            if right - left < 2 or bottom - top < 2 or (right - left) * (bottom - top) > 0.8 * height * width:
                continue
            place = [round(scale * each) for each in (top, bottom, left, right)]
            size = (place[1] - place[0], place[3] - place[2])
            if min(size) > 0:
                own = self._seen(image[:, top:bottom, left:right], size)
                target = probability[place[0] : place[1], place[2] : place[3]]
                torch.maximum(target, own[: target.shape[0], : target.shape[1]], out=target)
        return probability

    def _seen(self, image: Float[Tensor, "3 H W"], grid: tuple[int, int]) -> Float[Tensor, "h w"]:
        # As MediaPipe does, the sides are not kept in their ratio.
        seen = self._people(_resized(image, (self.sides[1], self.sides[1]))[None])[0]
        return functional.interpolate(seen, size=grid, mode="bilinear", align_corners=False)[0, 0]


def crop_around(face: Face, height: int, width: int, parts: tuple[float, float, float]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of a crop about a face, inside a picture; empty for a face outside of it.

    Args:
        face: in the picture's pixels.
        height, width: of the picture.
        parts: of the face's height, from its middle to either side, above and below.
    """
    x0, y0, x1, y1 = face.box
    sides, above, below = (part * (y1 - y0) for part in parts)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return max(0, int(y - above)), min(height, int(y + below)), max(0, int(x - sides)), min(width, int(x + sides))


def _resized(image: Float[Tensor, "3 H W"], size: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    small = functional.interpolate(image.float()[None], size=size, mode="bilinear", antialias=True, align_corners=False)
    return small[0].clamp(0, 1)


@lru_cache(maxsize=1)
def load_people() -> PeopleFinder:
    """The bundled networks, opened once.

    Raises:
        CheckpointError: their folder is damaged.
    """
    folder: Path = bundled_of(KIND)[BUNDLED]
    read = read_folder(folder, KIND)
    return configured(lambda: _finder(read), folder)


def _finder(read: Folder) -> PeopleFinder:
    def graph(name: str) -> OperationGraph:
        about, start = read.config[name], f"{name}."
        own = {key.removeprefix(start): value for key, value in read.state.items() if key.startswith(start)}
        return OperationGraph(about["operations"], about["outputs"], own)

    sides = (int(read.config["faces"]["side"]), int(read.config["people"]["side"]))
    return PeopleFinder(graph("faces"), graph("people"), sides=sides)
