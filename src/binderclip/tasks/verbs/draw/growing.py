"""Pictures that are seen while they are made: each look rewrites the files, whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from binderclip.fit import Callback
from binderclip.tasks.events import Counted, Previewed, emit
from binderclip.tasks.report.sheet import save_picture

LOOKS = 25
"""How often a run shows its picture."""


class Looks(Callback):
    """Counts steps, and writes and shows the picture at some of them.

    Args:
        write: writes the files, and gives the picture and the path of its file.
        total: steps of this picture, which may be those of several runs of `fit`.
        before, whole: steps of the pictures before it, and of all; default it is the only one.
    """

    def __init__(
        self, write: Callable[[], tuple[Image.Image, Path]], total: int, *, before: int = 0, whole: int | None = None
    ) -> None:
        self.write, self.total, self.before, self.done = write, total, before, 0
        self.whole = total if whole is None else whole
        self.every = max(1, -(-total // LOOKS))

    def after_step(self, step: int) -> None:
        """Count one more step."""
        self.done += 1
        emit(Counted(self.before + self.done, self.whole, "step"))
        if self.done % self.every == 0 or self.done == self.total:
            emit_look(*self.write())


def emit_look(picture: Image.Image, path: Path) -> None:
    """Say that a picture looks like this now, and where it lies."""
    emit(Previewed(lambda: [picture], path))


def picture_of(pixels: Float[Tensor, "1 c H W"]) -> Image.Image:
    """RGB of three channels in [0, 1], RGBA of four."""
    levels = (255 * pixels[0].detach().clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(levels.cpu().numpy())


def save_preview(picture: Image.Image, path: Path) -> tuple[Image.Image, Path]:
    """Write a picture where an older one of it may lie; both as `Looks` wants them."""
    return picture, save_picture(picture, path)
