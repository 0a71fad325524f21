"""Do marks help a model to classify what they point at? The study of markers, and where attention goes with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel

Mark = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class PromptScore:
    """How well a model classifies with one mark and one way of putting it into words.

    Args:
        mark: its name; "none" for the images as they are.
        suffix: what was added to each class text.
        accuracy: share of right answers.
        balanced_accuracy: mean over classes of the share of their images that are right.
        f1: macro average over classes.
        auroc: area under the ROC curve, one class against the rest, macro average.
        interval: (low, high) of the AUROC, 95 % by the bootstrap over images; NaN where all resamples are alike, as
            where the classes are told apart without an error.
        average_precision: area under the precision-recall curve, one class against the rest, macro average.
        mcc: Matthews correlation coefficient.
        attention: mean share of the class token's attention inside the box; NaN where it was not measured.
        probs: (N, C) softmax over the classes.
    """

    mark: str
    suffix: str
    accuracy: float
    balanced_accuracy: float
    f1: float
    auroc: float
    interval: tuple[float, float]
    average_precision: float
    mcc: float
    attention: float
    probs: Float[Tensor, "N C"]


def visual_prompt_study(
    model: ImageTextModel,
    images: Sequence[Any],
    regions: Sequence[Any],
    labels: Sequence[str],
    class_texts: Mapping[str, str],
    marks: Mapping[str, Mark],
    *,
    suffixes: Mapping[str, str] | None = None,
    boxes: Float[Tensor, "N 4"] | None = None,
    layer: int = -1,
    keeps_place: Callable[[str], bool] = lambda name: name != "crop",
    resamples: int = 200,
    seed: int = 0,
    batch_size: int = 64,
) -> list[PromptScore]:
    """Classify images with and without marks on their regions, with and without words about the mark.

    Every marked picture is stretched to the model's input, so that crops and whole images are treated alike.

    Args:
        model: classifies, zero-shot.
        images: N pictures, anything `data.open_image` takes.
        regions: N places, whatever the marks take (`adapt.Region`).
        labels: N names of classes; an image with several findings appears several times.
        class_texts: name of each class -> its text; `{suffix}` stands where the words about the mark go, default the
            end.
        marks: name -> `(image, region) -> image`, such as `adapt.Outline("ellipse")`; "none" is added.
        suffixes: name of a mark -> words such as " indicated by a red circle"; marks in it are measured without and
            with them.
        boxes: (x0, y0, x1, y1) in pixels of the images: attention inside them is measured too.
        layer: block whose attention is measured; take another than the last where its attention is not learned (the
            last block of `small` attends uniformly by construction).
        keeps_place: name of a mark -> whether the box is still where it was in the marked picture.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        batch_size: pictures at once.

    Returns:
        One score for "none" and for each mark, and one more for each mark in `suffixes`.

    Raises:
        UsageError: lengths that differ, a label without a text, a class without an image, a suffix of no mark.
        NotSupported: the model compares by another geometry than the cosine.

    Paper: Visual Prompt Engineering for Medical Vision Language Models in Radiology (arXiv 2408.15802).
    """
    refuse_bare_module(model, "visual_prompt_study")
    images, names = list(images), list(class_texts)
    _check(images, regions, labels, names, marks, suffixes or {})
    model.need_cosines("a study of visual prompts")
    target = np.array([names.index(label) for label in labels])
    scores = []
    for name, mark in {"none": None, **marks}.items():
        pictures = [
            image if mark is None else mark(image, region) for image, region in zip(images, regions, strict=True)
        ]
        there = boxes if boxes is not None and keeps_place(name) else None
        features, attention = _encoded(model, images, pictures, there, layer, batch_size)
        for suffix in ["", *[text for own, text in (suffixes or {}).items() if own == name]]:
            rows = model.encode_text([_filled(class_texts[c], suffix) for c in names])
            logits = model.scale() * model.similarity(features.to(rows), rows)
            probs = logits.detach().softmax(dim=-1).cpu()
            scores.append(_scored(name, suffix, probs, target, attention, resamples, seed))
    return scores


def _filled(text: str, suffix: str) -> str:
    return text.replace("{suffix}", suffix) if "{suffix}" in text else text + suffix


def _check(
    images: Sequence[Any], regions: Sequence[Any], labels: Sequence[str], names: Sequence[str],
    marks: Mapping[str, Mark], suffixes: Mapping[str, str],
) -> None:  # fmt: skip
    if not len(images) == len(regions) == len(labels) or not images:
        raise UsageError(
            f"images, regions and labels must be as many, at least 1; got {len(images)}, {len(regions)}, {len(labels)}"
        )
    without = [label for label in labels if label not in names]
    if without:
        raise UsageError(f"label {without[0]!r} has no text in class_texts, which names {', '.join(names)}")
    absent = [name for name in names if name not in set(labels)]
    if absent or len(names) < 2:
        raise UsageError(f"each of at least two classes needs an image; none has the label {(absent or names)[0]!r}")
    unknown = [name for name in suffixes if name not in marks]
    if unknown:
        raise UsageError(f"suffixes names {unknown[0]!r}, which is no mark; marks are {', '.join(marks)}")


@torch.no_grad()
def _encoded(
    model: ImageTextModel,
    images: Sequence[Any],
    pictures: Sequence[Any],
    boxes: Tensor | None,
    layer: int,
    batch_size: int,
) -> tuple[Tensor, float]:
    """Features of the pictures, and the mean attention inside the boxes of the images where there are boxes."""
    own = replace(model.preprocess, resize_mode="squash")
    parts, masses = [], []
    for start in range(0, len(pictures), batch_size):
        chunk = slice(start, start + batch_size)
        pixels = own(list(pictures[chunk]))
        if boxes is None:
            parts.append(model.encode_pixels(pixels))
            continue
        features, mass = _attention(model, pixels, images[chunk], boxes[chunk], layer)
        parts.append(features)
        masses.append(mass)
    return torch.cat(parts), float(torch.cat(masses).mean()) if masses else float("nan")


def _attention(
    model: ImageTextModel, pixels: Tensor, images: Sequence[Any], boxes: Tensor, layer: int, **bias: Any
) -> tuple[Tensor, Tensor]:
    from binderclip.data import open_image
    from binderclip.models.towers.trace import Record, Site, trace

    sizes = [image.shape[:2] if isinstance(image, np.ndarray) else open_image(image).size[::-1] for image in images]
    tower = model.image_tower
    seen = trace(tower, pixels, record=Record("attn", layers=[layer]), **bias)
    shares = torch.stack([box_coverage(box, size, seen.grid) for box, size in zip(boxes, sizes, strict=True)])
    mass = attention_mass(seen.value(Site("attn", layer)), shares, prefix=tower.prefix)
    return seen.embedding.float(), mass.cpu()


def box_coverage(
    box: Float[Tensor, "4"] | Sequence[float], image_size: tuple[int, int], grid: tuple[int, int]
) -> Float[Tensor, "gh gw"]:
    """The share of each patch's area that lies in a box, for an image stretched to the grid.

    Args:
        box: (x0, y0, x1, y1) in pixels of the image.
        image_size: (h, w).
        grid: (gh, gw) patches.
    """
    x0, y0, x1, y1 = (float(v) for v in box)
    (height, width), (rows, columns) = image_size, grid
    sides = []
    for low, high, side, cells in ((y0, y1, height, rows), (x0, x1, width, columns)):
        edges = torch.arange(cells + 1, dtype=torch.float64)
        low, high = low * cells / side, high * cells / side
        sides.append((edges[1:].clamp(max=high) - edges[:-1].clamp(min=low)).clamp(min=0))
    return torch.outer(sides[0], sides[1]).float()


def attention_mass(
    attention: Float[Tensor, "B H L L"], coverage: Float[Tensor, "B gh gw"], *, prefix: int = 1
) -> Float[Tensor, "B"]:
    """The share of the class token's attention that falls inside a region.

    Averaged over heads, taken on the patches only and renormalised there, so that all patches together have 1; a patch
    that is partly inside counts with the share of its area.

    Args:
        attention: of one block, rows are queries.
        coverage: share of each patch that is inside.
        prefix: tokens before the patches; the first is the class token.

    Raises:
        UsageError: no class token, or shapes that do not fit.
    """
    row = attention[:, :, 0].mean(dim=1)[:, prefix:]
    inside = coverage.flatten(1).to(row)
    if prefix < 1 or row.shape[1] != inside.shape[1]:
        raise UsageError(
            f"attention over {attention.shape[-1]} tokens, {prefix} of them before the patches, does not fit a grid "
            f"of {tuple(coverage.shape[1:])} patches (a class token is needed)"
        )
    return (row * inside).sum(dim=1) / row.sum(dim=1)


@torch.no_grad()
def attention_in_region(
    model: ImageTextModel,
    images: Sequence[Any],
    boxes: Float[Tensor, "N 4"] | Sequence[Sequence[float]],
    *,
    layer: int = -1,
    batch_size: int = 64,
    **bias: Any,
) -> Float[Tensor, "N"]:
    """How much of the class token's attention in a block lies inside each image's box.

    Args:
        model: with a class token.
        images: N pictures, anything `data.open_image` takes; stretched to the model's input.
        boxes: (x0, y0, x1, y1), one an image, in its pixels.
        layer: the block; the paper takes the last.
        batch_size: pictures at once.
        bias: `attn_bias` and `bias_blocks` of `models.trace`, the same for all images.

    Returns:
        Shares in [0, 1]; see `attention_mass`.

    Raises:
        UsageError: not one box an image, or a model without a class token.
        NotSupported: the backbone is of a class that cannot be opened.

    Paper: Visual Prompt Engineering for Medical Vision Language Models in Radiology (arXiv 2408.15802).
    """
    refuse_bare_module(model, "attention_in_region")
    images, rows = list(images), torch.as_tensor(boxes, dtype=torch.float32)
    if rows.shape != (len(images), 4):
        raise UsageError(f"boxes must be ({len(images)}, 4), one for each image, not {tuple(rows.shape)}")
    own = replace(model.preprocess, resize_mode="squash")
    parts = []
    for start in range(0, len(images), batch_size):
        chunk = slice(start, start + batch_size)
        parts.append(_attention(model, own(images[chunk]), images[chunk], rows[chunk], layer, **bias)[1])
    return torch.cat(parts)


def _scored(
    mark: str, suffix: str, probs: Tensor, target: np.ndarray, attention: float, resamples: int, seed: int
) -> PromptScore:
    from sklearn import metrics

    values = probs.double().numpy()
    one_hot, answer = np.eye(values.shape[1])[target], values.argmax(axis=1)
    rng = np.random.default_rng(seed)
    areas = []
    for _ in range(resamples):
        rows = rng.integers(0, len(target), len(target))
        if len(np.unique(target[rows])) == values.shape[1]:
            areas.append(metrics.roc_auc_score(one_hot[rows], values[rows], average="macro"))
    telling = len(areas) > 0 and np.ptp(areas) > 1e-12
    low, high = np.quantile(areas, (0.025, 0.975)) if telling else (float("nan"), float("nan"))
    return PromptScore(
        mark=mark,
        suffix=suffix,
        accuracy=float((answer == target).mean()),
        balanced_accuracy=float(metrics.balanced_accuracy_score(target, answer)),
        f1=float(metrics.f1_score(target, answer, average="macro")),
        auroc=float(metrics.roc_auc_score(one_hot, values, average="macro")),
        interval=(float(low), float(high)),
        average_precision=float(metrics.average_precision_score(one_hot, values, average="macro")),
        mcc=float(metrics.matthews_corrcoef(target, answer)),
        attention=attention,
        probs=probs,
    )
