"""What the room refuses, by name: pictures, labels, logits and values that are not finite or out of range.

NaN is neither below nor above anything, and `argmax` takes it for the largest number: without a look at it, a picture
or a network that is NaN counts as attacked, or gets a certificate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer, Shaped
from torch import Tensor

from binderclip.display import number_of
from binderclip.errors import UsageError

Box: TypeAlias = tuple[float, float]
Labels: TypeAlias = Integer[Tensor, "B"] | Integer[np.ndarray, "B"] | Sequence[int]
PIXELS: Box = (0.0, 1.0)
ROUNDING = 1e-5
"""How far beyond the box, as a part of its length, pixels may lie that were resampled or rounded."""
AT_ONCE = ("cpu",)
"""Devices whose numbers are looked at as soon as they are there; others would have to be waited for."""


def check_box(box: Any) -> None:
    """Refuse a range of pixels that is none; infinite ends are allowed.

    Raises:
        UsageError: not two numbers, or the first not below the second.
    """
    if not (isinstance(box, Sequence) and len(box) == 2 and box[0] < box[1]):
        raise UsageError(f"box is {box}; it is (least, most) value of a pixel")


def check_images(name: str, images: Any, box: Box | None = PIXELS, *, shape: str = "(B, ...)") -> None:
    """Refuse images that are no floats, not finite, or outside the range of pixels.

    Args:
        name: what they are, for the message.
        images: a batch.
        box: least and most value of a pixel; None: any finite numbers.
        shape: as messages write it; `(B, C, H, W)` or `(B, 3, H, W)` is also checked.

    Raises:
        UsageError: names the images and their range.
    """
    where = "" if box is None else f" in [{box[0]:g}, {box[1]:g}]"
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise UsageError(f"{name} must be a float tensor {shape}{where}, not {kind}")
    if not _has_shape(images, shape):
        raise UsageError(f"{name} must be float {shape}{where}, not {images.dtype} {tuple(images.shape)}")
    low, high = torch.stack(torch.aminmax(images.detach())).tolist()  # NaN where any pixel is
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise UsageError(f"{name} are not finite: {_first_of(images)}")
    if box is None:
        return
    slack = ROUNDING * min(box[1] - box[0], 1.0)
    if low < box[0] - slack or high > box[1] + slack:
        mend = (
            "divide pixels of 0..255 by 255"
            if box == PIXELS and low >= 0 and high > 2
            else "attacks see pixels; normalisation belongs to the predictor"
        )
        raise UsageError(f"{name} run from {low:.3g} to {high:.3g}, outside {where[4:]}: {mend}")


def _has_shape(images: Tensor, shape: str) -> bool:
    if not images.numel():
        return False
    axes = shape.strip("()").split(", ")
    if "..." in axes:
        return images.ndim >= len(axes) - 1
    return images.ndim == len(axes) and all(
        not axis.isdigit() or size == int(axis) for axis, size in zip(axes, images.shape, strict=True)
    )


def checked_labels(labels: Any, images: Shaped[Tensor, "B *size"]) -> Int[Tensor, "B"]:
    """Labels as int64 on the device of the images; NumPy arrays and lists of whole numbers are taken too.

    Raises:
        UsageError: no whole numbers, another length, or one below 0.
    """
    given = labels if isinstance(labels, Tensor) else _as_tensor(labels)
    if given.shape != images.shape[:1] or not len(images):
        raise UsageError(f"labels {tuple(given.shape)} do not go with images {tuple(images.shape)}")
    return class_indices(given).to(images.device)


def _as_tensor(labels: Any) -> Tensor:
    try:
        return torch.from_numpy(np.asarray(labels))
    except (TypeError, ValueError) as error:
        raise UsageError(f"labels must be (B,) class indices, not {type(labels).__name__}") from error


def class_indices(labels: Any) -> Int[Tensor, "B"]:
    """Labels as int64.

    Raises:
        UsageError: they are not (B,) whole numbers of at least 0.
    """
    given = labels if isinstance(labels, Tensor) else _as_tensor(labels)
    whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    if given.ndim != 1 or not whole:
        raise UsageError(f"labels must be (B,) class indices, not {given.dtype} {tuple(given.shape)}")
    return given.long()


def check_classes(labels: Int[Tensor, "B"], classes: int) -> None:
    """Refuse labels that are none of the classes.

    Raises:
        UsageError: says where they run.
    """
    low, high = torch.stack(torch.aminmax(labels)).tolist()
    if low < 0 or high >= classes:
        raise UsageError(f"labels run from {low} to {high}, but there are {number_of(classes, 'class')}")


def check_logits_shape(logits: Any, count: int) -> None:
    """Refuse what are no logits (B, K) of so many images.

    Raises:
        UsageError: says what was given.
    """
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        kind = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(
            f"the predictor must give float logits (B, K), not {kind}; of an image-text model, wrapped by `load` or "
            "`from_module`, it is model.predictor(labels)"
        )
    if logits.ndim != 2 or len(logits) != count or not logits.shape[1]:
        raise UsageError(f"logits {tuple(logits.shape)} do not go with {number_of(count, 'image')}: one row an image")


def checked_logits(logits: Any, count: int) -> Float[Tensor, "B K"]:
    """Logits of so many images; reads them, so that an accelerator is waited for.

    Raises:
        UsageError: another shape, or numbers that are not finite.
    """
    check_logits_shape(logits, count)
    check_finite("logits of the predictor", logits)
    return logits


def check_finite(name: str, values: Shaped[Tensor, "*size"]) -> None:
    """Refuse numbers that are not finite.

    Args:
        name: what they are, in the plural, for the message.
        values: of any shape.

    Raises:
        UsageError: names them and the first place.
    """
    # One pass without a mask: a sum is finite unless a number is not, or the sum itself overflows.
    if not math.isfinite(float(_sum(values))) and not bool(values.isfinite().all()):
        raise UsageError(f"{name} are not finite: {_first_of(values)}")


def _sum(values: Tensor) -> Tensor:
    numbers = values.detach() if values.requires_grad else values
    return numbers.sum(dtype=torch.promote_types(values.dtype, torch.float32))  # float16 ends at 65,504


def _first_of(values: Tensor) -> str:
    """The first number that is not finite, and in which row."""
    numbers = values.detach()
    place = (~numbers.isfinite()).nonzero()[0].tolist()
    number = float(numbers[tuple(place)])
    return f"{number} in image {place[0]}" if place else f"{number}"


class FiniteGuard:
    """Refuses numbers that are not finite: at once on the CPU, elsewhere by `settle`, so that a loop does not wait."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums: list[Tensor] = []

    def __call__(self, name: str, values: Float[Tensor, "*size"]) -> None:
        """Look at numbers, or note that they are to be looked at.

        Raises:
            UsageError: as `check_finite`.
        """
        if values.device.type in AT_ONCE:
            check_finite(name, values)
        else:
            self._names.append(name)
            self._sums.append(_sum(values))

    def settle(self) -> None:
        """Look at all that was noted.

        Raises:
            UsageError: names what was not finite first.
        """
        if self._sums:
            fine: Bool[Tensor, "S"] = torch.stack(self._sums).isfinite()
            for name, each in zip(self._names, fine.tolist(), strict=True):
                if not each:
                    raise UsageError(f"{name} are not finite")
            self._names.clear()
            self._sums.clear()
