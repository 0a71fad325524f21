"""What a model costs: parameters, bytes, operations, and the time of one picture and one text."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from binderclip.models.operations import count_operations

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel

REPEATS = 31
"""Forwards that are timed, of which the median is taken."""
WARM_UP = 3
"""Forwards before them, in which memory is taken and kernels are chosen."""


@dataclass(frozen=True)
class ModelFigures:
    """What one model costs and is worth.

    Attributes:
        parameters: numbers that are trained.
        megabytes: of the folder, in float32.
        gflop_image, gflop_text: 10^9 floating-point operations of one picture and one text; a multiplication and an
            addition are two.
        seconds_image, seconds_text: median time of one picture and one text through the model.
        quality: accuracy or recall on the pictures that are held out.
    """

    parameters: int
    megabytes: float
    gflop_image: float
    gflop_text: float
    seconds_image: float
    seconds_text: float
    quality: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "parameters": self.parameters, "megabytes": self.megabytes,
            "gflop": {"image": self.gflop_image, "text": self.gflop_text},
            "seconds": {"image": self.seconds_image, "text": self.seconds_text}, "quality": self.quality,
        }  # fmt: skip


def single_forwards(model: ImageTextModel, text: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """Two functions that run one picture and one text through a model, prepared beforehand.

    Args:
        model: in eval mode.
        text: of the usual length.
    """
    pixels, tokens = torch.zeros(1, 3, *model.preprocess.size, device=model.device), model.tokenize([text])
    return lambda: model.encode_pixels(pixels), lambda: model.encode_text(tokens)


@torch.no_grad()
def median_seconds(forwards: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Median time of each of several functions, which take turns, so that a busy moment meets all of them.

    Args:
        forwards: called without arguments.
        device: they run on.
    """
    times: list[list[float]] = [[] for _ in forwards]
    for number in range(WARM_UP + REPEATS):
        for own, forward in zip(times, forwards, strict=True):
            _wait(device)
            began = time.perf_counter()
            forward()
            _wait(device)
            if number >= WARM_UP:
                own.append(time.perf_counter() - began)
    return [statistics.median(own) for own in times]


def _wait(device: torch.device) -> None:
    """Let the device finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@torch.no_grad()
def gflop(forward: Callable[[], object]) -> float:
    """10^9 floating-point operations of matrix products and convolutions in a call."""
    return count_operations(forward) / 1e9


def parameter_count(model: ImageTextModel) -> int:
    """Numbers in a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
