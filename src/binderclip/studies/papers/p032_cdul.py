"""Do the tiles of a picture give better multi-label pseudo-labels, and does refining them while learning help?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from binderclip.adapt import CDUL, PseudoLabels, TileAggregator, indicator, multilabel_average_precision
from binderclip.data.windows import WindowGrid, unfold
from binderclip.studies.harness import Figure, Row, Table, bare, declared_study, tensor_features

SIZE, TRAIN, TEST = 192, 160, 120
PILOT = (0, 1, 2)
TILES, THRESHOLDS = (2, 3), (0.0, 0.1, 0.3)
EPOCHS = 60
THREE = "3 x 3, threshold 0"
LABELS, HEADS = "mAP of the pseudo-labels", "mAP on test scenes"


@lru_cache(maxsize=1)
def _shared() -> tuple[Any, Any, dict[str, Any]]:
    """The model, the words of drawings that it was not trained on, and how scenes are made."""
    from binderclip.data.synthetic_scenes.vocabulary import vocabulary
    from binderclip.models import load

    words = vocabulary("scenes15", split="val")
    options = {"vocabulary": words, "objects": (1, 4), "background": ["plain", "gradient", "noise"]}
    return load("small"), words, options


@lru_cache(maxsize=1)
def _data(seed: int) -> dict[str, Any]:
    """Views and true labels of the seed's scenes, and of the test scenes."""
    from binderclip.data.synthetic_scenes.stream import scenes

    model, words, options = _shared()
    own, test = scenes(3200 + seed, TRAIN, SIZE, **options), scenes(33, TEST, SIZE, **options)
    key = f"p032 scenes15 val {SIZE} px, plain gradient noise"
    whole = tensor_features(model, own.images, f"{key}, {seed}")
    views = {}
    for n in TILES:
        tiles = unfold(own.images, WindowGrid.over((SIZE, SIZE), SIZE // n, SIZE // n))
        parts = tensor_features(model, tiles.flatten(0, 1), f"{key}, {seed}, {n} x {n} tiles")
        views[n] = torch.cat([whole[:, None], parts.unflatten(0, (TRAIN, n * n))], 1)
    return {
        "bank": model.text_bank(list(words.names), templates="a photo of a {}"),
        "views": views,
        "truth": indicator(own.names, words.names),
        "test": tensor_features(model, test.images, f"{key}, test"),
        "test truth": indicator(test.names, words.names),
        "examples": own.select(slice(0, 3)),
    }


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    data = _data(seed)
    return _label_rows(data) + _network_rows(data, seed)


def _label_rows(data: dict[str, Any]) -> list[Row]:
    found = []
    for n in TILES:
        for threshold in THRESHOLDS:
            made = TileAggregator(data["bank"], threshold=threshold)(data["views"][n])
            parts = {"whole picture": made.whole, "tiles": made.tiles, "both": made.labels}
            setting = f"{n} x {n}, threshold {threshold:g}"
            found += [
                Row(LABELS, name, multilabel_average_precision(data["truth"], part), setting)
                for name, part in parts.items()
            ]
    return found


def _network_rows(data: dict[str, Any], seed: int) -> list[Row]:
    views, truth = data["views"][3], data["truth"]
    made = TileAggregator(data["bank"])(views)
    whole = PseudoLabels(made.classes, made.whole, made.whole, made.whole)
    heads = {
        "labels of the whole picture": (whole, 0),
        "labels of both": (made, 0),
        "labels of both, refined": (made, 10),
        "true labels": (truth.double(), 0),
    }
    test, there = data["test"], data["test truth"]
    zero_shot = TileAggregator(data["bank"])(test[:, None]).whole
    found = [Row(HEADS, "zero-shot, no training", multilabel_average_precision(there, zero_shot))]
    for name, (labels, every) in heads.items():
        head = CDUL(epochs=EPOCHS, update_every=every, seed=seed).fit(views, labels)
        found.append(Row(HEADS, name, head.score(test, there)))
        if every:
            found += [
                Row("mAP of the labels in training", "at first", multilabel_average_precision(truth, made.labels)),
                Row("mAP of the labels in training", "refined", multilabel_average_precision(truth, head.labels_)),
            ]
    return found


def null(seed: int) -> list[Row]:
    """Random labels in the place of both."""
    rng = np.random.default_rng(seed)
    truth = torch.from_numpy(rng.random((TRAIN, 15)) < 0.17)
    random = [torch.from_numpy(rng.random((TRAIN, 15))) for _ in range(2)]
    names = ("both", "whole picture")
    return [Row(LABELS, n, multilabel_average_precision(truth, x), THREE) for n, x in zip(names, random, strict=True)]


def draw(table: Table, figure: Figure) -> None:
    """The quality of the labels and of the networks, and three scenes with the labels of whole picture and tiles."""
    halves: Any = figure.subfigures(1, 3, width_ratios=(1, 1.15, 1.25))
    left, middle, right = halves
    ax = left.subplots()
    settings = [f"{n} x {n}, threshold 0" for n in TILES]
    for k, name in enumerate(("whole picture", "tiles", "both")):
        values = [table.values(LABELS, name, s) for s in settings]
        place = np.arange(len(settings)) + 0.27 * (k - 1)
        errors = [v.std(ddof=1) if len(v) > 1 else 0.0 for v in values]
        ax.bar(place, [v.mean() for v in values], 0.25, yerr=errors, label=name, color=("C7", "C1", "C0")[k])
    ax.set_xticks(range(len(settings)), [f"{n} x {n} tiles" for n in TILES])
    ax.set(title=LABELS)
    ax.set_ylim(0, 1.12)
    ax.legend(ncols=3, fontsize=7.5, loc="upper center", columnspacing=0.8, handlelength=1)
    ax.grid(axis="x", visible=False)
    bars = middle.subplots()
    names = table.names("method", HEADS)
    values = [table.values(HEADS, name) for name in names]
    errors = [v.std(ddof=1) if len(v) > 1 else 0.0 for v in values]
    colours = ["C7", "C0", "C0", "C0", "C2"][: len(names)]
    bars.barh(names, [v.mean() for v in values], xerr=errors, color=colours, height=0.65)
    bars.set_yticks(range(len(names)), [name.replace(", ", ",\n").replace(" of the", "\nof the") for name in names])
    bars.tick_params(axis="y", labelsize=8)
    bars.invert_yaxis()
    bars.set(title=HEADS)
    bars.grid(axis="y", visible=False)
    _examples(right)


def _examples(figure: Any) -> None:
    data = _data(PILOT[0])
    made = TileAggregator(data["bank"])(data["views"][3][:3])
    for k, ax in enumerate(figure.subplots(1, 3)):
        ax.imshow(data["examples"].images[k].permute(1, 2, 0).numpy())
        for cut in (SIZE / 3, 2 * SIZE / 3):
            ax.axhline(cut - 0.5, color="black", linewidth=0.5)
            ax.axvline(cut - 0.5, color="black", linewidth=0.5)
        bare(ax)
        lines = []
        for name, part in (("whole", made.whole[k]), ("tiles", made.tiles[k])):
            best = part.topk(3)
            lines.append(f"{name}:")
            lines += [f"  {made.classes[i]} {v:.2f}" for v, i in zip(best.values, best.indices, strict=True)]
        ax.set_title(", ".join(data["examples"].names[k]).replace(", ", ",\n", 1), fontsize=7.5, fontweight="normal")
        ax.set_xlabel("\n".join(lines), fontsize=7, loc="left", linespacing=1.1)


STUDY = declared_study(__name__, measure, null=null, draw=draw, seeds=range(10, 20), registered="6c15128bbf68")
