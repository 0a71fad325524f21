"""Does a tower that reads latents classify and steer as well as one that reads pixels, at less cost?"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.generate import ClipReward, NoiseOptimizer
from binderclip.models.operations import count_operations
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.plain_shapes import bundled_denoiser, plain_shapes
from binderclip.studies.protocols.training.latent_towers import caption_vectors, latent_pixel_towers, shape_latents
from binderclip.train.bundled.figures.diffusion_figures import name_shape

LATENT, PIXEL, START, BEST = "latent tower", "pixel tower", "noise as drawn", "best of as many noises, latent tower"
ACCURACY, RIGHT = "zero-shot accuracy", "words of shape and colour that rules name as the prompt does"
OPERATIONS = "operations of an update, 1e9"
TEST = 200
PROMPTS, SAMPLING, ITERATES, WEIGHT = 4, 3, 8, 0.01
NOISES = 3 * (ITERATES - 1) + 1  # a backward pass costs about two forward ones; the last iterate has none


def generate(noise: Float[Tensor, "B 4 16 16"], prompt: str) -> Float[Tensor, "B 4 16 16"]:
    """The generator: a few unguided DDIM steps, differentiable in the noise."""
    denoiser, x = bundled_denoiser(), noise.clone()  # what is counted must not begin at a leaf
    times = denoiser.schedule.timesteps(SAMPLING).tolist()
    for t, lower in zip(times, [*times[1:], None], strict=True):
        x = denoiser.schedule.step(denoiser.predict(x, t, [prompt])[0], x, t, lower)
    return x


def optimizers(seed: int, steps: int) -> dict[str, NoiseOptimizer]:
    """Of latents, which are never decoded, and of decoded pictures."""
    latent, pixel = latent_pixel_towers(seed)
    made = {LATENT: generate, PIXEL: lambda noise, prompt: bundled_denoiser().decode(generate(noise, prompt))}
    rewards = {LATENT: ClipReward(latent, autoencoder=bundled_denoiser().autoencoder), PIXEL: ClipReward(pixel)}
    return {name: NoiseOptimizer(made[name], {"clip": (rewards[name], WEIGHT)}, steps=steps) for name in made}


def noises(seed: int) -> Float[Tensor, "P N 4 16 16"]:
    """Of every prompt the noises to choose from, of which the first is optimised."""
    return torch.randn(PROMPTS, NOISES, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


def rightly(noise: Float[Tensor, "P 4 16 16"], prompts: list[str]) -> float:
    """The share of words, two a prompt, that rules name in what the noise becomes."""
    with torch.no_grad():
        latents = torch.cat([generate(x[None], prompt) for x, prompt in zip(noise, prompts, strict=True)])
        names = [name_shape(image) for image in bundled_denoiser().decode(latents)]
    words = [tuple(prompt.split()[1:]) for prompt in prompts]  # "a COLOUR SHAPE"
    return float(np.mean([[shape == s, colour == c] for (shape, colour), (c, s) in zip(names, words, strict=True)]))


def operations(name: str, seed: int) -> float:
    """Of one update, in 1e9; the last iterate has none, so two have one more than one."""
    noise, counts = noises(seed)[0, :1], []
    for steps in (1, 2):
        optimizer = optimizers(seed, steps)[name]
        counts.append(count_operations(partial(optimizer.run, "a red star", noise)))
    return (counts[1] - counts[0]) / 1e9


def first(seed: int) -> list[Row]:
    """How well both towers classify, and what the generator makes of noise as it is drawn."""
    (latent, pixel), data, text = latent_pixel_towers(seed), shape_latents(TEST, -2), caption_vectors()
    with torch.no_grad():
        features = {LATENT: latent.encode_latents(data.latents), PIXEL: pixel.encode_image(data.images)}
    right = {name: (rows @ text.mT).argmax(1) == data.labels for name, rows in features.items()}
    rows = [Row(ACCURACY, name, float(hits.float().mean())) for name, hits in right.items()]
    return [*rows, Row(RIGHT, START, rightly(noises(seed)[:, 0], plain_shapes(PROMPTS, seed).captions))]


def measure(seed: int) -> list[Row]:
    """Noise of every prompt, optimised by each tower's reward, and chosen among many by the latent one."""
    prompts, drawn = plain_shapes(PROMPTS, seed).captions, noises(seed)
    rows = []
    for name, optimizer in optimizers(seed, ITERATES).items():
        best = [optimizer.run(prompt, x[:1]).noise for prompt, x in zip(prompts, drawn, strict=True)]
        rows.append(Row(RIGHT, name, rightly(torch.cat(best), prompts)))
        rows.append(Row(OPERATIONS, name, operations(name, seed)))
    reward = ClipReward(latent_pixel_towers(seed).latent)
    with torch.no_grad():
        losses = torch.stack([reward(generate(x, prompt), prompt) for prompt, x in zip(prompts, drawn, strict=True)])
    chosen = drawn[torch.arange(PROMPTS), losses.argmin(1)]
    return [*rows, Row(RIGHT, BEST, rightly(chosen, prompts))]


PANELS = dot_panels((ACCURACY, (LATENT, PIXEL)), (RIGHT, (START, LATENT, PIXEL, BEST)), rotation=20)
STUDY = declared_study(__name__, measure, first=first, draw=PANELS, seeds=range(10, 18), registered="5a8849057194")
