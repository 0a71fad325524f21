"""Training views of the packs' pictures: one or several objects on a background, with the mask of each on a grid.

Everything is batched tensor work on 64 px RGBA pictures: placing 128 px views of 256 objects takes about 0.3 s.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from binderclip.data.images import open_header

__all__ = ["PackPictures", "ViewBatch", "compose_views", "on_white", "read_pictures"]


@dataclass(frozen=True)
class PackPictures:
    """Pictures of the packs in memory: premultiplied RGBA, captions, and which are one-colour silhouettes."""

    rgba: UInt8[Tensor, "N 4 64 64"]
    captions: tuple[str, ...]
    mono: Bool[Tensor, "N"]
    source: tuple[str, ...]
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.captions)

    def first(self, limit: int | None) -> PackPictures:
        """The first so many pictures of each pack; all of them for None."""
        if limit is None:
            return self
        seen: Counter[str] = Counter()
        keep = []
        for index, source in enumerate(self.source):
            seen[source] += 1
            if seen[source] <= limit:
                keep.append(index)
        rows = torch.tensor(keep)
        named = (tuple(column[i] for i in keep) for column in (self.captions, self.source, self.keys))
        captions, sources, keys = named
        return PackPictures(self.rgba[rows], captions, self.mono[rows], sources, keys)


@dataclass(frozen=True)
class ViewBatch:
    """A batch of views: images in [0, 1], for each up to K objects by index (-1: none) and their visible share."""

    images: Float[Tensor, "B 3 S S"]
    objects: Int[Tensor, "B K"]
    masks: Float[Tensor, "B K g g"]


def read_pictures(packs: Path, names: Sequence[str], split: str) -> PackPictures:
    """Pictures of one split of the Parquet packs in a folder; colours under full transparency become zero."""
    rgba: list[Tensor] = []
    captions: list[str] = []
    mono: list[bool] = []
    source: list[str] = []
    keys: list[str] = []
    for name in names:
        table = pq.read_table(packs / f"{name}-64.parquet")
        flags = table["mono"].to_pylist() if "mono" in table.column_names else [False] * len(table)
        rows = zip(*(table[column].to_pylist() for column in ("key", "caption", "split", "image")), flags, strict=True)
        for key, caption, own, blob, single in rows:
            if own != split:
                continue
            with open_header(io.BytesIO(blob)) as image:
                pixels = torch.frombuffer(bytearray(image.convert("RGBA").tobytes()), dtype=torch.uint8)
            rgba.append(pixels.view(64, 64, 4).permute(2, 0, 1))
            captions.append(caption)
            mono.append(bool(single))
            source.append(name)
            keys.append(key)
    return PackPictures(torch.stack(rgba), tuple(captions), torch.tensor(mono), tuple(source), tuple(keys))


def on_white(rgba: UInt8[Tensor, "N 4 64 64"], size: int) -> Float[Tensor, "N 3 S S"]:
    """Pictures on white, enlarged as the model's own preprocessing does it (bicubic)."""
    x = rgba.float() / 255
    flat = x[:, :3] * x[:, 3:] + (1 - x[:, 3:])
    flat = (flat * 255).round() / 255
    return nn.functional.interpolate(flat, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)


def place_pictures(
    rgba: Float[Tensor, "N 4 H H"],
    side: Float[Tensor, "N"],
    centre: Float[Tensor, "N 2"],
    size: int,
    *,
    angle: Float[Tensor, "N"],
    flip: Bool[Tensor, "N"],
) -> Float[Tensor, "N 4 S S"]:
    """Each premultiplied picture on an empty canvas: `side` as a share of the canvas, `centre` as (x, y) in [0, 1]."""
    sign = torch.where(flip, -1.0, 1.0)
    cos, sin = torch.cos(angle) / side, torch.sin(angle) / side
    x, y = 2 * centre[:, 0] - 1, 2 * centre[:, 1] - 1
    theta = torch.stack(
        [
            torch.stack([sign * cos, sign * sin, -sign * (cos * x + sin * y)], -1),
            torch.stack([-sin, cos, sin * x - cos * y], -1),
        ],
        1,
    )
    grid = nn.functional.affine_grid(theta, [len(rgba), 4, size, size], align_corners=False)
    # Small objects would alias: shrink them first by area, in one group a scale.
    out = rgba.new_zeros(len(rgba), 4, size, size)
    shrink = (rgba.shape[-1] / (side * size)).clamp(min=1)
    for factor, rows in ((1, shrink < 1.5), (2, (shrink >= 1.5) & (shrink < 3)), (4, shrink >= 3)):
        if rows.any():
            source = nn.functional.avg_pool2d(rgba[rows], factor) if factor > 1 else rgba[rows]
            mode = "bicubic" if factor == 1 else "bilinear"
            out[rows] = nn.functional.grid_sample(source, grid[rows], mode=mode, align_corners=False).clamp(0, 1)
    return out


def recolour(rgba: Float[Tensor, "N 4 H H"], mono: Bool[Tensor, "N"], generator: torch.Generator) -> Tensor:
    """Premultiply; paint half of the silhouettes in a random colour; jitter the colours of half of the others."""
    n = len(rgba)
    colour, alpha = rgba[:, :3], rgba[:, 3:]
    paint = torch.rand(n, 3, 1, 1, generator=generator) * 0.8
    chosen = mono & (torch.rand(n, generator=generator) < 0.5)
    colour = torch.where(chosen[:, None, None, None], paint, colour)
    gain = 1 + 0.3 * (torch.rand(n, 3, 1, 1, generator=generator) - 0.5)
    bright = 1 + 0.5 * (torch.rand(n, 1, 1, 1, generator=generator) - 0.5)
    jitter = (torch.rand(n, generator=generator) < 0.5) & ~mono
    colour = torch.where(jitter[:, None, None, None], (colour * gain * bright).clamp(0, 1), colour)
    grey = colour.mean(1, keepdim=True).expand_as(colour)
    desaturate = (torch.rand(n, generator=generator) < 0.1) & ~mono
    colour = torch.where(desaturate[:, None, None, None], grey, colour)
    return torch.cat([colour * alpha, alpha], 1)


def backgrounds(
    n: int, size: int, generator: torch.Generator, photographs: UInt8[Tensor, "P 3 Y X"] | None, white: float
) -> Float[Tensor, "N 3 S S"]:
    """White, a light or any flat colour, a gradient, soft noise, or a photograph crop."""
    out = torch.ones(n, 3, size, size)
    kind = torch.rand(n, generator=generator)
    for row in range(n):
        k = (kind[row].item() - white) / max(1e-6, 1 - white)
        if k < 0:
            continue
        colour = torch.rand(3, 1, 1, generator=generator)
        if k < 0.2:
            out[row] = 1 - 0.3 * colour
        elif k < 0.4:
            out[row] = colour
        elif k < 0.55:
            other = torch.rand(3, 1, 1, generator=generator)
            ramp = torch.linspace(0, 1, size)
            ramp = ramp[None, :, None] if torch.rand((), generator=generator) < 0.5 else ramp[None, None, :]
            out[row] = colour + (other - colour) * ramp
        elif k < 0.7 or photographs is None:
            cells = int(torch.randint(3, 24, (), generator=generator))
            noise = torch.rand(1, 3, cells, cells, generator=generator)
            soft = nn.functional.interpolate(noise, size=(size, size), mode="bilinear", align_corners=False)[0]
            out[row] = (colour + 0.7 * (soft - 0.5)).clamp(0, 1)
        else:
            crop = photographs[int(torch.randint(len(photographs), (), generator=generator))].float() / 255
            out[row] = nn.functional.interpolate(crop[None], size=(size, size), mode="bilinear", antialias=True)[0]
    return out


def compose_views(
    pictures: UInt8[Tensor, "N 4 H H"],
    mono: Bool[Tensor, "N"],
    objects: Int[Tensor, "B K"],
    generator: torch.Generator,
    *,
    size: int = 128,
    grid: int = 8,
    photographs: UInt8[Tensor, "P 3 Y X"] | None = None,
    white: float = 0.4,
) -> ViewBatch:
    """Views with the objects of each row (-1: none) drawn in order, later ones above earlier ones.

    A single object fills half to all of the canvas; several share it at 0.2 to 0.6 of the side each.
    """
    rows, slots = objects.shape
    images = backgrounds(rows, size, generator, photographs, white)
    crowd = (objects >= 0).sum(1)
    masks = torch.zeros(rows, slots, size, size)
    for slot in range(slots):
        here = (objects[:, slot] >= 0).nonzero()[:, 0]
        if not len(here):
            continue
        picked = objects[here, slot]
        n = len(here)
        rand = torch.rand(n, 6, generator=generator)
        alone = crowd[here] == 1
        side = torch.where(alone, 0.5 + 0.55 * rand[:, 0], (0.65 - 0.05 * crowd[here]) * (0.65 + 0.5 * rand[:, 0]))
        free = (1 - side).clamp(min=0.0)
        centre = 0.5 + (rand[:, 1:3] - 0.5) * (free[:, None] + 0.1)
        angle = torch.where(rand[:, 3] < 0.5, (rand[:, 4] - 0.5) * 0.5, torch.zeros(n))
        source = recolour(pictures[picked].float() / 255, mono[picked], generator)
        layer = place_pictures(source, side, centre, size, angle=angle, flip=rand[:, 5] < 0.4)
        alpha = layer[:, 3:]
        images[here] = layer[:, :3] + images[here] * (1 - alpha)
        masks[here] *= 1 - alpha
        masks[here, slot] = alpha[:, 0]
    shrunk = nn.functional.adaptive_avg_pool2d(masks, grid)
    return ViewBatch(images.clamp(0, 1), objects, shrunk)
