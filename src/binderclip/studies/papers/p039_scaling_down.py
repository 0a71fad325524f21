"""Do the better 40 % of noisy pairs beat all of them, and does augmentation with half the data come close to all?"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.losses import Cosine, clip
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.training import contrastive_towers as towers
from binderclip.studies.protocols.training.view_towers import held_out_pictures, training_pictures, view_features

NOISE, BATCH, PASSES, RATE = 0.5, 128, 12, 1e-3
SHARES = (0.2, 0.4, 0.6)
ALL, BEST, RANDOM = "all pairs", "best 40 %", "random 40 %"
SHORT = "all pairs, a quarter of the steps"
WHOLE, HALF, HALF_VIEWS = "all clean pairs", "half", "half, augmented"
ONCE, ONCE_VIEWS = "all clean pairs, one pass", "all clean pairs, one pass, augmented"
NOISY = (ALL, "best 60 %", BEST, "best 20 %", RANDOM, SHORT)
CLEAN = (WHOLE, HALF, HALF_VIEWS, ONCE, ONCE_VIEWS)
ACCURACY, RECALL = "zero-shot accuracy", "R@5, mean of both directions"
RIGHT = "share of pairs whose caption is right"


def trained(
    seed: int,
    rows: Int[Tensor, "n"],
    steps: int,
    *,
    words: Float[Tensor, "N V"] | None = None,
    views: Float[Tensor, "N K D"] | None = None,
) -> towers.Towers:
    """Towers trained on some pairs; weights, batches and views come from the seed.

    Args:
        seed: of everything.
        rows: the pairs that there are.
        steps: batches.
        words: of each picture's caption; default the right ones.
        views: features of views of each picture, of which each batch draws one; default the whole picture.
    """
    from binderclip.fit import fit

    pictures = training_pictures() if views is None else views
    known = towers.training().words if words is None else words
    model, loss, generator = towers.Towers(seed), clip(), torch.Generator().manual_seed(seed)

    def step(chosen: Tensor) -> Tensor:
        seen = pictures[chosen]
        if seen.ndim == 3:
            seen = seen[torch.arange(len(seen)), torch.randint(seen.shape[1], (len(seen),), generator=generator)]
        return loss(model.image(seen), model.text(known[chosen])).total

    batches = (rows[torch.randperm(len(rows), generator=generator)[:BATCH]] for _ in range(steps))
    fit(step, [*model.parameters(), *loss.parameters()], batches, steps=steps, lr=RATE)
    return model


def scores(seed: int, words: Float[Tensor, "N V"], order: Int[Tensor, "N"], steps: int) -> Float[Tensor, "N"]:
    """Cosine of each noisy pair by towers that were trained on the other half of the noisy pairs."""
    found, halves = torch.empty(len(words)), order.chunk(2)
    for own, other in (halves, halves[::-1]):
        judge = trained(seed + 50_000, other, steps, words=words)
        with torch.no_grad():
            found[own] = nn.functional.cosine_similarity(judge.image(training_pictures()[own]), judge.text(words[own]))
    return found


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    right, count = towers.training().words, len(towers.training().captions)
    generator = torch.Generator().manual_seed(seed)
    order, source = torch.randperm(count, generator=generator), torch.arange(count)
    wrong = order[: round(NOISE * count)]
    source[wrong] = source[wrong.roll(1)]  # a cycle through half of the pairs: each has another's caption
    words, correct = right[source], (right[source] == right).all(1)
    once = count // BATCH
    steps = PASSES * once
    mixed = torch.randperm(count, generator=generator)
    ranked = scores(seed, words, mixed, steps // 2).argsort(descending=True)
    pools = {f"best {share:.0%}".replace("%", " %"): ranked[: round(share * count)] for share in SHARES}
    pools |= {ALL: mixed, RANDOM: mixed[: len(pools[BEST])], SHORT: mixed}
    rows = [Row(RIGHT, name, float(correct[pool].float().mean())) for name, pool in pools.items() if name != SHORT]
    for name, pool in pools.items():
        rows += figures(name, trained(seed, pool, steps // 4 if name == SHORT else steps, words=words))
    augmented = torch.cat([training_pictures()[:, None], view_features("weak")], dim=1)
    for name in CLEAN:
        pool = mixed[: count // 2] if name in (HALF, HALF_VIEWS) else mixed
        views = augmented if name in (HALF_VIEWS, ONCE_VIEWS) else None
        rows += figures(name, trained(seed, pool, once if name in (ONCE, ONCE_VIEWS) else steps, views=views))
    return rows


def figures(name: str, model: towers.Towers) -> list[Row]:
    """Rows of one way of training, on the whole held-out pictures."""
    found = {ACCURACY: towers.accuracy, RECALL: towers.recall}
    return [Row(metric, name, judge(model, Cosine(), pictures=held_out_pictures())) for metric, judge in found.items()]


def draw(table: Table, figure: Figure) -> None:
    """Accuracy of every way of training."""
    panels: Any = figure.subplots(1, 2)
    for ax, methods, title in zip(
        panels, (NOISY, CLEAN), ("half of the captions wrong", "captions right"), strict=True
    ):
        dots(ax, table, ACCURACY, methods)
        ax.set_title(f"{ACCURACY}, {title}", fontsize=9)
        ax.tick_params(axis="x", labelrotation=60, labelsize=7)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 52), registered="8aa81af29c23")
