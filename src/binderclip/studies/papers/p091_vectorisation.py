"""Do gradient fills and segments of the error that ignore ramps make as few paths come nearer to a picture?"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import label
from torch import Tensor
from torch.nn import functional as F

from binderclip.data import load_data
from binderclip.generate import vectorize
from binderclip.studies.harness import Row, Table, declared_study, dot_panels, random_rows
from binderclip.vision import gradient_aware_segments

OURS, SOLID, PLACED = "gradients, guided", "solid, guided", "gradients, largest error"
PSNR, SEGMENTS = "PSNR at four paths, dB", "segments of a smooth disc"
MADE, EMOJI, EDGES, COLOURS = "made", "emoji", "by edges of the error", "by colours of the error"
SIDE, ROUNDS, STEPS, SHAPES, LEVELS, LEAST, RATES = 48, 4, 30, 4, 10, 8, (1.0, 0.04)
ARMS = {OURS: {}, SOLID: {"fill": "solid"}, PLACED: {"guided": False}}


def made(g: torch.Generator) -> Float[Tensor, "3 S S"]:
    """White, with ellipses one over the other, each a linear ramp from one random colour to another."""
    places = torch.arange(SIDE) + 0.5
    x, y = places.expand(SIDE, SIDE), places[:, None].expand(SIDE, SIDE)
    image = torch.ones(3, SIDE, SIDE)
    for _ in range(SHAPES):
        u = torch.rand(11, generator=g)
        dx, dy = x - SIDE * (0.2 + 0.6 * u[0]), y - SIDE * (0.2 + 0.6 * u[1])
        rx, ry = SIDE * (0.1 + 0.15 * u[2:4])
        turn = 2 * torch.pi * u[4]
        part = ((dx * turn.cos() + dy * turn.sin()) / (2 * torch.maximum(rx, ry)) + 0.5).clamp(0, 1)
        colour = torch.lerp(u[5:8, None, None], u[8:11, None, None], part)
        distance = ((dx / rx).square() + (dy / ry).square()).sqrt()
        coverage = (0.5 + (1 - distance) * torch.minimum(rx, ry)).clamp(0, 1)  # an edge about one pixel wide
        image = torch.lerp(image, colour, coverage)
    return image


@lru_cache(maxsize=1)
def _emoji() -> list[Float[Tensor, "3 S S"]]:
    """Noto's test emoji of many colours: the twenty most frequent ones, of 4,096, hold less than half of a drawing."""
    pictures = []
    for image in load_data("noto-emoji", split="test").pixels(64, mode="RGB", threads=1)[0]:
        _, counts = torch.unique((image // 16).flatten(1).T, dim=0, return_counts=True)
        shown = counts.sort(descending=True).values[1:]  # without the background
        if float(shown[:20].sum()) < 0.5 * float(shown.sum()):
            pictures.append(F.interpolate(image[None] / 255, size=(SIDE, SIDE), mode="bilinear", antialias=True)[0])
    return pictures


def measure(seed: int) -> list[Row]:
    """All rows of one seed: a made picture, an emoji, and one smooth disc that is cut into segments."""
    g = torch.Generator().manual_seed(seed)
    pictures = {MADE: made(g), EMOJI: _emoji()[int(torch.randint(len(_emoji()), (1,), generator=g))]}
    rows = [Row(SEGMENTS, name, float(count)) for name, count in disc_segments(g).items()]
    for setting, picture in pictures.items():
        for name, options in ARMS.items():
            drawing = vectorize(picture, ROUNDS, steps=STEPS, lr=RATES, seed=seed, **options)  # type: ignore[arg-type]
            error = (drawing.image[0] - picture).square().mean()
            rows.append(Row(PSNR, name, float(-10 * error.log10()), setting))
    return rows


def disc_segments(g: torch.Generator) -> dict[str, int]:
    """Segments above a few pixels in the error of a disc with a radial ramp: by its edges, and by its grey levels."""
    u = torch.rand(9, generator=g)
    places = torch.arange(SIDE) + 0.5
    distance = torch.hypot(places - SIDE * (0.4 + 0.2 * u[0]), places[:, None] - SIDE * (0.4 + 0.2 * u[1]))
    radius = SIDE * (0.2 + 0.1 * u[2])
    first, change = 0.3 + 0.4 * u[3:6], 0.3 * (2 * (u[6:9] > 0.5) - 1)
    error = (first[:, None, None] + change[:, None, None] * (distance / radius - 0.5)) * (distance <= radius)
    segments = gradient_aware_segments(error)
    edges = sum(int((segments.labels == k).sum()) >= LEAST for k in segments.weights.nonzero()[:, 0])
    level = torch.bucketize(segments.error, torch.linspace(0, float(segments.error.max()), LEVELS + 1)[1:-1])
    parts = [label((level == k).numpy()) for k in level[distance <= radius].unique()]
    colours = sum(int((np.bincount(names.ravel())[1:] >= LEAST).sum()) for names, _ in parts)
    return {EDGES: edges, COLOURS: colours}


def exact(table: Table) -> tuple[bool, str]:
    """Whether every disc is one segment by edges and several by colours."""
    edges, colours = (table.values(SEGMENTS, name) for name in (EDGES, COLOURS))
    return bool((edges == 1).all() and (colours > 1).all()), f"{edges.max():g}; by colours at least {colours.min():g}"


def null(seed: int) -> list[Row]:
    """Random decibels, and discs cut by colours."""
    return [Row(SEGMENTS, name, 3.0) for name in (EDGES, COLOURS)] + random_rows(STUDY.criteria, seed, 15, 25)


PANELS = dot_panels((PSNR, tuple(ARMS), MADE), (PSNR, tuple(ARMS), EMOJI), (SEGMENTS, (EDGES, COLOURS)), rotation=20)
STUDY = declared_study(__name__, measure, draw=PANELS, seeds=range(10, 20), null=null, registered="0644e25c107f")
