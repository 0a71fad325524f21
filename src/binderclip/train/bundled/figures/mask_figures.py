"""Figures of masks on the outlined photographs: of one word, of words that compete or are absent, and of clicks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from binderclip.data import to_tensor
from binderclip.errors import UsageError
from binderclip.models import ImageTextModel
from binderclip.segment import ConceptMaps, InteractiveSession, cut_labels, mask_iou
from binderclip.segment.cut.labels import CutSettings
from binderclip.segment.parts.concept_maps import ABSENT
from binderclip.segment.parts.context import Context, Frame
from binderclip.segment.parts.text import TextSide
from binderclip.segment.presets.photograph import PRESETS
from binderclip.segment.promptable import next_click
from binderclip.train.bundled.data.labelled_photographs import DISTRACTORS, LabelledPhotograph
from binderclip.train.bundled.data.photograph_masks import PhotographMask

__all__ = ["MaskFigures", "absent_marks", "bootstrap_interval", "mask_figures"]

LONGEST, OTHERS, CLICKS = 1024, 2, 3


@dataclass
class MaskFigures:
    """One number for each outlined object, and for each word that its picture does not show.

    Attributes:
        words: of the objects.
        gated, open: IoU of the right word, with the gate of the preset and without.
        competing: IoU of the right word beside two others.
        peak: whether the maximum of the map lies on the object.
        clicks: (N, 3) IoU after one, two and three clicks, where a segmenter was given.
        absent: share of the picture that a word marks which is not there.
        sizes: of the objects, in shares of their pictures.
    """

    words: list[str] = field(default_factory=list)
    gated: list[float] = field(default_factory=list)
    open: list[float] = field(default_factory=list)
    competing: list[float] = field(default_factory=list)
    peak: list[bool] = field(default_factory=list)
    clicks: list[list[float]] = field(default_factory=list)
    absent: list[float] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """Means with bootstrap intervals of 95 %, and what they count."""
        names = ("gated", "open", "competing", "peak", "absent")
        figures: dict[str, object] = {name: bootstrap_interval(getattr(self, name)) for name in names}
        if self.clicks:
            figures["clicks"] = [bootstrap_interval(column) for column in np.array(self.clicks).T]
        return {"objects": len(self.words), "absent words": len(self.absent), **figures}


def bootstrap_interval(values: Any, draws: int = 2000) -> list[float]:
    """[mean, low, high] with the interval of 95 % of the mean over resampled values, always the same draws."""
    numbers = np.asarray(values, dtype=float)
    means = np.random.default_rng(0).choice(numbers, (draws, len(numbers))).mean(1)
    return [round(float(value), 3) for value in (numbers.mean(), *np.quantile(means, (0.025, 0.975)))]


@torch.no_grad()
def mask_figures(model: ImageTextModel, outlines: Sequence[PhotographMask], segmenter: Any = None) -> MaskFigures:
    """Cut out outlined objects by their words, words that are not there, and objects by clicks at the worst mistake.

    Pictures are seen at 1,024 pixels. Three words of `DISTRACTORS` stand beside those of each picture, always the same.

    Args:
        model: with concepts.
        outlines: with photographs that can be opened; those of one picture one after another.
        segmenter: a promptable one to click with; None for no clicks.

    Raises:
        UsageError: no outline.
    """
    if not outlines:
        raise UsageError("mask_figures: no outlines")
    figures, chance = MaskFigures(), random.Random(0)
    groups: dict[tuple[str, str, str], list[PhotographMask]] = {}
    for outline in outlines:
        row = outline.photograph
        groups.setdefault((row.package, row.file, row.member), []).append(outline)
    for own in groups.values():
        row = own[0].photograph
        picture = row.open()
        picture.thumbnail((LONGEST, LONGEST))
        shown = {row.label, *row.also, *row.shows, *(outline.word for outline in own)}
        absent = [word for word in chance.sample(DISTRACTORS, 6) if word not in shown][:3]
        truths = [outline.mask(picture.height, picture.width) for outline in own]
        _by_words(figures, model, to_tensor(picture), [outline.word for outline in own], absent, truths)
        for truth in truths if segmenter is not None else []:
            session, reached = InteractiveSession(segmenter, picture), []
            for _ in range(CLICKS):
                click = next_click(session.mask, torch.from_numpy(truth))
                if click is not None:  # no mistake is left
                    session.click(click.x, click.y, positive=click.positive)
                reached.append(_iou(session.mask, truth))
            figures.clicks.append(reached)
    return figures


@torch.no_grad()
def absent_marks(
    model: ImageTextModel, photographs: Sequence[LabelledPhotograph], words: Sequence[str]
) -> Float[np.ndarray, "N Q"]:
    """Share of each photograph that each word alone marks; all of it is wrong where the photographs show none of them.

    Args:
        model: with concepts.
        photographs: that can be opened; they are seen at 1,024 pixels.
        words: any.

    Raises:
        UsageError: no photograph or no word.
    """
    if not photographs or not words:
        raise UsageError(f"absent_marks: {len(photographs)} photographs and {len(words)} words; at least one of each")
    fusion, cut = PRESETS["photograph"]["fusion"], PRESETS["photograph"]["relabel"]
    text, marked = TextSide().bind(model, list(words)), np.zeros((len(photographs), len(words)))
    for row, photograph in enumerate(photographs):
        picture = photograph.open()
        picture.thumbnail((LONGEST, LONGEST))
        image = to_tensor(picture)
        frame = Frame(model, image[None], image[None])
        context = Context(model.image_tower, image[None], frame, ((0, 0),))
        maps = fusion(context, None, text)[0]
        for place in (maps > ABSENT).flatten(1).any(1).nonzero()[:, 0].tolist():
            mask = cut_labels(image, maps[place : place + 1], cut) == 0
            marked[row, place] = float(mask.float().mean())
    return marked


def _by_words(
    figures: MaskFigures,
    model: ImageTextModel,
    image: Float[Tensor, "3 H W"],
    words: list[str],
    absent: list[str],
    truths: Sequence[Bool[np.ndarray, "H W"]],
) -> None:
    fusion, cut = PRESETS["photograph"]["fusion"], PRESETS["photograph"]["relabel"]
    assert isinstance(fusion, ConceptMaps)
    assert isinstance(cut, CutSettings)
    text = TextSide().bind(model, [*words, *absent])
    frame = Frame(model, image[None], image[None])
    context = Context(model.image_tower, image[None], frame, ((0, 0),))
    gated = fusion(context, None, text)[0]  # type: ignore[arg-type]  # the reader of the last block is not asked
    maps = ConceptMaps(gate=None)(context, None, text)[0]  # type: ignore[arg-type]
    there = (gated > ABSENT).flatten(1).any(1)
    for place in range(len(maps)):
        if place >= len(words) and not there[place]:
            figures.absent.append(0.0)
            continue
        mask = cut_labels(image, maps[place : place + 1], cut) == 0
        if place >= len(words):
            figures.absent.append(float(mask.float().mean()))
            continue
        truth = truths[place]
        figures.words.append(words[place])
        figures.open.append(_iou(mask, truth))
        figures.gated.append(figures.open[-1] * bool(there[place]))
        figures.sizes.append(float(truth.mean()))
        large = functional.interpolate(maps[None, place : place + 1], size=truth.shape, mode="bilinear")[0, 0]
        figures.peak.append(bool(truth.flat[int(large.argmax())]))
        others = [other for other in range(len(maps)) if other != place][:OTHERS]
        figures.competing.append(_iou(cut_labels(image, gated[[place, *others]], cut) == 0, truth))


def _iou(mask: Bool[Tensor, "H W"], truth: Bool[np.ndarray, "H W"]) -> float:
    return float(mask_iou(mask, torch.from_numpy(truth)))
