"""Small generators for tests and studies of detectors: autoencoders whose copies carry the marks of their up-sampling.

A copy is aligned with its picture pixel for pixel, so what separates the two is the generator alone. Transposed
convolutions leave a grid, nearest-neighbour up-sampling leaves repeated values that convolutions smooth, quantised
codes leave patches of a finite vocabulary. Trained by their squared error alone the copies are blurrier than their
pictures, and a detector may learn that alone; `texture=` and `data.matched_spectrum` make them as sharp.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from binderclip.errors import UsageError
from binderclip.fit import fit
from binderclip.settings import check_choice

Upsampling = Literal["transposed", "nearest", "shuffle"]
UPSAMPLINGS: tuple[Upsampling, ...] = ("transposed", "nearest", "shuffle")
GENERATORS: dict[str, dict[str, object]] = {
    "transposed": {"upsampling": "transposed"},
    "nearest": {"upsampling": "nearest"},
    "shuffle": {"upsampling": "shuffle"},
    "codes": {"upsampling": "nearest", "codes": 128},
}
"""Kinds of autoencoders: name -> settings of `CopyingAutoencoder`."""


class CopyingAutoencoder(nn.Module):
    """A convolutional autoencoder at a quarter of the side; its copies of pictures are the fakes.

    The latents are the mean colours of 4 x 4 blocks and learned channels of detail. The copy is the colours brought
    back to full size bilinearly, plus what the decoder makes of all latents; so a few hundred steps give copies that
    look like their pictures.

    Args:
        upsampling: of the decoder: "transposed" (4 x 4 transposed convolutions), "nearest" (repeated pixels, then a
            convolution) or "shuffle" (pixel shuffle).
        codes: size of a codebook that every vector of detail is rounded to, with a straight-through gradient; None
            leaves them as they are.
        width: channels inside.
        detail: learned channels of a latent vector.
        texture: weight of `strength_gap` in the loss, which asks for structure as fine and as strong as the picture's
            even where it cannot be the same. Default 0: the squared error alone, which prefers blur.

    Raises:
        UsageError: an unknown up-sampling, or pictures whose sides are no multiples of 4.

    Paper of quantised codes: Neural Discrete Representation Learning (arXiv 1711.00937).
    """

    def __init__(
        self, upsampling: Upsampling = "transposed", *, codes: int | None = None, width: int = 16, detail: int = 12,
        texture: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        check_choice("upsampling", upsampling, UPSAMPLINGS)
        self.texture = texture
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4), nn.Conv2d(48, 2 * width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(2 * width, detail, 3, padding=1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(3 + detail, 2 * width, 3, padding=1), nn.ReLU(), *_larger(upsampling, 2 * width, width),
            nn.ReLU(), *_larger(upsampling, width, width), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1),
        )  # fmt: skip
        self.codebook = None if codes is None else nn.Parameter(torch.randn(codes, detail) * 0.5)

    def encode(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B 3 h w"], Float[Tensor, "B L h w"]]:
        """Mean colours and detail at a quarter of the side, before detail is rounded to codes."""
        if images.shape[-2] % 4 or images.shape[-1] % 4:
            raise UsageError(f"{images.shape[-2]} x {images.shape[-1]} pixels: sides must be multiples of 4")
        return functional.avg_pool2d(images, 4), self.encoder(images)

    def quantised(self, detail: Float[Tensor, "B L h w"]) -> Float[Tensor, "B L h w"]:
        """Every vector of detail replaced by the nearest code; without a codebook as it is."""
        if self.codebook is None:
            return detail
        flat = detail.movedim(1, -1)  # (B, h, w, L)
        nearest = torch.cdist(flat.flatten(0, 2), self.codebook).argmin(1).view(flat.shape[:3])
        return self.codebook[nearest].movedim(-1, 1)

    def decode(self, colours: Float[Tensor, "B 3 h w"], detail: Float[Tensor, "B L h w"]) -> Float[Tensor, "B 3 H W"]:
        """Latents -> pictures, not cut to [0, 1]."""
        base = functional.interpolate(colours, scale_factor=4, mode="bilinear")
        return base + self.decoder(torch.cat([colours, detail], 1))

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Copies of pictures, in [0, 1]."""
        colours, detail = self.encode(images)
        return self.decode(colours, self.quantised(detail)).clamp(0, 1)

    def loss(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, ""]:
        """Mean squared error of the copy, the gap of strengths, and the terms that draw detail and codes together."""
        colours, detail = self.encode(images)
        chosen = self.quantised(detail)
        rounded = detail + (chosen - detail).detach()  # the gradient passes straight through
        copy = self.decode(colours, rounded)
        error = functional.mse_loss(copy, images)
        if self.texture:
            error = error + self.texture * strength_gap(copy, images)
        if self.codebook is None:
            return error
        near = functional.mse_loss(chosen, detail.detach()) + 0.25 * functional.mse_loss(detail, chosen.detach())
        return error + near


def strength_gap(copies: Float[Tensor, "B 3 H W"], images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, ""]:
    """How far copies are from their pictures in the local strength of fine structure, whatever its place and phase.

    Two bands, what a mean over 3 x 3 takes away and what one over 5 x 5 takes from that; the strength is the root of
    the mean square over 8 x 8 pixels, and the gap the mean absolute difference.
    """

    def strengths(pictures: Tensor) -> Tensor:
        smooth = functional.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
        bands = pictures - smooth, smooth - functional.avg_pool2d(smooth, 5, 1, 2, count_include_pad=False)
        return torch.cat([(functional.avg_pool2d(band.square(), 8, 4) + 1e-6).sqrt() for band in bands], 1)

    return (strengths(copies) - strengths(images)).abs().mean()


def _larger(upsampling: Upsampling, before: int, after: int) -> list[nn.Module]:
    """Layers that double the side."""
    if upsampling == "transposed":
        return [nn.ConvTranspose2d(before, after, 4, 2, 1)]
    if upsampling == "nearest":
        return [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1)]
    return [nn.Conv2d(before, 4 * after, 3, padding=1), nn.PixelShuffle(2)]


def train_autoencoder(
    model: CopyingAutoencoder, images: Float[Tensor, "N 3 s s"], *, steps: int, batch_size: int = 16, lr: float = 2e-3,
    seed: int = 0,
) -> CopyingAutoencoder:  # fmt: skip
    """Train the autoencoder on pictures through `fit`, and return it in evaluation mode.

    A codebook starts as latents of the pictures, or most codes would never be chosen.

    Args:
        model: changed in place.
        images: in [0, 1].
        steps: of Adam.
        batch_size: pictures a step.
        lr: learning rate, on a cosine schedule.
        seed: of the order.
    """
    generator = torch.Generator().manual_seed(seed)
    if model.codebook is not None:
        with torch.no_grad():
            vectors = model.encode(images[:64])[1].movedim(1, -1).flatten(0, 2)
            rows = torch.randint(len(vectors), (len(model.codebook),), generator=generator)
            model.codebook.copy_(vectors[rows])

    def batches() -> Iterator[Tensor]:
        while True:
            yield images[torch.randint(len(images), (batch_size,), generator=generator)]

    fit(model.loss, model, batches(), steps=steps, optimizer="adam", lr=lr)
    return model.eval()
