"""Does the likelihood of whitened embeddings say how usual a picture or a caption is?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from binderclip.data import load_data
from binderclip.data.distortions.library import distort
from binderclip.evaluate import EmbeddingSet, Whitening, normality_report
from binderclip.studies.harness import Figure, Row, Table, declared_study, pictures
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.pack_embeddings import clip_art

SHOWN, LEVELS, MARKED = 100, (0, 1, 2, 3, 4, 5), 3
SHARE = 0.9
"""Of the training split that whitening is fitted on."""
WHITE, NORM, NEAREST = "likelihood", "length of the raw vector", "cosine to the nearest training vector"
SHUFFLED = "likelihood, variances in any order"
METHODS = (WHITE, NORM, NEAREST, SHUFFLED)
KINDS = ("gaussian_noise", "jpeg", "pixelate")
LEVELS_OF = {"gaussian_noise": LEVELS[1:], "jpeg": (MARKED,), "pixelate": (MARKED,)}
AUC, FALLS = "AUC, clean against distorted", "rank correlation of the mean with the level, negated"
WORDS = "AUC, captions against shuffled words"
SQUARE, NORMAL = "mean squared length over its expectation, distance from 1", "features that pass Anderson-Darling"
PEARSON = "features that pass D'Agostino and Pearson"
SUPPORT = "vectors fitted on for each dimension kept"


@lru_cache(maxsize=2)
def _pixels() -> Tensor:
    """All held-out clip art at the model's size."""
    clip = bundled()
    data = load_data("openclipart", "test")
    pixels, _ = data.pixels(clip.preprocess.size[0], mode="RGB")
    return pixels.float() / 255


@dataclass(frozen=True)
class Fitted:
    """What is learnt from nine tenths of the training split.

    Attributes:
        whitening: of pictures and captions.
        shuffled: the same axes, the variances in any order: a whitening that knows nothing of the covariance.
        known: the unit vectors fitted on, by modality.
    """

    whitening: Whitening
    shuffled: Whitening
    known: dict[str, Float[Tensor, "n d"]]

    def scores(self, x: Float[Tensor, "m d"], modality: str) -> dict[str, Float[np.ndarray, "m"]]:
        """How usual every vector is, by each method."""
        nearest = F.normalize(x.double(), dim=1) @ self.known[modality].T
        found = {
            WHITE: self.whitening.log_likelihood(x, modality),
            NORM: -x.double().norm(dim=1),
            NEAREST: nearest.amax(dim=1),
            SHUFFLED: self.shuffled.log_likelihood(x, modality),
        }
        return {name: values.numpy() for name, values in found.items()}


def fitted(seed: int) -> Fitted:
    """Whitening of pictures and captions of the training split, nine tenths of them at random."""
    found = clip_art("train")
    count = int(SHARE * len(found.texts))
    rows = torch.from_numpy(np.random.default_rng([seed, 111]).permutation(len(found.texts))[:count])
    sets = {"image": found.images[rows], "text": found.captions[rows]}
    whitening = Whitening().fit(*(EmbeddingSet(x, modality) for modality, x in sets.items()))
    state, shuffled = whitening.state_dict(), Whitening()
    for modality in sets:
        name = f"{modality}/document"
        order = torch.randperm(len(state[f"{name}/variances"]), generator=torch.Generator().manual_seed(seed))
        variances = state[f"{name}/variances"]
        state[f"{name}/forward"] = state[f"{name}/forward"] * (variances / variances[order]).sqrt()
    shuffled.load_state_dict(state)
    return Fitted(whitening, shuffled, {modality: F.normalize(x.double(), dim=1) for modality, x in sets.items()})


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    learnt, rng = fitted(seed), np.random.default_rng([seed, 112])
    chosen = torch.from_numpy(rng.permutation(len(_pixels()))[:SHOWN])
    clean = _pixels()[chosen]
    rows, truth = [], np.r_[np.ones(SHOWN), np.zeros(SHOWN)]
    plain = _of_pixels(learnt, clean)
    for kind in KINDS:
        levels = {level: _of_pixels(learnt, distort(clean, kind, level, seed)) for level in LEVELS_OF[kind]}
        for name in METHODS:
            both = np.concatenate([plain[name], levels[MARKED][name]])
            rows.append(Row(AUC, name, float(roc_auc_score(truth, both)), kind))
            if len(levels) > 1:
                means = [float(found[name].mean()) for found in (plain, *levels.values())]
                rows.append(Row(FALLS, name, -float(spearmanr(LEVELS, means).statistic), kind))
    rows += _of_captions(learnt, rng)
    held = clip_art("test")
    for modality, x in (("image", held.images), ("text", held.captions)):
        for name, whitening in ((WHITE, learnt.whitening), (SHUFFLED, learnt.shuffled)):
            y = whitening.transform(x, modality)
            rows.append(Row(SQUARE, name, abs(float(y.double().square().sum(1).mean()) / y.shape[1] - 1), modality))
        report = normality_report(learnt.whitening.transform(x, modality))
        rows += [Row(NORMAL, WHITE, report.anderson, modality), Row(PEARSON, WHITE, report.pearson, modality)]
        kept = learnt.whitening.fitted(modality)["forward"].shape[1]
        rows.append(Row(SUPPORT, WHITE, len(learnt.known[modality]) / kept, modality))
    return rows


@torch.no_grad()
def _of_pixels(learnt: Fitted, pixels: Tensor) -> dict[str, np.ndarray]:
    clip = bundled()
    return learnt.scores(clip.encode_pixels(clip.preprocess.normalize(pixels)).float(), "image")


@torch.no_grad()
def _of_captions(learnt: Fitted, rng: np.random.Generator) -> list[Row]:
    """Held-out captions of four words or more against the same words in another order."""
    clip, held = bundled(), clip_art("test")
    long = [row for row, text in enumerate(held.texts) if len(text.split()) >= 4]
    shuffled = []
    for row in long:
        words = held.texts[row].split()
        order = rng.permutation(len(words))
        while (order == np.arange(len(words))).all():
            order = rng.permutation(len(words))
        shuffled.append(" ".join(words[i] for i in order))
    x = torch.cat([held.captions[long], clip.encode_text(shuffled)])
    truth = np.r_[np.ones(len(long)), np.zeros(len(long))]
    found = learnt.scores(x, "text")
    return [Row(WORDS, name, float(roc_auc_score(truth, values))) for name, values in found.items()]


@torch.no_grad()
def draw(table: Table, figure: Figure) -> None:
    """AUC of each distortion, and a picture at every level with its likelihood."""
    halves: Any = figure.subfigures(1, 2, width_ratios=(1, 1.3))
    ax = halves[0].subplots()
    for number, name in enumerate(METHODS):
        means = [table.mean(AUC, name, kind) for kind in KINDS]
        ax.plot(range(len(KINDS)), means, "o-", color=f"C{number}", label=name)
    ax.axhline(0.5, color="0.5", linestyle=":")
    ax.set_xticks(range(len(KINDS)), [kind.replace("_", "\n") for kind in KINDS])
    ax.set(title=f"AUC, clean against level {MARKED}", ylim=(0, 1))
    ax.legend(fontsize=8)
    clip, whitening = bundled(), fitted(STUDY.seeds[0]).whitening
    for kind, axes in zip(KINDS[:2], halves[1].subplots(2, len(LEVELS)), strict=True):
        levels = torch.cat([distort(_pixels()[7:8], kind, level, 0) if level else _pixels()[7:8] for level in LEVELS])
        found = whitening.log_likelihood(clip.encode_pixels(clip.preprocess.normalize(levels)).float(), "image")
        pictures(axes, list(levels), [f"{value:.0f}" for value in found])
        axes[0].set_ylabel(kind.replace("_", " "), fontsize=8)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 30), registered="5785ffeafc3f")
