"""Pixel prompts: one set of learned pixels for all pictures of a task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.errors import CheckpointError, UsageError
from binderclip.models.files.released import NameTable, Rename, copy_renamed, read_released
from binderclip.models.image_text.preprocess import CLIP_STD

PromptKind = Literal["frame", "patch", "random-patch"]

SIDES = ("pad_up", "pad_down", "pad_left", "pad_right")
"""Of a frame, by their official names."""
REFERENCE = (224, 30)
"""Input side and frame width, in pixels, of the published prompts, of which other sizes keep the proportion."""


class PixelPrompt(nn.Module):
    """Adds learned pixels to every picture: images (B, 3, H, W) in [0, 1] -> (B, 3, S, S), not clipped.

    The result is on the scale of pixels; the model's own mean and std come after it. A prompt belongs to one size.

    Args:
        size: side S of the model's input in pixels.
        width: of the frame, or side of the patch, in pixels; default 30 / 224 of the size; with `inner` what is left.
        kind: `frame`: along the border; `patch`: the corner at the top left; `random-patch`: one that lies somewhere
            else in every batch.
        inner: None: the prompt covers the border of the picture, which keeps its size; a side in pixels: the picture is
            shrunk to it, padded with black, and the frame lies around it.
        init: `normal` (standard normal numbers) or `zeros`.
        space: what the numbers are: `normalised` pixels, as they are after mean and std, or plain `pixels`; a step of
            the same length moves a picture about four times as far in plain pixels.
        std: of each channel, which turns one into the other; the model's.

    Attributes:
        pixels: the parameter, (3, S, S), or (3, width, width) for a random patch.
        mask: (1, S, S), one where `pixels` may differ from zero.
        free: how many numbers are learned: `12 width (S - width)` for a frame.

    Raises:
        UsageError: a setting is wrong, or nothing is left for the prompt; at call: pictures of another size.

    Paper: Bahng et al., Exploring Visual Prompts for Adapting Large-Scale Models (arXiv 2203.17274); around a shrunk
    picture: Wu et al., Unleashing the Power of Visual Prompting At the Pixel Level (arXiv 2212.10556).
    """

    mask: Tensor
    std: Tensor

    def __init__(
        self,
        size: int,
        width: int | None = None,
        *,
        kind: PromptKind = "frame",
        inner: int | None = None,
        init: Literal["normal", "zeros"] = "zeros",
        space: Literal["normalised", "pixels"] = "pixels",
        std: Sequence[float] = CLIP_STD,
    ) -> None:
        super().__init__()
        for name, value, known in [
            ("kind", kind, get_args(PromptKind)),
            ("init", init, ("normal", "zeros")),
            ("space", space, ("normalised", "pixels")),
        ]:
            if value not in known:
                raise UsageError(f"{name} must be one of {', '.join(known)}, not {value!r}")
        self.size, self.kind, self.inner, self.space = int(size), kind, inner, space
        self.width = prompt_width(self.size, width, kind=kind, inner=inner)
        mask = torch.zeros(1, self.size, self.size)
        if kind == "frame":
            mask += 1
            mask[:, self.width : -self.width, self.width : -self.width] = 0
        elif kind == "patch":
            mask[:, : self.width, : self.width] = 1
        side = self.width if kind == "random-patch" else self.size
        self.register_buffer("mask", mask if kind != "random-patch" else torch.ones(1, side, side))
        unit = torch.as_tensor(tuple(std)) if space == "normalised" else torch.ones(3)
        self.register_buffer("std", unit.reshape(3, 1, 1))
        start = torch.randn(3, side, side) if init == "normal" else torch.zeros(3, side, side)
        self.pixels = nn.Parameter(start * self.mask)
        self.free = 3 * int(self.mask.sum())

    @classmethod
    @torch.no_grad()
    def from_released(cls, path: str | Path, *, std: Sequence[float] = CLIP_STD) -> PixelPrompt:
        """The frame of a `PadPrompter`, which is laid on normalised pixels (Bahng et al.; also TeCoA's prompts).

        Args:
            path: of the file (`model_best.pth.tar`); nothing in it is run.
            std: of the model's normalisation.

        Raises:
            CheckpointError: the file cannot be read, or holds no four sides that fit together.
        """
        state = read_released(path)
        top = state.get("pad_up")
        if top is None or top.ndim != 4 or not 0 < 2 * top.shape[2] < top.shape[3]:
            raise CheckpointError(f"{path} holds no frame of pixels: there is no pad_up of shape (1, 3, width, size)")
        width, size = top.shape[2:]
        inner = (1, 3, size - 2 * width, width)
        own = {name: torch.zeros(inner if name in ("pad_left", "pad_right") else top.shape) for name in SIDES}
        copy_renamed(own, state, NameTable("a frame of pixels", (Rename("(.*)", r"\1"),)), path)
        prompt = cls(size, width, space="normalised", std=std)
        prompt.pixels[:, :width], prompt.pixels[:, -width:] = own["pad_up"][0], own["pad_down"][0]
        prompt.pixels[:, width:-width, :width] = own["pad_left"][0]
        prompt.pixels[:, width:-width, -width:] = own["pad_right"][0]
        return prompt

    def extra_repr(self) -> str:
        return f"size={self.size}, width={self.width}, kind={self.kind!r}, inner={self.inner}, space={self.space!r}"

    def place(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 S S"]:
        """The pictures as the prompt is laid on them: as they are, or shrunk and padded with black."""
        sides = tuple(images.shape[-2:])
        if self.inner is None:
            if sides != (self.size, self.size):
                raise UsageError(
                    f"this prompt is for pictures of {self.size} x {self.size} pixels, not {sides[0]} x {sides[1]}: "
                    f"resize them, or make a PixelPrompt({sides[0]})"
                )
            return images
        if sides[0] != sides[1]:
            raise UsageError(f"pictures must be square, not {sides[0]} x {sides[1]}: crop them first")
        if sides[0] != self.inner:
            images = F.interpolate(images, size=(self.inner, self.inner), mode="bicubic", antialias=True).clamp(0, 1)
        return F.pad(images, [self.width] * 4)

    def canvas(self, *, whole: bool = False, generator: torch.Generator | None = None) -> Float[Tensor, "3 S S"]:
        """What is added to the pictures.

        Args:
            whole: let the gradient reach all of `pixels`; who trains them then masks it, so that they stay zero where
                the prompt is not.
            generator: draws the place of a random patch; None: torch's global one.
        """
        pixels = (self.pixels if whole else self.pixels * self.mask) * self.std
        if self.kind != "random-patch":
            return pixels
        top, left = torch.randint(0, self.size - self.width, (2,), generator=generator).tolist()
        rest = self.size - self.width
        return F.pad(pixels, (left, rest - left, top, rest - top))

    def forward(
        self, images: Float[Tensor, "B 3 H W"], *, whole: bool = False, generator: torch.Generator | None = None
    ) -> Float[Tensor, "B 3 S S"]:
        """The prompted pictures; see `canvas` for the options."""
        return self.place(images) + self.canvas(whole=whole, generator=generator).to(images.dtype)


def prompt_width(size: int, width: int | None = None, *, kind: str = "frame", inner: int | None = None) -> int:
    """Width of a prompt in pixels, checked against the size.

    Raises:
        UsageError: nothing is left for the prompt or for the picture, or `width` and `inner` contradict each other.
    """
    if inner is not None:
        if kind != "frame":
            raise UsageError(f"inner={inner} goes with kind='frame', not {kind!r}")
        if not 0 < inner < size or (size - inner) % 2:
            raise UsageError(f"inner must leave the same frame on both sides of {size} pixels, not {inner}")
        if width not in (None, (size - inner) // 2):
            raise UsageError(f"inner={inner} leaves a frame of {(size - inner) // 2} pixels, but width={width}")
        return (size - inner) // 2
    if width is None:
        width = max(1, round(size * REFERENCE[1] / REFERENCE[0]))
    most = (size - 1) // 2 if kind == "frame" else size - 1
    if not 1 <= width <= most:
        raise UsageError(f"width must lie in 1..{most} for a {kind} on {size} pixels, not {width}")
    return int(width)


def frame_entries(size: int, width: int) -> int:
    """How many numbers a frame has: three channels of a border of this width."""
    return 12 * width * (size - width)


def output_mapping(
    logits: Float[Tensor, "N K"], targets: Int[Tensor, "N"], how: Literal["first", "frequent"] = "frequent"
) -> Int[Tensor, "C"]:
    """Which output of a plain classifier stands for each class of a new task.

    Args:
        logits: of the new task's training pictures.
        targets: their classes 0..C-1.
        how: `first`: output c for class c; `frequent`: the output that is largest most often on the class's pictures
            (the lowest among equals). Two classes may get the same one and cannot be told apart then.

    Raises:
        UsageError: `how` unknown, or fewer outputs than classes for `first`.

    Paper: Bahng et al. (arXiv 2203.17274) for `first`, Wu et al. (arXiv 2212.10556) for `frequent`.
    """
    classes, outputs = int(targets.max()) + 1, logits.shape[1]
    if how == "first":
        if outputs < classes:
            raise UsageError(f"the classifier has {outputs} outputs for {classes} classes: use outputs='frequent'")
        return torch.arange(classes)
    if how != "frequent":
        raise UsageError(f"outputs must be 'first' or 'frequent', not {how!r}")
    best = logits.argmax(dim=1).cpu()
    counts = torch.stack([torch.bincount(best[targets.cpu() == c], minlength=outputs) for c in range(classes)])
    return counts.argmax(dim=1)
