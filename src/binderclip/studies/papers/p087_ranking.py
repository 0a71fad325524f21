"""Does comparing pairs while training put images in a better order than regression alone?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from torch import Tensor
from torch.nn import functional as F

from binderclip.adapt import RankingAdapter, patch_tokens
from binderclip.studies.harness import Row, declared_study, dot_panels, tensor_features

CLASSES = ("flag", "heart", "clock", "tree", "house", "cat", "moon", "apple", "car", "flower")
SIZES = (0.012, 0.025, 0.05)
"""Opaque share of the picture that each object of a scene covers; targets 2, 5 and 8."""
MOST, SIDE = 8, 128
TRAIN, TEST = 20, 7  # scenes a class and size
STEPS, RATE = 2000, 1e-3
ADAPTERS = {"regression only": "none", "relational": "relational"}
METHODS = ("zero-shot", "linear probe", *ADAPTERS)
SPEARMAN, ERROR = "Spearman correlation of the count", "mean absolute error of the count"


@lru_cache(maxsize=1)
def _data() -> dict[str, Any]:
    """Token features, pooled features, names, counts and sizes of training and test scenes."""
    from binderclip.data.synthetic_scenes.stream import scenes
    from binderclip.data.synthetic_scenes.vocabulary import vocabulary
    from binderclip.models import load

    model = load("small")
    words = vocabulary("scenes15").only(CLASSES)
    found: dict[str, Any] = {"model": model}
    for part, each, seed in (("train", TRAIN, 0), ("test", TEST, 5000)):
        images, names, counts, sizes = [], [], [], []
        for k, name in enumerate(CLASSES):
            for level, size in enumerate(SIZES):
                batch = scenes(
                    seed + 10 * k + level, each, SIDE, vocabulary=words.only([name]), objects=(0, MOST),
                    occlusion=0.1, factors={"size": [size]}, background=["plain", "gradient", "noise"],
                )  # fmt: skip
                images.append(batch.images)
                names += [name] * each
                counts += batch.attributes["objects"].tolist()
                sizes += [2.0 + 3 * level] * each
        pixels = torch.cat(images)
        tokens = patch_tokens(model, pixels)
        pooled = tensor_features(model, pixels, f"p087 count scenes {SIDE} px, {part}")
        found[part] = {"tokens": tokens, "pooled": pooled, "name": np.array(names), "count": np.array(counts, float)}
        found[part] |= {"size": np.where(found[part]["count"] > 0, sizes, 0.0)}
        if part == "test":
            found[part]["images"] = pixels
    return found


def _asked(part: dict[str, Any], seed: int) -> tuple[list[str], np.ndarray]:
    """Queries and counts: every fifth scene is asked for a class that it does not show."""
    rng = np.random.default_rng([87, seed])
    names, targets = part["name"].copy(), part["count"].copy()
    for row in np.flatnonzero(rng.random(len(names)) < 0.2):
        names[row] = rng.choice([name for name in CLASSES if name != names[row]])
        targets[row] = 0
    return [f"count of {name}" for name in names], targets


def adapter(branch: str, seed: int) -> RankingAdapter:
    """The small form of the adapter."""
    shape: dict[str, Any] = {"width": 64, "heads": 4, "fusion": 1, "post": 1, "queries": 4}
    return RankingAdapter(_data()["model"], branch=branch, lr=RATE, steps=STEPS, seed=seed, **shape)  # type: ignore[arg-type]


def zero_shot(names: list[str], pooled: Float[Tensor, "N E"]) -> np.ndarray:
    """Expected count under a softmax over the texts "0 cat" to "8 cat"."""
    model = _data()["model"]
    found = np.zeros(len(names))
    for name in dict.fromkeys(names):
        rows = [row for row, own in enumerate(names) if own == name]
        texts = F.normalize(model.encode_text([f"{k} {name}" for k in range(MOST + 1)]).float(), dim=-1)
        with torch.no_grad():
            share = (float(model.scale()) * pooled[rows] @ texts.T).softmax(-1)
        found[rows] = (share @ torch.arange(MOST + 1.0)).numpy()
    return found


def _paired(captions: list[str], pooled: Float[Tensor, "N E"]) -> np.ndarray:
    """What the linear probe sees: the image, the text, and their product."""
    with torch.no_grad():
        text = F.normalize(_data()["model"].encode_text(captions).float(), dim=-1)
    return torch.cat([pooled, text, pooled * text], 1).numpy()


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    data = _data()
    train, test = data["train"], data["test"]
    captions, targets = _asked(train, seed)
    asked, truth = _asked(test, 1000)
    names = [text.removeprefix("count of ") for text in asked]
    probe = RidgeCV(np.logspace(-3, 2, 11)).fit(_paired(captions, train["pooled"]), targets)
    answers = {
        "zero-shot": zero_shot(names, test["pooled"]),
        "linear probe": probe.predict(_paired(asked, test["pooled"])),
    }
    for name, branch in ADAPTERS.items():
        ranker = adapter(branch, seed).fit(train["tokens"], captions, targets)
        answers[name] = ranker.predict(test["tokens"], asked)
    return [row for name, answer in answers.items() for row in _figures(name, answer, truth)]


def null(seed: int) -> list[Row]:
    """A random order in the place of every method."""
    rng, truth = np.random.default_rng(seed), _asked_counts()
    return [row for name in METHODS for row in _figures(name, rng.permutation(len(truth)).astype(float), truth)]


def _asked_counts() -> np.ndarray:
    """Counts as they are among the test scenes, a fifth of them 0."""
    return np.repeat(np.arange(MOST + 1.0), TEST * len(CLASSES) * len(SIZES) // (MOST + 1))


def _figures(method: str, answer: np.ndarray, truth: np.ndarray) -> list[Row]:
    more = truth[:, None] > truth
    right = (answer[:, None] > answer)[more].mean()
    return [
        Row(SPEARMAN, method, float(spearmanr(answer, truth).statistic)),
        Row("pairs in the right order", method, float(right)),
        Row(ERROR, method, float(np.abs(answer - truth).mean())),
    ]


STUDY = declared_study(
    __name__,
    measure,
    null=null,
    draw=dot_panels((SPEARMAN, METHODS), (ERROR, METHODS), rotation=0, size=11, ticks=8),
    seeds=range(10, 18),
    registered="021c634a235c",
)
