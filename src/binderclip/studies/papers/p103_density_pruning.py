"""Do quotas by the complexity of clusters, the least typical first, prune as well as chance, better than equal ones?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from binderclip.curate import ClusterPruner, CurationPipeline, KeepRule, ScoreTopFraction, SemanticDuplicates
from binderclip.curate.engine.rule import Statistics
from binderclip.data import load_data
from binderclip.evaluate import retrieval
from binderclip.studies.harness import Figure, Row, Table, dataset_features, declared_study, dots
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.training.selections import MemoryTable, clip_art, linear_map, pictured, said

WRONG, TWICE, CLUSTERS, SCORED, KEPT, TAU, EPS = 0.2, 0.2, 40, 0.6, 0.4, 0.1, 0.002
DENSITY, ANY, UNIFORM, SHUFFLED, FILTERED, RANDOM = (
    "density quota, hard first", "density quota, any", "equal quotas, hard first", "quotas drawn at random, hard first",
    "random after the filters", "random",
)  # fmt: skip
METHODS = (DENSITY, ANY, UNIFORM, SHUFFLED, FILTERED, RANDOM)
RECALL, BOTH, FALSE = "text to picture, R@5", "planted pairs of which both are kept", "share of wrong captions"
RANK = "rank correlation of quota and complexity"


@dataclass(frozen=True, kw_only=True)
class ShuffledQuotas(ClusterPruner):
    """The same shares as `ClusterPruner`, given to clusters at random: quotas as unequal that mean nothing.

    Args:
        drawn: seed of the order.
    """

    drawn: int = 0

    def probabilities(self, statistics: Statistics) -> Float[np.ndarray, "k"]:
        """See `ClusterPruner`."""
        return np.random.default_rng([self.drawn, 105]).permutation(super().probabilities(statistics))


class NoisedPool(NamedTuple):
    """Which training picture each pair shows, whose caption it has; and pictures that stand in the pool twice."""

    shows: Int[np.ndarray, "N"]
    says: Int[np.ndarray, "N"]
    twice: Int[np.ndarray, "T"]


@lru_cache(maxsize=2)
def pool_of(seed: int) -> NoisedPool:
    """All training clip art, a fifth with the caption of another picture, and a fifth once more."""
    rng, count = np.random.default_rng([seed, 103]), len(clip_art("train")[0])
    says, wrong = np.arange(count), rng.choice(count, round(WRONG * count), replace=False)
    says[wrong] = np.roll(wrong, 1)
    again = rng.choice(count, round(TWICE * count), replace=False)
    return NoisedPool(np.concatenate([np.arange(count), again]), np.concatenate([says, says[again]]), again)


@lru_cache(maxsize=1)
def _features() -> tuple[Tensor, Tensor]:
    """Of the training pictures: `small-dino`'s, which are trained on, and `small`'s, which the rules read."""
    return pictured(clip_art("train")[0]), dataset_features(bundled(), load_data("openclipart", split="train"))


def pairs_of(pool: NoisedPool) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N E"], Float[Tensor, "N E"]]:
    """Features of the pool's pictures, their embeddings for the rules, and features of the captions."""
    features, embedded = _features()
    return features[pool.shows], embedded[pool.shows], said(tuple(clip_art("train")[1]))[pool.says]


def selections(seed: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """What each method keeps, as many for all; and how the quotas of each follow the clusters' complexity."""
    pool = pool_of(seed)
    _, embedded, texts = pairs_of(pool)
    captions = [clip_art("train")[1][row] for row in pool.says]
    table = MemoryTable(captions, {"embedding": embedded.numpy(), "score": (embedded * texts).sum(1).numpy()})
    filters: list[KeepRule] = [
        SemanticDuplicates(embedding="embedding", k=CLUSTERS, eps=EPS),
        ScoreTopFraction(column="score", fraction=SCORED),
    ]

    options: dict[str, Any] = {"embedding": "embedding", "k": CLUSTERS, "keep_share": KEPT, "tau": TAU}
    rules = {
        DENSITY: ClusterPruner(**options),
        ANY: ClusterPruner(order="random", **options),
        UNIFORM: ClusterPruner(quota="uniform", **options),
        SHUFFLED: ShuffledQuotas(drawn=seed, **options),
    }
    done = {name: CurationPipeline([*filters, rule]).run(table, seed=seed) for name, rule in rules.items()}
    statistics = {name: np.flatnonzero(one.decisions["pool"] < 0) for name, one in done.items()}
    reached = np.flatnonzero(~np.isin(done[DENSITY].decisions["pool"], [0, 1]))  # dropped by neither filter
    size, rng = len(statistics[DENSITY]), np.random.default_rng([seed, 104])
    statistics[FILTERED] = rng.choice(reached, size, replace=False)
    statistics[RANDOM] = rng.choice(len(pool.says), size, replace=False)
    figures = {name: done[name].report.stages[-1].figures for name in (DENSITY, SHUFFLED)}
    return statistics, {name: float(spearmanr(f["quotas"], f["complexity"]).statistic) for name, f in figures.items()}


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    pool = pool_of(seed)
    pictures, _, texts = pairs_of(pool)
    captions = clip_art("val+test")[1]
    held, asked = pictured_once(), said(tuple(captions))
    statistics, ranks = selections(seed)
    results = [Row(RANK, name, value) for name, value in ranks.items()]
    for name, rows in statistics.items():
        mapped = F.normalize(held @ linear_map(pictures, texts, rows, seed), dim=1)
        results.append(Row(RECALL, name, retrieval(mapped, asked)["text_to_image/R@5"]))
        times = np.bincount(pool.shows[rows], minlength=len(clip_art("train")[0]))
        results.append(Row(BOTH, name, float((times[pool.twice] == 2).mean())))
        results.append(Row(FALSE, name, float((pool.says != pool.shows)[rows].mean())))
    return results


@lru_cache(maxsize=1)
def pictured_once() -> Float[Tensor, "N D"]:
    """Features of the held-out pictures."""
    return pictured(clip_art("val+test")[0])


def draw(table: Table, figure: Figure) -> None:
    """The recall of each selection, and how many planted faults it holds."""
    for ax, metric in zip(figure.subplots(1, 3), (RECALL, BOTH, FALSE), strict=True):
        dots(ax, table, metric, METHODS)
        ax.set_title(metric, fontsize=9)
        names = [
            name.replace(", hard first", ",\nhard first").replace(" after the filters", ",\nfiltered")
            for name in METHODS
        ]
        ax.set_xticks(range(len(METHODS)), names, fontsize=7, rotation=60)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(200, 224), registered="23f0f771e2ea")
