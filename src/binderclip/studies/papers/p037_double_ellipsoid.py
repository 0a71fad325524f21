"""Do image and text embeddings lie on thin shells off the centre, and is the loss least where training left them?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from binderclip.evaluate import EmbeddingGeometry, EmbeddingSet, conformity, conformity_estimate
from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.studies.protocols.data.pack_embeddings import clip_art

PAIRS, BATCH = 1536, 256
SIDES = ("image", "text")
ESTIMATE, OFFSET, SPREAD, APART = "correlation with the estimate", "offset", "spread of the shell", "separability"
SHARE = "share of the mean, of -1 to 1, that is best taken off, distance from 0"
COSTS, EVEN = "what centring both adds to the loss", "what centring both takes off the uniformity"
HERE, WANDERED = "embeddings", "embeddings with their signs drawn at random"
ALPHAS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
APART_BY = "divergence of the conformities (nats)"
AS_TRAINED, CENTRED = "as trained", "both centred"


def pairs(seed: int, random_signs: bool = False) -> EmbeddingGeometry:
    """Training pairs; with random signs each vector is turned round or not, which leaves no mean and no pairs."""
    found = clip_art("train")
    rng = np.random.default_rng([seed, 37])
    rows = torch.from_numpy(rng.permutation(len(found.texts))[:PAIRS])
    parts = [found.images[rows], found.captions[rows]]
    if random_signs:
        parts = [x * torch.from_numpy(rng.choice([-1.0, 1.0], (len(x), 1))).float() for x in parts]
    return EmbeddingGeometry(EmbeddingSet(parts[0], "image"), EmbeddingSet(parts[1], "text"))


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = []
    for name, spoilt in ((HERE, False), (WANDERED, True)):
        geometry = pairs(seed, spoilt)
        report = geometry.report()
        for side in SIDES:
            own = getattr(report, side)
            rows += [
                Row(ESTIMATE, name, own.estimate, side),
                Row(OFFSET, name, own.offset, side),
                Row(SPREAD, name, own.shell_spread, side),
            ]
        rows.append(Row(APART, name, report.separability))
        landscape = geometry.shift_landscape(ALPHAS, scale=34.0, batch=BATCH)
        place, whole = ALPHAS.index(0.0), ALPHAS.index(1.0)
        for side, best in zip(SIDES, landscape.best, strict=True):
            rows.append(Row(SHARE, name, abs(best), side))
        rows.append(Row(COSTS, name, float(landscape.loss[whole, whole] - landscape.loss[place, place])))
        rows.append(Row(EVEN, name, float(landscape.uniformity[place, place] - landscape.uniformity[whole, whole])))
        for setting, at in ((AS_TRAINED, place), (CENTRED, whole)):
            rows.append(Row(APART_BY, name, float(landscape.divergence[at, at]), setting))
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Conformity against its estimate, both histograms, and the loss over moved means."""
    geometry = pairs(STUDY.seeds[0])
    left, middle, right = figure.subplots(1, 3)
    for number, part in enumerate((geometry.image, geometry.text)):
        exact = conformity(part.features)
        left.plot(conformity_estimate(part.features), exact, ".", ms=2, color=f"C{number}", label=part.modality)
        middle.hist(exact.numpy(), 60, color=f"C{number}", alpha=0.6, label=part.modality)
    left.set(title="Conformity and its estimate", xlabel="estimated", ylabel="mean cosine with all others")
    middle.set(title="Conformities", xlabel="mean cosine with all others")
    left.legend()
    middle.legend()
    found = geometry.shift_landscape(ALPHAS, scale=34.0, batch=BATCH)
    shown: Any = right.imshow(found.loss.numpy(), origin="lower", cmap="viridis_r")
    ticks = range(len(ALPHAS))
    right.set_xticks(ticks, [f"{a:g}" for a in ALPHAS], fontsize=6)
    right.set_yticks(ticks, [f"{a:g}" for a in ALPHAS], fontsize=7)
    right.plot(ALPHAS.index(0.0), ALPHAS.index(0.0), "ko", ms=5)
    right.set(title="Loss over shares of the means", xlabel="text mean taken off", ylabel="image mean taken off")
    right.grid(visible=False)
    figure.colorbar(shown, ax=right)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 28), remeasure="by these criteria, on new seeds.")
