"""One sample type for every source of pictures, and what a batch of them is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from binderclip.data.uniform import uniform
from binderclip.settings import check_choice

Fit: TypeAlias = Literal["pad", "crop", "squash"]


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture and what is known about it.

    Attributes:
        image: an upright 8-bit PIL picture: RGB, transparency already composited on the set's background; or RGBA with
            straight colours where the set was opened with `mode="RGBA"`.
        caption: what the picture shows, "" where nobody said; the first of several.
        key: names the picture within its set; errors, reports and random augmentation go by it.
        alpha: the transparency as an "L" picture of the same size (255 = opaque), or None for an opaque picture.
        label: index into the set's `classes`, or None.
        boxes: (n, 4) float32, x0 y0 x1 y1 in pixels, half-open; or None.
        masks: (n, H, W) bool, one for each box or object; or None.
        attributes: anything else the source says (style, group, split, ...).
        source: the set it came from.
    """

    image: Image.Image
    caption: str
    key: str
    alpha: Image.Image | None = None
    label: int | None = None
    boxes: np.ndarray | None = None
    masks: np.ndarray | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def captions(self) -> list[str]:
        """Every caption of the picture: the attribute `captions` where there are several, else the one."""
        return captions_of(self.caption, self.attributes.get("captions"))


def captions_of(caption: str, several: Any) -> list[str]:
    """All captions of one picture, without empty ones.

    Args:
        caption: the first; it stays where there is no other, also where it is empty.
        several: what the source says under `captions`: a list of texts, or anything else where there is only one.
    """
    if isinstance(several, (list, tuple)) and all(isinstance(text, str) for text in several):
        return [text for text in several if text.strip()] or [caption]
    return [caption]


def draw_captions(captions: Sequence[Sequence[str]], keys: Sequence[str], *, seed: int, epoch: int) -> list[int]:
    """Which of its captions each picture is shown with in one pass: a hash of (seed, key, epoch).

    Args:
        captions: all captions of each picture.
        keys: of the pictures.
        seed, epoch: a picture keeps its caption for a whole pass, whatever the order, batch or worker.
    """
    if all(len(several) == 1 for several in captions):
        return [0] * len(captions)
    draws = uniform(seed, [f"caption/{key}" for key in keys], epoch, 1)[:, 0]
    return [min(int(draw * len(several)), len(several) - 1) for draw, several in zip(draws, captions, strict=True)]


@dataclass(frozen=True)
class Skipped:
    """Stands in a batch for a picture that could not be read: `collate` drops it and passes the reason on."""

    key: str
    reason: str


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples put together; the ones that could not be read are only in `skipped`.

    Attributes:
        images: uint8 (B, 3, S, S), or (B, 4, S, S) with straight alpha; or a list of PIL pictures where no size was
            asked for.
        captions, keys, sources, attributes: one entry a sample.
        labels: int64 (B,), -1 where there is none.
        skipped: (key, reason) of each unreadable picture.
    """

    images: UInt8[Tensor, "B C S S"] | list[Image.Image]
    captions: list[str]
    keys: list[str]
    labels: Int[Tensor, "B"]
    sources: list[str]
    attributes: list[Mapping[str, Any]]
    skipped: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Collate:
    """Turns a list of `Sample` and `Skipped` into a `Batch`; give it to a `DataLoader` as `collate_fn`.

    Args:
        size: side of the square tensors, in pixels; None leaves the pictures as PIL.
        mode: channels of the tensors, "RGB" or "RGBA" (opaque pictures get alpha 255).
        fit: how a picture that is not square fits: "pad" (transparent or `background` around it), "crop" (centre),
            "squash".
        background: colour of the padding for "RGB".
    """

    size: int | None = None
    mode: Literal["RGB", "RGBA"] = "RGB"
    fit: Fit = "crop"
    background: tuple[int, int, int] = (255, 255, 255)

    def __call__(self, items: Iterable[Sample | Skipped]) -> Batch:
        samples: list[Sample] = []
        skipped: list[tuple[str, str]] = []
        for item in items:
            if isinstance(item, Skipped):
                skipped.append((item.key, item.reason))
            else:
                samples.append(item)
        return Batch(
            images=self._images([sample.image for sample in samples]),
            captions=[sample.caption for sample in samples],
            keys=[sample.key for sample in samples],
            labels=torch.tensor([-1 if s.label is None else s.label for s in samples], dtype=torch.int64),
            sources=[sample.source for sample in samples],
            attributes=[sample.attributes for sample in samples],
            skipped=skipped,
        )

    def _images(self, images: Sequence[Image.Image]) -> Tensor | list[Image.Image]:
        if self.size is None:
            return list(images)
        channels = len(self.mode)
        out = np.empty((len(images), self.size, self.size, channels), np.uint8)
        for row, image in enumerate(images):
            out[row] = np.asarray(
                fit_square(image, self.size, mode=self.mode, fit=self.fit, background=self.background)
            )
        return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


collate = Collate()
"""`Collate` with its defaults: PIL pictures in a list."""


def fit_square(
    image: Image.Image,
    size: int,
    *,
    mode: Literal["RGB", "RGBA"] = "RGB",
    fit: Fit = "crop",
    background: tuple[int, int, int] = (255, 255, 255),
) -> Image.Image:
    """A picture as a square of `size` pixels (antialiased bicubic); `mode`, `fit` and `background` as in `Collate`.

    RGBA pictures are resized with premultiplied colours, so transparent pixels lend their colour to none.
    """
    check_choice("fit", fit, ("pad", "crop", "squash"))
    width, height = image.size
    if (width, height) != (size, size):
        if fit == "squash":
            shape, box = (size, size), None
        elif fit == "crop":
            side = min(width, height)
            left, top = (width - side) / 2, (height - side) / 2
            shape, box = (size, size), (left, top, left + side, top + side)
        else:
            scale = size / max(width, height)
            shape, box = (max(1, round(width * scale)), max(1, round(height * scale))), None
        image = image.resize(shape, Image.Resampling.BICUBIC, box=box)  # Pillow premultiplies RGBA by itself
    if image.size != (size, size):
        blank = (*background, 255) if mode == "RGB" and image.mode == "RGB" else (0, 0, 0, 0)
        canvas = Image.new("RGBA", (size, size), blank)
        canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
        image = canvas
    if image.mode == mode:
        return image
    if mode == "RGBA":
        return image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image).convert("RGB")
