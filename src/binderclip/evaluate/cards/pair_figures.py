"""The figures on the cards of the bundled image-text models: retrieval, photographs, dense maps, the last attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from binderclip.data import LabelledScenes, load_data
from binderclip.errors import NotSupported
from binderclip.evaluate.cards.standins import BACKGROUNDS, SEEDS, held_out_scenes
from binderclip.evaluate.dense.last_attention import last_attention
from binderclip.evaluate.model import encode_set, evaluate_model
from binderclip.evaluate.retrieval_metrics import zero_shot_accuracy
from binderclip.models import ImageTextModel
from binderclip.segment import Segmenter, measure_segmenters

__all__ = ["OTHER_LABELS", "pair_figures"]

#: Labels that no bundled photograph has, so that the right one is one of 47.
OTHER_LABELS = (
    "dog", "horse", "airplane", "ship", "bus", "bicycle", "train", "bridge", "castle", "beach", "mountain", "forest",
    "waterfall", "pizza", "banana", "bread", "guitar", "piano", "chair", "bed", "computer", "telephone", "umbrella",
    "shoe", "balloon", "snake", "butterfly", "spider", "elephant", "owl",
)  # fmt: skip
PACKS = ("openclipart", "noto-emoji", "icons")
RECALLS = (1, 5, 10)


def pair_figures(model: ImageTextModel, *, scenes: int = 40, scene_seeds: Sequence[int] = SEEDS) -> dict[str, object]:
    """Measure a bundled image-text model as its card says, in percent where nothing else is said.

    Args:
        model: the model.
        scenes: labelled scenes a seed for the dense figures, and scenes for the last attention of each ground.
        scene_seeds: of the scenes.
    """
    figures: dict[str, object] = {}
    for name in PACKS:
        for split in ("val", "test"):
            figures[f"{name}/{split}"] = _recall(model, name, split)
    figures["openmoji/shift"] = _recall(model, "openmoji", "shift")
    figures["photographs, 17 pictures, their classes and 30 others"] = _photographs(model)
    try:
        segmenter = Segmenter(model, preset="value")
    except NotSupported:
        return figures
    for name, size in (("scenes", 128), ("scenes", 256), ("scenes-cluttered", 256), ("scenes-photographs", 256)):
        scores = [
            measure_segmenters(
                {"value": segmenter}, LabelledScenes(name, scenes, seed=seed, size=size, split="test")
            ).scores["value"]
            for seed in scene_seeds
        ]
        figures[f"{name}/test at {size} px"] = {"foreground_miou": _percent([score.miou for score in scores])}
    for where in BACKGROUNDS:
        measured = []
        for seed in scene_seeds:
            made = held_out_scenes(seed, scenes, where, size=256)
            measured.append(last_attention(model, made.images, made.visible, size=256).as_dict())
        means = {key: sum(one[key] for one in measured) / len(measured) for key in measured[0]}
        figures[f"last attention at 256 px, {where}"] = {key: round(value, 3) for key, value in means.items()}
    return figures


def _recall(model: ImageTextModel, name: str, split: str) -> dict[str, list[float]]:
    figures = evaluate_model(model, load_data(name, split=split)).figures
    return {
        way: [round(100 * figures[f"{way}/R@{k}"], 1) for k in RECALLS] for way in ("image_to_text", "text_to_image")
    }


def _photographs(model: ImageTextModel) -> dict[str, float]:
    """Top-1 and top-5 of the seventeen photographs that have a class, among 47 labels, with the usual sentences."""
    data = load_data("photographs")
    labelled = data.subset([row for row, label in enumerate(data.labels) if label >= 0])
    parts, kept, _ = encode_set(model, labelled)
    bank = model.text_bank([*data.classes, *OTHER_LABELS], ("{}", "a {}.", "a picture of a {}."))
    accuracy = zero_shot_accuracy(parts[0], bank, torch.as_tensor(kept.labels))
    return {"top1": _percent([accuracy["accuracy"]]), "top5": _percent([accuracy["top5"]])}


def _percent(values: Sequence[float]) -> float:
    return round(100 * math.fsum(values) / len(values), 1)
