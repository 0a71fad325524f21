"""Points instead of boxes: finding a named part on a grid of marks, and what a mark does to a model's answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.adapt.visual_prompts.edits import Edit, Outline
from binderclip.adapt.visual_prompts.referring import Regions, Texts, region_features, score_regions, text_rows
from binderclip.adapt.visual_prompts.regions import Region, as_regions, as_rgb
from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.numeric import check_number

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel


@dataclass(frozen=True)
class Keypoint:
    """Where a text was found.

    Args:
        point: (x, y) in pixels.
        scores: (grid, grid) of the candidate points, row by row from the top.
        points: (grid, grid, 2) their (x, y).
    """

    point: tuple[float, float]
    scores: Float[Tensor, "G G"]
    points: Float[Tensor, "G G 2"]


def localise_keypoint(
    model: ImageTextModel | Sequence[ImageTextModel],
    image: object,
    text: str,
    *,
    box: Sequence[float] | None = None,
    grid: int = 16,
    edits: Sequence[Edit] = (Outline("keypoint"),),
    negatives: Texts | None = None,
    templates: str | Sequence[str] | None = None,
    size: int | None = None,
) -> Keypoint:
    """The point of an image that a text names: marks every point of a grid in turn and takes the best.

    Args:
        model: one model, or several that vote.
        image: anything `data.open_image` takes.
        text: the part, such as "the beak of a bird".
        box: (x0, y0, x1, y1) of the object, where candidates lie; None: the whole image.
        grid: candidates a side; they stand in the middles of grid x grid cells.
        edits: the marks; the red circle.
        negatives: the other parts; their mean score is subtracted.
        templates: put around the texts.
        size: see `score_regions`.

    Raises:
        UsageError: grid below 1, or as `score_regions`.

    Paper: What does CLIP know about a red circle? Visual prompt engineering for VLMs (arXiv 2304.06712).
    """
    refuse_bare_module(model, "localise_keypoint")
    check_number("grid", grid, least=1)
    pixels = as_rgb(image)
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = (0, 0, width, height) if box is None else as_regions([box])[0].bounds(height, width)
    steps = (torch.arange(grid) + 0.5) / grid
    y, x = torch.meshgrid(y0 + steps * (y1 - y0), x0 + steps * (x1 - x0), indexing="ij")
    points = torch.stack([x, y], dim=-1)
    regions = [Region(point=(float(px), float(py))) for px, py in points.flatten(0, 1)]
    scores = score_regions(
        model, pixels, regions, [text], edits=edits, negatives=negatives, templates=templates, size=size
    )[:, 0]  # fmt: skip
    best = points.flatten(0, 1)[int(scores.argmax())]
    return Keypoint((float(best[0]), float(best[1])), scores.unflatten(0, (grid, grid)), points)


def correct_keypoints(
    predicted: Float[Tensor, "N 2"], truth: Float[Tensor, "N 2"], boxes: Float[Tensor, "N 4"], *, alpha: float = 0.1
) -> Bool[Tensor, "N"]:
    """Whether each point is right: no further from the truth than `alpha` times the longer side of its box.

    The mean is the percentage of correct keypoints (PCK).

    Args:
        predicted: (x, y).
        truth: (x, y).
        boxes: (x0, y0, x1, y1) of the objects.
        alpha: share of the longer side.

    Raises:
        UsageError: shapes that do not fit, or alpha below 0.
    """
    predicted, truth, boxes = (torch.as_tensor(value, dtype=torch.float64) for value in (predicted, truth, boxes))
    if predicted.shape != truth.shape or predicted.shape[-1:] != (2,) or boxes.shape != (*predicted.shape[:-1], 4):
        raise UsageError(
            f"predicted and truth must be (N, 2) and boxes (N, 4), not {tuple(predicted.shape)}, {tuple(truth.shape)} "
            f"and {tuple(boxes.shape)}"
        )
    check_number("alpha", alpha, least=0)
    sides = (boxes[..., 2:] - boxes[..., :2]).amax(dim=-1)
    return (predicted - truth).norm(dim=-1) <= alpha * sides


@dataclass(frozen=True)
class MarkEffect:
    """What a mark does to the answers about a set of images.

    Args:
        before: (T,) mean probability of each text without the mark.
        after: (T,) with it.
    """

    before: Float[Tensor, "T"]
    after: Float[Tensor, "T"]

    @property
    def change(self) -> Float[Tensor, "T"]:
        """(T,) mean change of each text's probability; sums to zero."""
        return self.after - self.before


@torch.no_grad()
def mark_effect(
    model: ImageTextModel,
    images: Sequence[object],
    regions: Regions,
    texts: Texts,
    *,
    edit: Edit | None = None,
    templates: str | Sequence[str] | None = None,
) -> MarkEffect:
    """How a mark shifts the probabilities of texts: a probe for what a model associates with being marked.

    The paper found that a circled person is called a suspect more often. Use pictures whose subjects consented.

    Args:
        model: answers.
        images: N pictures.
        regions: one for each picture.
        texts: T texts between which the probability is shared.
        edit: the mark; default the red circle.
        templates: put around the texts.

    Raises:
        UsageError: not one region a picture, or as `score_regions`.

    Paper: What does CLIP know about a red circle? Visual prompt engineering for VLMs (arXiv 2304.06712).
    """
    refuse_bare_module(model, "mark_effect")
    images = list(images)
    regions_of_marks = as_regions(regions)
    if len(images) != len(regions_of_marks):
        raise UsageError(
            f"mark_effect takes one region a picture: {len(images)} pictures, {len(regions_of_marks)} regions"
        )
    rows = text_rows(model, texts, templates=templates)
    means = []
    for edits in ((), (edit or Outline("ellipse"),)):
        features = [
            region_features(model, image, [region], edits=edits)[0, 0]
            for image, region in zip(images, regions_of_marks, strict=True)
        ]
        unit = torch.nn.functional.normalize(torch.stack(features), dim=-1).to(rows)
        means.append((model.scale() * unit @ rows.T).softmax(dim=-1).mean(dim=0).cpu())
    return MarkEffect(*means)
