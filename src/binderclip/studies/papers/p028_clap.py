"""Does taking off the attention of words for the sound leave less that is falsely suspected?"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.models import Record, Site, trace
from binderclip.segment.anomaly import (
    ContrastiveLanguagePrompting,
    InformationBottleneckMap,
    InpaintingAnomalyDetector,
    random_regions,
    suspected,
)
from binderclip.segment.anomaly.clap import as_pixels
from binderclip.segment.metrics import anomaly_scores
from binderclip.studies.harness import Figure, Row, Table, bare, declared_study, one_thread
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.anomaly_sets import AnomalySet, drawing_set

DRAWINGS = ("clock", "house", "apple")
SIDE, TEST, NORMAL, STEPS, BATCH = 64, 5, 16, 150, 16
DAMAGED = ("broken {}", "stained {}", "{} with a hole", "scratch")
SOUND = ("{}", "perfect {}", "new {}", "clean")
PLP, CLAP, DINO = "words for damage (PLP)", "CLAP", "text-free attention"
RANDOM, ORACLE = "random regions", "true regions"


@cache
def _dino() -> Any:
    from binderclip.models import load_vision

    return load_vision("small-dino")


@cache
def _attention() -> InformationBottleneckMap:
    return InformationBottleneckMap(bundled())


def _prompting(name: str, *, contrast: bool) -> ContrastiveLanguagePrompting:
    damaged, sound = ([word.replace("{}", name) for word in words] for words in (DAMAGED, SOUND))
    return ContrastiveLanguagePrompting(_shared, damaged, sound if contrast else ())


_maps: dict[tuple[int, tuple[str, ...]], Tensor] = {}


def _shared(images: Tensor, texts: Any) -> Tensor:
    """The attention, computed once for the two ways to use it."""
    key = (hash(images.numpy().tobytes()), tuple(texts))
    if key not in _maps:
        _maps[key] = _attention()(images, texts)
    return _maps[key]


def _self_attention(images: Tensor) -> Tensor:
    """Attention of the class token in the last block of `small-dino`, mean over heads."""
    model = _dino()
    with torch.no_grad():
        seen = trace(model.image_tower, model.preprocess(images, size=128), record=Record("attn", layers=[-1]))
        rows = seen.value(Site("attn", -1))[:, :, 0, seen.tokens.prefix :].mean(dim=1)
    return rows.unflatten(1, seen.grid)


def _regions(name: str, data: AnomalySet, seed: int) -> dict[str, Tensor]:
    """Suspected pixels of the test pictures at the restorer's side, by every way."""
    images, size = data.images, (SIDE, SIDE)
    assert data.truth is not None
    truth = F.adaptive_max_pool2d(data.truth.float()[:, None], SIDE)[:, 0] > 0
    return {
        PLP: suspected(_prompting(name, contrast=False)(images), size),
        CLAP: suspected(_prompting(name, contrast=True)(images), size),
        DINO: suspected(_self_attention(images), size),
        RANDOM: random_regions(len(images), size, torch.Generator().manual_seed(seed)),
        ORACLE: truth,
    }


@cache
def restorer(name: str) -> InpaintingAnomalyDetector:
    """Trained once a drawing, on random regions; all ways to choose regions share it."""
    draw = torch.Generator().manual_seed(0)
    normal = drawing_set(name, 280, normal=NORMAL, test=1).normal
    return InpaintingAnomalyDetector(
        lambda pixels: random_regions(len(normal), (SIDE, SIDE), draw), side=SIDE, steps=STEPS,
        batch_size=BATCH, lr=3e-3, widths=(8, 16, 32, 32, 32),
    ).fit(normal)  # fmt: skip


def measure(seed: int) -> list[Row]:
    """All drawings of one seed."""
    with one_thread():
        return [row for name in DRAWINGS for row in _measure(name, seed)]


def _measure(name: str, seed: int) -> list[Row]:
    data = drawing_set(name, 3 * seed + DRAWINGS.index(name), normal=0, test=TEST)
    regions = _regions(name, data, seed)
    pixels, bad = as_pixels(data.images, SIDE), slice(TEST, None)
    truth = regions[ORACLE][bad]
    rows = []
    for way, found in regions.items():
        hidden = found[bad]
        rows += [
            Row(
                "share of the suspected outside", way, float((hidden & ~truth).sum() / hidden.sum().clamp(min=1)), name
            ),
            Row("recall of the defect", way, float((hidden & truth).sum() / truth.sum()), name),
            Row("share suspected", way, float(found.float().mean()), name),
        ]
        scores = restorer(name).score(pixels, found).scores
        rows.append(Row("image AUROC", way, anomaly_scores(scores=scores, labels=data.labels).image_auroc, name))
    return rows


def _over(table: Table, metric: str, way: str) -> float:
    return float(np.mean([table.mean(metric, way, name) for name in DRAWINGS]))


def draw(table: Table, figure: Figure) -> None:
    """Pictures with suspected pixels and their restoration, and the measures by way."""
    figure.set_size_inches(10, 3.6)
    halves: Any = figure.subfigures(1, 2, width_ratios=[1.15, 1])
    _pictures(halves[0])
    axes = halves[1].subplots(1, 3, sharey=True)
    ways = (PLP, CLAP, DINO, RANDOM, ORACLE)
    shown = {
        "share of the suspected outside": "suspected\noutside",
        "recall of the defect": "defect\nrecalled",
        "image AUROC": "image\nAUROC",
    }
    for ax, (metric, title) in zip(axes, shown.items(), strict=True):
        for number, name in enumerate(DRAWINGS):
            ax.plot([table.mean(metric, way, name) for way in ways], range(5), "o", color=f"C{number}", label=name)
        ax.plot([_over(table, metric, way) for way in ways], range(5), "|", color="k", markersize=14, label="mean")
        ax.set_title(title, fontsize=8)
        ax.set_xlim(-0.05, 1.05)
        ax.tick_params(labelsize=7)
    axes[0].set_yticks(range(5), ways, fontsize=7)
    axes[0].invert_yaxis()
    axes[0].legend(fontsize=6, loc="center left")


def _pictures(figure: Any) -> None:
    axes = figure.subplots(len(DRAWINGS), 5)
    for row, name in zip(axes, DRAWINGS, strict=True):
        seed = STUDY.seeds[0]
        data = drawing_set(name, 3 * seed + DRAWINGS.index(name), normal=0, test=TEST)
        regions = _regions(name, data, seed)
        pixels = as_pixels(data.images, SIDE)
        found = restorer(name)
        restored = found.restore(pixels, regions[CLAP])
        error = found.score(pixels, regions[CLAP]).maps
        cells = [x.permute(1, 2, 0).clamp(0, 1).numpy() for x in (pixels[TEST], restored[TEST])]
        layers = [cells[0], cells[0], cells[0], cells[1], error[TEST].numpy()]
        for ax, cell, way in zip(row, layers, (ORACLE, PLP, CLAP, None, None), strict=True):
            ax.imshow(cell, vmin=0, vmax=1, cmap="magma")
            if way is not None:
                ax.contour(regions[way][TEST].float().numpy(), [0.5], colors="deepskyblue", linewidths=1)
            bare(ax, frame=False)
    for ax, title in zip(axes[0], ("truth", "PLP", "CLAP", "restored", "error"), strict=True):
        ax.set_title(title, fontsize=8)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 22), registered="0a5541ce998a")
