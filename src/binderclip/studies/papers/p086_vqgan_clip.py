"""Do codes of an autoencoder, seen through cut-outs, give pictures that fit a prompt for a model that did not guide?"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from binderclip.generate import (
    ImageOptimisation,
    Parametrisation,
    PixelImage,
    RandomCutouts,
    VQAutoencoder,
    VQLatent,
    WeightedObjective,
    clip_prompt,
    load_vq_autoencoder,
)
from binderclip.generate.draw.objectives import ImageObjective
from binderclip.losses import total_variation
from binderclip.studies.harness import Row, Table, declared_study, random_rows
from binderclip.studies.protocols.bundled import bundled

CODES, PIXELS, SMOOTH, FIRST = "codes and cut-outs", "pixels", "smooth pixels and cut-outs", "first picture"
GUIDE, JUDGE = "standing of the prompt by the guide", "standing of the prompt by the judge"
GUIDING, JUDGING = "small", "small-b"
STEPS, VIEWS, SIDE, SPOTS = 80, 3, 64, 8
LATENT_RATE, PIXEL_RATE, SMOOTHNESS = 0.1, 0.05, 0.5
"""The paper's rate; the same of pixels, whose range is half as long; and the weight of the total variation."""
SCORERS = {GUIDE: GUIDING, JUDGE: JUDGING}
NOUNS = """
apple airplane anchor balloon banana bell bicycle bird boat book bottle butterfly cactus cake camera candle car cat
chair cherry clock cloud crown cup dog duck egg fish flag flower frog guitar hammer hat heart house key leaf
lemon lion moon mushroom pencil pizza rainbow rocket scissors snake star sun tree umbrella""".split()  # noqa: SIM905


@cache
def autoencoder() -> VQAutoencoder:
    """The bundled one, loaded once."""
    return load_vq_autoencoder("small-vq")


def measure(seed: int) -> list[Row]:
    """All rows of one seed: one noun, drawn in three ways from the same first picture by the same guide."""
    prompt = NOUNS[seed % len(NOUNS)]
    spots = torch.randn(1, 3, SPOTS, SPOTS, generator=torch.Generator().manual_seed(seed))
    pale = (0.75 + 0.15 * interpolate(spots, (SIDE, SIDE), mode="bicubic")).clamp(0, 1)
    codes = VQLatent.encoded(autoencoder(), pale, lr=LATENT_RATE)
    first = codes().detach()
    pictures = {
        FIRST: first,
        CODES: optimised(codes, prompt, seed),
        PIXELS: optimised(PixelImage(first, lr=PIXEL_RATE), prompt, seed, views=0),
        SMOOTH: optimised(PixelImage(first, lr=PIXEL_RATE), prompt, seed, smoothness=SMOOTHNESS),
    }
    return [
        Row(metric, name, standing(scorer, image, prompt))
        for metric, scorer in SCORERS.items()
        for name, image in pictures.items()
    ]


def optimised(
    param: Parametrisation, prompt: str, seed: int, *, views: int = VIEWS, smoothness: float = 0.0
) -> Float[Tensor, "1 3 H W"]:
    """The picture after `STEPS` steps towards the prompt, seen through cut-outs or, at `views` 0, as it is."""
    guide = bundled(GUIDING)
    objectives: dict[str, ImageObjective | WeightedObjective] = {
        "prompt": clip_prompt(guide, text_of(prompt)),
        "smooth": WeightedObjective(total_variation, smoothness, transformed=False),
    }
    transforms = RandomCutouts(views, min(guide.preprocess.size)) if views else None
    return ImageOptimisation(param, objectives, transforms=transforms, seed=seed).run(STEPS).image


def text_of(noun: str) -> str:
    """The prompt for a noun."""
    return f"a drawing of a {noun}"


@cache
def texts_of(name: str) -> Float[Tensor, "K E"]:
    """The nouns' prompts, unit rows of a bundled model."""
    with torch.no_grad():
        return bundled(name).encode_text([text_of(noun) for noun in NOUNS], normalize=True)


@torch.no_grad()
def standing(name: str, image: Float[Tensor, "1 3 H W"], prompt: str) -> float:
    """How far the prompt's cosine lies above the mean of the other nouns', in their standard deviations."""
    cosine = (normalize(bundled(name).encode_image(image), dim=-1) @ texts_of(name).T)[0].double()  # [K]
    own = NOUNS.index(prompt)
    others = torch.cat([cosine[:own], cosine[own + 1 :]])
    return float((cosine[own] - others.mean()) / others.std())


def draw(table: Table, figure: object) -> None:
    """Standings by guide and judge, a line for each seed."""
    axes = figure.subplots(1, 4, sharey=True)  # type: ignore[attr-defined]
    for ax, name in zip(axes, (FIRST, PIXELS, SMOOTH, CODES), strict=True):
        standings = [table.values(metric, name) for metric in SCORERS]
        ax.plot([0, 1], standings, "o-", alpha=0.3, color="C0")
        ax.plot([0, 1], [values.mean() for values in standings], "s-", color="C3")
        ax.set_xticks([0, 1], ["guide", "judge"])
        ax.set_title(name.replace(" and", "\nand"), fontsize=8)
    axes[0].set_ylabel("standing of the prompt (deviations of the nouns)")


def null(seed: int) -> list[Row]:
    """Random standings."""
    return random_rows(STUDY.criteria, seed)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(112, 128), null=null, registered="841e163a90db")
