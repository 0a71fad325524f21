"""Does an image prompt without the object's direction keep an inpainting network from painting an object again?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from binderclip.generate import ClassifierFreeGuidance, CLIPAway, inpaint
from binderclip.models import load
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.plain_shapes import PlainShapes, bundled_denoiser, drawn_rightly, plain_shapes
from binderclip.vision import dilate

NONE, WHOLE, BACKGROUND, REST = "no image prompt", "the picture's embedding", "the background's", "without the object"
MEAN = "mean colour of the rim, no network"
OBJECT, ERROR = "share of the hole in which something is painted", "mean squared error in the hole"
COSINE = "cosine of the image prompt with the object's text"
COUNT, STEPS, GUIDANCE, GROWTH, APART = 6, 10, 7.5, 5, 0.15


def first(seed: int) -> list[Row]:
    """Whether the denoiser draws what a text says."""
    return [drawn_rightly(seed)]


def scenes(seed: int) -> tuple[PlainShapes, Tensor, list[str]]:
    """Pictures of two shapes, the mask of the right one, and its words."""
    shapes = plain_shapes(COUNT, seed, pairs=1.0)
    masks = shapes.masks.float().clone()
    masks[..., :32] = 0
    return shapes, masks, [caption.split(" and ")[1] for caption in shapes.captions]


def encode(images: Tensor, alpha: Tensor) -> Tensor:
    """Raw embeddings by `small` of what alpha shows, on white."""
    return load("small").encode_image(images * alpha + (1 - alpha))


def measure(seed: int) -> list[Row]:
    """Every image prompt on the same pictures and noise."""
    shapes, masks, words = scenes(seed)
    denoiser = bundled_denoiser()
    hole = dilate(masks, GROWTH)
    clean = shapes.images * (1 - hole) + shapes.grounds * hole
    away = CLIPAway(denoiser, encode, guidance_scale=GUIDANCE, dilation=GROWTH // 2)
    plain = CLIPAway(denoiser, encode, guidance_scale=GUIDANCE, dilation=GROWTH // 2, project=False)
    seen = CLIPAway(
        denoiser, lambda x, alpha: encode(x, torch.ones_like(alpha)), guidance_scale=GUIDANCE, dilation=GROWTH // 2,
        project=False,
    )  # fmt: skip
    out = {
        name: method(shapes.images, masks, num_inference_steps=STEPS, generator=torch.Generator().manual_seed(seed))
        for name, method in ((WHOLE, seen), (BACKGROUND, plain), (REST, away))
    }
    out[NONE] = inpaint(
        denoiser, shapes.images, hole, terms=[ClassifierFreeGuidance(GUIDANCE)], num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    rim = dilate(hole, 3) - hole
    out[MEAN] = clean * (1 - hole) + hole * (clean * rim).sum((2, 3), keepdim=True) / rim.sum((2, 3), keepdim=True)
    texts = load("small").encode_text(words)
    _, background, rest = away.embeddings(shapes.images, masks)
    prompts = {WHOLE: encode(shapes.images, torch.ones_like(masks)), BACKGROUND: background, REST: rest}
    rows = [Row(COSINE, name, functional.cosine_similarity(one, texts).mean().item()) for name, one in prompts.items()]
    for name, pictures in out.items():
        difference = (pictures - shapes.grounds).norm(dim=1, keepdim=True)
        rows.append(Row(OBJECT, name, float(((difference > APART) * hole).sum() / hole.sum())))
        rows.append(
            Row(ERROR, name, float(((pictures - clean).square().mean(1, keepdim=True) * hole).sum() / hole.sum()))
        )
    return rows


SHOWN = (NONE, WHOLE, BACKGROUND, REST, MEAN)
PANELS = dot_panels((OBJECT, SHOWN), (ERROR, SHOWN), (COSINE, (WHOLE, BACKGROUND, REST)), rotation=25)
STUDY = declared_study(__name__, measure, first=first, draw=PANELS, seeds=range(10, 28), registered="4d4eee52919d")
