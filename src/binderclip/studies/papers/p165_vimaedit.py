"""Does attention spread along self-attention find the object, and do image guidance and noise in the mask edit more?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from binderclip.generate import (
    AttentionRefine,
    ClassifierFreeGuidance,
    PromptPair,
    PropagatedBlend,
    SourceAnchor,
    ViMAEdit,
    edit_pair,
    sample,
)
from binderclip.generate.edit.prompt_to_prompt import prompt_positions
from binderclip.models import load
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.plain_shapes import (
    bundled_denoiser,
    drawn_rightly,
    named,
    plain_shapes,
)
from binderclip.train.bundled.data.drawings import COLOURS, SHAPES
from binderclip.vision import dilate

PLAIN, SPREAD = "attention to the words", "spread along self-attention"
PROMPTS, VISION = "prompts alone", "with image direction and noise"
NOISED = "noised picture (SDEdit)"
MASK = "IoU of the edit mask with the object"
EDITED, OUTSIDE = "edits whose shape and colour rules name as the target", "mean squared error outside of the object"
COUNT, STEPS, GUIDANCE, GROWTH, FIRST = 4, 15, 5.0, 5, 3


def first(seed: int) -> list[Row]:
    """Whether the denoiser draws what a text says."""
    return [drawn_rightly(seed)]


def other_colours(captions: list[str], seed: int) -> list[str]:
    """The same shapes in another colour."""
    rng, words = np.random.default_rng(seed), [caption.split() for caption in captions]
    return [f"a {rng.choice([name for name in COLOURS if name != colour])} {shape}" for _, colour, shape in words]


def other_shapes(captions: list[str], seed: int) -> list[str]:
    """Another shape in the same colours."""
    rng, words = np.random.default_rng(seed), [caption.split() for caption in captions]
    return [f"a {colour} {rng.choice([name for name in SHAPES if name != shape])}" for _, colour, shape in words]


def attention_mask(latents: Tensor, source: str, target: str, order: int, seed: int) -> Tensor:
    """The mask of an edit without noise, in pixels."""
    denoiser, g = bundled_denoiser(), torch.Generator().manual_seed(seed)
    word = source.split()[2]
    places = (prompt_positions(denoiser.text, source, word), prompt_positions(denoiser.text, target, word))
    blend = PropagatedBlend(places, order=order, eta=0.0)
    start = denoiser.schedule.add_noise(
        latents, torch.randn(latents.shape, generator=g), int(denoiser.schedule.timesteps(STEPS)[0])
    )
    refine = AttentionRefine(denoiser.text, source, target, cross_replace_steps=0.4, self_replace_steps=0.6)
    edit_pair(
        denoiser, start, PromptPair(source, target), controls=[refine, blend], hooks=[SourceAnchor(latents)],
        guidance_scale=GUIDANCE, source_guidance_scale=1.0, num_inference_steps=STEPS, generator=g,
    )  # fmt: skip
    assert blend.total is not None
    maps = blend.total.unflatten(1, blend.grid)[:, None]
    least, most = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    rows = functional.interpolate((maps - least > blend.thresholds[0] * (most - least)).float(), (64, 64))
    return rows.amax(0)[0] > 0


def measure(seed: int) -> list[Row]:
    """Masks and edits of the same pictures, prompts and noise."""
    denoiser, small = bundled_denoiser(), load("small")
    shapes = plain_shapes(COUNT, seed)
    overlaps: dict[str, list[float]] = {PLAIN: [], SPREAD: []}
    edits: dict[str, list[Tensor]] = {PROMPTS: [], VISION: [], NOISED: []}
    terms = [ClassifierFreeGuidance(GUIDANCE)]
    colours, targets = other_colours(shapes.captions, seed), other_shapes(shapes.captions, seed)
    for i, (source, colour, target) in enumerate(zip(shapes.captions, colours, targets, strict=True)):
        image, true = shapes.images[i : i + 1], shapes.masks[i, 0]
        latents = denoiser.encode(image)
        for name, order in ((PLAIN, 0), (SPREAD, 5)):
            mask = attention_mask(latents, source, colour, order, seed)
            overlaps[name].append(float((mask & true).sum() / (mask | true).sum()))
        embeddings = (small.encode_image(image)[0], *small.encode_text([source, target]))
        words = source.split()[2], target.split()[2]
        for name, given, eta in ((PROMPTS, None, 0.0), (VISION, embeddings, 1.0)):
            method = ViMAEdit(source, target, *words, guidance_scale=GUIDANCE, eta=eta)
            g = torch.Generator().manual_seed(seed)
            edit = method.edit(denoiser, latents, embeddings=given, num_inference_steps=STEPS, generator=g)
            edits[name].append(denoiser.decode(edit))
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
        noised = denoiser.schedule.add_noise(latents, noise, int(denoiser.schedule.timesteps(STEPS)[FIRST]))
        drawn = sample(denoiser, noised, target, terms=terms, num_inference_steps=STEPS, first_step=FIRST)
        edits[NOISED].append(denoiser.decode(drawn))
    outside = ~dilate(shapes.masks, GROWTH)
    rows = [Row(MASK, name, float(np.mean(values))) for name, values in overlaps.items()]
    for name, parts in edits.items():
        out = torch.cat(parts)
        error = (out - shapes.images).square().mean(1, keepdim=True)
        rows += [
            Row(EDITED, name, float(np.mean(named(out, targets)))),
            Row(OUTSIDE, name, float(error[outside].mean())),
        ]
    return rows


SHOWN = (PROMPTS, VISION, NOISED)
PANELS = dot_panels((MASK, (PLAIN, SPREAD)), (EDITED, SHOWN), (OUTSIDE, SHOWN), rotation=25)
STUDY = declared_study(__name__, measure, first=first, draw=PANELS, seeds=range(20, 30), registered="4e5c6285b8cc")
