"""The autoencoder of the bundled `small-diffusion`: 64 px to 16 x 16 places of 4 numbers, and back.

`train_latent_autoencoder(folder)` trains diffusers' `AutoencoderTiny` on crops of drawings and shapes; a run that was
interrupted goes on exactly. About twenty minutes on one core.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from binderclip.errors import require
from binderclip.fit import Checkpoint, fit
from binderclip.train.bundled.data.drawings import drawing_pictures, shape_pictures

__all__ = ["PictureCrops", "new_autoencoder", "reconstruction_loss", "reconstruction_psnr", "train_latent_autoencoder"]

OPPONENTS = torch.tensor([[3**-0.5, 3**-0.5, 3**-0.5], [2**-0.5, -(2**-0.5), 0.0], [6**-0.5, 6**-0.5, -2 * 6**-0.5]])
"""Rows: lightness, red against green, yellow against blue; orthonormal."""
COLOUR_WEIGHTS = torch.tensor([1.0, 3.0, 3.0])
"""Without weights above 1 for the colours, latents of so few numbers made red and green one colour."""
CHECKPOINT_EVERY = 250  # steps
EDGE_WEIGHT, LATENT_WEIGHT = 0.1, 1e-3
LATENT_NOISE = 0.05
"""Standard deviation of noise on latents while training, which are of about unit variance: a decoder that bears it
bears what a denoiser leaves."""


def new_autoencoder(seed: int = 0, *, width: int = 48) -> Any:
    """diffusers' `AutoencoderTiny` of two halvings and 4 latent channels, at random weights."""
    require("diffusers", "generate")
    from diffusers import AutoencoderTiny

    torch.manual_seed(seed)
    return AutoencoderTiny(
        encoder_block_out_channels=(width,) * 3, decoder_block_out_channels=(width,) * 3, latent_channels=4,
        num_encoder_blocks=(1, 2, 3), num_decoder_blocks=(3, 2, 1), upsampling_scaling_factor=2,
    )  # fmt: skip


class PictureCrops:
    """Batches of random crops, mirrored at random, by number; `seek` goes on from one.

    Args:
        pixels: the pictures.
        batch: crops a batch. side: of a crop in pixels. seed: of everything.
    """

    def __init__(self, pixels: UInt8[np.ndarray, "N 64 64 3"], batch: int, side: int, seed: int = 0) -> None:
        self.pixels, self.batch, self.side, self.seed, self.first = pixels, batch, side, seed, 0

    def seek(self, number: int) -> None:
        """Begin with this batch."""
        self.first = number

    def __iter__(self) -> Iterator[Float[Tensor, "B 3 s s"]]:
        number = self.first
        while True:
            rng = np.random.default_rng([self.seed, number])
            rows = rng.integers(0, len(self.pixels), self.batch)
            tops, lefts = rng.integers(0, self.pixels.shape[1] - self.side + 1, (2, self.batch))
            flips = rng.random(self.batch) < 0.5
            crops = [
                self.pixels[row, top : top + self.side, left : left + self.side][:, :: -1 if flip else 1]
                for row, top, left, flip in zip(rows, tops, lefts, flips, strict=True)
            ]
            yield torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
            number += 1


def reconstruction_loss(decoded: Float[Tensor, "B 3 H W"], target: Float[Tensor, "B 3 H W"]) -> Float[Tensor, ""]:
    """Squared differences in opponent colours, and absolute ones of neighbouring pixels' steps, which keeps edges.

    Args:
        decoded: in [-1, 1], not clamped. target: in [-1, 1].
    """
    difference = decoded - target
    opponents = torch.einsum("kc,bchw->bkhw", OPPONENTS.to(difference), difference)
    squares = (opponents.square().mean((0, 2, 3)) * COLOUR_WEIGHTS.to(difference)).sum()
    steps = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
    return squares + EDGE_WEIGHT * steps


def train_latent_autoencoder(
    folder: str | Path,
    *,
    steps: int = 2500,
    batch: int = 32,
    side: int = 32,
    lr: float = 2e-3,
    callbacks: Sequence[Any] = (),
) -> Any:
    """Train and give back the averaged autoencoder, whose `scaling_factor` makes latents of unit variance.

    Args:
        folder: of checkpoints.
        steps: optimizer steps.
        batch: crops a step. side: of a crop, in pixels. lr: peak learning rate.
        callbacks: of `fit`.
    """
    pictures = drawing_pictures("train", 0) + shape_pictures(3000, 0)
    pixels = np.stack([picture.pixels for picture in pictures])
    autoencoder = new_autoencoder().to(memory_format=torch.channels_last)
    settings = {"steps": steps, "batch": batch, "side": side, "lr": lr}
    result = fit(
        _step(autoencoder), autoencoder, PictureCrops(pixels, batch, side), steps=steps, lr=lr, warmup=0.04, floor=0.02,
        clip=1.0, ema=0.998, precision="bfloat16", callbacks=callbacks,
        checkpoint=Checkpoint(folder, every=CHECKPOINT_EVERY, identity=settings),
    )  # fmt: skip
    averaged: Any = copy.deepcopy(autoencoder if result.ema is None else result.ema.module).eval().requires_grad_(False)
    with torch.no_grad():
        sample = torch.from_numpy(pixels[:: max(1, len(pixels) // 500)]).permute(0, 3, 1, 2).float() / 127.5 - 1
        deviation = float(torch.cat([averaged.encode(part).latents for part in sample.split(50)]).std())
    averaged.register_to_config(scaling_factor=round(1 / deviation, 4))
    return averaged


def _step(autoencoder: Any) -> Callable[[Float[Tensor, "B 3 s s"]], Float[Tensor, ""]]:
    def step(crops: Float[Tensor, "B 3 s s"]) -> Float[Tensor, ""]:
        target = (2 * crops - 1).contiguous(memory_format=torch.channels_last)
        latents = autoencoder.encode(target).latents
        noisy = latents + LATENT_NOISE * torch.randn_like(latents)
        decoded = autoencoder.decode(noisy).sample.float()
        return reconstruction_loss(decoded, target) + LATENT_WEIGHT * latents.float().square().mean()

    return step


@torch.no_grad()
def reconstruction_psnr(autoencoder: Any, pixels: UInt8[np.ndarray, "N 64 64 3"]) -> float:
    """Mean over pictures of the peak signal-to-noise ratio of what comes back, in dB."""
    target = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    ratios = []
    for part in target.split(64):
        decoded = autoencoder.decode(autoencoder.encode(part).latents).sample.clamp(-1, 1)
        error = functional.mse_loss(decoded, part, reduction="none").mean((1, 2, 3)) / 4  # of values in [0, 1]
        ratios.append(-10 * error.clamp(min=1e-10).log10())
    return float(torch.cat(ratios).mean())
