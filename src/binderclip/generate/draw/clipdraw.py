"""Drawing by text: strokes that are moved until a picture of them has the features of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from binderclip.generate.draw.objectives import ImageObjective, clip_prompt
from binderclip.generate.draw.optimisation import ImageOptimisation, OptimisedImage, WeightedObjective
from binderclip.generate.draw.transforms import PerspectiveCutouts
from binderclip.generate.draw.vector.strokes import BezierStrokes
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.model import ImageTextModel
from binderclip.numeric import check_whole

__all__ = ["clipdraw", "settling_rate"]

_NEGATIVE_WEIGHT = 0.3
"""Of each negative prompt beside the prompt's 1, in the released code."""


def clipdraw(
    model: ImageTextModel,
    prompt: str | Sequence[str] | Tensor,
    *,
    strokes: int | BezierStrokes = 256,
    steps: int = 1000,
    size: tuple[int, int] | None = None,
    negative: Sequence[str] = (),
    views: int = 4,
    normalise_input: bool = True,
    callbacks: Sequence[Any] = (),
    seed: int = 0,
) -> OptimisedImage:
    """Draw a prompt with coloured strokes, by gradients of an image-text model and without training.

    Each step looks at the drawing through `views` random perspectives and crops, and takes a step of Adam on
    `-sum cos(prompt, view)`. Strokes are harder to fool a model with than pixels are; whether a drawing shows
    what it was asked for is for another model to say than the one that guided it.

    Args:
        model: guides.
        prompt: what to draw: a text, several (their mean counts), or features.
        strokes: their number, or a drawing to go on with, which is changed.
        steps: of Adam; the points' learning rate falls to 0.4 after half of them and to 0.1 after three quarters.
        size: (H, W) of the canvas in pixels; default the model's input. Widths and rates are scaled to it.
        negative: prompts to keep away from, with a weight of 0.3 each.
        views: of each step.
        normalise_input: as in `clip_prompt`; the paper's pictures were made without.
        callbacks: as `fit` takes them; one whose `after_step` gives True ends the run, and leaves the drawing so far.
        seed: of the first drawing and of the views.

    Returns:
        The picture; `param` is the `BezierStrokes`, whose `to_svg()` is the drawing. In `history`, `prompt` is the
        negative sum of cosines.

    Raises:
        UsageError: no strokes, no prompt, or a setting out of range.

    Paper: CLIPDraw: Exploring Text-to-Drawing Synthesis through Language-Image Encoders (arXiv 2106.14843).

    Examples:
        >>> import binderclip
        >>> drawing = clipdraw(binderclip.load("small"), "a red apple", strokes=8, steps=1, size=(64, 64))
        >>> drawing.image.shape, drawing.param.to_svg().count("<path")
        (torch.Size([1, 3, 64, 64]), 8)
    """
    refuse_bare_module(model, "clipdraw")
    check_whole("steps", steps, least=0)
    check_whole("views", views, least=1)
    if isinstance(strokes, BezierStrokes):
        param = strokes
    else:
        check_whole("strokes", strokes, least=1)
        param = BezierStrokes.random(
            strokes, size or model.preprocess.size, seed=seed, point_schedule=settling_rate
        ).to(model.device)
    # The mean over views times their number is the paper's sum.
    options: dict[str, Any] = {"distance": "cosine", "normalise_input": normalise_input}
    objectives: dict[str, ImageObjective | WeightedObjective] = {
        "prompt": clip_prompt(model, prompt, weight=views, **options)
    }
    for number, text in enumerate(negative):
        objectives[f"negative {number}"] = clip_prompt(model, text, weight=-views * _NEGATIVE_WEIGHT, **options)
    return ImageOptimisation(
        param, objectives, transforms=PerspectiveCutouts(views), callbacks=callbacks, seed=seed
    ).run(steps)


def settling_rate(progress: float) -> float:
    """CLIPDraw's multiplier of the points' learning rate: 1, from half of the run 0.4, from three quarters 0.1."""
    return 1.0 if progress < 0.5 else 0.4 if progress < 0.75 else 0.1
