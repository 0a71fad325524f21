"""Does a bump on the class token's attention tell a model which object is meant, without touching a pixel?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from binderclip.adapt import Crop, Edit, FovealBias, Outline, Outside, foveal_fields, region_features
from binderclip.evaluate import attention_mass, box_coverage, retrieval
from binderclip.models import cls_bias
from binderclip.models.towers.record import Record, Recorder, Site
from binderclip.studies.harness import Figure, Row, Table, declared_study, random_rows
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.visual_scenes import as_arrays, cluttered
from binderclip.studies.protocols.tables.scene_attention import LOOKS, attention_rows

SCENES = 50
OBJECTS = 4
STRENGTHS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
EDITS: dict[str, Edit] = {
    "crop": Crop(), "blur outside the box": Outside("blur", "box"), "red circle": Outline("ellipse")
}  # fmt: skip
PAPER = 0.2


@torch.no_grad()
def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    model = bundled()
    found = cluttered(seed, SCENES, objects=OBJECTS)
    pictures = as_arrays(found.images)
    boxes = [[tuple(box.tolist()) for box in own] for own in found.boxes]
    words = sorted({name for own in found.names for name in own})
    rows = functional.normalize(model.encode_text([f"a picture of a {word}" for word in words]), dim=-1)
    wanted = [[words.index(name) for name in own] for own in found.names]
    tower, side = model.image_tower, found.images.shape[-1]
    start = tower.embed(replace(model.preprocess, resize_mode="squash")(pictures))
    fields = torch.stack([foveal_fields(FovealBias(1.0), own, (side, side), tower.grid) for own in boxes])
    shares = torch.stack([box_coverage(box, (side, side), tower.grid) for own in boxes for box in own])
    results = [Row("region accuracy", "guessing", 1 / OBJECTS)]
    swept = {}
    for strength in STRENGTHS:
        features, inside = _drawn(tower, start, fields * strength, shares)
        swept[strength] = features
        # Without a bias all regions are equal and any order is a guess.
        value = _accuracy(features, rows, wanted) if strength else 1 / OBJECTS
        results.append(Row("region accuracy", "foveal attention", value, f"v = {strength:g}"))
        results.append(Row("attention inside the box", "foveal attention", float(inside.mean()), f"v = {strength:g}"))
    marked = {}
    for name, edit in EDITS.items():
        marked[name] = torch.stack(
            [region_features(model, p, own, edits=[edit])[0] for p, own in zip(pictures, boxes, strict=True)]
        )
        results.append(Row("region accuracy", name, _accuracy(marked[name], rows, wanted)))
    return results + _global(model, found.captions, swept, marked) + attention_rows(seed)


def _drawn(tower: Any, start: Any, fields: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Features (N, R, E), and the attention of the last block inside each box (N * R)."""
    first, count = FovealBias().first_block(tower.depth), fields.shape[1]
    tokens = tower.run(start, stop=first)
    tokens = replace(tokens, x=tokens.x.repeat_interleave(count, dim=0))
    recorder = Recorder(Record("attn", layers=[-1]), tower.depth)
    bias = cls_bias(fields.flatten(0, 1), prefix=tower.prefix)
    out = tower.run(tokens, start=first, attn_bias=bias, record=recorder)
    attention = recorder.values[Site("attn", tower.depth - 1)]
    features = tower.project(tower.pool(out)).unflatten(0, (-1, count))
    return features, attention_mass(attention, shares, prefix=tower.prefix)


def _accuracy(features: Tensor, rows: Tensor, wanted: Sequence[Sequence[int]]) -> float:
    """How often the region of an object is the best one for its text."""
    scores = functional.normalize(features, dim=-1) @ rows.T
    hits = [
        int(own[:, text].argmax()) == k
        for own, texts in zip(scores, wanted, strict=True)
        for k, text in enumerate(texts)
    ]
    return float(np.mean(hits))


def _global(model: Any, captions: Sequence[str], swept: dict[float, Tensor], marked: dict[str, Tensor]) -> list[Row]:
    """What is left of the picture as a whole when its first object is marked."""
    texts = model.encode_text(captions)
    plain = swept[0.0][:, 0]
    kinds = {"nothing": plain, f"foveal, v = {PAPER:g}": swept[PAPER][:, 0], "foveal, v = 4": swept[4.0][:, 0]}
    kinds |= {name: marked[name][:, 0] for name in ("red circle", "blur outside the box")}
    results = []
    for name, features in kinds.items():
        same = float(functional.cosine_similarity(features, plain).mean())
        results.append(Row("whole picture: R@5 of its caption", name, retrieval(features, texts)["image_to_text/R@5"]))
        results.append(Row("whole picture: cosine with the unmarked", name, same))
    return results


def _settings() -> list[str]:
    return [f"v = {strength:g}" for strength in STRENGTHS]


def null(seed: int) -> list[Row]:
    """Any order of the regions: as many right as guessing gives, by every mark and at every strength."""
    rng, guesses = np.random.default_rng([seed, 33]), SCENES * OBJECTS
    names = [("foveal attention", setting) for setting in _settings()] + [(name, "") for name in EDITS]
    rows = [Row(ACCURACY, name, rng.binomial(guesses, 1 / OBJECTS) / guesses, setting) for name, setting in names]
    return rows + random_rows(STUDY.criteria[3:], seed, 0.2, 0.3)


def draw(table: Table, figure: Figure) -> None:
    """The sweep beside the marks, the attention inside the box, and what is left of the whole picture."""
    left, middle, right = figure.subplots(1, 3)
    x = list(range(len(STRENGTHS)))
    for ax, metric in ((left, "region accuracy"), (middle, "attention inside the box")):
        values = np.stack([table.values(metric, "foveal attention", s) for s in _settings()])
        ax.plot(x, values.mean(1), marker="o", markersize=4, label="foveal attention")
        ax.fill_between(x, values.min(1), values.max(1), alpha=0.15, linewidth=0)
        ax.set_xticks(x, [f"{s:g}" for s in STRENGTHS])
        ax.set(xlabel="strength v of the bias (logits)", title=metric, ylim=(0, 1))
    for number, name in enumerate(EDITS, start=1):
        left.axhline(table.mean("region accuracy", name), color=f"C{number}", linestyle="--", label=name)
    left.axhline(1 / OBJECTS, color="0.5", linestyle=":", label="guessing")
    left.legend(fontsize=8, ncols=2, loc="upper left")
    left.set_ylim(0, 1.3)
    left.set_yticks([0, 0.25, 0.5, 0.75, 1])
    metric = "whole picture: R@5 of its caption"
    names = table.names("method", metric)
    found = [table.values(metric, name) for name in names]
    right.barh(names, [v.mean() for v in found], xerr=[v.std() for v in found], height=0.6, alpha=0.8)
    right.invert_yaxis()
    right.grid(axis="y", visible=False)
    right.set_title("caption found in 5 tries", fontsize=11)


ACCURACY = "region accuracy"

STUDY = declared_study(
    __name__, measure, preconditions=(LOOKS,), draw=draw, seeds=range(20, 28), null=null, registered="967e7fdec4ee"
)
