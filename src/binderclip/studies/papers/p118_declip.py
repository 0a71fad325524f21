"""Does an image tower that learned from crops and from a vision model's patches say better what is where?"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import roi_align

from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.evaluate import patch_affinity, zero_shot_accuracy
from binderclip.segment import DeCLIP, External, Segmenter, measure_segmenters, train_declip
from binderclip.segment.parts.context import Frame, open_windows, records
from binderclip.segment.parts.resolution import resized
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.visual_scenes import cluttered
from binderclip.studies.protocols.tables.segment_table import SETS, chance, scene_set

SCENES, PICTURES, STEPS, BATCH, SEEN, LR, WHOLE = 8, 160, 60, 4, 192, 1e-5, 150
BEFORE, BOTH, CONTENT, CONTEXT, COUPLED = "before", "DeCLIP", "content alone", "context alone", "both, coupled"
MOVED, PROXY = "moved at random", "ProxyCLIP, not trained"
DECLIP = DeCLIP(most_rows=4, most_boxes=4)
VARIANTS = {
    BOTH: DECLIP,
    CONTENT: replace(DECLIP, context_weight=0.0),
    CONTEXT: replace(DECLIP, content_weight=0.0),
    COUPLED: replace(DECLIP, decoupled=False),
}
GROUNDS = ["plain", "gradient", "noise", "texture", "photo"]
MIOU, AFFINITY, ACCURACY = "mIoU", "precision of same-object patches", "zero-shot accuracy"
REGIONS, CROPS, CELLS = "accuracy of true boxes", "each box as a picture", "cells of the dense map"


def moved(tuned: Any, seed: int) -> Any:
    """The model of before, each weight tensor moved as far as training moved it, in a random direction."""
    generator, found = torch.Generator().manual_seed(seed), copy.deepcopy(bundled())
    with torch.no_grad():
        for own, new in zip(found.visual.parameters(), tuned.visual.parameters(), strict=True):
            step = torch.randn(own.shape, generator=generator)
            own += step * ((new - own).norm() / step.norm())
    return found


def train_images(seed: int) -> Tensor:
    """Pictures without labels."""
    return scenes(2000 + seed, PICTURES, 256, objects=(1, 4), area=(0.03, 0.25), background=GROUNDS).images


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    images, models = train_images(seed), {BEFORE: bundled()}
    for name, objective in VARIANTS.items():
        models[name] = train_declip(
            bundled(), images, objective=objective, steps=STEPS, lr=LR, batch_size=BATCH, size=(SEEN, SEEN), seed=seed,
        )  # fmt: skip
    models[MOVED] = moved(models[BOTH], seed)
    rows = _boxes(seed)
    for name, model in models.items():
        asked = {name: Segmenter(model, "clearclip")}
        if name == BEFORE:
            asked[PROXY] = Segmenter(model, "proxyclip")
        for setting in SETS:
            data = scene_set(setting, seed, SCENES)
            found = measure_segmenters(asked, data)
            rows += [Row(MIOU, each, score.miou, setting) for each, score in found.scores.items()]
            if name == BEFORE:
                rows.append(Row(MIOU, "chance", chance(data), setting))
        rows += [Row(AFFINITY, name, _affinity(model, seed)), Row(ACCURACY, name, _accuracy(model, seed))]
    return rows


@torch.no_grad()
def _boxes(seed: int) -> list[Row]:
    """What the untrained model says of true boxes: cut out as a picture, or averaged in its dense map."""
    model, made = bundled(), cluttered(4000 + seed, 30, objects=(2, 3), area=(0.06, 0.2))
    names = list(made.classes)
    bank = model.text_bank(names)
    segmenter = Segmenter(model, "clearclip")
    maps = torch.stack([segmenter(image, names).scores for image in made.images])  # (N, C, h, w): cosines by class
    crops, cells, truth = [], [], []
    for row, own in enumerate(made.names):
        for box, name in zip(made.boxes[row].tolist(), own, strict=False):
            x0, y0, x1, y1 = (round(each) for each in box)
            crops.append(resized(made.images[row, None, :, y0:y1, x0:x1], model.preprocess.size))
            at = torch.tensor([[0.0, *box]]) * torch.tensor([1.0, *[maps.shape[-1] / made.images.shape[-1]] * 4])
            cells.append(roi_align(maps[row, None].float(), at, 1, aligned=True).flatten())
            truth.append(names.index(name))
    right = zero_shot_accuracy(model.encode_image(torch.cat(crops)), bank, truth)["accuracy"]
    found = torch.stack(cells).argmax(1)
    return [Row(REGIONS, CROPS, right), Row(REGIONS, CELLS, float((found == torch.tensor(truth)).float().mean()))]


@torch.no_grad()
def _affinity(model: Any, seed: int) -> float:
    """Average precision with which the queries' cosines find patches of the same object."""
    batch, queries = scene_set(SETS[0], seed, SCENES).batch, External(of="q")
    pixels = batch.images
    context = open_windows(Frame(model, pixels, pixels), pixels, [(0, 0)] * len(pixels), records(queries))
    return patch_affinity(queries(context), torch.nn.utils.rnn.pad_sequence(list(batch.visible), True)).precision


@torch.no_grad()
def _accuracy(model: Any, seed: int) -> float:
    """Top-1 of whole pictures of one held-out drawing each, among fifteen classes."""
    made = cluttered(3000 + seed, WHOLE, objects=1, size=128, area=(0.15, 0.4))
    names = list(made.classes)
    truth = [names.index(each[0]) for each in made.names]
    return zero_shot_accuracy(model.encode_image(made.images), model.text_bank(names), truth)["accuracy"]


def draw(table: Table, figure: Figure) -> None:
    """mIoU over sets, the queries' affinity, and what is left of whole pictures."""
    shown = (
        (MIOU, (BEFORE, *VARIANTS, MOVED, PROXY)),
        (AFFINITY, (BEFORE, *VARIANTS)),
        (ACCURACY, (BEFORE, *VARIANTS)),
    )
    axes: Any = figure.subplots(1, 3)
    for ax, (metric, names) in zip(axes, shown, strict=True):
        dots(ax, table, metric, names, SETS[0] if metric == MIOU else "")
        ax.set_title(f"{metric}, {SETS[0]}" if metric == MIOU else metric, fontsize=9)
        ax.tick_params(axis="x", rotation=60, labelsize=7)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), registered="da3b2bf482ad")
