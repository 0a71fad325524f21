"""Photographs, copies of them by small autoencoders, and copies that are only processed: a bench for detectors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.data import load_data
from binderclip.data.distortions.processing import PROCESSING
from binderclip.data.images import to_tensor
from binderclip.quality.forensics.generators import GENERATORS, CopyingAutoencoder, train_autoencoder

SEEN = "transposed"
"""The generator that detectors are trained on."""
UNSEEN = tuple(name for name in GENERATORS if name != SEEN)
CONTROLS = ("JPEG 75", "JPEG 40", "blur 1 px", "half size and back")
"""The processing that stored measurements were made with."""
STEPS, CROP, CROPS = 150, 32, 480


@lru_cache(maxsize=1)
def photographs() -> tuple[list[str], list[Float[Tensor, "3 H W"]]]:
    """Names and pixels of the twenty photographs of scikit-image and scikit-learn."""
    samples = list(load_data("photographs"))
    return [sample.key for sample in samples], [to_tensor(sample.image.convert("RGB")) for sample in samples]


def tiles(rows: list[int], count: int, side: int, rng: np.random.Generator) -> Float[Tensor, "N 3 s s"]:
    """Squares of photographs at their own resolution, one photograph after the other."""
    _, images = photographs()
    found = []
    for number in range(count):
        image = images[rows[number % len(rows)]]
        top, left = (int(rng.integers(0, extent - side + 1)) for extent in image.shape[1:])
        found.append(image[:, top : top + side, left : left + side])
    return torch.stack(found)


@lru_cache(maxsize=1)
def generators() -> dict[str, CopyingAutoencoder]:
    """The four autoencoders, trained once on crops of all photographs and on drawings of the packs."""
    rng = np.random.default_rng(53)
    photos = tiles(list(range(len(photographs()[1]))), CROPS, CROP, rng)
    pack = load_data("openclipart", split="train")
    drawn = [to_tensor(pack[int(row)].image.convert("RGB")) for row in rng.permutation(len(pack))[: CROPS // 4]]
    images = torch.cat([photos, F.avg_pool2d(torch.stack(drawn), 2)])
    found = {}
    for number, (name, settings) in enumerate(GENERATORS.items()):
        torch.manual_seed(number)
        model = CopyingAutoencoder(**settings)  # type: ignore[arg-type]
        found[name] = train_autoencoder(model, images, steps=STEPS, seed=number)
    return found


@dataclass(frozen=True)
class FakeBench:
    """Tiles and their copies; every picture is rounded to 8 bits, and copies are aligned with the tiles.

    Attributes:
        train: (N, 3, s, s) tiles of one half of the photographs.
        train_fakes: their copies by the generator `SEEN`.
        test: (M, 3, s, s) tiles of the other half.
        fakes: generator -> copies of the test tiles.
        processed: processing -> the test tiles after it; nothing in them is generated.
    """

    train: Float[Tensor, "N 3 s s"]
    train_fakes: Float[Tensor, "N 3 s s"]
    test: Float[Tensor, "M 3 s s"]
    fakes: dict[str, Float[Tensor, "M 3 s s"]]
    processed: dict[str, Float[Tensor, "M 3 s s"]]


def bench(seed: int, *, train: int, test: int, side: int) -> FakeBench:
    """The pictures of one seed: which photographs teach, and the tiles of both halves, depend on it.

    Args:
        seed: of the draw.
        train, test: how many tiles.
        side: in pixels, a multiple of 4.
    """
    rng = np.random.default_rng([seed, 168])
    order = rng.permutation(len(photographs()[1])).tolist()
    half = len(order) // 2
    real, other = tiles(order[:half], train, side, rng), tiles(order[half:], test, side, rng)
    made = generators()
    with torch.no_grad():
        return FakeBench(
            real,
            rounded(made[SEEN](real)),
            other,
            {name: rounded(model(other)) for name, model in made.items()},
            {name: rounded(PROCESSING[name](other)) for name in CONTROLS},
        )


def rounded(images: Float[Tensor, "N 3 s s"]) -> Float[Tensor, "N 3 s s"]:
    """As an 8-bit file holds them."""
    return (images * 255).round() / 255
