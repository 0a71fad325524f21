"""Do pairs of antonyms track how strongly a picture is distorted, does a lone prompt, and does a learned context?"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from binderclip.data.distortions.library import LEVELS
from binderclip.quality import CLIPIQAPlus, PromptQuality
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.distorted_tiles import KINDS, series, tiles, tracked

CONTEXT, STEPS, RATE = 8, 100, 0.02
LEARNED_LEVELS = (1, 3, 5)
"""Levels of the tiles to learn from, besides the tile itself."""
MATCHING, SINGLE, OTHER, QUALITY = "matching pair", "its positive prompt alone", "pair happy, sad", "pair good, bad"
LEARNED, RANDOM, AGAIN = "learned context", "random direction", "random direction, drawn again"
METHODS = (MATCHING, SINGLE, OTHER, QUALITY, LEARNED, RANDOM, AGAIN)
RANK, ALL = "rank correlation with the level", "all"
CHOSEN = "share of tiles scored above themselves at the strongest level"


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    learn, test = tiles(seed)
    pairs = PromptQuality(bundled(), [*dict.fromkeys(KINDS.values()), "happy", "quality"])
    known = series(pairs, learn, seed, LEARNED_LEVELS)
    unknown = series(pairs, test, seed + 1000, range(1, LEVELS + 1))
    fitted = CLIPIQAPlus(bundled(), "quality", n_ctx=CONTEXT, seed=seed)
    opinions = (1 - torch.tensor([0, *LEARNED_LEVELS]) / LEVELS)[:, None].expand(known.shape[:3]).flatten()
    fitted.fit_features(
        known.flatten(0, 2), opinions, steps=STEPS, lr=RATE, batch_size=len(opinions), optimizer="adamw"
    )  # fmt: skip
    draws = F.normalize(torch.randn(2, unknown.shape[-1], generator=torch.Generator().manual_seed(seed)), dim=1)
    with torch.no_grad():
        flat, shape = unknown.flatten(0, 2), unknown.shape[:3]
        each = dict(zip(pairs.sets, pairs.each(flat).T.unflatten(1, shape), strict=True))
        alone = dict(zip(pairs.sets, (flat @ pairs.text[:, 0].T).T.unflatten(1, shape), strict=True))
        learned = fitted.total(flat).unflatten(0, shape)
        random, again = (draws @ flat.T).unflatten(1, shape)
    rows = []
    for number, (kind, word) in enumerate(KINDS.items()):
        scores = {
            MATCHING: each[word], SINGLE: alone[word], OTHER: each["happy"], QUALITY: each["quality"],
            LEARNED: learned, RANDOM: random, AGAIN: again,
        }  # fmt: skip
        rows += [Row(RANK, name, tracked(score[number]), kind) for name, score in scores.items()]
        chosen = float((each[word][number, 0] > each[word][number, -1]).float().mean())
        rows.append(Row(CHOSEN, MATCHING, chosen, kind))
    means = {
        name: float(np.mean([row.value for row in rows if row.metric == RANK and row.method == name]))
        for name in METHODS
    }
    return [*rows, *(Row(RANK, name, value, ALL) for name, value in means.items())]


def draw(table: Table, figure: Figure) -> None:
    """The correlation of every score, over all kinds and for each of them."""
    for ax, kind in zip(figure.subplots(1, len(KINDS) + 1, sharey=True), (ALL, *KINDS), strict=True):
        dots(ax, table, RANK, METHODS, kind)
        ax.set_title(kind.replace("_", " "), fontsize=9)
        ax.axhline(0, color="grey", linewidth=0.8)
        ax.set_xticks(range(len(METHODS)), METHODS, fontsize=7, rotation=75)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 22), registered="acf9803c37fd")
