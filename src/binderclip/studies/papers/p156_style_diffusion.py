"""Do values that are fitted step by step bring a picture back under guidance, and keep its attention?"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from binderclip.generate import (
    AttentionStore,
    ClassifierFreeGuidance,
    LatentDenoiser,
    PromptEmbeddingInversion,
    StyleDiffusion,
    invert,
    sample,
)
from binderclip.models import load
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.plain_shapes import bundled_denoiser, drawn_rightly, plain_shapes

PLAIN, NULL, STYLE, FREE = "guided sampling", "empty prompt fitted", "values fitted", "values fitted, attention free"
PSNR = "PSNR of the picture that comes back, against the autoencoder's, dB"
ATTENTION = "mean squared difference of attention to words from the inversion's, times 1,000"
GUIDANCE, STEPS, INNER, RATE = 7.5, 10, 12, 1e-2


def first(seed: int) -> list[Row]:
    """Whether the denoiser draws what a text says."""
    return [drawn_rightly(seed)]


def null_prompt_sampling(denoiser: LatentDenoiser, states: list[Tensor], prompt: str, updates: list[int]) -> Tensor:
    """Null-text optimisation (arXiv 2211.09794): the empty prompt's states fitted in every step, as often as values."""
    times, z = denoiser.schedule.timesteps(STEPS).tolist(), states[-1]
    null = denoiser.prompt(None)
    keys = null.keys.clone()
    for i, (t, lower) in enumerate(zip(times, [*times[1:], None], strict=True)):
        conditional = denoiser.predict(z, t, [prompt])[0]
        keys = keys.detach().requires_grad_()
        optimizer = torch.optim.Adam([keys], lr=RATE * (1 - i / 100))

        def step(keys: Tensor, z: Tensor = z, t: int = t, lower: int | None = lower, c: Tensor = conditional) -> Tensor:
            empty = denoiser.predict(z, t, [replace(null, keys=keys, values=keys)])[0]
            return denoiser.schedule.step(empty + GUIDANCE * (c - empty), z, t, lower)

        for _ in range(updates[i]):
            optimizer.zero_grad()
            functional.mse_loss(step(keys), states[STEPS - i - 1]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            z = step(keys)
    return z


def attention_distance(denoiser: LatentDenoiser, result: StyleDiffusion) -> float:
    """How far attention to words is from the inversion's, at the first step, whose state they share."""
    t = int(denoiser.schedule.timesteps(STEPS)[0])
    plain = denoiser.prompt(result.prompt)
    fitted = replace(plain, values=plain.keys * result.scales[0] + result.shifts[0])
    maps = []
    for prompt in (plain, fitted):
        store = AttentionStore(kinds=("text",))
        with torch.no_grad():
            denoiser.controlled(store).predict(result.states[-1], t, [prompt])
        maps.append(store.maps)
    return float(torch.stack([functional.mse_loss(maps[1][key], maps[0][key]) for key in maps[0]]).mean()) * 1000


def measure(seed: int) -> list[Row]:
    """One picture, brought back in every way with the same number of updates."""
    denoiser, small = bundled_denoiser(), load("small")
    shapes = plain_shapes(1, seed)
    latents, caption = denoiser.encode(shapes.images), shapes.captions[0]
    features = small.encode_image(shapes.images)  # one token: the towers of `small` pool over places
    states = invert(denoiser, latents, caption, num_inference_steps=STEPS)
    guided = sample(denoiser, states[-1], caption, terms=[ClassifierFreeGuidance(GUIDANCE)], num_inference_steps=STEPS)
    back, rows = {PLAIN: guided}, []
    for name, weight in ((STYLE, 1.0), (FREE, 0.0)):
        inversion = PromptEmbeddingInversion(
            GUIDANCE, num_inference_steps=STEPS, inner_steps=INNER, attention_weight=weight, learning_rate=RATE
        )
        result = inversion.fit(denoiser, latents, caption, features)
        back[name] = result.reconstruct(denoiser)
        rows.append(Row(ATTENTION, name, attention_distance(denoiser, result)))
    back[NULL] = null_prompt_sampling(denoiser, list(states), caption, inversion.updates())
    target = denoiser.decode(latents)
    for name, z in back.items():
        error = functional.mse_loss(denoiser.decode(z), target)
        rows.append(Row(PSNR, name, float(-10 * error.clamp(min=1e-10).log10())))
    return rows


PANELS = dot_panels((PSNR, (PLAIN, NULL, STYLE, FREE)), (ATTENTION, (STYLE, FREE)), rotation=20)
STUDY = declared_study(__name__, measure, first=first, draw=PANELS, seeds=range(10, 20), registered="296e6ee79927")
