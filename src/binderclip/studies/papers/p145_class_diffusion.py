"""Does the semantic preservation loss keep a new word near its class, so that it goes on to compose with colours?"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from binderclip.generate import (
    ClassifierFreeGuidance,
    LatentDenoiser,
    PersonalConcept,
    PersonalPromptEncoder,
    personalize,
    sample,
)
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.plain_shapes import bundled_denoiser
from binderclip.train.bundled.data.drawings import COLOURS, SHAPES, shape_pictures
from binderclip.train.bundled.figures.diffusion_figures import name_shape, shape_mask

UNTUNED, PLAIN, KEPT, FIXED = "class phrase, untuned", "denoising loss alone", "with preservation", "word left as it is"
COSINE = "cosine of the new phrase and its class's"
COMPOSED = "compositions of which rules name shape and colour rightly"
IDENTITY = "distance of the drawn colour from the taught one"
TAUGHT = {"teal": (20, 150, 150), "olive": (140, 140, 30), "cyan": (95, 205, 235), "lime": (165, 220, 50),
          "magenta": (205, 40, 190)}  # fmt: skip
WORD, PICTURES, STEPS, RATE, WORD_RATE = "<mine>", 4, 40, 5e-3, 0.5
SAMPLING, GUIDANCE, COMPOSITIONS = 10, 3.0, 6
MINUTE_RATE = 1e-9  # of a word that is not to move: AdamW's steps are as long as the rate
SETTINGS = {PLAIN: (0.0, WORD_RATE), KEPT: (1.0, WORD_RATE), FIXED: (0.0, MINUTE_RATE)}
"""Weight of the preservation loss and the word's rate."""


def taught(seed: int) -> tuple[str, Float[Tensor, " 3"], Float[Tensor, "N 3 64 64"]]:
    """A shape, a colour that no caption of the denoiser's training names, and pictures of the shape in it, on white."""
    shape, rgb = SHAPES[seed % len(SHAPES)], list(TAUGHT.values())[seed % len(TAUGHT)]
    drawn = shape_pictures(200, 2_000_000 + seed, pairs=0.0)
    chosen = [picture for picture in drawn if picture.caption.endswith(shape)][:PICTURES]
    alpha = torch.from_numpy(np.stack([picture.alpha for picture in chosen])).float()[:, None] / 255
    colour = torch.tensor(rgb).float() / 255
    return shape, colour, alpha * colour.view(3, 1, 1) + 1 - alpha


def colours(seed: int) -> list[str]:
    """Colours of the compositions."""
    return [str(name) for name in np.random.default_rng(seed).choice(list(COLOURS), COMPOSITIONS, replace=False)]


@cache
def concepts(seed: int) -> dict[str, PersonalConcept]:
    """What each way of training learns from the same pictures, times and noise; kept, since `first` comes before."""
    shape, _colour, images = taught(seed)
    return {
        name: personalize(
            bundled_denoiser(), images, shape, word=WORD, spl_weight=weight, steps=STEPS, batch_size=1,
            learning_rate=RATE, word_rate=word_rate, sizes=(1.0, 1.0), flip=False,
            generator=torch.Generator().manual_seed(seed),
        )
        for name, (weight, word_rate) in SETTINGS.items()
    }  # fmt: skip


@torch.no_grad()
def drawn(denoiser: LatentDenoiser, prompts: list[str], seed: int) -> Float[Tensor, "N 3 64 64"]:
    """One picture a prompt; the noise is that of the seed, so that methods share it."""
    noise = denoiser.noise(len(prompts), generator=torch.Generator().manual_seed(seed))
    terms = [ClassifierFreeGuidance(GUIDANCE)]
    latents = [
        sample(denoiser, x[None], prompt, terms=terms, num_inference_steps=SAMPLING)
        for x, prompt in zip(noise, prompts, strict=True)
    ]
    return denoiser.decode(torch.cat(latents))


def composed(denoiser: LatentDenoiser, noun: str, seed: int) -> float:
    """Of how many colours "a COLOUR NOUN" is drawn in the colour and in the shape that the noun ends in."""
    names = [name_shape(image) for image in drawn(denoiser, [f"a {colour} {noun}" for colour in colours(seed)], seed)]
    shape = noun.split()[-1]
    return float(np.mean([name == (shape, colour) for name, colour in zip(names, colours(seed), strict=True)]))


@torch.no_grad()
def phrase_cosine(text: PersonalPromptEncoder, shape: str) -> float:
    """Of the pooled phrases that the loss compares, after training."""
    phrases = text.pooled([f"a photo of a {WORD} {shape}", f"a photo of a {shape}"])
    return float(functional.cosine_similarity(phrases[0], phrases[1], dim=0))


def first(seed: int) -> list[Row]:
    """What the untuned denoiser composes, and what tuning by the denoising loss alone leaves of it."""
    shape, denoiser = taught(seed)[0], bundled_denoiser()
    plain = composed(concepts(seed)[PLAIN].apply(denoiser), f"{WORD} {shape}", seed)
    return [Row(COMPOSED, UNTUNED, composed(denoiser, shape, seed)), Row(COMPOSED, PLAIN, plain)]


def measure(seed: int) -> list[Row]:
    """One concept, taught in every way."""
    shape, colour, _images = taught(seed)
    rows = []
    for name, concept in concepts(seed).items():
        denoiser = concept.apply(bundled_denoiser())
        assert isinstance(denoiser.text, PersonalPromptEncoder)
        rows.append(Row(COSINE, name, phrase_cosine(denoiser.text, shape)))
        if name != PLAIN:
            rows.append(Row(COMPOSED, name, composed(denoiser, f"{WORD} {shape}", seed)))
        image = drawn(denoiser, [f"a {WORD} {shape}"], seed)[0]
        mask = shape_mask(image)
        inside = image[:, mask].median(1).values if bool(mask.any()) else torch.zeros(3)
        rows.append(Row(IDENTITY, name, float((inside - colour).norm())))
    return rows


SHOWN = (PLAIN, KEPT, FIXED)
PANELS = dot_panels((COSINE, SHOWN), (COMPOSED, (UNTUNED, *SHOWN)), (IDENTITY, SHOWN), rotation=20)
STUDY = declared_study(__name__, measure, first=first, draw=PANELS, seeds=range(10, 18), registered="eadb9f8fc2f2")
