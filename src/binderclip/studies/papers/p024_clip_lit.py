"""Do learned prompts guide an enhancer of backlit pictures better than words, and refined ones better than first?"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.fit import fit
from binderclip.quality import CLIPLIT, LearnedLightPrompts, LightWords
from binderclip.quality.rows import ShuffledRows
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.backlit_scenes import BacklitScenes, backlit_scenes, equalised, psnr
from binderclip.studies.protocols.training.backlit_training import (
    BATCH,
    INITIAL,
    RATE,
    REFINED,
    STEPS,
    network,
    settings,
    twice,
)

GAIN = 8.0
"""Factor that turns a backlit picture nearly white."""
INPUT, GAMMA, CLAHE, START = "backlit picture", "gamma 0.5", "CLAHE", "before training"
WORDS, TOWARDS = "words", "trained towards the originals"
METHODS = (INPUT, GAMMA, CLAHE, START, WORDS, INITIAL, REFINED, TOWARDS)
PSNR, SHADED, CHANCE = "PSNR (dB)", "PSNR of shaded parts (dB)", "probability of backlit"
ORIGINAL, WHITENED = "original", "white"
ABOVE = "original less backlit than white"


def towards(data: BacklitScenes, seed: int) -> Float[Tensor, "T 3 s s"]:
    """What the network makes of the test pictures when it learns from them and their originals: an upper bound."""
    net = network(seed)
    fit(
        lambda rows: F.mse_loss(net.enhance(data.test[rows]), data.original[rows]), net,
        ShuffledRows(len(data.test), BATCH, seed), steps=2 * STEPS, lr=RATE, optimizer="adam", schedule="constant",
    )  # fmt: skip
    with torch.no_grad():
        return net.enhance(data.test)


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    data = backlit_scenes(seed)
    results = {INPUT: data.test, GAMMA: data.test.sqrt(), CLAHE: equalised(data.test), TOWARDS: towards(data, seed)}
    with torch.no_grad():
        results[START] = network(seed).enhance(data.test)
    results[WORDS] = twice(CLIPLIT(bundled(), guidance=LightWords(bundled()), **settings(seed)), data, arms=(INITIAL,))[
        INITIAL
    ]
    first = CLIPLIT(bundled(), guidance=LearnedLightPrompts(bundled()), **settings(seed))
    results |= twice(first, data)
    rows = []
    with torch.no_grad():
        chance = {name: first.guidance.backlit(first.embed(made)) for name, made in results.items()}
        original = first.guidance.backlit(first.embed(data.original))
        white = first.guidance.backlit(first.embed((GAIN * data.test).clamp(0, 1)))
    for name, made in results.items():
        rows += [Row(PSNR, name, psnr(made, data)), Row(SHADED, name, psnr(made, data, shaded=True))]
        rows.append(Row(CHANCE, name, float(chance[name].mean())))
    rows += [Row(CHANCE, ORIGINAL, float(original.mean())), Row(CHANCE, WHITENED, float(white.mean()))]
    rows.append(Row(ABOVE, INITIAL, float((original < white).float().mean())))
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Likeness to the originals, of whole pictures and of shaded parts, and what the first prompts say."""
    places = ((PSNR, METHODS), (SHADED, METHODS), (CHANCE, (*METHODS, ORIGINAL, WHITENED)))
    for ax, (metric, names) in zip(figure.subplots(1, 3), places, strict=True):
        dots(ax, table, metric, names)
        ax.set_title(metric, fontsize=9)
        ax.set_xticks(range(len(names)), names, fontsize=7, rotation=40, ha="right")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 22), registered="18352bbad469")
