"""Does training on a selection that is balanced over concepts serve rare concepts better than on a random one?"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.curate import CurationPipeline, MetadataBalancer
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.training.selections import CONCEPTS, MemoryTable, clip_art, linear_map, pictured, said

POOL, KEPT, ZIPF = 4000, 2000, 1.2
BALANCED, RANDOM, AGAIN, WHOLE = "balanced", "random", "random, drawn again", "the whole pool"
METHODS = (BALANCED, RANDOM, AGAIN, WHOLE)
ACCURACY, ALL, TAIL, HEAD = "accuracy, mean over concepts", "all", "rarer half", "commoner half"
RATIO = "largest count over the median"


@lru_cache(maxsize=2)
def _pictures(split: str) -> tuple[Float[Tensor, "N D"], list[str], Bool[np.ndarray, "N C"]]:
    """Features of clip art whose caption names a concept, the captions, and which concepts each names."""
    images, captions = clip_art(split)
    named = np.array([[word in re.findall(r"[a-z]+", text) for word in CONCEPTS] for text in captions])
    rows = np.flatnonzero(named.any(1))
    return pictured([images[row] for row in rows]), [captions[row] for row in rows], named[rows]


def pool_of(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of a pool, with repeats: concept of rank r is drawn with r^-1.2; and the concepts by rank."""
    rng, named = np.random.default_rng([seed, 150]), _pictures("train")[2]
    order = rng.permutation(len(CONCEPTS))
    share = np.arange(1, len(CONCEPTS) + 1) ** -ZIPF
    drawn = rng.choice(order, POOL, p=share / share.sum())
    return np.array([rng.choice(np.flatnonzero(named[:, concept])) for concept in drawn]), order


def selections(seed: int, pool: np.ndarray) -> dict[str, np.ndarray]:
    """Places in the pool that each method keeps."""
    captions = [_pictures("train")[1][row] for row in pool]
    rule = MetadataBalancer(concepts=CONCEPTS, target=KEPT, lower=True)
    kept = CurationPipeline([rule]).run(MemoryTable(captions), seed=seed).decisions["pool"] < 0
    balanced, rng = np.flatnonzero(kept), np.random.default_rng([seed, 151])
    random = {name: rng.choice(POOL, len(balanced), replace=False) for name in (RANDOM, AGAIN)}
    return {BALANCED: balanced, **random, WHOLE: np.arange(POOL)}


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    pool, order = pool_of(seed)
    features, _, named = _pictures("val+test")
    train, captions, train_named = _pictures("train")
    texts, words = said(tuple(captions)), said(CONCEPTS)
    groups = {ALL: order, HEAD: order[: len(order) // 2], TAIL: order[len(order) // 2 :]}
    results = []
    for name, kept in selections(seed, pool).items():
        counts = train_named[pool[kept]].sum(0)
        results.append(Row(RATIO, name, float(counts.max() / np.median(counts))))
        weight = linear_map(train, texts, pool[kept], seed)
        guessed = (F.normalize(features @ weight, dim=1) @ words.T).argmax(1).numpy()
        right = named[np.arange(len(named)), guessed]
        by_concept = np.array([right[named[:, concept]].mean() for concept in range(len(CONCEPTS))])
        results += [Row(ACCURACY, name, float(by_concept[group].mean()), part) for part, group in groups.items()]
    return results


def draw(table: Table, figure: Figure) -> None:
    """Counts of concepts before and after, and the accuracies."""
    left, *others = figure.subplots(1, 4, width_ratios=[1.4, 1, 1, 1])
    pool, order = pool_of(STUDY.seeds[0])
    named = _pictures("train")[2]
    for name, kept in selections(STUDY.seeds[0], pool).items():
        if name != AGAIN:
            left.plot(named[pool[kept]].sum(0)[order], label=name)
    left.set(yscale="log", xlabel="concept by rank", ylabel="captions that name it")
    left.legend(fontsize=7)
    for ax, part in zip(others, (ALL, HEAD, TAIL), strict=True):
        dots(ax, table, ACCURACY, METHODS, part)
        ax.set_title(part, fontsize=9)
        ax.tick_params(axis="x", labelrotation=40, labelsize=7)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 40), registered="5b16b36c97e6")
