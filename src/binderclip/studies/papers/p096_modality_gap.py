"""Does taking each modality's mean away help a search over texts, pictures and documents of both?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from binderclip.evaluate import EmbeddingSet, GapRemoval, MixedModalityRetrieval, modality_gap
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.data.pack_embeddings import PackEmbeddings, clip_art

DOCUMENTS, K = 500, 10
PLAIN, REMOVED, POOLED, RANDOM = "plain cosine", "gap removed", "one common mean removed", "random means removed"
METHODS = (PLAIN, REMOVED, POOLED)
NDCG, FAR, GAP = "NDCG@10", "share of pictures among the first 10, distance from a third", "gap"
ONLY = {"text": "NDCG@10, document is a text", "image": "NDCG@10, document is a picture", "both": "NDCG@10, both"}
SHARE, KINDS = "share of the first 10", ("text", "image", "both")


def _sets(found: PackEmbeddings) -> tuple[EmbeddingSet, EmbeddingSet, EmbeddingSet]:
    return (
        EmbeddingSet(found.captions, "text", "query"),
        EmbeddingSet(found.descriptions, "text"),
        EmbeddingSet(found.images, "image"),
    )


@lru_cache(maxsize=4)
def removal_of(name: str, seed: int = 0) -> GapRemoval | None:
    """What is taken away, fitted on training pictures alone."""
    if name == PLAIN:
        return None
    removal = GapRemoval().fit(*_sets(clip_art("train")))
    means = removal.state_dict()
    if name == POOLED:
        removal.load_state_dict(dict.fromkeys(means, torch.stack(list(means.values())).mean(0)))
    elif name == RANDOM:
        generator = torch.Generator().manual_seed(seed)
        drawn = (torch.randn(len(mean), generator=generator, dtype=torch.float64) for mean in means.values())
        removal.load_state_dict(
            {key: one / one.norm() * mean.norm() for one, (key, mean) in zip(drawn, means.items(), strict=True)}
        )
    return removal


@lru_cache(maxsize=1)
def _held() -> tuple[Tensor, Tensor, Tensor]:
    parts = [clip_art(split) for split in ("val", "test")]
    return tuple(torch.cat([getattr(p, name) for p in parts]) for name in ("captions", "descriptions", "images"))  # type: ignore[return-value]


def measure(seed: int) -> list[Row]:
    """All rows of one seed: 500 held-out documents, a third of each kind, asked for by their captions."""
    asked, texts, images = _held()
    rows = torch.from_numpy(np.random.default_rng([seed, 96]).permutation(len(asked))[:DOCUMENTS])
    search = MixedModalityRetrieval(
        asked[rows], texts[rows], images[rows], torch.eye(DOCUMENTS, dtype=torch.bool), modes=seed, k=K
    )
    found = []
    for name in (*METHODS, RANDOM):
        removal = removal_of(name, seed if name == RANDOM else 0)
        figures = search.evaluate(removal)
        found += [
            Row(NDCG, name, figures.ndcg),
            Row(FAR, name, abs(figures.shares["image"] - 1 / 3)),
            *(Row(SHARE, name, figures.shares[kind], kind) for kind in KINDS),
            *(Row(text, name, figures.by_mode[mode]) for mode, text in ONLY.items()),
        ]
        sides = []
        for part, modality in ((texts[rows], "text"), (images[rows], "image")):
            shown = part if removal is None else removal.transform(part, modality)
            sides.append(EmbeddingSet(shown, modality))
        found.append(Row(GAP, name, modality_gap(*sides)))
    return found


def draw(table: Table, figure: Figure) -> None:
    """NDCG of all documents and of each kind, and what is shown."""
    panels: list[Any] = list(figure.subplots(1, 5))
    names = {PLAIN: "plain", REMOVED: "gap\nremoved", POOLED: "common\nmean", RANDOM: "random\nmeans"}
    for ax, metric in zip(panels[:4], (NDCG, *ONLY.values()), strict=True):
        dots(ax, table, metric, list(names))
        ax.set_title(metric.replace(", ", ",\n"), fontsize=8)
    under = [0.0] * len(names)
    for kind in KINDS:
        shares = [table.mean(SHARE, name, kind) for name in names]
        panels[4].bar(range(len(names)), shares, 0.8, bottom=under, label=kind)
        under = [low + share for low, share in zip(under, shares, strict=True)]
    panels[4].set_title("shares of the first 10", fontsize=8)
    panels[4].set_ylim(0, 1.15)
    panels[4].legend(fontsize=7, loc="upper center", ncols=3, columnspacing=0.8, handlelength=1)
    for ax in panels:
        ax.set_xticks(range(len(names)), names.values(), fontsize=6)
        ax.tick_params(axis="y", labelsize=7)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 32), registered="4df8d8ec2efd")
