"""Does a difference of mean embeddings guide an enhancer as well as learned ends, and say what two sets differ in?"""

from __future__ import annotations

from textwrap import fill
from typing import Any

import torch
from torch.nn import functional as F

from binderclip.data.synthetic_scenes.vocabulary import SCENES15, vocabulary
from binderclip.quality import CLIPLIT, RAVE, LatentPromptGuidance, LearnedLightPrompts
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.backlit_scenes import backlit_scenes, lit_and_backlit, psnr
from binderclip.studies.protocols.training.backlit_training import BATCH, RATE, REFINED, STEPS, network, settings, twice

LATENT_RATE = 1e-2
"""Of learned vectors: the best of 1e-3, 1e-2, 3e-2 and 1e-1 by cross-entropy on the training pictures of seed 900."""
ANIMALS, THINGS = ("cat", "dog", "woman"), ("car", "house", "folder")
"""What well-lit pictures of the biased pair show, and what its backlit pictures show."""
BIASED, ENDS = 120, 3
"""Pictures of either of its sets, and words of either end that are projected away."""
INPUT, GAMMA, START, HALF, ALL = "backlit picture", "gamma 0.5", "before training", "residual, half", "residual"
LATENT, PROMPTS = "learned vectors, refined", "learned prompts, refined"
METHODS = (INPUT, GAMMA, START, PROMPTS, LATENT, HALF, ALL)
PSNR, SHADED = "PSNR (dB)", "PSNR of shaded parts (dB)"
CONTENT_GAP, LIGHT = "cosine of what well-lit pictures show, minus the other", "cosine with bright minus dark"
BEFORE, AFTER = "of a biased pair", "without content"


def enhancer_rows(seed: int) -> list[Row]:
    """Likeness to the originals of results under every guidance."""
    data, model = backlit_scenes(seed), bundled()
    results = {INPUT: data.test, GAMMA: data.test.sqrt()}
    with torch.no_grad():
        results[START] = network(seed).enhance(data.test)
    rave = RAVE(model, **settings(seed))
    training: dict[str, Any] = {"warmup_steps": 0, "steps": STEPS, "lr": RATE, "batch_size": BATCH}
    rave.fit(data.dark, data.bright, **training)
    results[HALF] = rave(data.test)
    rave.fit(data.dark, data.bright, guidance=rave.guidance, **training)
    results[ALL] = rave(data.test)
    guided = CLIPLIT(model, guidance=LearnedLightPrompts(model), **settings(seed))
    results[PROMPTS] = twice(guided, data, arms=(REFINED,))[REFINED]
    vectors = LatentPromptGuidance(model.embed_dim, seed=seed)
    latent = CLIPLIT(model, guidance=vectors, **settings(seed))
    results[LATENT] = twice(latent, data, arms=(REFINED,), prompt_rate=LATENT_RATE)[REFINED]
    return [
        row for name, made in results.items()
        for row in (Row(PSNR, name, psnr(made, data)), Row(SHADED, name, psnr(made, data, shaded=True)))
    ]  # fmt: skip


def word_rows(seed: int) -> list[Row]:
    """What the residual of a pair of sets says that differ in light and in content."""
    model = bundled()
    own = [vocabulary({name: SCENES15[name] for name in names}) for names in (THINGS, ANIMALS)]
    dark, bright = lit_and_backlit(seed, BIASED, own[0])[1], lit_and_backlit(seed, BIASED, own[1])[0]
    residual = RAVE(model, **settings(seed)).residual(dark, bright)
    with torch.no_grad():
        content = model.encode_text([*ANIMALS, *THINGS]).float()
        light = model.encode_text(["bright", "dark"], normalize=True).float()
    axis = F.normalize(light[0] - light[1], dim=-1)
    rows = []
    for name, found in ((BEFORE, residual), (AFTER, residual.without(content, ENDS))):
        cosines = F.normalize(content, dim=-1) @ found.direction
        gap = cosines[: len(ANIMALS)].mean() - cosines[len(ANIMALS) :].mean()
        rows += [Row(CONTENT_GAP, name, float(gap)), Row(LIGHT, name, float(axis @ found.direction))]
    return rows


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    return enhancer_rows(seed) + word_rows(seed)


def draw(table: Table, figure: Figure) -> None:
    """Likeness to the originals, of whole pictures and of shaded parts; what the residual says."""
    places = ((PSNR, METHODS), (SHADED, METHODS), (CONTENT_GAP, (BEFORE, AFTER)), (LIGHT, (BEFORE, AFTER)))
    for ax, (metric, names) in zip(figure.subplots(1, 4), places, strict=True):
        dots(ax, table, metric, names)
        ax.set_title(fill(metric, 28), fontsize=9)
        ax.set_xticks(range(len(names)), names, fontsize=7, rotation=40, ha="right")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(30, 40), null=None, registered="1b5bc815212b")
