"""Does a difference of mean embeddings guide an enhancer as well as learned ends, and say what two sets differ in?"""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from binderclip.data.synthetic_scenes.vocabulary import SCENES15, vocabulary
from binderclip.quality import CLIPLIT, RAVE, LatentPromptGuidance, LearnedLightPrompts
from binderclip.studies.harness.criteria import Criterion, Precondition
from binderclip.studies.harness.panels import dots
from binderclip.studies.harness.power import Pilot
from binderclip.studies.harness.quantities import value_of
from binderclip.studies.harness.study import Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.backlit_scenes import (
    BRIGHT,
    DARK,
    SIDE,
    TEST,
    backlit_scenes,
    lit_and_backlit,
    psnr,
)
from binderclip.studies.protocols.training.backlit_training import (
    BATCH,
    CONTENT,
    PROMPT_RATE,
    PROMPT_STEPS,
    RATE,
    REFINED,
    SEEN,
    STEPS,
    network,
    settings,
    twice,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LATENT_RATE = 1e-2
"""Of learned vectors: the best of 1e-3, 1e-2, 3e-2 and 1e-1 by cross-entropy on the training pictures of seed 900."""
ANIMALS, THINGS = ("cat", "dog", "woman"), ("car", "house", "folder")
"""What well-lit pictures of the biased pair show, and what its backlit pictures show."""
BIASED, ENDS = 120, 3
"""Pictures of either of its sets, and words of either end that are projected away."""
PILOT = (900, 901, 902)
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


CRITERIA = (
    Criterion.paired(
        "the residual makes backlit pictures more like the originals than learned prompts do", value_of(PSNR, ALL),
        value_of(PSNR, PROMPTS), claimed=0.1, expected=1.0, pilot=Pilot(0.8, PILOT), essential=True,
    ),
    Criterion.paired(
        "and no less, by more than 0.2 dB, than learned vectors", value_of(PSNR, ALL), value_of(PSNR, LATENT),
        margin=-0.2, expected=1.0, pilot=Pilot(0.82, PILOT), essential=True,
    ),
    Criterion.paired(
        "projecting words away takes content out of the residual of a biased pair", value_of(CONTENT_GAP, BEFORE),
        value_of(CONTENT_GAP, AFTER), claimed=0.02, expected=0.1, pilot=Pilot(0.01, PILOT[:2]), essential=True,
    ),
    Criterion.paired(
        "and leaves what it says of light", value_of(LIGHT, AFTER), value_of(LIGHT, BEFORE),
        margin=-0.005, expected=0.01, pilot=Pilot(0.002, PILOT[:2]), essential=True,
    ),
    Criterion.paired("half of the steps with the residual do no worse, by more than 0.2 dB, than all with prompts",
                     value_of(PSNR, HALF), value_of(PSNR, PROMPTS), margin=-0.2),
    Criterion.paired("results are more like the originals than the backlit pictures", value_of(PSNR, ALL),
                     value_of(PSNR, INPUT)),
    Criterion.paired("and in the parts that lack light", value_of(SHADED, ALL), value_of(SHADED, INPUT)),
    Criterion.at_least("the residual of a biased pair says more bright than dark", value_of(LIGHT, BEFORE), 0.0),
)  # fmt: skip

STUDY = Study(
    paper="p050",
    claim="The fixed difference of two mean embeddings guides an enhancer of backlit pictures better than learned "
    "prompts and at least as well as learned vectors, with nothing to learn first; it says in words what two sets "
    "differ in, and content can be projected out of it.",
    protocol=f"The scenes, the network and the {2 * STEPS} steps of p024's study ({BATCH} pictures a step at {RATE}, "
    f"seen by `small` at {SEEN} px, the content term at {CONTENT:g}), all of them chosen there for prompts, none for "
    f"the residual: {DARK} backlit scenes of {SIDE} px, {BRIGHT} others as they are, {TEST} to test "
    f"on, on other seeds. Prompts and vectors learn {PROMPT_STEPS} steps before the first round of {STEPS} and are "
    f"refined for as many between the two; prompts at {PROMPT_RATE}, vectors at {LATENT_RATE}, a rate chosen on seed "
    f"900 alone. The residual has one stage. A biased pair: {BIASED} backlit scenes of {', '.join(THINGS)} and as "
    f"many others, as they are, of {', '.join(ANIMALS)}; the {ENDS} highest and lowest of these words are projected "
    "away. The pilot on seeds 900 to 902: 0.7, 1.0 and 2.2 dB above prompts, 0.3, 1.3 and 1.9 above vectors; on the "
    "first two content 0.17 and 0.15 before, 0.05 and 0.05 after, light 0.011 before and 0.027 and 0.025 after.",
    baseline="CLIP-LIT: learned prompts that are refined; the same with learned vectors (CLIP-LIT-Latent).",
    lower_bound="The backlit pictures; the network before training.",
    upper_bound="",
    measure=measure,
    criteria=CRITERIA,
    preconditions=(
        Precondition("the residual of the biased pair has content to take out", value_of(CONTENT_GAP, BEFORE), 0.05),
    ),
    rival=Criterion.paired("the residual does better than a gamma curve of 0.5", value_of(PSNR, ALL),
                           value_of(PSNR, GAMMA)),
    draw=draw,
    seeds=tuple(range(30, 40)),
    one_thread=True,
    registered="1b5bc815212b",
    stand_in=(
        "`small` instead of CLIP's ViT-B/32 and RN101, a network of width 8 that begins near its pictures instead of "
        "width 32 after a warm-up, 150 steps instead of thousands",
        "drawn scenes with a made lack of light instead of BAID's photographs; no opinions of people",
    ),
)  # fmt: skip
