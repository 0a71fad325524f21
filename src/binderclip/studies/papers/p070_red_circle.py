"""What does the bundled model know about a red circle, and what does it know after it was taught?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from binderclip.adapt import Crop, Edit, Outline, Outside, Region, match_keypoints, prompted
from binderclip.studies.harness import Figure, Row, Table, bare, declared_study
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.visual_scenes import as_arrays, cluttered, object_regions
from binderclip.studies.protocols.training.planted import embedded, finished, plant

OBJECTS = 3
MARKED, UNMARKED = 400, 200
STEPS = 150
SCENES = 40
LINE = 0.02
"""Three pixels at the model's 128: a line of one pixel is hardly seen."""
HELD_OUT = ("moon", "dog", "clock", "folder", "jigsaw", "woman", "apple", "cloud")
TAUGHT = ("flag", "heart", "tree", "house", "cat", "car", "flower")
ACCURACY, NEW = "region accuracy", "region accuracy, classes held out"
CIRCLE = Outline("ellipse", width=LINE)
EDITS: dict[str, Edit] = {
    "red circle": CIRCLE,
    "green circle": Outline("ellipse", color="green", width=LINE),
    "red box": Outline("box", width=LINE),
    "grey outside": Outside("gray", "ellipse"),
    "blur outside": Outside("blur", "ellipse"),
    "crop": Crop(),
}
SUM = "circle + grey + blur"
MODELS = ("as it is", "circle taught")


@lru_cache(maxsize=1)
def _lessons() -> tuple[Tensor, list[str]]:
    """Training scenes through the frozen part, and their lines: two objects circled in turn, or the whole scene."""
    found = cluttered(1000, MARKED + UNMARKED, objects=OBJECTS, size=128, split="train", only=TAUGHT)
    rng = np.random.default_rng(1000)
    pictures, texts = [], []
    for row, (picture, regions) in enumerate(zip(as_arrays(found.images), object_regions(found), strict=True)):
        if row < MARKED:
            for k in rng.permutation(len(regions))[:2]:
                pictures.append(CIRCLE(picture, regions[k]))
                texts.append(f"a {regions[k].name}")
        else:
            pictures.append(picture)
            texts.append(found.captions[row])
    return embedded(bundled(), pictures), texts


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    model = bundled()
    tokens, texts = _lessons()
    taught = plant(model, tokens, texts, steps=STEPS, seed=seed)
    found = cluttered(seed, SCENES, objects=OBJECTS)
    regions = object_regions(found)
    pictures = [
        prompted(p, own, list(EDITS.values()), size=128)
        for p, own in zip(as_arrays(found.images), regions, strict=True)
    ]
    stored = {
        name: embedded(model, [p for own in pictures for p in own[number * OBJECTS : (number + 1) * OBJECTS]])
        for number, name in enumerate(EDITS)
    }
    rows = [Row("region accuracy", "guessing", 1 / OBJECTS, name) for name in MODELS]
    for name, one in zip(MODELS, (model, taught), strict=True):
        rows += _measure_model(name, one, stored, regions)
    return rows


@torch.no_grad()
def _measure_model(name: str, model: Any, stored: dict[str, Tensor], regions: Sequence[Sequence[Region]]) -> list[Row]:
    words = [*TAUGHT, *HELD_OUT]
    texts = model.encode_text([f"a {word}" for word in words], normalize=True)
    scores = {
        edit: (finished(model, tokens) @ texts.T).unflatten(0, (-1, OBJECTS)) for edit, tokens in stored.items()
    }  # fmt: skip
    scores[SUM] = scores["red circle"] + scores["grey outside"] + scores["blur outside"]
    wanted = torch.tensor([[words.index(region.name) for region in own] for own in regions])
    known = wanted < len(TAUGHT)
    rows = []
    for edit, value in scores.items():
        hits = _right(value, wanted)
        rows.append(Row("region accuracy", edit, float(hits.float().mean()), name))
        rows.append(Row("region accuracy, classes taught", edit, float(hits[known].float().mean()), name))
        rows.append(Row("region accuracy, classes held out", edit, float(hits[~known].float().mean()), name))
        centred = _right(value - value.mean(dim=-1, keepdim=True), wanted)
        rows.append(Row("region accuracy, minus the mean of all texts", edit, float(centred.float().mean()), name))
    return rows + _naming(name, scores, wanted, float(model.scale()))


def _right(scores: Tensor, wanted: Tensor) -> Tensor:
    """(N, K): whether region k is the best one for the text of object k."""
    own = scores.gather(2, wanted[:, None].expand(-1, scores.shape[1], -1))
    return own.argmax(dim=1) == torch.arange(own.shape[2])


def _naming(name: str, scores: dict[str, Tensor], wanted: Tensor, scale: float) -> list[Row]:
    """The other way round: which of the scene's names belongs to each marked object."""
    rows = []
    for edit in ("red circle", "crop"):
        for how in ("argmax", "sinkhorn"):
            hits = []
            for own, texts in zip(scores[edit], wanted, strict=True):
                order = match_keypoints(scale * own[:, texts], how=how)  # type: ignore[arg-type]
                hits.append(order == torch.arange(len(texts)))
            rows.append(Row("naming accuracy", f"{edit}, {how}", float(torch.stack(hits).float().mean()), name))
    return rows


def _values(table: Table, method: str, model: str, metric: str = "region accuracy") -> np.ndarray:
    return table.values(metric, method, model)


def null(seed: int) -> list[Row]:
    """A random region for every text."""
    rng = np.random.default_rng(seed)
    return [
        Row(metric, "red circle", rng.binomial(120, 1 / OBJECTS) / 120, model)
        for metric in (ACCURACY, NEW)
        for model in MODELS
    ]


def draw(table: Table, figure: Figure) -> None:
    """A scene under the marks, accuracy before and after, and the classes that were held out."""
    halves: Any = figure.subfigures(1, 2, width_ratios=[1, 1.9])
    found = cluttered(1, 1, objects=OBJECTS)
    shown = prompted(as_arrays(found.images)[0], object_regions(found)[0][:1], list(EDITS.values()), size=128)
    for ax, name, picture in zip(halves[0].subplots(2, 3).flat, EDITS, shown, strict=True):
        ax.imshow(picture)
        ax.set_title(name, fontsize=8, fontweight="normal")
        bare(ax, frame=False)
    left, right = halves[1].subplots(1, 2, sharey=True)
    methods = [*EDITS, SUM]
    y = np.arange(len(methods))
    for ax, metric in ((left, "region accuracy"), (right, "region accuracy, classes held out")):
        for number, model in enumerate(MODELS):
            values = [_values(table, m, model, metric) for m in methods]
            ax.barh(
                y + 0.4 * (number - 0.5), [v.mean() for v in values], xerr=[v.std() for v in values], height=0.36,
                label=f"`small`, {model}", error_kw={"linewidth": 0.8},
            )  # fmt: skip
        ax.axvline(1 / OBJECTS, color="0.4", linestyle=":", label="guessing")
        ax.set(title=metric.replace("region accuracy, ", "").replace("region accuracy", "all classes"), xlim=(0, 1))
        ax.grid(axis="y", visible=False)
    left.set_yticks(y, methods)
    left.invert_yaxis()
    halves[1].legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)


STUDY = declared_study(__name__, measure, null=null, draw=draw, seeds=range(10, 18), registered="8913eea40678")
