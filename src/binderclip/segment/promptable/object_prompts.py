"""Prompts for objects whose masks are known: a click or a box to begin with, then clicks into what is still wrong."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.data.synthetic_scenes.paste import boxes_of
from binderclip.segment.promptable.drawn import CORNERS

__all__ = ["correction", "first_prompts"]


def first_prompts(
    masks: Bool[Tensor, "P S S"], generator: torch.Generator
) -> tuple[Float[Tensor, "P 2 2"], Int[Tensor, "P 2"]]:
    """A click, uniform in the object, or its box with each side moved by up to a tenth; equal chances."""
    side = masks.shape[-1]
    count = len(masks)
    click, _ = _uniform(masks, generator)
    boxes = boxes_of(masks[:, None])[:, 0] / side
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    boxes = (boxes + 0.1 * size * (2 * torch.rand(count, 4, generator=generator) - 1)).clamp(0, 1)
    is_box = torch.rand(count, generator=generator) < 0.5
    points = torch.where(is_box[:, None, None], boxes.view(count, 2, 2), click.repeat(1, 2, 1))
    labels = torch.where(is_box[:, None], torch.tensor(CORNERS), torch.tensor([1, -1]))
    return points, labels


def correction(
    predicted: Bool[Tensor, "P h w"], truth: Bool[Tensor, "P h w"], generator: torch.Generator
) -> tuple[Float[Tensor, "P 1 2"], Int[Tensor, "P 1"]]:
    """A click, uniform in what is wrong: 1 where the object was missed, 0 where it is not. Padding where nothing is."""
    point, cell = _uniform(predicted ^ truth, generator)
    label = truth.flatten(1).gather(1, cell).long()
    wrong = (predicted ^ truth).flatten(1).any(1, keepdim=True)
    return point, torch.where(wrong, label, -1)


def _uniform(
    regions: Bool[Tensor, "P h w"], generator: torch.Generator
) -> tuple[Float[Tensor, "P 1 2"], Int[Tensor, "P 1"]]:
    """A random place of each region, (x, y) in [0, 1], and its cell; of an empty one any place."""
    height, width = regions.shape[-2:]
    weights = regions.flatten(1).float() + 1e-9
    cell = torch.multinomial(weights, 1, generator=generator)
    inside = torch.rand(len(regions), 1, 2, generator=generator)
    corner = torch.stack([cell % width, cell // width], -1)
    return (corner + inside) / torch.tensor([width, height]), cell
