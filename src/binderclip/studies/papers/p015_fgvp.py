"""Which mark tells a model best what is meant: box, ellipse or exact mask; line, tint, grey or blur?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_dilation
from torch import Tensor
from torch.nn import functional

from binderclip.adapt import Crop, Edit, Outline, Outside, Region, Tint, region_features
from binderclip.studies.harness import Figure, Row, Table, bare, declared_study
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.visual_scenes import as_arrays, cluttered, object_regions

SCENES = 32
ACCURACY = "region accuracy"
DILATION = 3
EDITS: dict[str, Edit] = {
    "P crop": Crop(),
    "B1 box line": Outline("box"),
    "B4 box blur": Outside("blur", "box"),
    "C1 circle line": Outline("ellipse"),
    "C4 circle blur": Outside("blur", "ellipse"),
    "D1 mask line": Outline("contour"),
    "D2 mask tint": Tint("mask"),
    "D3 mask grey": Outside("gray", "mask"),
    "D4 mask blur": Outside("blur", "mask"),
}
SUMS = {"D1+D3+D4": ("D1 mask line", "D3 mask grey", "D4 mask blur")}
BLUNT = "D4 with masks dilated"
METHODS = (*EDITS, *SUMS, BLUNT)


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    model = bundled()
    found = cluttered(seed, SCENES, objects=(4, 6))
    regions = object_regions(found)
    words = sorted({name for own in found.names for name in own})
    plain = _unit_texts(model, [f"a picture of a {word}" for word in words])
    results: dict[tuple[str, str], list[bool]] = {}
    for picture, own in zip(as_arrays(found.images), regions, strict=True):
        blunt = [replace(r, mask=binary_dilation(r.mask, iterations=DILATION)) for r in own]
        features = dict(zip(EDITS, region_features(model, picture, own, edits=list(EDITS.values())), strict=True))
        features[BLUNT] = region_features(model, picture, blunt, edits=[EDITS["D4 mask blur"]])[0]
        units = {name: functional.normalize(value, dim=-1) for name, value in features.items()}
        units |= {name: torch.stack([units[part] for part in parts]).sum(0) for name, parts in SUMS.items()}
        related = _unit_texts(model, _relations(own))
        wanted = [words.index(region.name) for region in own]
        for name, unit in units.items():
            scores = unit @ plain.T
            _count(results, name, "plain text", scores[:, wanted])
            _count(results, name, "minus the mean of all texts", (scores - scores.mean(1, keepdim=True))[:, wanted])
            _count(results, name, "the X next to the Y", unit @ related.T)
    guess = float(np.mean([1 / len(own) for own in regions for _ in own]))
    rows = [Row("region accuracy", "guessing", guess, "plain text")]
    return rows + [Row("region accuracy", name, float(np.mean(hits)), s) for (name, s), hits in results.items()]


@torch.no_grad()
def _unit_texts(model: Any, texts: Sequence[str]) -> Tensor:
    return model.encode_text(texts, normalize=True)


def _relations(regions: Sequence[Region]) -> list[str]:
    """Each object by its nearest neighbour."""
    centres = np.array([[(r.box[0] + r.box[2]) / 2, (r.box[1] + r.box[3]) / 2] for r in regions if r.box])
    distance = np.linalg.norm(centres[:, None] - centres, axis=-1) + np.diag(np.full(len(centres), np.inf))
    return [f"the {r.name} next to the {regions[int(distance[k].argmin())].name}" for k, r in enumerate(regions)]


def _count(results: dict[tuple[str, str], list[bool]], name: str, setting: str, scores: Tensor) -> None:
    """Column k is the text of region k."""
    hits = (scores.argmax(dim=0) == torch.arange(len(scores))).tolist()
    results.setdefault((name, setting), []).extend(hits)


def _mean(table: Table, method: str, setting: str = "plain text") -> float:
    return table.mean("region accuracy", method, setting)


def null(seed: int) -> list[Row]:
    """A random region of five for every text."""
    rng = np.random.default_rng(seed)
    return [Row(ACCURACY, name, rng.binomial(160, 0.2) / 160, "plain text") for name in METHODS]


def draw(table: Table, figure: Figure) -> None:
    """A scene under the marks, and the accuracies."""
    halves: Any = figure.subfigures(1, 2, width_ratios=[1, 1.3])
    found = cluttered(0, 1, objects=(4, 6))
    picture, region = as_arrays(found.images)[0], object_regions(found)[0][2]
    for ax, (name, edit) in zip(halves[0].subplots(3, 3).flat, EDITS.items(), strict=True):
        ax.imshow(edit(picture, region))
        ax.set_title(name, fontsize=8, fontweight="normal")
        bare(ax, frame=False)
    ax = halves[1].subplots(1, 1)
    y = np.arange(len(METHODS))
    for number, setting in enumerate(table.names("setting", "region accuracy")):
        values = [table.values("region accuracy", m, setting) for m in METHODS]
        ax.barh(
            y + 0.27 * (number - 1), [v.mean() for v in values], xerr=[v.std() for v in values], height=0.25,
            label=setting, color=f"C{number}", error_kw={"linewidth": 0.8},
        )  # fmt: skip
    ax.axvline(_mean(table, "guessing"), color="0.4", linestyle=":", label="guessing")
    ax.set_yticks(y, METHODS)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(title="right region for a text", xlim=(0, 1))
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


STUDY = declared_study(__name__, measure, null=null, draw=draw, seeds=range(10, 20), registered="896e9d97150e")
