"""Does a short training towards common random vectors, beside a frozen copy, close the gap and cost nothing?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from binderclip.evaluate import EmbeddingSet, GapRemoval, modality_gap
from binderclip.losses import ContrastiveLoss, Cosine, clip, clip_refine
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.training import contrastive_towers as towers

SCALE, STEPS, BATCH, AFTER, RATE = 100.0, 300, 128, 60, 3e-4
BEFORE, REFINED, MEANS = "pre-trained", "CLIP-Refine", "means removed"
CONTRASTIVE, RAFA, HYCD, APART = "InfoNCE again", "random vectors alone", "distillation alone", "two random vectors"
GAP, ACCURACY, RECALL = "gap", "zero-shot accuracy", "R@5, mean of both directions"
LOSSES: dict[str, Callable[[int], ContrastiveLoss]] = {
    REFINED: lambda seed: clip_refine(seed=seed),
    CONTRASTIVE: lambda seed: clip(init_scale=SCALE, learnable=False),
    RAFA: lambda seed: clip_refine(hycd=0.0, seed=seed),
    HYCD: lambda seed: clip_refine(rafa=0.0),
    APART: lambda seed: clip_refine(shared=False, seed=seed),
}
METHODS = (BEFORE, *LOSSES, MEANS)


class _Centred(Cosine):
    """Cosines of embeddings without the mean of their modality."""

    def __init__(self, removal: GapRemoval) -> None:
        super().__init__()
        self.removal = removal

    def embed(self, x: Tensor, modality: str = "image") -> Tensor:
        return super().embed(self.removal.transform(x.detach(), modality).to(x))


def figures(model: towers.Towers, name: str, similarity: Cosine) -> list[Row]:
    """Gap, zero-shot accuracy and recall on the held-out clip art."""
    sides = zip(model.embed(towers.held_out()), ("image", "text"), strict=True)
    image, text = (EmbeddingSet(similarity.embed(x, side), side) for x, side in sides)
    return [
        Row(GAP, name, modality_gap(image, text)),
        Row(ACCURACY, name, towers.accuracy(model, similarity)),
        Row(RECALL, name, towers.recall(model, similarity)),
    ]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    start, _ = towers.train_towers(
        lambda: clip(init_scale=SCALE, learnable=False), seed, steps=STEPS, batch=BATCH, unit=True
    )
    rows = figures(start, BEFORE, Cosine())
    for name, make in LOSSES.items():
        tuned = towers.tune_towers(start, partial(make, seed), seed, steps=AFTER, batch=BATCH, rate=RATE)
        rows += figures(tuned, name, Cosine())
    image, text = start.embed(towers.training())
    removal = GapRemoval().fit(EmbeddingSet(image, "image"), EmbeddingSet(text, "text"))
    return rows + figures(start, MEANS, _Centred(removal))


def draw(table: Table, figure: Figure) -> None:
    """The gap, accuracy and recall of each way to go on."""
    panels: Any = figure.subplots(1, 3)
    for ax, metric in zip(panels, (GAP, ACCURACY, RECALL), strict=True):
        dots(ax, table, metric, METHODS)
        ax.axhline(table.mean(metric, BEFORE), color="C7", linestyle=":")
        ax.set_title(metric, fontsize=9)
        ax.tick_params(axis="x", labelrotation=60, labelsize=7)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 26), registered="e5c89cd461fe")
