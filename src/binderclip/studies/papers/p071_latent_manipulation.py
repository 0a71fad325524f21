"""Does a mask of gradients with respect to attention keep a reference where a new subject is drawn?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from binderclip.generate import AbsGradSAM, AttentionStore, ClassifierFreeGuidance, SamplingHook, StepContext, sample
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.plain_shapes import bundled_denoiser, drawn_rightly, named, plain_shapes

EDIT, ATTENTION, GRADIENT = "noised reference (SDEdit)", "attention mask", "gradient mask"
REFERENCE = "mean squared error to the reference at the border"
SUBJECT = "subjects whose shape and colour rules name as the text does"
PASTED = "reference as it is"
COUNT, STEPS, GUIDANCE, MARKED, FIRST, POOLED, FRAME = 4, 15, 3.0, (4, 8, 11), 3, 8, 10


class AttentionMask(AbsGradSAM):
    """The same with attention to the subject's words in the place of gradients."""

    def scores(self, step: StepContext) -> Tensor:
        """Attention to the subject's words, the largest of them, resized to the state."""
        store = AttentionStore(kinds=("text",))
        denoiser = bundled_denoiser()
        denoiser.controlled(store).predict(step.x, step.t, [step.condition])
        last = store.maps[max(store.maps, key=lambda key: key[1])]
        tokens = denoiser.text.positions(denoiser.prompt(step.condition).text, str(self.words))
        side = int(last.shape[1] ** 0.5)
        maps = last[:, :, tokens].amax(2).unflatten(1, (side, side))[:, None]
        return functional.interpolate(maps, step.x.shape[-2:]).expand_as(step.x)


def first(seed: int) -> list[Row]:
    """Whether the denoiser draws what a text says."""
    return [drawn_rightly(seed)]


def drawn(x: Tensor, caption: str, hooks: Sequence[SamplingHook] = ()) -> Tensor:
    """The text, drawn from a state at the noise of the first step that is taken."""
    terms = [ClassifierFreeGuidance(GUIDANCE)]
    return sample(bundled_denoiser(), x, caption, terms=terms, hooks=hooks, num_inference_steps=STEPS, first_step=FIRST)


def measure(seed: int) -> list[Row]:
    """Plain references, on which a shape shall be drawn."""
    denoiser = bundled_denoiser()
    shapes = plain_shapes(COUNT, seed)
    references = shapes.grounds.expand(shapes.images.shape)
    frame = torch.ones(64, 64, dtype=torch.bool)
    frame[FRAME:-FRAME, FRAME:-FRAME] = False
    out: dict[str, list[Tensor]] = {EDIT: [], ATTENTION: [], GRADIENT: []}
    begun = int(denoiser.schedule.timesteps(STEPS)[FIRST])
    for image, caption in zip(references, shapes.captions, strict=True):
        latents, words = denoiser.encode(image[None]), caption.removeprefix("a ")
        g = torch.Generator().manual_seed(seed)
        noise = torch.randn(latents.shape, generator=g)
        for name, kind in ((ATTENTION, AttentionMask), (GRADIENT, AbsGradSAM)):
            hook = kind(latents, words, steps=MARKED, noise=noise, pooled=POOLED)
            out[name].append(denoiser.decode(drawn(noise, caption, [hook])))
        out[EDIT].append(denoiser.decode(drawn(denoiser.schedule.add_noise(latents, noise, begun), caption)))
    rows = []
    for name, parts in {**out, PASTED: list(references[:, None])}.items():
        pictures = torch.cat(parts)
        error = (pictures - references)[..., frame].square().mean()
        rows += [
            Row(REFERENCE, name, float(error)),
            Row(SUBJECT, name, float(np.mean(named(pictures, shapes.captions)))),
        ]
    return rows


SHOWN = (EDIT, ATTENTION, GRADIENT, PASTED)
PANELS = dot_panels((REFERENCE, SHOWN), (SUBJECT, SHOWN), rotation=20)
STUDY = declared_study(__name__, measure, first=first, draw=PANELS, seeds=range(20, 30), registered="1f8ffcb11d6f")
