"""The bundled weights `small-vq`: a vector-quantised autoencoder of drawings and photographs of 64 px.

`train_vq(".../bundled/small-vq")` trains on the bundled picture packs (training splits) over white and light grounds
and on crops of photographs of Debian's wallpaper packages, measures on drawings that were held out and on the
photographs of scikit-image and scikit-learn, and writes weights and card; about two minutes on one core. A run that
was stopped goes on where it was.

An earlier autoencoder, trained by squared errors of red, green and blue alone, gave red and green the same code: both
were as far from the mean of the two. So the squared errors of two colour opponents, and of the differences of
neighbouring pixels, which keep edges sharp, count as well.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data import load_data, load_packs, open_image
from binderclip.data.images import to_tensor
from binderclip.fit import Checkpoint, fit
from binderclip.generate.draw.vq_autoencoder import VQAutoencoder, load_vq_autoencoder, save_vq_autoencoder
from binderclip.train.bundled.data.photographs import WALLPAPERS, photographs_in

__all__ = [
    "VQTraining",
    "photograph_squares",
    "reconstruction_error",
    "reconstruction_figures",
    "train_vq",
    "write_figures",
]

SIDE, CROP, BATCH = 64, 32, 32
"""Sides of pictures and of what is cut from them in pixels (the network is local), and crops of a step."""
STEPS, WARM, LR = 1000, 200, 2e-3
"""Steps, those before anything is rounded, and the learning rate at their end."""
CROPS, PHOTOGRAPHS = 60, 0.35
"""Squares of each photograph, and the part of a batch that is cut from photographs."""
EVERY = 100
"""Steps between two checkpoints."""
COMMITMENT, DECAY, RESTART, LEAST = 0.25, 0.99, 25, 0.1
"""Weight of the commitment, decay of the codebook's averages, steps between restarts, places of a code that lives."""
OPPONENTS, EDGES = 0.5, 1.0
"""Weights of the squared errors of colour opponents and of neighbouring pixels' differences."""
NETWORK: dict[str, Any] = {"codes": 512, "channels": 16, "widths": (32, 96), "blocks": (1, 2)}


def train_vq(
    target: str | Path, folders: Sequence[str] = WALLPAPERS, *, checkpoint: str | Path | None = None, seed: int = 0
) -> Path:
    """Train, measure and write the folder.

    Args:
        target: the new folder; its name is that of the weights.
        folders: of photographs to learn from.
        checkpoint: a folder to go on from; default none.
        seed: of weights and batches.

    Raises:
        UsageError: a folder that is not there, or folders without pictures.
    """
    paths = photographs_in(folders)
    batches = _Crops(_drawings("train"), photograph_squares(paths, CROPS, seed), seed)
    torch.manual_seed(seed)
    training = VQTraining(VQAutoencoder(**NETWORK))
    kept = Checkpoint(checkpoint, every=EVERY, identity={"network": NETWORK, "seed": seed}) if checkpoint else None
    run = fit(
        training, training, batches, steps=STEPS, optimizer="adam", lr=LR, warmup=WARM, floor=0.01, clip=1.0,
        precision="bfloat16", checkpoint=kept,
    )  # fmt: skip
    model = training.net.eval()
    card = {
        "name": Path(target).name,
        "summary": "vector-quantised autoencoder for pictures of codes: 64 px are 16 x 16 of 512",
        "recipe": "binderclip.train.bundled.generative.vq.train_vq",
        "how": f"drawings of the bundled packs, training splits, and {CROPS} squares of each of {len(paths)} "
        f"photographs of Debian's plasma-workspace-wallpapers and mate-backgrounds; {STEPS} steps of {BATCH} "
        f"crops of {CROP} px; weights in 16 bits.",
        "seconds": round(run.seconds),
        "unit": f"at {SIDE} px. PSNR: dB, mean over pictures. codes used: rows of the codebook that the pictures need. "
        "4 x 4 means: what a grid of exact mean colours reaches.",
    }
    save_vq_autoencoder(model, target, card=card)
    return write_figures(Path(target), card)


def write_figures(target: Path, card: Mapping[str, Any]) -> Path:
    """Measure the weights of a folder, as they are stored, and write them again with the figures in their card.

    Args:
        target: the folder.
        card: without figures.
    """
    model = load_vq_autoencoder(target)
    held_out = {
        "drawings": _over_white(_drawings("test", 400)),
        "photographs": photograph_squares([_rgb(sample.image) for sample in load_data("photographs")], 10, 1),
    }
    figures = {name: reconstruction_figures(model, pictures / 255) for name, pictures in held_out.items()}
    return save_vq_autoencoder(model, target, card={**card, "figures": figures})


class VQTraining(nn.Module):
    """An autoencoder that learns by gradients, and whose codebook follows the mean of what is rounded to each code.

    Args:
        net: is trained; its codebook is set from the latents after `WARM` steps.

    Paper: Neural Discrete Representation Learning (arXiv 1711.00937), appendix A.1, with restarts of codes that nothing
    is rounded to (Jukebox, arXiv 2005.00341).
    """

    usage: Tensor
    sums: Tensor

    def __init__(self, net: VQAutoencoder) -> None:
        super().__init__()
        self.net = net
        table = net.quantize.embedding.weight.requires_grad_(False)
        self.register_buffer("usage", torch.ones(len(table)))
        self.register_buffer("sums", table.clone())

    def forward(self, batch: tuple[int, Float[Tensor, "B 3 h w"]]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the crops of step 0, 1, ..., in [0, 1]; the codebook moves."""
        step, images = batch
        images = 2 * images - 1
        latent = self.net.encode(images).float()
        if step < WARM:
            error = reconstruction_error(self.net.decode(latent).float(), images)
            return error, {"error": error.detach()}
        if step == WARM:
            self.start(latent)
        with torch.autocast(images.device.type, enabled=False):  # codes are compared in full precision
            quantised = self.net.quantise(latent)
        error = reconstruction_error(self.net.decode(quantised.values).float(), images)
        commitment = F.mse_loss(latent, quantised.values.detach())
        self.follow(latent.detach(), quantised.rows, step)
        return error + COMMITMENT * commitment, {"error": error.detach(), "commitment": commitment.detach()}

    @torch.no_grad()
    def start(self, latent: Float[Tensor, "B e h w"], rounds: int = 10) -> None:
        """Set the codebook to the means of groups of latents: k-means from random places."""
        places = latent.permute(0, 2, 3, 1).flatten(0, 2)  # (N, e)
        table = self.net.quantize.embedding.weight
        table.copy_(places[torch.randint(len(places), (len(table),))])
        for _ in range(rounds):
            counts, sums = _assigned(places, torch.cdist(places, table).argmin(1), len(table))
            table.copy_(torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), table))
        self.usage.copy_(counts.clamp(min=1))
        self.sums.copy_(table * self.usage[:, None])

    @torch.no_grad()
    def follow(self, latent: Float[Tensor, "B e h w"], rows: Int[Tensor, "B h w"], step: int) -> None:
        """Move each code towards the mean of what was rounded to it, and codes without any to random places."""
        places, table = latent.permute(0, 2, 3, 1).flatten(0, 2), self.net.quantize.embedding.weight
        counts, sums = _assigned(places, rows.flatten(), len(table))
        self.usage.lerp_(counts, 1 - DECAY)
        self.sums.lerp_(sums, 1 - DECAY)
        if step % RESTART == 0:
            dead = self.usage < LEAST
            chosen = torch.randint(len(places), (int(dead.sum()),))
            self.usage[dead], self.sums[dead] = 1.0, places[chosen]
        table.copy_(self.sums / self.usage[:, None].clamp(min=1e-6))


def _assigned(places: Float[Tensor, "N e"], rows: Int[Tensor, "N"], codes: int) -> tuple[Tensor, Tensor]:
    """How many places each code has [K], and their sum [K, e]."""
    counts = torch.bincount(rows, minlength=codes).to(places)
    return counts, torch.zeros(codes, places.shape[1]).to(places).index_add_(0, rows, places)


def reconstruction_error(pictures: Float[Tensor, "B 3 H W"], images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, ""]:
    """Squared errors: of colours, of their opponents red - green and blue - (red + green) / 2, and of edges."""
    difference = pictures - images
    red, green, blue = difference.unbind(1)
    opponents = (red - green).square().mean() + (blue - (red + green) / 2).square().mean()
    edges = difference.diff(dim=-1).square().mean() + difference.diff(dim=-2).square().mean()
    return difference.square().mean() + OPPONENTS * opponents + EDGES * edges


class _Crops:
    """Step -> its crops: drawings over grounds, and photographs. They depend on seed and step alone, so that a run
    goes on as if it had not stopped."""

    def __init__(self, drawings: UInt8[Tensor, "D 4 s s"], squares: UInt8[Tensor, "P 3 s s"], seed: int) -> None:
        self.drawings, self.squares, self.seed, self.first = drawings, squares, seed, 0

    def seek(self, step: int) -> None:
        """Go on at this step."""
        self.first = step

    def __iter__(self) -> Iterator[tuple[int, Float[Tensor, "B 3 h w"]]]:
        step, self.first = self.first, 0
        while True:
            yield step, self.batch(step)
            step += 1

    def batch(self, step: int) -> Float[Tensor, "B 3 h w"]:
        """In [0, 1]; mirrored, and channels changed places, each in some."""
        g = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        count = round(BATCH * PHOTOGRAPHS)
        drawn = self.drawings[torch.randint(len(self.drawings), (BATCH - count,), generator=g)] / 255
        ground = 1 - 0.45 * torch.rand(len(drawn), 3, 1, 1, generator=g) * torch.rand(len(drawn), 1, 1, 1, generator=g)
        ground[torch.rand(len(drawn), generator=g) < 0.4] = 1.0
        drawn = drawn[:, 3:] * drawn[:, :3] + (1 - drawn[:, 3:]) * ground
        photographs = self.squares[torch.randint(len(self.squares), (count,), generator=g)] / 255
        pictures = []
        for picture in torch.cat([drawn, photographs]):
            top, left = torch.randint(SIDE - CROP + 1, (2,), generator=g).tolist()
            crop = picture[:, top : top + CROP, left : left + CROP]
            mirrored, permuted = (torch.rand(2, generator=g) < torch.tensor([0.5, 0.3])).tolist()
            crop = crop.flip(-1) if mirrored else crop
            pictures.append(crop[torch.randperm(3, generator=g)] if permuted else crop)
        return torch.stack(pictures)


def _drawings(split: str, most: int | None = None) -> UInt8[Tensor, "D 4 s s"]:
    data = load_packs(split=split, mode="RGBA")
    rows = range(len(data)) if most is None else np.random.default_rng(0).permutation(len(data))[:most].tolist()
    pictures = [data[row].image.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for row in rows]
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])


def _over_white(pictures: UInt8[Tensor, "D 4 s s"]) -> Float[Tensor, "D 3 s s"]:
    alpha = pictures[:, 3:] / 255
    return pictures[:, :3] * alpha + 255 * (1 - alpha)


def photograph_squares(photographs: Sequence[Path | Image.Image], crops: int, seed: int) -> UInt8[Tensor, "P 3 s s"]:
    """So many squares of each photograph, of sides between `SIDE` and the shorter one, drawn log-uniformly."""
    chance, squares = random.Random(seed), []
    for photograph in photographs:
        image = open_image(photograph) if isinstance(photograph, Path) else photograph
        image.thumbnail((1024, 1024), Image.Resampling.LANCZOS)
        for _ in range(crops):
            side = max(round(min(image.size) * (SIDE / min(image.size)) ** chance.random()), 1)
            x, y = chance.randint(0, image.width - side), chance.randint(0, image.height - side)
            square = image.crop((x, y, x + side, y + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            squares.append((to_tensor(square) * 255).round().to(torch.uint8))
    return torch.stack(squares)


def _rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


@torch.no_grad()
def reconstruction_figures(model: VQAutoencoder, pictures: Float[Tensor, "N 3 H W"]) -> dict[str, float]:
    """PSNR and codes used of pictures in [0, 1], and the PSNR of the means of 4 x 4 pixels.

    Args:
        model: encodes, rounds and decodes.
        pictures: sides are multiples of 4.
    """
    made, rows = [], []
    for part in pictures.split(50):
        quantised = model.quantise(model.encode(2 * part - 1))
        made.append((model.decode(quantised.values) / 2 + 0.5).clamp(0, 1))
        rows.append(quantised.rows.flatten())
    means = F.interpolate(F.avg_pool2d(pictures, 4), scale_factor=4)
    return {
        "PSNR": round(_psnr(torch.cat(made), pictures), 2),
        "PSNR of 4 x 4 means": round(_psnr(means, pictures), 2),
        "codes used": float(len(torch.cat(rows).unique())),
    }


def _psnr(made: Tensor, pictures: Tensor) -> float:
    error = (made - pictures).square().flatten(1).mean(1).clamp(min=1e-6)
    return float((-10 * error.log10()).mean())
