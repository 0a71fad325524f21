"""Do pairs of antonyms track how strongly a picture is distorted, does a lone prompt, and does a learned context?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from binderclip.data.distortions.library import LEVELS
from binderclip.quality import CLIPIQAPlus, PromptQuality
from binderclip.studies.harness.criteria import Criterion, Precondition
from binderclip.studies.harness.panels import dots
from binderclip.studies.harness.power import Pilot
from binderclip.studies.harness.quantities import Quantity, combined, value_of
from binderclip.studies.harness.study import Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.distorted_tiles import KINDS, SIDE, TILES, series, tiles, tracked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONTEXT, STEPS, RATE = 8, 100, 0.02
PILOT = (100, 101, 102)
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


def _rank(name: str) -> Quantity:
    return value_of(RANK, name, ALL)


CRITERIA = (
    Criterion.at_least(
        "the matching pair follows the level, and better than its positive prompt alone: the lesser of its rank "
        "correlation and of its lead",
        combined("least", _rank(MATCHING), _rank(MATCHING) - _rank(SINGLE)), 0.0,
        claimed=0.1, pilot=Pilot(0.05, PILOT), essential=True,
    ),
    Criterion.at_least(
        "a learned context follows the level, and better than the same words without it: the lesser of its rank "
        "correlation and of its lead",
        combined("least", _rank(LEARNED), _rank(LEARNED) - _rank(QUALITY)), 0.0,
        claimed=0.1, expected=0.25, pilot=Pilot(0.23, PILOT), essential=True,
    ),
    Criterion.paired("the matching pair follows the level better than a pair about something else",
                     _rank(MATCHING), _rank(OTHER)),
    Criterion.at_least("a learned context reaches a rank correlation of 0.5", _rank(LEARNED), 0.5),
)  # fmt: skip


def draw(table: Table, figure: Figure) -> None:
    """The correlation of every score, over all kinds and for each of them."""
    for ax, kind in zip(figure.subplots(1, len(KINDS) + 1, sharey=True), (ALL, *KINDS), strict=True):
        dots(ax, table, RANK, METHODS, kind)
        ax.set_title(kind.replace("_", " "), fontsize=9)
        ax.axhline(0, color="grey", linewidth=0.8)
        ax.set_xticks(range(len(METHODS)), METHODS, fontsize=7, rotation=75)


STUDY = Study(
    paper="p012",
    claim="The score of a pair of antonyms follows how strongly a picture is distorted, where the positive prompt "
    "alone does not, and a context learned from opinions follows it better.",
    protocol=f"Tiles of the twenty photographs of scikit-image and scikit-learn, reduced to {SIDE} px and embedded by "
    "`small` at that size. Gaussian blur and noise, darkening and loss of contrast at five levels; the pair that says "
    "each is sharp and blurry, clean and noisy, bright and dark, high and low contrast. Spearman's correlation of the "
    "falling score with the level, of each tile, mean over the ten tiles of one half of the photographs and over the "
    f"kinds. The other half, {TILES} tiles of each, at the levels {', '.join(map(str, LEARNED_LEVELS))} and whole, "
    f"teaches a context of {CONTEXT} vectors to \"Good photo.\" and \"Bad photo.\": opinions are 1 - level / 5, "
    f"{STEPS} steps of AdamW at {RATE}, all pictures a step. Halves, tiles, distortions and the start depend on the "
    "seed. The rate lies between two that did equally well on pilot seeds; the spreads are those of three pilot seeds "
    "with one tile of each photograph to learn from. Criteria, their form and the precondition were written after "
    "these seeds, in which the matching pair was near chance; without the precondition the claim would be excluded "
    "here. Pilot and study share the twenty photographs.",
    baseline="The positive prompt of the matching pair alone; for the learned context the same pair without it.",
    lower_bound="Random directions of the embedding: 0. One of them stands in the null's place.",
    upper_bound="",
    measure=measure,
    criteria=CRITERIA,
    preconditions=(
        Precondition(
            "`small` knows the words: the matching pair scores a tile above itself at the strongest level",
            value_of(CHOSEN, MATCHING, *KINDS), 0.6,
        ),
    ),
    rival=Criterion.paired("a learned context follows the level better than the matching pair",
                           _rank(LEARNED), _rank(MATCHING)),
    draw=draw,
    seeds=tuple(range(10, 22)),
    null={MATCHING: RANDOM, LEARNED: AGAIN},
    one_thread=True,
    registered="acf9803c37fd",
    stand_in=(
        "`small`, whose captions are of drawings, instead of CLIP RN50",
        "synthetic distortions of twenty photographs, and their levels, instead of KonIQ-10k, SPAQ and LIVE-itW with "
        "opinions of people",
    ),
)  # fmt: skip
