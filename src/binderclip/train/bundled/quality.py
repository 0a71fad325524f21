"""The bundled weights `small-quality`: `small` as QualiCLIP, trained on photographs of Debian's wallpaper packages.

`train_quality(".../bundled/small-quality")` trains, measures on the photographs of scikit-image and scikit-learn, which
it never learned from, and writes weights and card; about ten minutes on one core.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from scipy.stats import rankdata, spearmanr

from binderclip.data import load_data, open_image
from binderclip.data.distortions.library import DISTORTIONS, distort
from binderclip.data.images import to_tensor
from binderclip.documents import json_text
from binderclip.files import write_whole
from binderclip.quality import ANTONYMS, PromptQuality, QualiCLIP
from binderclip.train.bundled.data.photographs import WALLPAPERS, photographs_in

__all__ = ["quality_figures", "train_quality", "write_card"]

PARTS = ("*patch_embed.proj*", "*head.proj*", "*norm*", "*bias")
"""Both projections, norms and biases: 0.46 of 5.9 million numbers, which make less than a megabyte."""
SIDES = (640, 384)
"""Longer sides that each photograph is learned at."""
PHASES: tuple[dict[str, Any], ...] = (
    {"crop": 64, "batch_size": 4, "steps": 160, "lr": 1e-3},
    {"crop": 160, "batch_size": 2, "steps": 60, "lr": 3e-4},
)
LONGEST, MEASURED = 192, (0, 1, 3, 5)
"""Of the figures: longer side in pixels, and levels; those above 2 count as damaged."""


def train_quality(target: str | Path, folders: Sequence[str] = WALLPAPERS) -> Path:
    """Train, measure and write the folder.

    Args:
        target: the new folder; its name is that of the weights.
        folders: of photographs to learn from.

    Raises:
        UsageError: a folder that is not there, or folders without pictures.
    """
    paths = photographs_in(folders)
    pictures = [_reduced(path, side) for path in paths for side in SIDES]
    metric = QualiCLIP("small", parts=PARTS)
    seconds = 0.0
    for seed, phase in enumerate(PHASES):
        seconds += metric.fit(pictures, seed=seed, **phase).seconds
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    metric.save_weights(target / "quality.safetensors", dtype=torch.float16)
    return write_card(target, len(paths), seconds)


def write_card(target: Path, photographs: int, seconds: float) -> Path:
    """Measure the weights in a folder and write its card.

    Args:
        target: the folder.
        photographs: how many they have learned from.
        seconds: what that took.
    """
    card: dict[str, Any] = {
        "name": target.name,
        "summary": "small as QualiCLIP: knows degraded photographs from whole ones",
        "recipe": "binderclip.train.bundled.quality.train_quality",
        "how": f"{photographs} photographs of Debian's plasma-workspace-wallpapers and mate-backgrounds, each at "
        f"{' and '.join(map(str, SIDES))} px; {sum(phase['steps'] for phase in PHASES)} steps; all distortions of "
        "data.distort; weights in 16 bits.",
        "seconds": round(seconds),
        "unit": f"on the photographs of scikit-image and scikit-learn, at most {LONGEST} px. level: Spearman's "
        "correlation of the falling score with the level, mean over photographs. damaged: probability that a "
        "photograph at levels 3 and 5 scores below a whole one",
    }
    metrics: dict[str, PromptQuality] = {
        target.name: QualiCLIP.from_weights(target / "quality.safetensors"),
        "small, the same words": PromptQuality("small", ANTONYMS),
    }
    card["figures"] = quality_figures(metrics)
    write_whole(target / "card.json", json_text(card) + "\n")
    return target


def _reduced(path: Path, side: int) -> Image.Image:
    picture = open_image(path)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


@torch.no_grad()
def quality_figures(
    metrics: Mapping[str, PromptQuality], *, kinds: Sequence[str] = DISTORTIONS
) -> dict[str, dict[str, dict[str, float]]]:
    """How scores follow the level and find what is damaged, for every kind of distortion, and their means.

    Args:
        metrics: name -> metric.
        kinds: names of `data.DISTORTIONS`.

    Returns:
        name -> `level` and `damaged` -> kind -> figure.
    """
    photographs = []
    for sample in load_data("photographs"):
        picture = sample.image.convert("RGB")
        picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
        photographs.append(to_tensor(picture)[None])
    figures: dict[str, dict[str, dict[str, float]]] = {name: {"level": {}, "damaged": {}} for name in metrics}
    for kind in kinds:
        scores = {name: np.zeros((len(MEASURED), len(photographs))) for name in metrics}
        for row, one in enumerate(photographs):
            for place, level in enumerate(MEASURED):
                seen = distort(one, kind, level, 7)
                for name, metric in metrics.items():
                    scores[name][place, row] = float(metric(seen))
        for name, scores_of in scores.items():
            follows = [0.0 if np.ptp(one) == 0 else -spearmanr(MEASURED, one).statistic for one in scores_of.T]
            figures[name]["level"][kind] = round(float(np.mean(follows)), 3)
            below = [
                _below(scored, scores_of[0]) for scored, level in zip(scores_of, MEASURED, strict=True) if level > 2
            ]
            figures[name]["damaged"][kind] = round(math.fsum(below) / len(below), 3)
    for values in (values for figures_of_kind in figures.values() for values in figures_of_kind.values()):
        values["mean"] = round(math.fsum(values.values()) / len(values), 3)
    return figures


def _below(damaged: Float[np.ndarray, "n"], whole: Float[np.ndarray, "m"]) -> float:
    """The area under the ROC curve."""
    ranks = rankdata(np.concatenate([whole, damaged]))
    n, m = len(damaged), len(whole)
    return float((ranks[:m].sum() - m * (m + 1) / 2) / (n * m))
