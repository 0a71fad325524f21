"""The experts that recipes may name: from a picture's own outline, and from models of the libraries."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.data import PseudoLabeler, surface_normals
from binderclip.errors import UsageError
from binderclip.models import load
from binderclip.segment import Segmenter
from binderclip.train.engine.context import StageContext
from binderclip.train.recipe.registry import EXPERTS, demands, register
from binderclip.train.recipe.stage import Stage
from binderclip.vision import erode

__all__ = ["outline", "relief", "relief_depth", "relief_normals", "segment"]


@register(EXPERTS, "outline")
def outline(context: StageContext | None) -> PseudoLabeler:
    """Object (1) and ground (0) of pictures with an alpha channel; without one everything is object."""

    def labels(images: Float[Tensor, "B 4 H W"]) -> Tensor:
        return (images[:, 3] > 0.5).long()

    return PseudoLabeler("outline", labels, kind="classes", version="1", classes=2)


def relief(images: Float[Tensor, "B 4 H W"], width: int = 8) -> Float[Tensor, "B H W"]:
    """A height for each pixel as if the object were embossed: 0 on the ground, rising to 1 at `width` pixels inside.

    Args:
        images: with alpha.
        width: of the slope in pixels.
    """
    inside, steps = (images[:, 3:] > 0.5).float(), []
    for _ in range(width):
        steps.append(inside)
        inside = erode(inside, 3)  # the border is ground
    return torch.cat(steps, 1).mean(1)


def _check_width(stages: Sequence[Stage], index: int, settings: Mapping[str, Any]) -> None:
    if settings.get("width", 1) < 1:
        raise UsageError(f"width of a relief must be at least 1 pixel, got {settings['width']}")


@register(EXPERTS, "relief-depth")
@demands(check=_check_width)
def relief_depth(context: StageContext | None, *, width: int = 8) -> PseudoLabeler:
    """Inverse depth of pictures with an alpha channel as if they were embossed, see `relief`.

    Args:
        context: not used.
        width: of the slope in pixels.
    """
    return PseudoLabeler("relief-depth", lambda images: relief(images, width), kind="depth", version=f"1, {width}")


@register(EXPERTS, "relief-normals")
@demands(check=_check_width)
def relief_normals(context: StageContext | None, *, width: int = 8) -> PseudoLabeler:
    """Normals of the same relief, which is as high as its slope is wide.

    Args:
        context: not used.
        width: of the slope in pixels.
    """

    def labels(images: Tensor) -> Tensor:
        return surface_normals(relief(images, width), width)

    return PseudoLabeler("relief-normals", labels, kind="normals", version=f"1, {width}")


def _check_names(stages: Sequence[Stage], index: int, settings: Mapping[str, Any]) -> None:
    if not settings["labels"]:
        raise UsageError("segment: name the classes, labels = ['cat', 'dog']")


@register(EXPERTS, "segment")
@demands(check=_check_names)
def segment(
    context: StageContext, *, model: str, labels: list[str], preset: str = "clearclip", least: float = 0.0
) -> PseudoLabeler:
    """Classes by words: what `segment.Segmenter` says.

    Args:
        context: says on which device.
        model: anything `load` takes.
        labels: names of the classes.
        preset: of the segmenter.
        least: pixels whose largest probability is lower stay unlabelled.
    """
    known = load(model, device=context.world.device)
    segmenter = Segmenter(known, preset=preset)

    def said(images: Tensor) -> Tensor:
        label_maps = []
        for image in _on_white(images):
            result: Any = segmenter(image, labels)
            sure = result.probs.amax(0) >= least
            label_maps.append(torch.where(sure, result.labels, -1))
        return torch.stack(label_maps)

    settings = hashlib.sha256(repr((known.fingerprint, preset, labels, least)).encode()).hexdigest()[:16]
    return PseudoLabeler("segment", said, kind="classes", version=settings, classes=len(labels))


def _on_white(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 3 H W"]:
    return images if images.shape[1] == 3 else images[:, :3] * images[:, 3:] + 1 - images[:, 3:]
