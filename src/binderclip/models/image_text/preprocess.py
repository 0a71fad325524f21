"""From pictures to the normalised pixels a backbone was trained on.

`Preprocess` does for PIL images exactly what open_clip's own inference transform does (resize, crop or pad, scale to
[0, 1], normalise), for whole batches at once; float tensors in [0, 1] take the same steps in torch, so gradients reach
the pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from binderclip.data.images import open_image
from binderclip.errors import NotSupported, UsageError
from binderclip.settings import brief, check_choice

ImageLike: TypeAlias = "str | Path | bytes | IO[bytes] | io.BytesIO | Image.Image | np.ndarray | Tensor"
ResizeMode = Literal["shortest", "squash", "longest"]
Interpolation = Literal["bicubic", "bilinear", "nearest", "lanczos"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_PIL = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}


def is_many(images: object) -> bool:
    """True for a list, a tuple or a batch (4 axes) of images; False for one image."""
    if isinstance(images, (Tensor, np.ndarray)):
        return images.ndim == 4
    return isinstance(images, (list, tuple))


def as_list(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    """One image or many -> a list of images."""
    return list(images) if is_many(images) else [images]  # type: ignore[arg-type, list-item]


def float_batch(images: object) -> Float[Tensor, "B 3 H W"] | None:
    """The batch that a float tensor (3, H, W) or (B, 3, H, W) is; None for anything else.

    Raises:
        UsageError: a float tensor of another shape, or with values outside [0, 1].
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        return None
    batch = images[None] if images.ndim == 3 else images
    if batch.ndim != 4 or batch.shape[1] != 3:
        raise UsageError(f"a float image tensor must be (3, H, W) or (B, 3, H, W) in [0, 1], got {tuple(images.shape)}")
    # Reading the range of a tensor on an accelerator waits for it, which a training or attack step should not do.
    if batch.numel() and (batch.device.type == "cpu" or not torch.is_grad_enabled()):
        low, high = (float(v) for v in torch.aminmax(batch.detach()))
        if not (low >= -0.1 and high <= 1.1):
            raise UsageError(
                f"float images must lie in [0, 1], got values from {low:.3g} to {high:.3g}: divide 0..255 pixels by "
                "255, and do not normalise them (the model does)"
            )
    return batch


@dataclass(frozen=True)
class Preprocess:
    """How pictures become the input of one backbone. Callable: images -> normalised (B, 3, h, w).

    Args:
        size: (h, w) of the input in pixels.
        mean: of each channel, on the [0, 1] scale.
        std: of each channel, on the [0, 1] scale.
        interpolation: resampling of the resize, always antialiased.
        resize_mode: `shortest` fits the shorter side and crops the centre; `squash` ignores the aspect; `longest` fits
            the longer side and pads.
        fill: padding colour of `longest`, 0..255.
        background: RGB that transparent pictures are laid on.
        crop_rounding: where the crop starts when an odd number of pixels is left over: `even` rounds the half to an
            even pixel as torchvision and open_clip do, `down` as transformers does.
    """

    size: tuple[int, int] = (224, 224)
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    interpolation: Interpolation = "bicubic"
    resize_mode: ResizeMode = "shortest"
    fill: int = 0
    background: tuple[int, int, int] = (255, 255, 255)
    crop_rounding: Literal["even", "down"] = "even"

    def __post_init__(self) -> None:
        check_choice("resize_mode", self.resize_mode, get_args(ResizeMode))
        check_choice("interpolation", self.interpolation, get_args(Interpolation))
        if isinstance(self.size, (list, Tensor, np.ndarray)):
            object.__setattr__(self, "size", tuple(self.size))
        if not isinstance(self.size, tuple) or len(self.size) != 2 or not all(_is_whole(side) for side in self.size):
            pair = f"({self.size}, {self.size})" if _is_whole(self.size) else "(224, 224)"
            raise UsageError(f"size must be (h, w) in pixels, such as {pair}, not {brief(self.size)}")
        object.__setattr__(self, "size", tuple(int(side) for side in self.size))
        for name, values in (("mean", self.mean), ("std", self.std)):
            own = tuple(values) if isinstance(values, (tuple, list, Tensor, np.ndarray)) else ()
            if len(own) != 3 or not all(math.isfinite(value) for value in own):
                raise UsageError(f"{name} {brief(values)} must be three finite numbers, one for each colour")
            object.__setattr__(self, name, tuple(float(value) for value in own))
        if min(self.size) < 1 or min(self.std) <= 0:
            raise UsageError(f"size {self.size} and std {self.std} must be positive")

    @classmethod
    def from_open_clip(cls, config: Mapping[str, Any]) -> Preprocess:
        """From open_clip's `preprocess_cfg` (the `preprocess_cfg` of a visual tower or of a model folder)."""
        size = config.get("size", 224)
        mean, std = config.get("mean", CLIP_MEAN), config.get("std", CLIP_STD)
        interpolation = config.get("interpolation", "bicubic")
        return cls(
            size=(int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[-1])),
            mean=_triple(mean),
            std=_triple(std),
            interpolation="bilinear" if interpolation == "bilinear" else "bicubic",
            resize_mode=config.get("resize_mode") or "shortest",
            fill=int(config.get("fill_color", 0)),
            background=tuple(config.get("background", (255, 255, 255))),
        )

    def to_open_clip(self) -> dict[str, Any]:
        """The same as a `preprocess_cfg` that open_clip reads (`background` is ours; open_clip ignores it)."""
        return {
            "size": self.size[0] if self.size[0] == self.size[1] else list(self.size),
            "mode": "RGB",
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "resize_mode": self.resize_mode,
            "fill_color": self.fill,
            "background": list(self.background),
        }

    def at(self, size: int | tuple[int, int] | None) -> Preprocess:
        """The same steps at another input size."""
        if size is None:
            return self
        return replace(self, size=(size, size) if isinstance(size, int) else (int(size[0]), int(size[1])))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for fingerprints and cards."""
        return asdict(self)

    # -- geometry ----------------------------------------------------------------------------------------------

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of a picture after the resize, before crop or padding."""
        h, w = self.size
        if self.resize_mode == "squash":
            return h, w
        if self.resize_mode == "shortest" and h == w:
            # torchvision truncates the longer side.
            return (h, int(h * width / height)) if height <= width else (int(h * height / width), h)
        ratios = (height / h, width / w)
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return round(height / ratio), round(width / ratio)

    def _window(self, got: int, want: int) -> tuple[int, int, int]:
        """(start of the crop, padding before, padding after) along one axis."""
        if got >= want:
            return (got - want) // 2 if self.crop_rounding == "down" else round((got - want) / 2.0), 0, 0
        return 0, (want - got) // 2, (want - got + 1) // 2

    # -- pictures ----------------------------------------------------------------------------------------------

    def pixels(self, image: ImageLike) -> UInt8[np.ndarray, "h w 3"]:
        """One picture, resized and cropped or padded, as 8-bit RGB."""
        picture = self._open(image)
        height, width = self.resized(picture.height, picture.width)
        if picture.size != (width, height):
            # A very thin picture may round to no pixels at all.
            picture = picture.resize((max(width, 1), max(height, 1)), _PIL[self.interpolation])
        array = np.asarray(picture)
        if array.shape[:2] == self.size:
            return array
        top, *rows = self._window(array.shape[0], self.size[0])
        left, *columns = self._window(array.shape[1], self.size[1])
        array = array[top : top + self.size[0], left : left + self.size[1]]
        if any(rows) or any(columns):
            array = np.pad(array, (rows, columns, (0, 0)), constant_values=self.fill)
        return array

    def _open(self, image: ImageLike) -> Image.Image:
        # Large JPEGs could be decoded at a fraction of their size (`size_hint`), but even at four times the input side
        # that moves features of `small` to a cosine of 0.999: the same picture must not depend on its file format.
        return open_image(image, mode="RGB", background=self.background)

    def normalize_pixels(
        self, pixels: UInt8[Tensor, "B h w 3"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "B 3 h w"]:
        """8-bit pixels -> normalised input, in one pass over the batch (the memory stays channels-last)."""
        x = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)
        return self.normalize(x).to(dtype)

    # -- tensors -----------------------------------------------------------------------------------------------

    def normalize(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B 3 h w"]:
        """(x - mean) / std for images in [0, 1] that have the right size already; differentiable."""
        shape = (1, 3, 1, 1)
        return (images - images.new_tensor(self.mean).view(shape)) / images.new_tensor(self.std).view(shape)

    def fit(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 h w"]:
        """Resize and crop or pad images in [0, 1]; differentiable, and equal to the PIL route up to its rounding."""
        height, width = self.resized(*images.shape[-2:])
        if tuple(images.shape[-2:]) != (height, width):
            if self.interpolation == "lanczos":
                raise NotSupported("lanczos resizing of tensors: give PIL images, or tensors of the model's size")
            smooth = self.interpolation != "nearest"
            images = functional.interpolate(
                images,
                size=(max(height, 1), max(width, 1)),
                mode=self.interpolation if smooth else "nearest-exact",
                antialias=smooth,
            )
            # Bicubic overshoots; 8-bit pictures cannot, and the backbone never saw such values.
            images = images.clamp(0, 1)
        top, *rows = self._window(images.shape[-2], self.size[0])
        left, *columns = self._window(images.shape[-1], self.size[1])
        images = images[..., top : top + self.size[0], left : left + self.size[1]]
        if any(rows) or any(columns):
            images = functional.pad(images, (*columns, *rows), value=self.fill / 255)
        return images

    def __call__(
        self, images: ImageLike | Sequence[ImageLike], *, size: int | tuple[int, int] | None = None
    ) -> Float[Tensor, "B 3 h w"]:
        """Anything -> normalised batch.

        Args:
            images: one image or many: paths, bytes, PIL images, arrays (H, W, 3), 8-bit tensors (C, H, W), or float
                tensors (3, H, W) / (B, 3, H, W) in [0, 1], which stay on their device and keep their gradient. One
                image gives a batch of one.
            size: another input size; default the model's.

        Raises:
            UsageError: an empty list, or a float tensor outside [0, 1].
            DataError: a picture that cannot be read.
        """
        own = self.at(size)
        batch = float_batch(images)
        if batch is not None:
            return own.normalize(own.fit(batch))
        items = as_list(images)
        if not items:
            raise UsageError("images is empty: give at least one")
        floats = [float_batch(item) for item in items]
        if all(item is None for item in floats):
            return own.normalize_pixels(torch.from_numpy(np.stack([own.pixels(item) for item in items])))
        return torch.cat(
            [
                own.normalize(own.fit(tensor))
                if tensor is not None
                else own.normalize_pixels(torch.from_numpy(own.pixels(item).copy())[None])
                for item, tensor in zip(items, floats, strict=True)
            ]
        )


def _is_whole(side: object) -> bool:
    if isinstance(side, Tensor):
        return side.ndim == 0 and not side.is_floating_point()
    return isinstance(side, (int, np.integer)) and not isinstance(side, bool)


def _triple(value: Any) -> tuple[float, float, float]:
    values = [float(v) for v in (value if isinstance(value, (list, tuple)) else [value] * 3)]
    return (values[0], values[1], values[2])
