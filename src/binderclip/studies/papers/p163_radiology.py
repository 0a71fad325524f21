"""Do markers at a small target help to classify it? Synthetic lesions, before and after the marker is taught."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from binderclip.adapt import Crop, Edit, Outline, Region
from binderclip.evaluate import visual_prompt_study
from binderclip.studies.harness import Figure, Row, Table, bare, declared_study
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.visual_scenes import as_arrays, cluttered
from binderclip.studies.protocols.tables.scene_attention import LOOKS, attention_rows
from binderclip.studies.protocols.training.planted import embedded, plant

CLASSES = ("heart", "moon", "cloud", "flower")
POOL = 800
STEPS = 150
TARGETS = 20
SETTINGS = {"one finding": 1, "two findings": 2}
SIDE = 256
HALF = 44
"""Half side in pixels of the marked square: the same for all targets, so that its size says nothing."""
LINE = 0.02
MARKS: dict[str, Edit] = {
    "box": Outline("box", width=LINE),
    "circle": Outline("ellipse", width=LINE),
    "arrow": Outline("arrow", width=LINE),
    "crop": Crop(least=0.4, square=True),
}
SUFFIXES = {
    "box": " indicated by a red bounding box",
    "circle": " indicated by a red circle",
    "arrow": " indicated by a red arrow",
}
WRONG = "circle, wrong place"
TAUGHT = "markers taught"


@dataclass(frozen=True)
class Findings:
    """One entry a finding: its picture, its square, a square elsewhere, and its class."""

    pictures: list[np.ndarray]
    regions: list[Region]
    wrong: list[Region]
    labels: list[str]


def findings(seed: int, n: int, split: str, objects: int) -> Findings:
    """`n` grey pictures of that many small targets among lines on a ground; each target is a finding."""
    found = cluttered(
        seed, n, objects=objects, size=SIDE, split=split, only=CLASSES, area=(0.02, 0.035), occlusion=0.0,
        background=["texture", "noise"], tubes=(2, 5),
    )  # fmt: skip
    grey = as_arrays(found.images.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1))
    rng = np.random.default_rng([seed, 163])
    centres = (found.boxes[..., :2] + found.boxes[..., 2:]).numpy() / 2
    entries = Findings([], [], [], [])
    for picture, own, names in zip(grey, centres, found.names, strict=True):
        places = rng.uniform(HALF / 2, SIDE - HALF / 2, (64, 2))
        far = np.abs(places[:, None] - own).max(axis=-1).min(axis=1)
        for centre, name in zip(own, names, strict=True):
            entries.pictures.append(picture)
            entries.regions.append(_square(centre))
            entries.wrong.append(_square(places[int(far.argmax())]))
            entries.labels.append(name)
    return entries


def _square(centre: np.ndarray) -> Region:
    x, y = float(centre[0]), float(centre[1])
    return Region((x - HALF, y - HALF, x + HALF, y + HALF))


@lru_cache(maxsize=1)
def _lessons() -> tuple[Tensor, list[str]]:
    """Training pictures through the frozen part, and their lines: half of them with a circle, half of those say so."""
    pictures, texts = [], []
    for objects in SETTINGS.values():
        found = findings(1000 + objects, POOL // (2 * objects), "train", objects)
        for row, label in enumerate(found.labels):
            # Every other picture, not every other finding: both findings of a picture are treated alike.
            turn = row // objects % 4
            marked = MARKS["circle"](found.pictures[row], found.regions[row]) if turn % 2 else found.pictures[row]
            pictures.append(marked)
            texts.append(f"a {label}" + SUFFIXES["circle"] * (turn == 3))
    return embedded(bundled(), pictures), texts


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    model = bundled()
    tokens, texts = _lessons()
    taught = plant(model, tokens, texts, steps=STEPS, seed=seed)
    rows = []
    for setting, objects in SETTINGS.items():
        found = findings(10 * seed + objects, TARGETS, "val+test", objects)
        rows += _scores(taught, found, f"{setting}, {TAUGHT}")
    return rows + attention_rows(seed)


def _scores(model: Any, found: Findings, setting: str) -> list[Row]:
    elsewhere = dict(zip(map(id, found.regions), found.wrong, strict=True))
    marks: dict[str, Any] = {
        **MARKS, WRONG: lambda image, region: MARKS["circle"](image, elsewhere[id(region)])
    }  # fmt: skip
    scores = visual_prompt_study(
        model, found.pictures, found.regions, found.labels, {name: f"a {name}{{suffix}}" for name in CLASSES}, marks,
        suffixes=SUFFIXES, boxes=torch.tensor([region.box for region in found.regions]), resamples=0, layer=-1,
    )  # fmt: skip
    rows = []
    for score in scores:
        method = score.mark + (", said" if score.suffix else "")
        values = {
            "AUROC": score.auroc, "AUPRC": score.average_precision, "F1": score.f1, "accuracy": score.accuracy,
        }  # fmt: skip
        if not (score.suffix or np.isnan(score.attention)):
            values["attention in the square"] = score.attention
        rows += [Row(metric, method, value, setting) for metric, value in values.items()]
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Some targets with their marks, and the AUROC before and after."""
    halves: Any = figure.subfigures(1, 2, width_ratios=[1, 1.7])
    found = findings(2, 6, "val+test", 2)
    shown: list[tuple[str, Any]] = [("none", None), *MARKS.items(), ("wrong place", MARKS["circle"])]
    for row, (ax, (name, edit)) in enumerate(zip(halves[0].subplots(2, 3).flat, shown, strict=True)):
        picture, region = found.pictures[2 * row], found.regions[2 * row]
        region = found.wrong[2 * row] if name == "wrong place" else region
        ax.imshow(picture if edit is None else edit(picture, region))
        ax.set_title(f"{found.labels[2 * row]}: {name}", fontsize=8, fontweight="normal")
        bare(ax, frame=False)
    axes = halves[1].subplots(1, 2, sharey=True)
    methods = table.names("method", "AUROC")
    y = np.arange(len(methods))
    for ax, setting in zip(axes, SETTINGS, strict=True):
        values = [table.values("AUROC", m, f"{setting}, {TAUGHT}") for m in methods]
        means, deviations = [v.mean() for v in values], [v.std() for v in values]
        ax.barh(y, means, xerr=deviations, height=0.6, label=f"`small`, {TAUGHT}", error_kw={"linewidth": 0.8})
        ax.axvline(0.5, color="0.4", linestyle=":", label="guessing")
        ax.grid(axis="y", visible=False)
        ax.set(title=f"AUROC, {setting}", xlim=(0.3, 1.0))
    axes[0].set_yticks(y, methods)
    axes[0].invert_yaxis()
    halves[1].legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)


STUDY = declared_study(
    __name__, measure, preconditions=(LOOKS,), draw=draw, seeds=range(10, 18), registered="3752ef9d9626"
)
