"""Does a filter by the score of captions without their numbers keep more right pairs, and train a better model?"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.curate import (
    CaptionEmbedding,
    ClipScore,
    CurationPipeline,
    KeepRule,
    MaskedTextScore,
    SampleSignal,
    ScoreThreshold,
    ScoreTopFraction,
    strip_numbers,
)
from binderclip.data import load_data
from binderclip.evaluate import retrieval
from binderclip.studies.harness import Row, dataset_features, declared_study, dot_panels
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.training.selections import MemoryTable, clip_art, linear_map, pictured, said

PICTURES, WRONG, NUMBERED, KEPT = 2000, 0.5, 0.3, 0.4
MASKED, RAW, OTHER, WITHOUT, RANDOM = (
    "numbers taken out", "raw score", "other words taken out", "no captions with numbers", "random",
)  # fmt: skip
METHODS = (MASKED, RAW, OTHER, WITHOUT, RANDOM)
PRECISION, GAP, RECALL = "share of right pairs", "numbered among the right: off by", "text to picture, R@5"


class NumberedPool(NamedTuple):
    """Captions of the pool's pictures, which are those of their pictures, and which had a number added."""

    captions: list[str]
    right: Bool[np.ndarray, "N"]
    numbered: Bool[np.ndarray, "N"]


@lru_cache(maxsize=1)
def _plain() -> tuple[list[str], Float[Tensor, "N D"], Float[np.ndarray, "N E"]]:
    """Some training clip art without digits in its captions: these, `small-dino`'s features and `small`'s."""
    data = load_data("openclipart", split="train")
    rows = [row for row, text in enumerate(data.captions) if not any(sign.isdigit() for sign in text)]
    data = data.subset(np.random.default_rng(102).permutation(rows)[:PICTURES])
    captions, scored = [text.lower() for text in data.captions], dataset_features(bundled(), data)
    return captions, pictured([sample.image for sample in data]), scored.numpy()


@lru_cache(maxsize=1)
def _cache() -> TemporaryDirectory[str]:
    """Where features of texts are kept while the study runs."""
    return TemporaryDirectory()


@lru_cache(maxsize=2)
def pool_of(seed: int) -> NumberedPool:
    """Half of the pairs have the caption of another picture; of all, right or wrong, 30 % get a number."""
    captions, rng = _plain()[0], np.random.default_rng([seed, 102])
    count = len(captions)
    says, wrong = np.arange(count), rng.choice(count, round(WRONG * count), replace=False)
    says[wrong] = np.roll(wrong, 1)
    numbered = np.isin(np.arange(count), rng.choice(count, round(NUMBERED * count), replace=False))
    texts = []
    for row in range(count):
        forms = (f"{rng.integers(1, 100)}", f"{rng.integers(1950, 2024)}", f"img {rng.integers(1000, 10000)}")
        texts.append(f"{captions[says[row]]} {forms[rng.integers(3)]}" if numbered[row] else captions[says[row]])
    return NumberedPool(texts, np.array([captions[a] == captions[b] for a, b in enumerate(says)]), numbered)


def drop_other_words(caption: str) -> str:
    """A caption with its numbers, without as many of its other words, which a hash of the caption picks."""
    words, left = caption.split(), strip_numbers(caption).split()
    plain = [place for place, word in enumerate(words) if not word.isdigit()]
    rng = np.random.default_rng(int.from_bytes(hashlib.blake2b(caption.encode(), digest_size=8).digest(), "big"))
    gone = set(rng.permutation(plain)[: len(words) - len(left)].tolist())
    return " ".join(word for place, word in enumerate(words) if place not in gone)


def selections(seed: int) -> tuple[dict[str, Int[np.ndarray, "K"]], Float[Tensor, "N E"]]:
    """Rows that each method keeps, as many for all; and the features of the pool's captions, as they are."""
    pool, root = pool_of(seed), Path(_cache().name)
    table = MemoryTable(pool.captions, {"embedding": _plain()[2]})
    texts = CaptionEmbedding(bundled(), root=root)
    signals: dict[str, SampleSignal] = {
        "caption_embedding": texts,
        RAW: ClipScore("embedding", name=RAW),
        MASKED: MaskedTextScore(bundled(), image="embedding", root=root, name=MASKED),
        OTHER: MaskedTextScore(bundled(), drop_other_words, "embedding", root, OTHER),
    }

    def kept(*rules: KeepRule) -> np.ndarray:
        return np.flatnonzero(CurationPipeline(rules, signals).run(table, seed=seed).decisions["pool"] < 0)

    found = {name: kept(ScoreTopFraction(column=name, fraction=KEPT)) for name in (MASKED, RAW, OTHER)}
    size, plain = len(found[RAW]), int((~pool.numbered).sum())
    fewer = [ScoreThreshold(column="numbers", maximum=0), ScoreTopFraction(column=RAW, fraction=size / plain)]
    found[WITHOUT] = kept(*fewer)
    found[RANDOM] = np.random.default_rng([seed, 103]).choice(len(pool.captions), size, replace=False)
    return found, torch.from_numpy(np.asarray(texts(table.load("pool"))))


@lru_cache(maxsize=1)
def _held_out() -> tuple[Float[Tensor, "M D"], Float[Tensor, "M E"]]:
    """Features of the held-out pictures, and of their captions."""
    images, captions = clip_art("val+test")
    return pictured(images), said(tuple(captions))


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    pool, (held, asked) = pool_of(seed), _held_out()
    found, texts = selections(seed)
    share = pool.numbered[pool.right].mean()
    results = []
    for name, rows in found.items():
        right = rows[pool.right[rows]]
        mapped = F.normalize(held @ linear_map(_plain()[1], texts, rows, seed), dim=1)
        results.append(Row(PRECISION, name, len(right) / len(rows)))
        results.append(Row(GAP, name, abs(float(pool.numbered[right].mean() - share))))
        results.append(Row(RECALL, name, retrieval(mapped, asked)["text_to_image/R@5"]))
    return results


STUDY = declared_study(
    __name__,
    measure,
    draw=dot_panels((PRECISION, METHODS), (GAP, METHODS), (RECALL, METHODS), rotation=40),
    seeds=range(210, 242),
    registered="d704fdbc88ef",
)
