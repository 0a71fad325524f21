"""Do a neutral word and synonyms, whose logits are averaged, bring a score by words nearer to quality?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from binderclip.data.distortions.library import LEVELS
from binderclip.quality import PromptEnsemble, PromptQuality
from binderclip.quality.score.qboost import TEMPLATE, TRIPLES
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.distorted_tiles import series, tiles
from binderclip.studies.protocols.training.selections import said

LEARNED_LEVELS, TONES, STRENGTH = (1, 3, 5), (0, 0, 1, 2), 1.0
"""Levels to learn from, besides the picture itself; which tone, from best to worst, these four are; inverse penalty."""
BINARY, TRIADIC, PAIRS, BOTH = "two words", "three words", "two words, synonyms", "three words, synonyms"
RANDOM, AGAIN, THIRD = "random words", "random words, drawn again", "random words, third draw"
RIDGE = "linear regression of the level"
METHODS = (BINARY, TRIADIC, PAIRS, BOTH, RIDGE, RANDOM, AGAIN, THIRD)
RANK, LEARNED, KNOWN = "rank correlation with quality", "learned words", "words of `small`"


class LinearWords:
    """A logit for every word, linear in the features of a picture, which stand in its place.

    Args:
        weights: word -> weights, the constant last.
    """

    def __init__(self, weights: dict[str, Float[np.ndarray, "E1"]]) -> None:
        self.weights = weights

    def word_logits(self, images: Float[Tensor, "B E"], words: Sequence[str]) -> Float[Tensor, "B W"]:
        """Logits of the words."""
        table = torch.as_tensor(np.stack([self.weights[word] for word in words], 1), dtype=images.dtype)
        return images @ table[:-1] + table[-1]


def learned_words(known: Float[Tensor, "K L n E"], seed: int) -> LinearWords:
    """Multinomial logistic regression of the tone, for each row of synonyms on tiles drawn with repeats."""
    from sklearn.linear_model import LogisticRegression

    rng, weights = np.random.default_rng([seed, 177]), {}
    for row in TRIPLES:
        features = known[:, :, torch.from_numpy(rng.integers(0, known.shape[2], known.shape[2]))]
        tones = torch.tensor(TONES)[None, :, None].expand(features.shape[:3]).flatten()
        fitted: Any = LogisticRegression(C=STRENGTH, max_iter=500).fit(features.flatten(0, 2).numpy(), tones.numpy())
        for tone, word in enumerate(row):
            weights[word] = np.append(fitted.coef_[tone], fitted.intercept_[tone])
    return LinearWords(weights)


def known_words(scale: float) -> LinearWords:
    """The words as `small` has them in its texts: scaled cosines."""
    words = [word for row in TRIPLES for word in row]
    texts = scale * said(tuple(TEMPLATE.format(word) for word in words)).numpy()
    return LinearWords({word: np.append(text, 0.0) for word, text in zip(words, texts, strict=True)})


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    from sklearn.linear_model import Ridge

    embed, (learn, test) = PromptQuality(bundled()), tiles(seed)
    known = series(embed, learn, seed, LEARNED_LEVELS)
    unknown = series(embed, test, seed + 1000, range(1, LEVELS + 1))
    quality = -torch.arange(LEVELS + 1)[None, :, None].expand(unknown.shape[:3]).flatten().numpy()
    flat, ends = unknown.flatten(0, 2), [(row[0], row[-1]) for row in TRIPLES]

    def rank(scores: Any) -> float:
        return float(spearmanr(np.asarray(scores), quality).statistic)

    def scored(scorer: LinearWords, sets: Sequence[Sequence[str]]) -> float:
        return rank(PromptEnsemble(scorer, sets)(flat).double())

    rows = []
    for source, scorer in ((LEARNED, learned_words(known, seed)), (KNOWN, known_words(float(embed.scale)))):
        found = {
            BINARY: float(np.mean([scored(scorer, [row]) for row in ends])),
            TRIADIC: float(np.mean([scored(scorer, [row]) for row in TRIPLES])),
            PAIRS: scored(scorer, ends),
            BOTH: scored(scorer, TRIPLES),
        }
        rows += [Row(RANK, name, value, source) for name, value in found.items()]
    rng = np.random.default_rng([seed, 178])
    for name in (RANDOM, AGAIN, THIRD):
        drawn = {word: rng.standard_normal(flat.shape[1] + 1) for row in TRIPLES for word in row}
        rows.append(Row(RANK, name, scored(LinearWords(drawn), TRIPLES), LEARNED))
    levels = torch.tensor([0, *LEARNED_LEVELS])[None, :, None].expand(known.shape[:3]).flatten()
    fitted: Any = Ridge(alpha=1 / STRENGTH).fit(known.flatten(0, 2).numpy(), -levels.numpy())
    return [*rows, Row(RANK, RIDGE, rank(fitted.predict(flat.numpy())), LEARNED)]


def draw(table: Table, figure: Figure) -> None:
    """The rank correlation of every score, by learned words and by the model's own."""
    for ax, source, methods in zip(
        figure.subplots(1, 2, width_ratios=[2, 1]), (LEARNED, KNOWN), (METHODS, METHODS[:4]), strict=True
    ):
        dots(ax, table, RANK, methods, source)
        ax.set_title(source, fontsize=9)
        ax.axhline(0, color="grey", linewidth=0.8)
        ax.set_xticks(range(len(methods)), methods, fontsize=7, rotation=60)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 34), registered="7f32f3ddeb9b")
