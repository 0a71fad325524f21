"""How good an explanation picture is: edges that it invents, and how much it says with how little."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from binderclip.errors import UsageError
from binderclip.explain.engine.observed import Observer
from binderclip.explain.mask.optimise import MaskAttribution, chance
from binderclip.settings import check_choice
from binderclip.vision import sobel

EdgeRule = Callable[[Tensor], Tensor]
Information = Literal["pixels", "coefficients", "entropy"]


def hallucination_score(
    explanation: MaskAttribution | Float[Tensor, "B 3 H W"],
    images: Float[Tensor, "B 3 H W"] | None = None,
    *,
    threshold: float = 0.1,
    edges: EdgeRule | None = None,
) -> Float[Tensor, "B"]:
    """Edges that the picture does not have, as a share of those it has; 0 is best.

    Both pictures are greyed and divided by their largest value first, so that a dark explanation is judged by what it
    shows; one that is wholly black shows nothing and scores NaN. An edge is invented if no edge of the picture lies in
    its 3 x 3 neighbourhood.

    Args:
        explanation: the result of a mask explanation, or its picture in [0, 1].
        images: what it explains; not needed with a result.
        threshold: of the Sobel magnitude, in grey levels a pixel.
        edges: another detector instead: grey pictures (B, H, W) -> bool (B, H, W).

    Raises:
        UsageError: pictures of different shapes, or none to compare with.

    Paper: Explaining Image Classifiers with Multiscale Directional Image Representation (arXiv 2211.12857), whose
    detector is a shearlet one.
    """
    shown, images = _pictures(explanation, images)
    find = edges or (lambda grey: sobel(grey) > threshold)
    shown_edges, true = find(_grey(shown)), find(_grey(images))
    near = functional.max_pool2d(true[:, None].to(shown.dtype), 3, stride=1, padding=1)[:, 0] > 0
    scores = _count(shown_edges & ~near) / _count(true).clamp(min=1)
    return scores.masked_fill(_black(shown), torch.nan)


def conciseness_preciseness(
    model: Any,
    explanation: MaskAttribution | Float[Tensor, "B 3 H W"],
    target: Any = None,
    *,
    images: Float[Tensor, "B 3 H W"] | None = None,
    information: Information = "pixels",
    brighten: bool = False,
) -> Float[Tensor, "B"]:
    """Retained probability divided by retained information; the picture itself scores 1, higher is better.

    Only `pixels` compares methods of different representations. An explanation that is wholly black retains nothing and
    scores NaN.

    Args:
        model: the explained one.
        explanation: the result of a mask explanation, or its picture in [0, 1].
        target: as it was explained; None is the class predicted for the images.
        images: what it explains; not needed with a result.
        information: `pixels` is the ratio of summed grey levels; `coefficients` that of summed absolute coefficients;
            `entropy` that of the entropies of the squared coefficients (of the pixels, without a result).
        brighten: divide the explanation by its largest value first, as the released evaluation does.

    Raises:
        UsageError: pictures of different shapes, none to compare with, an unknown kind of information, a target that
            is no probability.

    Paper: Explaining Image Classifiers with Multiscale Directional Image Representation (arXiv 2211.12857).
    """
    check_choice("information", information, ("pixels", "coefficients", "entropy"))
    if information == "coefficients" and not isinstance(explanation, MaskAttribution):
        raise UsageError("information='coefficients' needs the result of a mask explanation, not its picture alone")
    shown, images = _pictures(explanation, images)
    if brighten:
        shown = shown / shown.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    observer = Observer(model)
    with observer.ready():
        clean = observer.run(images, []).outputs.detach()
        score = chance(model, target, clean)
        kept = score(observer.run(shown, []).outputs).detach() / score(clean)
    part, all_of_it = shown, images
    if information != "pixels" and isinstance(explanation, MaskAttribution):
        all_of_it = explanation.representation.analysis(images)
        part = explanation.mask[:, None] * all_of_it
    measure = _entropy if information == "entropy" else _total
    return (kept / (measure(part) / measure(all_of_it))).masked_fill(_black(shown), torch.nan)


def _black(pictures: Float[Tensor, "B 3 H W"]) -> Bool[Tensor, "B"]:
    return pictures.flatten(1).amax(dim=1) <= 0


def _pictures(explanation: MaskAttribution | Tensor, images: Tensor | None) -> tuple[Tensor, Tensor]:
    if isinstance(explanation, MaskAttribution):
        images = explanation.images if images is None else images
        explanation = explanation.explanation
    if images is None:
        raise UsageError("images are missing: give the pictures that the explanation is compared with")
    if explanation.ndim != 4 or explanation.shape != images.shape:
        raise UsageError(
            f"explanation {tuple(explanation.shape)} and images {tuple(images.shape)} must have one shape (B, 3, H, W)"
        )
    return explanation, images


def _grey(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B H W"]:
    top = images.amax(dim=(1, 2, 3), keepdim=True)
    return (images / torch.where(top > 0, top, 1.0)).mean(dim=1)


def _count(mask: Bool[Tensor, "B H W"]) -> Float[Tensor, "B"]:
    return mask.flatten(1).sum(dim=1).float()


def _total(values: Tensor) -> Float[Tensor, "B"]:
    return values.abs().flatten(1).sum(dim=1)


def _entropy(values: Tensor) -> Float[Tensor, "B"]:
    energy = values.square().flatten(1)
    probability = energy / energy.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return -(probability * (probability + 1e-7).log()).sum(dim=1)
