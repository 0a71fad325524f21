"""Does the likelihood of whitened embeddings say how usual a picture or a caption is?"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from torch import Tensor

from binderclip.data import load_data
from binderclip.data.distort.distortions import distort
from binderclip.evaluate import EmbeddingSet, Whitening, normality_report
from binderclip.studies.harness.criteria import Criterion
from binderclip.studies.harness.panels import pictures
from binderclip.studies.harness.power import Pilot
from binderclip.studies.harness.quantities import value_of
from binderclip.studies.harness.study import Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.protocols.pack_embeddings import clip_art, model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN, LEVELS, MARKED = 120, (0, 1, 2, 3, 4, 5), 3
WHITE, NORM, CHANCE = "likelihood", "length of the raw vector", "random"
KINDS = ("gaussian_noise", "jpeg", "pixelate")
AUC, FALLS = "AUC, clean against distorted", "rank correlation of the mean with the level, negated"
WORDS = "AUC, captions against shuffled words"
SQUARE, NORMAL = "mean squared length over its expectation, distance from 1", "features that pass Anderson-Darling"
PILOT = (100, 101, 102)


@lru_cache(maxsize=2)
def _pixels() -> Tensor:
    """All held-out clip art at the model's size."""
    clip = model()
    data = load_data("openclipart", "test")
    pixels, _ = data.pixels(clip.preprocess.size[0], mode="RGB")
    return pixels.float() / 255


def fitted(seed: int) -> Whitening:
    """Pictures and captions of the training split, a random half of them."""
    found = clip_art("train")
    rows = torch.from_numpy(np.random.default_rng([seed, 111]).permutation(len(found.texts))[: len(found.texts) // 2])
    return Whitening().fit(EmbeddingSet(found.images[rows], "image"), EmbeddingSet(found.captions[rows], "text"))


def _scores(whitening: Whitening, x: Tensor, modality: str, seed: int) -> dict[str, np.ndarray]:
    chance = torch.rand(len(x), generator=torch.Generator().manual_seed(seed))
    found = {WHITE: whitening.log_likelihood(x, modality), NORM: -x.double().norm(dim=1), CHANCE: chance}
    return {name: values.numpy() for name, values in found.items()}


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    clip, whitening, rng = model(), fitted(seed), np.random.default_rng([seed, 112])
    chosen = torch.from_numpy(rng.permutation(len(_pixels()))[:SHOWN])
    clean = _pixels()[chosen]
    rows = []
    for kind in KINDS:
        levels = []
        for level in LEVELS:
            spoilt = clean if level == 0 else distort(clean, kind, level, seed)
            x = clip.encode_pixels(clip.preprocess.normalize(spoilt)).float()
            levels.append(_scores(whitening, x, "image", seed * 10 + level))
        truth = np.r_[np.ones(SHOWN), np.zeros(SHOWN)]
        for name in (WHITE, NORM, CHANCE):
            both = np.concatenate([levels[0][name], levels[MARKED][name]])
            rows.append(Row(AUC, name, float(roc_auc_score(truth, both)), kind))
            means = [float(found[name].mean()) for found in levels]
            rows.append(Row(FALLS, name, -float(spearmanr(LEVELS, means).statistic), kind))
    rows += _of_captions(whitening, rng, seed)
    held = clip_art("test")
    for modality, x in (("image", held.images), ("text", held.captions)):
        report = normality_report(whitening.transform(x, modality))
        rows.append(Row(SQUARE, WHITE, abs(report.square - 1), modality))
        rows.append(Row(NORMAL, WHITE, report.anderson, modality))
    return rows


def _of_captions(whitening: Whitening, rng: np.random.Generator, seed: int) -> list[Row]:
    """Held-out captions of four words or more against the same words in another order."""
    clip, held = model(), clip_art("test")
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
    found = _scores(whitening, x, "text", seed)
    return [Row(WORDS, name, float(roc_auc_score(truth, values))) for name, values in found.items()]


def draw(table: Table, figure: Figure) -> None:
    """AUC of each distortion, and a picture at every level with its likelihood."""
    halves: Any = figure.subfigures(1, 2, width_ratios=(1, 1.3))
    ax = halves[0].subplots()
    for number, name in enumerate((WHITE, NORM, CHANCE)):
        means = [table.mean(AUC, name, kind) for kind in KINDS]
        ax.plot(range(len(KINDS)), means, "o-", color=f"C{number}", label=name)
    ax.axhline(0.5, color="0.5", linestyle=":")
    ax.set_xticks(range(len(KINDS)), [kind.replace("_", "\n") for kind in KINDS])
    ax.set(title=f"AUC, clean against level {MARKED}", ylim=(0, 1))
    ax.legend(fontsize=8)
    clip, whitening = model(), fitted(STUDY.seeds[0])
    for kind, axes in zip(KINDS[:2], halves[1].subplots(2, len(LEVELS)), strict=True):
        levels = torch.cat([distort(_pixels()[7:8], kind, level, 0) if level else _pixels()[7:8] for level in LEVELS])
        found = whitening.log_likelihood(clip.encode_pixels(clip.preprocess.normalize(levels)).float(), "image")
        pictures(axes, list(levels), [f"{value:.0f}" for value in found])
        axes[0].set_ylabel(kind.replace("_", " "), fontsize=8)


def _said(kind: str) -> str:
    return kind.replace("_", " ")


def null(seed: int) -> list[Row]:
    """Rows of scores that know nothing: AUC about 0.5, means in any order, lengths that are no normal's."""
    random = np.random.default_rng([seed, 113])
    rows = [Row(AUC, name, float(random.normal(0.5, 0.03)), kind) for kind in KINDS for name in (WHITE, NORM)]
    rows += [Row(FALLS, WHITE, float(random.uniform(-1, 1)), kind) for kind in KINDS]
    rows += [Row(SQUARE, WHITE, float(random.normal(1, 0.1)), modality) for modality in ("image", "text")]
    return [*rows, Row(WORDS, WHITE, float(random.normal(0.5, 0.03)))]


STUDY = Study(
    paper="p111",
    claim="Whitened embeddings are near a standard normal, and their log-likelihood falls as pictures are corrupted; "
    "it also tells captions from ones that are no sentences.",
    protocol="Embeddings of `small`, which fill 192 of their 256 dimensions; whitening from a random half of the "
    f"training clip art a seed, about 2,000 pictures and captions. {SHOWN} held-out drawings a seed, clean "
    f"and with noise, JPEG and pixels at levels 1 to 5; the AUC is of clean against level {MARKED}, the "
    "correlation that of the six mean likelihoods with the level. Held-out captions of at least four "
    "words against the same words shuffled. Nothing was chosen; the pilot gave the spreads.",
    baseline="The length of the raw vector.",
    lower_bound="Random scores: AUC 0.5.",
    upper_bound="AUC 1.",
    measure=measure,
    criteria=(
        Criterion.at_least("noise: clean drawings are likelier (AUC 0.7)", value_of(AUC, WHITE, KINDS[0]), 0.5,
                           claimed=0.7, pilot=Pilot(0.03, PILOT), essential=True),
        Criterion.at_least("noise: the mean likelihood falls with the level", value_of(FALLS, WHITE, KINDS[0]), 0.0,
                           claimed=0.9, pilot=Pilot(0.1, PILOT), essential=True),
        Criterion.below("held-out squared lengths of pictures are within 20 % of the normal's",
                        value_of(SQUARE, WHITE, "image"), 0.2, claimed=0.15, pilot=Pilot(0.006, PILOT), essential=True),
        Criterion.below("those of captions are", value_of(SQUARE, WHITE, "text"), 0.2),
        *(Criterion.at_least(f"{_said(kind)}: clean drawings are likelier (AUC 0.7)", value_of(AUC, WHITE, kind), 0.5,
                             claimed=0.7) for kind in KINDS[1:]),
        Criterion.at_least("captions are likelier than their shuffled words", value_of(WORDS, WHITE), 0.5, claimed=0.6),
    ),
    rival=Criterion.paired("it beats the length of the raw vector, noise", value_of(AUC, WHITE, KINDS[0]),
                           value_of(AUC, NORM, KINDS[0])),
    draw=draw,
    seeds=tuple(range(8)),
    null=null,
    one_thread=True,
    registered="96a0d0cf4b81",
    stand_in=("`small` of 256 dimensions and clip art instead of CLIP ViT-L/14 and 5,000 photographs of COCO",),
)  # fmt: skip
