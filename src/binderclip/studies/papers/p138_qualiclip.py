"""Does learning to order degraded crops by words of quality make a score follow distortions, also unknown ones?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from binderclip.data.distortions.library import LEVELS, distort
from binderclip.quality import ANTONYMS, PromptQuality, QualiCLIP
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.distorted_tiles import tiles, tracked

SEEN = ("gaussian_blur", "gaussian_noise", "jpeg", "darken")
UNSEEN = ("pixelate", "impulse_noise", "fog")
CROP, STEPS, BATCH, RATE = 64, 30, 2, 2e-4
BEFORE, AFTER = "without training", "QualiCLIP"
RIDGE, RANDOM = "linear regression of the level", "random direction"
METHODS = (BEFORE, AFTER, RIDGE, RANDOM)
RANK, POOLED = "rank correlation with the level", "rank correlation over all pictures"
TRAINED, OTHERS = "kinds it learned", "other kinds"


@torch.no_grad()
def _features(score: PromptQuality, images: Float[Tensor, "n 3 s s"], seed: int) -> Float[Tensor, "K L n E"]:
    """Of every kind and level, 0 included."""
    whole = score.embed(images)
    return torch.stack(
        [
            torch.stack([whole, *(score.embed(distort(images, kind, n, seed)) for n in range(1, LEVELS + 1))])
            for kind in SEEN + UNSEEN
        ]
    )


def _regressed(base: PromptQuality, learn: Float[Tensor, "n 3 s s"], seed: int) -> Any:
    """The rival: ridge regression from frozen features of the same tiles and kinds, levels 1 to 5."""
    from sklearn.linear_model import Ridge

    with torch.no_grad():
        levels = range(1, LEVELS + 1)
        known = [base.embed(distort(learn[: len(learn) // 2], kind, n, seed)) for kind in SEEN for n in levels]
    target = np.repeat([-n for _ in SEEN for n in levels], len(learn) // 2)
    return Ridge(alpha=1.0).fit(torch.cat(known).numpy(), target)


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    learn, test = tiles(seed)
    base, metric = PromptQuality(bundled(), ANTONYMS), QualiCLIP(bundled())
    metric.fit(list(learn), steps=STEPS, crop=CROP, kinds=SEEN, lr=RATE, batch_size=BATCH, seed=seed)
    frozen, tuned = (_features(score, test, seed + 1000) for score in (base, metric))
    drawn = F.normalize(torch.randn(frozen.shape[-1], generator=torch.Generator().manual_seed(seed)), dim=0)
    ridge = _regressed(base, learn, seed)
    with torch.no_grad():
        shape = frozen.shape[:3]
        scores = {
            BEFORE: base.total(frozen.flatten(0, 2)).unflatten(0, shape),
            AFTER: metric.total(tuned.flatten(0, 2)).unflatten(0, shape),
            RIDGE: torch.from_numpy(ridge.predict(frozen.flatten(0, 2).numpy())).unflatten(0, shape),
            RANDOM: frozen @ drawn,
        }
    rows = []
    for name, found in scores.items():
        each = {kind: tracked(found[number]) for number, kind in enumerate(SEEN + UNSEEN)}
        rows += [Row(RANK, name, value, kind) for kind, value in each.items()]
        for place, kinds in ((TRAINED, SEEN), (OTHERS, UNSEEN)):
            rows.append(Row(RANK, name, float(np.mean([each[kind] for kind in kinds])), place))
            levels = np.tile(np.arange(LEVELS + 1).repeat(shape[2]), len(kinds))
            rank = spearmanr(-levels, _part(found, kinds))
            rows.append(Row(POOLED, name, float(rank.statistic), place))
    return rows


def _part(found: Float[Tensor, "K L n"], kinds: tuple[str, ...]) -> np.ndarray:
    return found[[(SEEN + UNSEEN).index(kind) for kind in kinds]].flatten().numpy()


def draw(table: Table, figure: Figure) -> None:
    """The correlation of every score, over kinds that were and were not learned, and for each of them."""
    places = (TRAINED, OTHERS, *SEEN, *UNSEEN)
    for ax, place in zip(figure.subplots(1, len(places), sharey=True), places, strict=True):
        dots(ax, table, RANK, METHODS, place)
        ax.set_title(place.replace("_", " "), fontsize=8)
        ax.axhline(0, color="grey", linewidth=0.8)
        ax.set_xticks(range(len(METHODS)), METHODS, fontsize=7, rotation=75)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), registered="7ae1100f629c")
