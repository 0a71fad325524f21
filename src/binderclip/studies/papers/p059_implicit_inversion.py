"""Is an implicit image, moved layer by layer to a turned target, harder to fool than pixels, and nearer to pictures?"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.data import load_data
from binderclip.generate import CLIPInversion, ColourShear, ImplicitImage, PixelImage
from binderclip.models import ImageTextModel
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.bundled import bundled

PIXELS, FULL = "pixels", "implicit, swept, turned and blended"
TEXT, TURNED = "text", "turned text"
NEAREST, REAL, OTHER = "picture of the nearest caption", "prompt's own picture", "another prompt's picture"
SEEN, HELD_OUT = "cosine with the prompt by the model that is inverted", "cosine with the prompt by another model"
REALISM, ALIGNED = "largest cosine with a real picture by another model", "cosine with the caption's own picture"
SIDE, BANK, CAPTIONS, STEPS, VIEWS, RATE, PIXEL_RATE = 64, 128, 6, 40, 2, 2e-3, 0.05


class Bank(NamedTuple):
    """Pairs of a caption and its picture, as both models see them."""

    captions: list[str]
    texts: Tensor
    images: Tensor
    other_images: Tensor


@lru_cache(maxsize=1)
def models() -> tuple[ImageTextModel, ImageTextModel]:
    """The one that is inverted, and the one that judges."""
    return bundled("small"), bundled("small-b")


@lru_cache(maxsize=2)
def pairs(split: str) -> Bank:
    """One picture for each of `BANK` captions of clip art, the same for every seed."""
    data = load_data("openclipart", split)
    rows = list({caption: row for row, caption in enumerate(data.captions)}.values())
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:BANK].tolist()
    captions, pictures = [data.captions[rows[i]] for i in order], [data[rows[i]].image for i in order]
    clip, other = models()
    with torch.no_grad():
        texts, images = clip.encode_text(captions), clip.encode_image(pictures)
        return Bank(captions, texts, images, F.normalize(other.encode_image(pictures), dim=1))


def start(method: str, seed: int) -> PixelImage | ImplicitImage:
    """Noise, or a network with random weights."""
    if method == PIXELS:
        return PixelImage(torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)), lr=PIXEL_RATE)
    return ImplicitImage((SIDE, SIDE), lr=RATE, seed=seed)


@torch.no_grad()
def judged(method: str, image: Tensor, prompt: str) -> list[Row]:
    """All measures of a picture [1, 3, H, W]."""
    seen, held_out = (
        float(F.cosine_similarity(model.encode_image(image), model.encode_text([prompt]))) for model in models()
    )
    embedding = F.normalize(models()[1].encode_image(image), dim=1)
    realism = float((pairs("train").other_images @ embedding[0]).max())
    return [Row(SEEN, method, seen), Row(HELD_OUT, method, held_out), Row(REALISM, method, realism)]


def inversion(full: bool) -> CLIPInversion:
    """With the turned target and the blend, or without both."""
    bank = pairs("train")
    return CLIPInversion(
        models()[0], bank.texts, bank.images, align=full, blend=0.2 if full else 0.0, transforms=ColourShear(VIEWS)
    )


def measure(seed: int) -> list[Row]:
    """All rows of one seed: one prompt, and as many captions for the target alone; none is in the bank."""
    bank, test, first = pairs("train"), pairs("test"), seed * CAPTIONS
    prompt, rows = test.captions[first], []
    for method in (PIXELS, FULL):
        run = inversion(method == FULL).run(prompt, start(method, seed), steps=STEPS, seed=seed)
        rows += judged(method, run.image, prompt)
    own, chosen = F.normalize(test.images, dim=1), range(first, first + CAPTIONS)
    for method in (TEXT, TURNED):
        targets = [inversion(method == TURNED).target(test.texts[row]).embedding @ own[row] for row in chosen]
        rows.append(Row(ALIGNED, method, float(torch.stack(targets).mean())))
    with torch.no_grad():
        texts = F.normalize(models()[1].encode_text([test.captions[row] for row in chosen]), dim=1)
    nearest = inversion(True).target(prompt).neighbours[0]
    rows.append(Row(HELD_OUT, NEAREST, float(bank.other_images[nearest] @ texts[0])))
    for name, shift in ((REAL, 0), (OTHER, BANK // 2)):  # of all captions, as one says little of the judge
        pictures = test.other_images[[row - shift for row in chosen]]
        rows.append(Row(HELD_OUT, name, float((pictures * texts).sum(1).mean())))
    return rows


METHODS = (PIXELS, FULL)
PANELS = dot_panels(
    (SEEN, METHODS), (HELD_OUT, (*METHODS, NEAREST, REAL)), (REALISM, METHODS), (ALIGNED, (TEXT, TURNED)), size=8
)
STUDY = declared_study(__name__, measure, draw=PANELS, seeds=range(8, 16), registered="5e622a3cb7c2")
