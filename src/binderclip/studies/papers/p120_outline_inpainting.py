"""Does a rim that is left standing keep an object's class and place where its inside is painted anew?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from binderclip.generate import inpaint, outline_inpaint
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.plain_shapes import (
    bundled_denoiser,
    drawn_rightly,
    plain_shapes,
    shape_overlap,
)
from binderclip.train.bundled.figures.diffusion_figures import name_shape
from binderclip.vision import dilate, erode

WHOLE, THIN, WIDE, SPREAD = "whole object", "rim of 2 px", "rim of 4 px", "rim of 4 px, its mean colour inside"
OVERLAP, SHAPE = "IoU of what is drawn with the object's mask", "pictures whose shape rules name rightly"
DIVERSITY = "mean difference of two variants inside the 4 px rim"
EROSIONS = {THIN: 4, WIDE: 8}
COUNT, STEPS = 8, 15


def first(seed: int) -> list[Row]:
    """Whether the denoiser draws what a text says."""
    return [drawn_rightly(seed)]


def measure(seed: int) -> list[Row]:
    """Two variants of each object without a text, for every width of the rim."""
    shapes, denoiser = plain_shapes(COUNT, seed), bundled_denoiser()
    masks = shapes.masks.float()
    inside = erode(masks, EROSIONS[WIDE]) > 0.5
    g = torch.Generator().manual_seed(seed)
    variants: dict[str, list[Tensor]] = {WHOLE: [], THIN: [], WIDE: []}
    for _ in range(2):
        holes = dilate(masks, 3)  # blended borders of the object would tell where it was
        variants[WHOLE].append(inpaint(denoiser, shapes.images, holes, num_inference_steps=STEPS, generator=g))
        for name, erosion in EROSIONS.items():
            out, _repainted = outline_inpaint(
                denoiser, shapes.images, masks, erosion=erosion, least=0.0, num_inference_steps=STEPS, generator=g
            )
            variants[name].append(out)
    rim = shapes.masks & ~inside
    colour = (shapes.images * rim).sum((2, 3), keepdim=True) / rim.sum((2, 3), keepdim=True)
    variants[SPREAD] = [torch.where(inside, colour, shapes.images)] * 2
    rows = []
    words = [caption.split()[2] for caption in shapes.captions]
    for name, pair in variants.items():
        rows.append(Row(OVERLAP, name, float(shape_overlap(torch.cat(pair), shapes.masks.repeat(2, 1, 1, 1)).mean())))
        rows.append(
            Row(
                SHAPE,
                name,
                float(np.mean([name_shape(x)[0] == w for out in pair for x, w in zip(out, words, strict=True)])),
            )
        )
        rows.append(Row(DIVERSITY, name, float((pair[0] - pair[1]).abs().mean(1, keepdim=True)[inside].mean())))
    return rows


SHOWN = (WHOLE, THIN, WIDE, SPREAD)
PANELS = dot_panels((OVERLAP, SHOWN), (SHAPE, SHOWN), (DIVERSITY, SHOWN), rotation=25)
STUDY = declared_study(__name__, measure, first=first, draw=PANELS, seeds=range(10, 18), registered="3aaee545554a")
