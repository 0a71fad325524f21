"""Positional embeddings of other grids and lengths than the model's own, for the length of a stage.

`ResampledVisionTransformer` and `ResampledTextTransformer` are open_clip's towers that have positions for the size of
whatever they are given; `positions_for` puts them in and takes them out again.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import NotSupported, UsageError

__all__ = ["Positions", "positions_for", "resample_grid", "resample_rows", "sincos_2d"]

Positions = Literal["fixed", "sincos", "interpolated"]


def sincos_2d(
    width: int, grid: tuple[int, int], *, prefix: int = 0, released_jax: bool = False
) -> Float[Tensor, "L D"]:
    """Fixed sine-cosine positions of a grid: the first half of the channels tells the column, the second the row.

    Channel k of a quarter has frequency 10000^(-k / (D/4)); each half is [sin, cos] of position times frequency.

    Args:
        width: D, a multiple of 4.
        grid: (h, w) patches.
        prefix: rows of zeros in front, for the class token.
        released_jax: frequencies 10000^(-k / (D/4 - 1)), as CLIPA's JAX code has them; its PyTorch code and open_clip's
            have the default.

    Raises:
        UsageError: a width that is no multiple of 4.
    """
    if width % 4 or width < 8:
        raise UsageError(f"sincos positions: the width must be a multiple of 4 of at least 8, got {width}")
    quarter = width // 4
    k = torch.arange(quarter, dtype=torch.float64)
    omega = 10_000.0 ** (-k / (quarter - 1 if released_jax else quarter))
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    halves = [[(axis.flatten()[:, None] * omega).sin(), (axis.flatten()[:, None] * omega).cos()] for axis in (x, y)]
    table = torch.cat([*halves[0], *halves[1]], dim=1).float()
    return torch.cat([torch.zeros(prefix, width), table])


def resample_grid(
    table: Float[Tensor, "L D"], old: tuple[int, int], new: tuple[int, int], *, prefix: int = 1
) -> Float[Tensor, "K D"]:
    """A table of positions at another grid, bicubic with antialiasing, as open_clip loads one; prefix rows stay.

    Args:
        table: prefix rows and old h * w rows.
        old, new: (h, w).
        prefix: rows that are no patches.
    """
    if old == new:
        return table
    image = table[prefix:].float().view(1, *old, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([table[:prefix], image.flatten(2)[0].T.to(table.dtype)])


def resample_rows(table: Float[Tensor, "L D"], length: int) -> Float[Tensor, "K D"]:
    """Positions of a text at another length, linear (with antialiasing where it becomes shorter).

    Args:
        table: (L, D).
        length: K.
    """
    if len(table) == length:
        return table
    line = table.float().T[None, :, None, :]  # (1, D, 1, L)
    line = F.interpolate(line, size=(1, length), mode="bilinear", antialias=True, align_corners=False)
    return line[0, :, 0].T.to(table.dtype).contiguous()  # what shards parameters takes no other


class ResampledVisionTransformer(VisionTransformer):
    """open_clip's tower that takes pictures of any whole number of patches; never made, only put in place of one.

    The parameter stays the table of the stage's size, as whatever trains or shards it expects; what is added to the
    patches stands before it while they are embedded.
    """

    def _embeds(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B L D"]:
        table: Tensor = self._parameters["positional_embedding"]  # type: ignore[assignment]
        grid, prefix = _grid_of(x.shape[-2:], self.patch_size), 1
        side = math.isqrt(len(table) - prefix)
        if self.__dict__["sincos"]:
            shown = sincos_2d(table.shape[1], grid, prefix=prefix).to(table)
        else:
            shown = resample_grid(table, (side, side), grid, prefix=prefix)
        with _in_place_of_parameter(self, "positional_embedding", shown):
            return super()._embeds(x)


class ResampledTextTransformer(TextTransformer):
    """open_clip's text tower that has positions for the length of its input; see above."""

    def _embeds(self, text: Tensor) -> Any:
        table: Tensor = self._parameters["positional_embedding"]  # type: ignore[assignment]
        shown = resample_rows(table, text.shape[1] + (self.cls_emb is not None))
        with _in_place_of_parameter(self, "positional_embedding", shown):
            return super()._embeds(text)


@contextlib.contextmanager
def _in_place_of_parameter(module: nn.Module, name: str, value: Tensor) -> Iterator[None]:
    """Let `module.name` be another tensor: what stands in an object's own dictionary is found before parameters are."""
    module.__dict__[name] = value
    try:
        yield
    finally:
        del module.__dict__[name]


def _grid_of(size: Any, patch: tuple[int, int]) -> tuple[int, int]:
    if size[0] % patch[0] or size[1] % patch[1]:
        raise UsageError(f"{size[0]} x {size[1]} pixels: both sides must be multiples of the patch, {patch[0]}")
    return size[0] // patch[0], size[1] // patch[1]


@contextlib.contextmanager
def positions_for(
    backbone: nn.Module, kind: Positions, *, image_size: int | None = None, text_length: int | None = None
) -> Iterator[None]:
    """Train with positions of another size, and leave a model of its own size behind.

    `interpolated`: the image table is resampled to the training grid on entry, learned there, and resampled to the
    model's grid on exit; a text tower's table likewise, along its length. `sincos`: the image tower has fixed
    sine-cosine positions of whatever grid it is given, and on exit has those of its own grid as its table, learnable as
    before; text as in `interpolated`. Held-out pictures of the model's own size can be encoded at any time.

    Args:
        backbone: with an open_clip VisionTransformer as `visual`.
        kind: "fixed" changes nothing.
        image_size: side of the training pictures in pixels; None is the model's own.
        text_length: tokens of a training caption; None is the model's own context.

    Raises:
        NotSupported: another tower, or one that is not square.
        UsageError: a side that is no whole number of patches, or a text longer than the context.
    """
    if kind == "fixed":
        yield
        return
    visual: Any = getattr(backbone, "visual", None)
    if type(visual) is not VisionTransformer:
        name = type(backbone if visual is None else visual).__name__
        raise NotSupported(f"positions = {kind!r}: {name} keeps its own; it works for open_clip's VisionTransformer")
    own = tuple(visual.grid_size)
    if own[0] != own[1]:
        raise NotSupported(f"positions = {kind!r}: the model's grid of {own[0]} x {own[1]} patches is not square")
    grid = own if image_size is None else _grid_of((image_size, image_size), visual.patch_size)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_image_positions(visual, grid, sincos=kind == "sincos"))
        if text_length is not None:
            stack.enter_context(_text_positions(backbone, text_length, kind))
        yield


@contextlib.contextmanager
def _image_positions(visual: Any, grid: tuple[int, int], *, sincos: bool) -> Iterator[None]:
    table, own = visual.positional_embedding, tuple(visual.grid_size)
    with torch.no_grad():
        start = sincos_2d(table.shape[1], grid, prefix=1).to(table) if sincos else resample_grid(table, own, grid)
    visual._parameters["positional_embedding"] = nn.Parameter(
        start.detach().clone(), requires_grad=table.requires_grad and not sincos
    )
    visual.__dict__["sincos"] = sincos
    visual.__class__ = ResampledVisionTransformer
    try:
        yield
    finally:
        learned = visual._parameters["positional_embedding"]
        visual.__class__ = VisionTransformer
        del visual.__dict__["sincos"]
        with torch.no_grad():
            end = sincos_2d(table.shape[1], own, prefix=1) if sincos else resample_grid(learned, grid, own)
            table.data = end.to(learned).clone()
        visual._parameters["positional_embedding"] = table


@contextlib.contextmanager
def _text_positions(backbone: nn.Module, length: int, kind: Positions) -> Iterator[None]:
    text: Any = getattr(backbone, "text", None)
    if type(text) is not TextTransformer:
        raise NotSupported(
            f"text_length with positions = {kind!r}: {type(text if text is not None else backbone).__name__} keeps its "
            "own; it works for open_clip's TextTransformer as a tower of its own (custom_text)"
        )
    table = text.positional_embedding
    rows = length + (text.cls_emb is not None)
    if rows > len(table):
        raise UsageError(f"text_length {length} is more than the model's context of {text.context_length} tokens")
    with torch.no_grad():
        start = resample_rows(table, rows).clone()
    text._parameters["positional_embedding"] = nn.Parameter(start, requires_grad=table.requires_grad)
    text.__class__ = ResampledTextTransformer
    try:
        yield
    finally:
        learned = text._parameters["positional_embedding"]
        text.__class__ = TextTransformer
        with torch.no_grad():
            table.data = resample_rows(learned, len(table)).to(learned).clone()
        text._parameters["positional_embedding"] = table
