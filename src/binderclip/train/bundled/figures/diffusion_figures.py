"""What the pictures of the bundled denoiser are worth: named by exact rules, and by a model that did not guide them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from binderclip.data import load_packs, to_tensor
from binderclip.generate import ClassifierFreeGuidance, LatentDenoiser, sample
from binderclip.models import load
from binderclip.quality import CMMD
from binderclip.train.bundled.data.drawings import COLOURS, SHAPES, shape_pictures

__all__ = ["diffusion_figures", "drawn_pictures", "name_shape", "shape_mask"]

FOREGROUND = 0.2  # Euclidean distance from the ground's colour, of sqrt(3) at most
GRID = 24  # side that a shape's box is resized to before it is compared
EMOJI_PROMPTS, SHAPE_PROMPTS = 48, 40


@torch.no_grad()
def drawn_pictures(
    denoiser: LatentDenoiser, prompts: Sequence[str], *, guidance_scale: float = 3.0, steps: int = 30, seed: int = 0
) -> Float[Tensor, "N 3 64 64"]:
    """One picture a prompt, each from noise of its own.

    Args:
        denoiser: in eval mode.
        prompts: texts.
        guidance_scale: of classifier-free guidance.
        steps: of sampling.
        seed: of the noise.
    """
    noise = denoiser.noise(len(prompts), generator=torch.Generator().manual_seed(seed))
    guidance = ClassifierFreeGuidance(guidance_scale)
    latents = [
        sample(denoiser, x[None], prompt, terms=[guidance], num_inference_steps=steps)
        for x, prompt in zip(noise, prompts, strict=True)
    ]
    return denoiser.decode(torch.cat(latents))


def shape_mask(image: Float[Tensor, "3 H W"]) -> Bool[Tensor, "H W"]:
    """Where a picture differs from its ground, whose colour is the median of its border."""
    border = torch.cat([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], 1).median(1).values
    return (image - border[:, None, None]).norm(dim=0) > FOREGROUND


def name_shape(image: Float[Tensor, "3 H W"]) -> tuple[str | None, str | None]:
    """Shape and colour of the one plain shape in a picture, by rules; None for each where nothing is drawn.

    The colour is the nearest of `COLOURS` to the median inside; the shape the one whose drawing, brought to the same
    box, has the largest IoU with it.

    Args:
        image: in [0, 1].
    """
    mask = shape_mask(image)
    if int(mask.sum()) < 16:
        return None, None
    median = image[:, mask].median(1).values
    palette = torch.tensor(list(COLOURS.values())).float() / 255
    colour = list(COLOURS)[int((palette - median).norm(dim=1).argmin())]
    box = _boxed(mask)
    overlap = [float((box & template).sum() / (box | template).sum()) for template in _templates()]
    return SHAPES[int(np.argmax(overlap))], colour


def _boxed(mask: Bool[Tensor, "H W"]) -> Bool[Tensor, "g g"]:
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    cut = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].float()[None, None]
    return functional.interpolate(cut, (GRID, GRID), mode="bilinear")[0, 0] > 0.5


_TEMPLATES: list[Bool[Tensor, "g g"]] = []


def _templates() -> list[Bool[Tensor, "g g"]]:
    if not _TEMPLATES:
        seen: dict[str, Tensor] = {}
        for picture in shape_pictures(400, 7, pairs=0.0):
            seen.setdefault(picture.caption.split()[-1], torch.from_numpy(picture.alpha.copy()) > 127)
        _TEMPLATES.extend(_boxed(seen[shape]) for shape in SHAPES)
    return _TEMPLATES


@torch.no_grad()
def diffusion_figures(denoiser: LatentDenoiser, *, seed: int = 0) -> dict[str, Any]:
    """Shares of right names among pictures of shapes and of emoji, and the distance to held-out emoji.

    Each has what real pictures of the same captions get, and chance.

    Args:
        denoiser: in eval mode.
        seed: of prompts and noise.
    """
    real = shape_pictures(SHAPE_PROMPTS, seed + 100, pairs=0.0)
    prompts = [picture.caption for picture in real]
    drawn = drawn_pictures(denoiser, prompts, seed=seed)
    pixels = torch.from_numpy(np.stack([picture.pixels for picture in real])).permute(0, 3, 1, 2).float() / 255
    figures: dict[str, Any] = {}
    for name, images in (("drawn", drawn), ("real", pixels)):
        names = [name_shape(image) for image in images]
        figures[f"shape {name}"] = _mean(
            [f"{shape}" == text.split()[2] for (shape, _), text in zip(names, prompts, strict=True)]
        )
        figures[f"colour {name}"] = _mean(
            [f"{colour}" == text.split()[1] for (_, colour), text in zip(names, prompts, strict=True)]
        )
    figures |= {"shape chance": 1 / len(SHAPES), "colour chance": 1 / len(COLOURS)}
    return {key: round(value, 3) for key, value in {**figures, **_emoji_figures(denoiser, seed)}.items()}


def _emoji_figures(denoiser: LatentDenoiser, seed: int) -> dict[str, float]:
    train = load_packs("noto-emoji", "train")
    order = np.random.default_rng(seed).permutation(len(train))
    chosen = [train[int(row)] for row in order if not train[int(row)].caption.startswith("flag")][:EMOJI_PROMPTS]
    prompts = [sample_.caption for sample_ in chosen]
    drawn = drawn_pictures(denoiser, prompts, seed=seed + 1)
    real = torch.stack([to_tensor(sample_.image) for sample_ in chosen])
    held = torch.stack([to_tensor(sample_.image) for sample_ in load_packs("noto-emoji", "val")])
    figures: dict[str, float] = {}
    for name in ("small", "small-b"):
        model = load(name)
        texts = functional.normalize(model.encode_text(prompts), dim=1)
        for kind, images in (("drawn", drawn), ("real", real)):
            logits = functional.normalize(model.encode_image(images), dim=1) @ texts.T
            figures[f"emoji {kind}, {name}"] = _mean((logits.argmax(1) == torch.arange(len(prompts))).tolist())
        if name == "small":
            for kind, images in (("drawn", drawn), ("real", real)):
                metric = CMMD(resize="model")
                metric.update(functional.normalize(model.encode_image(held), dim=1), real=True)
                metric.update(functional.normalize(model.encode_image(images), dim=1), real=False)
                figures[f"CMMD {kind}"] = float(metric.compute())
    return {**figures, "emoji chance": 1 / len(prompts)}


def _mean(right: Sequence[bool]) -> float:
    return float(np.mean(right))
