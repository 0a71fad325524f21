"""Do words about damage find it, and how much do a few normal pictures add, at which window sizes?"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.data import vocabulary
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.segment.anomaly import Anomalies, WinCLIP, WindowLevels, join_levels
from binderclip.segment.anomaly.memory import NormalMemory
from binderclip.segment.anomaly.mid_level import MidLevelFeatures, mid_level_features
from binderclip.segment.metrics import anomaly_scores
from binderclip.studies.harness import Figure, Quantity, Row, Table, bare, declared_study, value_of
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.anomaly_sets import PLANTED, REAL, AnomalySet, anomaly_set

SIZE, SCALES, TEST = 192, (2, 3), 16
LITE_SIZE, STRIDES = 256, (8, 16)
SHOTS = (1, 2, 4)
OBJECTS = "clip art, planted"
CLIP, ZERO, ORACLE = "CLIP, whole picture", "WinCLIP, zero-shot", "the true map at 12 x 12"
RANDOM = ("a random map", "another random map", "a third random map")
PLUS = {n: f"WinCLIP+, {n} normal" for n in SHOTS}
ASSOCIATION, LITE = "association without words, 4 normal", "places of lite0's maps, 4 normal"
SHOWN, DRAWN = PLANTED[:2], (72, 72)
SINGLE = {"windows of 2 alone": ((2,), False), "windows of 3 alone": ((3,), False), "patches alone": ((), True)}


@cache
def detector(name: str, scales: tuple[int, ...] = SCALES, patches: bool = True) -> WinCLIP:
    """One detector an object and choice of levels; the words of an object are encoded once."""
    return WinCLIP(bundled(), name, scales=scales, size=SIZE, patches=patches)


@cache
def _lite0() -> Any:
    from binderclip.models import load_vision

    return load_vision("lite0")


def _middle(images: Tensor) -> MidLevelFeatures:
    return mid_level_features(_lite0(), images, strides=STRIDES, size=LITE_SIZE, neighbourhood=3)


def measure(seed: int) -> list[Row]:
    """All sets of one seed."""
    return [row for name in (*REAL, *PLANTED) for row in _measure(name, seed)] + _objects(seed)


@lru_cache(maxsize=8)
def _sound(name: str, seed: int) -> tuple[WindowLevels, WindowLevels, MidLevelFeatures, MidLevelFeatures]:
    """Of the normal and of the good pictures, which the sets of one thing share: embeddings, and maps of `lite0`."""
    data = anomaly_set(next(s for s in (*REAL, *PLANTED) if s.startswith(name)), seed, normal=max(SHOTS), test=TEST)
    whole = detector(name)
    return whole.encode(data.normal), whole.encode(data.good), _middle(data.normal), _middle(data.good)


def _measure(name: str, seed: int) -> list[Row]:
    data = anomaly_set(name, seed, normal=max(SHOTS), test=TEST)
    whole = detector(data.name)
    normal, good, middle, good_middle = _sound(data.name, seed)
    levels = join_levels([good, whole.encode(data.bad)])
    zero = whole.forget().score(levels)
    found = {CLIP: Anomalies(zero.scores, torch.zeros_like(zero.maps)), ZERO: _by_map(zero.maps)}
    for shots in SHOTS:
        found[PLUS[shots]] = whole.fit(normal[:shots]).score(levels)
    found[ASSOCIATION] = _by_map(whole.association_map(levels))
    for label, (scales, patches) in SINGLE.items():
        found[label] = _by_map(detector(data.name, scales, patches).fit(normal).association_map(levels))
    places = torch.cat([good_middle.values, _middle(data.bad).values])
    apart = NormalMemory(middle.values.flatten(1, 2)).distances(places.flatten(1, 2))
    found[LITE] = _by_map(apart.unflatten(1, places.shape[1:3]))
    generator = torch.Generator().manual_seed(1000 * seed + (*REAL, *PLANTED).index(name))
    found |= {each: _by_map(torch.rand(zero.maps.shape, generator=generator)) for each in RANDOM}
    if data.truth is not None:
        found[ORACLE] = _by_map(F.adaptive_avg_pool2d(data.truth.float()[:, None], levels.grid)[:, 0])
    return [row for method, each in found.items() for row in _rows(name, method, each, data)]


def _by_map(maps: Tensor) -> Anomalies:
    return Anomalies(maps.amax(dim=(1, 2)), maps)


def _rows(name: str, method: str, found: Anomalies, data: AnomalySet) -> list[Row]:
    image = anomaly_scores(scores=found.scores, labels=data.labels).image_auroc
    rows = [Row("image AUROC", method, image, name)]
    if data.truth is not None and method != CLIP:
        score = anomaly_scores(found.maps_at((data.truth.shape[1], data.truth.shape[2])), data.truth)
        rows += [Row("pixel AUROC", method, score.pixel_auroc, name), Row("PRO", method, score.pro, name)]
    return rows


def _objects(seed: int) -> list[Row]:
    """Drawings with a defect and the same drawings sound, by words alone: 'damaged apple' against 'apple'."""
    batch = scenes(
        seed, TEST, SIZE, vocabulary=vocabulary("scenes15", split="val"), objects=1, area=(0.2, 0.35), defects=(1, 2),
        pairs=True, background="plain",
    )  # fmt: skip
    assert batch.pair is not None
    # Embeddings know nothing of words: any detector gives them.
    levels = detector("textile").encode(torch.cat([batch.pair.images, batch.images]))
    words = [names[0] for names in batch.names] * 2
    parts = [detector(word).forget().score(levels[[row]]) for row, word in enumerate(words)]
    scores, maps = torch.cat([p.scores for p in parts]), torch.cat([p.maps for p in parts])
    truth = torch.cat([torch.zeros_like(batch.defects), batch.defects])
    empty = torch.zeros(0)
    data = AnomalySet("objects", empty, batch.pair.images, batch.images, truth[TEST:])
    generator = torch.Generator().manual_seed(1000 * seed + 999)
    found = {CLIP: Anomalies(scores, maps), ZERO: _by_map(maps)}
    found |= {each: _by_map(torch.rand(maps.shape, generator=generator)) for each in RANDOM}
    return [row for method, each in found.items() for row in _rows(OBJECTS, method, each, data)]


def _overlap(method: str) -> Quantity:
    return value_of("PRO", method, *PLANTED)


def draw(table: Table, figure: Figure) -> None:
    """Pictures with their maps, image AUROC against shots, and PRO of every method."""
    figure.set_size_inches(10, 3.4)
    halves: Any = figure.subfigures(1, 2, width_ratios=[0.6, 1.25])
    _pictures(halves[0])
    left, right = halves[1].subplots(1, 2, width_ratios=[1, 1.1])
    steps = (CLIP, *PLUS.values())
    for number, name in enumerate((*REAL, *PLANTED)):
        values = [table.mean("image AUROC", m, name) for m in steps]
        left.plot(range(len(steps)), values, marker="o", markersize=4, color=f"C{number}", label=name)
    left.axhline(0.5, color="0.3", linestyle=":")
    left.set_xticks(range(len(steps)), ["words", *map(str, SHOTS)])
    left.set(title="Image AUROC", xlabel="normal pictures", ylim=(0, 1.05))
    left.legend(fontsize=6, loc="lower right")
    methods = [m for m in table.names("method", "PRO") if table.has("PRO", m, PLANTED[0])]
    overlaps = [_overlap(m).values(table) for m in methods]
    right.barh(methods, [v.mean() for v in overlaps], xerr=[v.std() for v in overlaps], height=0.65)
    right.invert_yaxis()
    right.tick_params(axis="y", labelsize=6.5)
    right.grid(axis="y", visible=False)
    right.set(title="Overlap, planted", xlim=(0, 1), xlabel="PRO")


def _pictures(figure: Any) -> None:
    axes = figure.subplots(len(SHOWN), 3)
    for row, name in zip(axes, SHOWN, strict=True):
        data = anomaly_set(name, STUDY.seeds[0], normal=max(SHOTS), test=TEST)
        whole = detector(data.name)
        levels = whole.encode(torch.cat([data.good[:3], data.bad[:3]]))
        zero = whole.forget().score(levels)
        few = whole.fit(data.normal).score(levels)
        assert data.masks is not None
        small = F.interpolate(data.bad[:1], size=DRAWN, mode="bilinear", antialias=True)[0]
        mask = F.interpolate(data.masks[:1, None].float(), size=DRAWN, mode="bilinear", antialias=True)[0, 0]
        picture = (small.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        for ax, cell in zip(row, (picture, *(each.overlay(picture, 3) for each in (zero, few))), strict=True):
            ax.imshow(np.asarray(cell) // 16 * 16, interpolation="nearest")
            ax.contour(mask.numpy(), [0.5], colors="deepskyblue", linewidths=0.8)
            bare(ax, frame=False)
    for ax, title in zip(axes[0], ("picture", "words", "4 normal"), strict=True):
        ax.set_title(title, fontsize=8)


STUDY = declared_study(
    __name__,
    measure,
    draw=draw,
    seeds=range(20, 30),
    remeasure="with a model to which words about damage mean something.",
)
