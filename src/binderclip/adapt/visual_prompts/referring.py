"""Which region does a text mean? Scores of regions by visual prompts, and the presets of the papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from binderclip.adapt.visual_prompts.assignment import How, assign
from binderclip.adapt.visual_prompts.edits import Copies, Crop, Edit, Outline, Outside, Pixels
from binderclip.adapt.visual_prompts.foveal import FovealBias, foveal_features, foveal_fields
from binderclip.adapt.visual_prompts.regions import Region, as_regions, as_rgb
from binderclip.errors import UsageError
from binderclip.models import TextBank
from binderclip.models.checks import refuse_bare_module
from binderclip.settings import check_choice

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel

Regions = Sequence[Region | Sequence[float]]
Texts = Sequence[str] | TextBank
Reduce = Literal["sum", "mean", "none"]


def score_regions(
    model: ImageTextModel | Sequence[ImageTextModel],
    image: object,
    regions: Regions,
    texts: Texts,
    *,
    edits: Sequence[Edit] = (),
    bias: FovealBias | None = None,
    negatives: Texts | None = None,
    templates: str | Sequence[str] | None = None,
    reduce: Reduce = "sum",
    size: int | None = None,
    batch_size: int = 64,
) -> Tensor:
    """How well each region of an image fits each text, by what a visual prompt makes the model see.

    For region r and edit e the marked picture is encoded and compared with every text: `s x_re.(t - mean(negatives))`.
    All regions and edits are one batch; blurred and grey copies of the image are shared by its regions. Marks are drawn
    at the model's own resolution (crops are cut from the full one), and every picture is stretched to the input.

    Args:
        model: one model, or several whose scores are reduced together with those of the edits.
        image: anything `data.open_image` takes.
        regions: `Region`s, boxes (x0, y0, x1, y1) or points (x, y) in pixels of the image, or masks (H, W).
        texts: T texts, or a text bank of T classes.
        edits: visual prompts; none and no `bias`: the image as it is, equal for all regions.
        bias: foveal attention on the image as it is; its scores stand beside those of the edits.
        negatives: texts whose mean is subtracted from every text: what scores high for anything is taken out.
        templates: put around texts and negatives, as in `model.text_bank`; not for banks.
        reduce: "sum" or "mean" over edits, bias and models; "none" keeps them as the first axis.
        size: longer side in pixels at which marks are drawn; None: that of the model's input.
        batch_size: pictures that go through the model at once.

    Returns:
        (R, T) scaled cosines, or (P, R, T) for "none"; a softmax over dim -2 gives probabilities of regions.

    Raises:
        UsageError: no region or text, a region outside the image, a mask of another size, an unknown `reduce`.
        DataError: the image cannot be read.

    Examples:
        >>> import binderclip
        >>> from PIL import Image
        >>> from binderclip.adapt import Outline
        >>> model, picture = binderclip.load("small"), Image.new("RGB", (100, 50), "white")
        >>> boxes = [(0, 0, 50, 50), (50, 0, 99, 50), (20, 20, 40, 40)]
        >>> score_regions(model, picture, boxes, ["a car", "a tree"], edits=[Outline("ellipse")]).shape  # (R, T)
        torch.Size([3, 2])

    Paper: Fine-Grained Visual Prompting (arXiv 2306.04356).
    """
    refuse_bare_module(model, "score_regions")
    check_choice("reduce", reduce, ("sum", "mean", "none"))
    pixels, areas = as_rgb(image), as_regions(regions)
    models = list(model) if isinstance(model, Sequence) else [model]
    parts = []
    for one in models:
        rows = text_rows(one, texts, negatives=negatives, templates=templates)
        features = region_features(one, pixels, areas, edits=edits, bias=bias, size=size, batch_size=batch_size)
        parts.append(one.scale().detach() * functional.normalize(features, dim=-1).to(rows) @ rows.T)
    scores = torch.cat([part.cpu() for part in parts])
    if reduce == "none":
        return scores
    return scores.sum(dim=0) if reduce == "sum" else scores.mean(dim=0)


@torch.no_grad()
def text_rows(
    model: ImageTextModel,
    texts: Texts,
    *,
    negatives: Texts | None = None,
    templates: str | Sequence[str] | None = None,
) -> Float[Tensor, "T E"]:
    """One vector a text, with the mean of the negatives taken off: scores are linear, so this is all it costs.

    Args:
        model: encodes the texts.
        texts: T texts, or a bank.
        negatives: Q texts, or a bank; None for nothing.
        templates: put around both.
    """
    refuse_bare_module(model, "text_rows")
    rows = _unit_rows(model, texts, templates)
    return rows if negatives is None else rows - _unit_rows(model, negatives, templates).mean(dim=0)


def _unit_rows(model: ImageTextModel, texts: Texts, templates: str | Sequence[str] | None) -> Tensor:
    if isinstance(texts, TextBank):
        return texts.prototypes("mean-unit").to(model.device)
    names = list(dict.fromkeys(texts)) if not isinstance(texts, str) else [texts]
    rows = model.text_bank(names, templates).prototypes("mean-unit")
    return rows[[names.index(text) for text in ([texts] if isinstance(texts, str) else texts)]]


@torch.no_grad()
def region_features(
    model: ImageTextModel,
    image: object,
    regions: Regions,
    *,
    edits: Sequence[Edit] = (),
    bias: FovealBias | None = None,
    size: int | None = None,
    batch_size: int = 64,
) -> Float[Tensor, "P R E"]:
    """Raw features of each region under each edit and, last, under the bias.

    Args:
        model: encodes.
        image: anything `data.open_image` takes.
        regions: R of them.
        edits: visual prompts in pixels; none and no `bias`: the image as it is.
        bias: foveal attention on the image as it is.
        size: longer side at which marks are drawn; None: that of the model's input.
        batch_size: pictures at once.
    """
    refuse_bare_module(model, "region_features")
    pixels, areas = as_rgb(image), as_regions(regions)
    own = replace(model.preprocess, resize_mode="squash")
    parts = []
    if edits:
        pictures = prompted(pixels, areas, edits, size=size or max(own.size))
        batches = [pictures[i : i + batch_size] for i in range(0, len(pictures), batch_size)]
        rows = torch.cat([model.encode_pixels(own(batch)) for batch in batches])
        parts.append(rows.unflatten(0, (len(edits), len(areas))))
    if bias is not None:
        # The tower sees pictures of its own size, which is not the model's where a classifier stands beside it.
        tower = model.image_tower
        fields = foveal_fields(bias, areas, pixels.shape[:2], tower.grid)
        parts.append(foveal_features(model, own.at(tower.image_size)(pixels), fields[None], bias))
    if not parts:
        parts.append(model.encode_pixels(own(pixels)).expand(len(areas), -1)[None])
    return torch.cat(parts)


def prompted(
    image: Pixels, regions: Sequence[Region], edits: Sequence[Edit], *, size: int | None
) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """The pictures of every edit (outer) and region (inner), drawn with `size` pixels on the longer side.

    Edits that crop see the image at its own resolution.

    Args:
        image: 8-bit RGB.
        regions: in pixels of the image.
        edits: visual prompts.
        size: None keeps the image's own size.
    """
    full = (image, list(regions), Copies(image))
    small = full
    height, width = image.shape[:2]
    if size is not None and size != max(height, width):
        after = (max(round(height * size / max(height, width)), 1), max(round(width * size / max(height, width)), 1))
        resized = np.asarray(Image.fromarray(image).resize((after[1], after[0]), Image.Resampling.BICUBIC))
        small = (resized, [region.scaled((height, width), after) for region in regions], Copies(resized))
    return [
        edit(picture, region, copies=copies)
        for edit in edits
        for picture, here, copies in [full if edit.crops else small]
        for region in here
    ]


@dataclass(frozen=True)
class Preset:
    """The visual prompts of a paper.

    Args:
        edits: whose scores are summed.
        bias: beside them.
        masks: whether the edits need exact masks.
    """

    edits: tuple[Edit, ...] = ()
    bias: FovealBias | None = None
    masks: bool = False


PRESETS: dict[str, Preset] = {
    "red-circle": Preset((Outline("ellipse"), Outside("gray", "ellipse"), Outside("blur", "ellipse"))),
    "fgvp": Preset((Outline("contour"), Outside("gray", "mask"), Outside("blur", "mask")), masks=True),
    "falip": Preset(bias=FovealBias()),
    "reclip": Preset((Crop(), Outside("blur", "box"))),
    "crop": Preset((Crop(),)),
}
"""red-circle: circle, grey and blur outside it; fgvp: the same three with the mask; reclip: crop and blur."""


@dataclass(frozen=True)
class Located:
    """Which region each text means.

    Args:
        scores: (R, T) summed scaled cosines.
        probs: (R, T) softmax over the regions.
        best: (T,) index of the region of each text; -1 where one-to-one assignment left none.
    """

    scores: Float[Tensor, "R T"]
    probs: Float[Tensor, "R T"]
    best: Int[Tensor, "T"]


class RegionReferrer:
    """Finds the region that a text means: marks every region, scores, assigns. Nothing is trained.

    Args:
        model: one model, or several that vote.
        preset: a name of `PRESETS`: "red-circle", "fgvp" (needs masks), "falip", "reclip" or "crop".
        edits: visual prompts instead of the preset's.
        bias: foveal attention instead of the preset's.
        negatives: texts whose mean score is subtracted (the papers take 500 expressions of the data set).
        how: "argmax", "hungarian" or "sinkhorn", see `assign`.
        templates: put around the texts; default "a photo of {}".
        size: see `score_regions`.

    Raises:
        UsageError: an unknown preset or `how`; at the call, a preset that needs masks and regions without, and as
            `score_regions`.

    Examples:
        >>> import binderclip
        >>> from binderclip.data import scenes
        >>> scene = scenes(0, 1, 128, objects=2).samples()[0]
        >>> names = scene.attributes["names"]
        >>> found = RegionReferrer(binderclip.load("small"), "crop")(scene.image, scene.boxes, names)
        >>> found.best.tolist()
        [0, 1]

    Paper: What does CLIP know about a red circle? Visual prompt engineering for VLMs (arXiv 2304.06712);
        Fine-Grained Visual Prompting (arXiv 2306.04356).
    """

    def __init__(
        self,
        model: ImageTextModel | Sequence[ImageTextModel],
        preset: str = "red-circle",
        *,
        edits: Sequence[Edit] | None = None,
        bias: FovealBias | None = None,
        negatives: Texts | None = None,
        how: How = "argmax",
        templates: str | Sequence[str] | None = "a photo of {}",
        size: int | None = None,
    ) -> None:
        refuse_bare_module(model, "RegionReferrer")
        check_choice("preset", preset, PRESETS)
        check_choice("how", how, get_args(How))
        chosen = PRESETS[preset]
        if edits is not None or bias is not None:
            chosen = Preset(tuple(edits or ()), bias)
        self.model, self.preset, self.name = model, chosen, preset
        self.negatives, self.how, self.templates, self.size = negatives, how, templates, size

    def __call__(self, image: object, regions: Regions, texts: Texts) -> Located:
        """Score the regions of an image and assign one to each text.

        Args:
            image: anything `data.open_image` takes.
            regions: as in `score_regions`.
            texts: as in `score_regions`.
        """
        areas = as_regions(regions)
        without = [i for i, region in enumerate(areas) if region.mask is None]
        if self.preset.masks and without:
            raise UsageError(
                f"preset {self.name!r} draws on exact masks; region {without[0]} has none: give masks, or use "
                "red-circle, falip, reclip or crop"
            )
        options: dict[str, Any] = {"templates": self.templates, "negatives": self.negatives, "size": self.size}
        scores = score_regions(
            self.model, image, areas, texts, edits=self.preset.edits, bias=self.preset.bias, **options
        )  # fmt: skip
        return Located(scores, scores.softmax(dim=0), assign(scores, self.how))
