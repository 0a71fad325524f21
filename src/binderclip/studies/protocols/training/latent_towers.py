"""Two image towers of one size trained on captioned plain shapes: one reads latents, one pixels.

Both stand beside the text tower of `small`, which nobody trains, so that they differ in what they see alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from binderclip.models import ImageTextModel, LatentCLIP, build, load
from binderclip.studies.protocols.plain_shapes import bundled_denoiser, plain_shapes
from binderclip.train.bundled.data.drawings import COLOURS, SHAPES

__all__ = ["LatentPixelTowers", "ShapeLatents", "caption_vectors", "latent_pixel_towers", "shape_latents"]

CAPTIONS = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
TRAIN, STEPS, BATCH, RATE, SCALE = 1000, 240, 64, 2e-3, 50.0
WIDTH, LAYERS, PATCH = 64, 2, 4


class ShapeLatents(NamedTuple):
    """Captioned pictures and their latents, scaled as the denoiser has them."""

    images: Float[Tensor, "N 3 64 64"]
    latents: Float[Tensor, "N 4 16 16"]
    labels: Int[Tensor, " N"]


class LatentPixelTowers(NamedTuple):
    """The two models of one seed."""

    latent: LatentCLIP
    pixel: ImageTextModel


@lru_cache(maxsize=2)
@torch.no_grad()
def shape_latents(count: int, seed: int) -> ShapeLatents:
    """Plain shapes, encoded once for all seeds of a study.

    Args:
        count, seed: as of `plain_shapes`.
    """
    shapes = plain_shapes(count, seed)
    latents = torch.cat([bundled_denoiser().encode(images) for images in shapes.images.split(50)])
    return ShapeLatents(shapes.images, latents, torch.tensor([CAPTIONS.index(text) for text in shapes.captions]))


@lru_cache(maxsize=1)
@torch.no_grad()
def caption_vectors() -> Float[Tensor, "Q E"]:
    """Unit vectors of all captions by the text tower that both models have and that nobody trains."""
    return load("small").encode_text(CAPTIONS, normalize=True)


@cache
def latent_pixel_towers(seed: int) -> LatentPixelTowers:
    """Both models, their image towers trained on the same captions in as many steps from the same batches; kept.

    Args:
        seed: of weights and batches.
    """
    small, autoencoder, data = load("small"), bundled_denoiser().autoencoder, shape_latents(TRAIN, -1)
    embed, text = caption_vectors().shape[1], small.config["model_cfg"]["text_cfg"]
    shape = {"width": WIDTH, "layers": LAYERS, "head_width": 32}

    def config(side: int, patch: int) -> dict[str, Any]:
        vision = {"image_size": side, "patch_size": patch, **shape}
        return {"embed_dim": embed, "custom_text": True, "vision_cfg": vision, "text_cfg": text}

    torch.manual_seed(seed)  # after all that is loaded, which draws random numbers, too
    factor, tokenizer = autoencoder.config.scaling_factor, small.tokenizer
    latent = LatentCLIP(config(16, PATCH), autoencoder, scaling_factor=factor, tokenizer=tokenizer)
    pixel = build(config(64, 4 * PATCH), tokenizer=tokenizer)
    for model, encode, inputs in ((latent.model, latent.encode_latents, data.latents),
                                  (pixel, pixel.encode_image, data.images)):  # fmt: skip
        model.backbone.text.load_state_dict(small.backbone.text.state_dict())
        fit_tower(model.backbone.visual, partial(encode, normalize=True), inputs, data.labels, seed)
    return LatentPixelTowers(latent.eval(), pixel.eval())


def fit_tower(visual: torch.nn.Module, encode: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, seed: int) -> None:
    """Contrast each picture with all captions: InfoNCE in which no caption stands twice."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(visual.parameters(), lr=RATE, weight_decay=1e-2)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        loss = functional.cross_entropy(SCALE * encode(x[rows]) @ caption_vectors().mT, y[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        cycle.step()
