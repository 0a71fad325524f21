"""Does cropping to what a detector finds help a zero-shot classifier, most where objects are small?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from binderclip.adapt import GuidedCrops, ZeroShotClassifier
from binderclip.adapt.zero_shot.views import encode_crops
from binderclip.data import vocabulary
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.segment import text_detector
from binderclip.studies.harness import Figure, Row, Table, declared_study, lines

RATIOS = (0.02, 0.05, 0.1, 0.2, 0.4)
EACH = 24
ACCURACY = "accuracy"
METHODS = ("whole image", "guided, margin 0.25", "guided, five margins", "random crops", "true box, five margins")


@lru_cache(maxsize=1)
def _parts() -> tuple[Any, Any, Any, Any]:
    from binderclip.models import load

    words = vocabulary("scenes15", split="val+test")
    clip = load("small")
    names = [name for name in words.names if name not in words.missing]
    return clip, words.only(names), clip.text_bank(names, ("{}", "a {}.", "a picture of a {}.")), text_detector(clip)


def _random_crops(size: int, rng: np.random.Generator) -> list[tuple[float, float, float, float]]:
    """Five squares of a tenth to all of the area, anywhere."""
    found = []
    for _ in range(5):
        side = size * rng.uniform(0.1, 1.0) ** 0.5
        x, y = rng.uniform(0, size - side, 2)
        found.append((x, y, x + side, y + side))
    return found


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    clip, words, bank, detector = _parts()
    found_box: list[tuple[Tensor, Tensor]] = []

    def remembered(image: Any, texts: Any) -> tuple[Tensor, Tensor]:
        boxes, scores = detector(image, texts)
        found_box.append((boxes, scores))
        return boxes, scores

    guided = ZeroShotClassifier(bank, views=GuidedCrops(remembered)).fit()
    rows = []
    for number, ratio in enumerate(RATIOS):
        batch = scenes(
            100 * seed + number, EACH, 256, objects=1, area=(0.9 * ratio, 1.1 * ratio), vocabulary=words,
            background=["photo", "texture"],
        )  # fmt: skip
        pictures = [sample.image for sample in batch.samples()]
        truth = np.array([own[0] for own in batch.names])
        boxes = [tuple(box[0].tolist()) for box in batch.boxes]
        found_box.clear()
        x = guided.encode(clip, pictures).features
        oracle = guided.encode(clip, pictures, boxes=boxes).features
        rng = np.random.default_rng([seed, number])
        jobs = [(picture, _random_crops(256, rng)) for picture in pictures]
        random = torch.cat([x[:, :1], encode_crops(clip, jobs, 64)], dim=1)
        seen = {
            "guided, margin 0.25": x[:, [0, 2]],
            "guided, five margins": x,
            "random crops": random,
            "true box, five margins": oracle,
        }
        setting = f"area {ratio:g}"
        answers = {name: guided.predict(features) for name, features in seen.items()}
        answers["whole image"] = ZeroShotClassifier(bank).predict(x[:, 0])
        for name in METHODS:
            rows.append(Row("accuracy", name, float((answers[name] == truth).mean()), setting))
        by_logit = ZeroShotClassifier(bank, views=GuidedCrops(detector, merge_by="logits")).predict(x)
        rows.append(Row("accuracy", "guided, logits averaged", float((by_logit == truth).mean()), setting))
        place = {name: i for i, name in enumerate(bank.names)}
        top = ZeroShotClassifier(bank).logits(x[:, 0]).topk(5, dim=-1).indices.tolist()
        among = [place[name] in best for name, best in zip(truth.tolist(), top, strict=True)]
        rows.append(Row("accuracy", "class among the first five", float(np.mean(among)), setting))
        hits = [_centre_hit(b, s, box) for (b, s), box in zip(found_box, boxes, strict=True)]
        rows.append(Row("box holds the object's centre", "detector", float(np.mean(hits)), setting))
    return rows


def _centre_hit(boxes: Tensor, scores: Tensor, truth: Any) -> bool:
    x0, y0, x1, y1 = boxes[int(scores.amax(dim=1).argmax())].tolist()
    x, y = (truth[0] + truth[2]) / 2, (truth[1] + truth[3]) / 2
    return bool(x0 <= x <= x1 and y0 <= y <= y1)


def _gain(table: Table, ratio: float, method: str = "guided, five margins", other: str = "whole image") -> float:
    setting = f"area {ratio:g}"
    return table.mean("accuracy", method, setting) - table.mean("accuracy", other, setting)


def null(seed: int) -> list[Row]:
    """A random name for every scene, whatever it is shown."""
    rng = np.random.default_rng(seed)
    areas = [f"area {ratio:g}" for ratio in RATIOS]
    return [Row(ACCURACY, name, rng.binomial(EACH, 1 / 15) / EACH, area) for name in METHODS for area in areas]


def draw(table: Table, figure: Figure) -> None:
    """Accuracy by size, the gain, and the detector."""
    axes = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
    settings = [f"area {ratio:g}" for ratio in RATIOS]
    lines(axes[0], table, "accuracy", settings, list(RATIOS), list(METHODS))
    axes[0].set(title="Accuracy", ylabel="accuracy", ylim=(0, 1))
    axes[0].legend(fontsize=8, loc="lower right")
    for number, method in enumerate(METHODS[1:], start=1):
        axes[1].plot(
            RATIOS, [100 * _gain(table, r, method) for r in RATIOS], marker="o", markersize=4, color=f"C{number}"
        )
    axes[1].axhline(0, color="black", linewidth=0.8)
    axes[1].set(title="Gain", ylabel="points over the whole image")
    lines(axes[2], table, "box holds the object's centre", settings, list(RATIOS), ["detector"])
    axes[2].plot(RATIOS, RATIOS, color="grey", linestyle=":", label="a box of the object's size, anywhere")
    axes[2].set(title="Detector", ylabel="box holds the object's centre", ylim=(0, 1.3))
    axes[2].legend(fontsize=8, loc="upper left")
    for ax in axes:
        ax.set_xscale("log")
        ax.set_xticks(RATIOS, [f"{r:g}" for r in RATIOS])
        ax.minorticks_off()
        ax.set_xlabel("area of the object / image")


STUDY = declared_study(__name__, measure, null=null, draw=draw, seeds=range(10, 18), registered="fcfb7ced47d2")
