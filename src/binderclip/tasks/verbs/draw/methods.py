"""The ways to draw, each with its first picture and its optimisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from binderclip.generate import (
    BezierStrokes,
    ImageOptimisation,
    OptimisedImage,
    Parametrisation,
    PerspectiveCutouts,
    PixelImage,
    RandomCutouts,
    VQLatent,
    WeightedPrompt,
    clip_prompt,
    clipdraw,
    load_vq_autoencoder,
    vqgan_clip,
)
from binderclip.generate.draw.clipdraw import settling_rate
from binderclip.models import ImageTextModel
from binderclip.tasks.verbs.draw.request import DrawRequest

PAPER_STEPS, PAPER_SIDE, FASTEST = 1000, 224, 5.0
"""Of CLIPDraw; and how many times as large as its rates are here at most."""
NOISE = 0.1
"""Standard deviation of the grey that pixels start from."""
SPOTS = 8
"""Along each side, that codes start from."""


@dataclass(frozen=True)
class DrawMethod:
    """A way to draw.

    Attributes:
        about: what it does, for lists.
        first: the picture before the first step.
        optimise: moves that picture: model, request, picture, callbacks of `fit`.
        vector: whether the picture has `to_svg`, which is written, and `render`, which draws it finer than its canvas.
    """

    about: str
    first: Callable[[ImageTextModel, DrawRequest], Parametrisation]
    optimise: Callable[[ImageTextModel, DrawRequest, Any, Sequence[Any]], OptimisedImage]
    vector: bool = False


def _first_strokes(model: ImageTextModel, request: DrawRequest) -> BezierStrokes:
    # fewer steps than the paper's are larger, so that a drawing travels as far
    faster = min(FASTEST, max(1.0, PAPER_STEPS / request.steps))
    scale = request.size / PAPER_SIDE
    return BezierStrokes.random(
        request.strokes, (request.size, request.size), seed=request.seed, point_schedule=settling_rate,
        lr=(faster * scale, faster * 0.2 * scale, faster * 0.01),
    ).to(model.device)  # fmt: skip


def _move_strokes(
    model: ImageTextModel, request: DrawRequest, param: BezierStrokes, callbacks: Sequence[Any]
) -> OptimisedImage:
    return clipdraw(
        model, request.text, strokes=param, steps=request.steps, views=request.views, callbacks=callbacks,
        seed=request.seed,
    )  # fmt: skip


def _first_pixels(model: ImageTextModel, request: DrawRequest) -> PixelImage:
    generator = torch.Generator().manual_seed(request.seed)
    noise = torch.randn(3, request.size, request.size, generator=generator)
    return PixelImage((0.5 + NOISE * noise).clamp(0, 1)).to(model.device)


def _move_pixels(
    model: ImageTextModel, request: DrawRequest, param: PixelImage, callbacks: Sequence[Any]
) -> OptimisedImage:
    objective = clip_prompt(model, request.text, distance="cosine", weight=request.views)
    run = ImageOptimisation(
        param, {"prompt": objective}, transforms=PerspectiveCutouts(request.views), callbacks=callbacks,
        seed=request.seed,
    )  # fmt: skip
    return run.run(request.steps)


def _first_codes(model: ImageTextModel, request: DrawRequest) -> VQLatent:
    # random codes are a loud pattern that few steps do not calm: begin with pale spots, as the study of p086 does
    generator = torch.Generator().manual_seed(request.seed)
    spots = torch.randn(1, 3, SPOTS, SPOTS, generator=generator)
    pale = (0.75 + 0.15 * functional.interpolate(spots, (request.size, request.size), mode="bicubic")).clamp(0, 1)
    return VQLatent.encoded(load_vq_autoencoder().to(model.device), pale.to(model.device))


def _move_codes(
    model: ImageTextModel, request: DrawRequest, param: VQLatent, callbacks: Sequence[Any]
) -> OptimisedImage:
    # a text is a text: none of its colons and bars is syntax
    return vqgan_clip(
        model, param, [WeightedPrompt(request.text)], steps=request.steps, callbacks=callbacks, seed=request.seed,
        transforms=RandomCutouts(request.views, min(model.preprocess.size)),
    )  # fmt: skip


METHODS: dict[str, DrawMethod] = {
    "strokes": DrawMethod("strokes: curves of colour, as in CLIPDraw", _first_strokes, _move_strokes, vector=True),
    "pixels": DrawMethod("pixels: each by itself, which fool the model sooner", _first_pixels, _move_pixels),
    "vq": DrawMethod("vq: codes of a small autoencoder, as in VQGAN-CLIP", _first_codes, _move_codes),
}
"""By the name of `--method`."""
