"""Weights `small-detector`, not shipped yet: the noise experts of AIDE, trained on copies of pictures by autoencoders.

`train_bundled_detector(".../bundled/small-detector")` trains autoencoders, the detector and one more for every kind of
up-sampling left out, measures them on the photographs of scikit-image and scikit-learn, which nothing here learned
from, and writes weights and card; about half an hour on one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from binderclip.data import Degradation, RealFakeSet, load_data, open_image
from binderclip.data.images import to_tensor
from binderclip.documents import json_text
from binderclip.evaluate import DetectorSanityCheck
from binderclip.quality import AIDE, Detector, save_detector, train_detector
from binderclip.quality.forensics.generators import GENERATORS, CopyingAutoencoder, train_autoencoder
from binderclip.train.bundled.photographs import WALLPAPERS, photographs_in

__all__ = ["train_bundled_detector"]

SIDES = (1280, 640, 384)
"""Longer sides that each photograph is learned at."""
TILE, TILES = 128, 3
"""Side of the squares in pixels, and how many of each photograph at each size."""
COPIES, COPY_STEPS, COPY_CROP = 3, 1500, 32
"""Autoencoders of each kind, each from a start of its own; their training steps and crops."""
DETECTOR: dict[str, Any] = {"experts": ["noise"]}
TRAINING: dict[str, Any] = {"steps": 1500, "batch_size": 16, "lr": 1e-3}
DEGRADED = 0.5
"""Share of the pictures, real and generated alike, that are blurred, and that are compressed, at every step."""


def train_bundled_detector(target: str | Path, folders: Sequence[str] = WALLPAPERS) -> Path:
    """Train, measure and write the folder.

    Args:
        target: the new folder.
        folders: of photographs to learn from.

    Raises:
        UsageError: a folder that is not there, or folders without pictures.
    """
    paths = photographs_in(folders)
    rng = np.random.default_rng(0)
    real = [tile for path in paths for side in SIDES for tile in tiles(open_image(path, mode="RGB"), side, TILES, rng)]
    makers = {kind: [autoencoder(kind, real, seed) for seed in range(COPIES)] for kind in GENERATORS}
    test = [
        tile for sample in load_data("photographs") for tile in tiles(sample.image.convert("RGB"), 384, TILES, rng)
    ]  # fmt: skip
    fresh = {kind: copied(test, [autoencoder(kind, real, COPIES)]) for kind in GENERATORS}

    def taught(kinds: Sequence[str]) -> Detector:
        return detector_of(real, {kind: copied(real, makers[kind]) for kind in kinds})

    def check(detector: Detector, kinds: Sequence[str], seen: Sequence[str]) -> DetectorSanityCheck:
        made = {kind: torch.stack(fresh[kind]) for kind in kinds}
        return DetectorSanityCheck.measure(detector, torch.stack(test), made, seen=seen)

    detector = taught(list(GENERATORS))
    measured = check(detector, list(GENERATORS), list(GENERATORS)).as_dict()
    unseen = {}
    for kind in GENERATORS:
        others = [name for name in GENERATORS if name != kind]
        unseen[kind] = check(taught(others), [kind], others).as_dict()["generators"][0]
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    card = {
        "name": target.name,
        "summary": "knows copies of photographs by small autoencoders; nobody has measured it on other generators",
        "recipe": "binderclip.train.bundled.detector.train_bundled_detector",
        "how": f"{len(real)} squares of {TILE} px from {len(paths)} photographs of Debian's packages "
        f"plasma-workspace-wallpapers and mate-backgrounds, and their copies by {COPIES} autoencoders of each kind; "
        f"{TRAINING['steps']} steps.",
        "method": "aide", "generators": [f"small autoencoders ({kind})" for kind in GENERATORS], "real": len(real),
        "fake": len(GENERATORS) * len(real), "held_out": len(test), **TRAINING, "seed": 0, "check": measured,
        "unseen": unseen,
        "unit": "squares of the photographs of scikit-image and scikit-learn, and copies by autoencoders with starts "
        "of their own; `unseen`: a detector trained like this one, without that kind.",
    }  # fmt: skip
    save_detector(detector, target / "detector.safetensors", card)
    (target / "card.json").write_text(json_text(card) + "\n", encoding="utf-8")
    return target


def tiles(image: Image.Image, side: int, count: int, rng: np.random.Generator) -> list[Float[Tensor, "3 s s"]]:
    """Squares of a photograph whose longer side is made `side` pixels first, if it is larger."""
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    pixels = to_tensor(image)
    if min(pixels.shape[1:]) < TILE:
        return []
    corners = [[int(rng.integers(0, extent - TILE + 1)) for extent in pixels.shape[1:]] for _ in range(count)]
    return [pixels[:, top : top + TILE, left : left + TILE] for top, left in corners]


def autoencoder(kind: str, real: Sequence[Float[Tensor, "3 s s"]], seed: int) -> CopyingAutoencoder:
    """One of a kind, trained on crops of the squares."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    rows = rng.permutation(len(real))[:512]
    crops = torch.stack([_crop(real[int(row)], rng) for row in rows])
    return train_autoencoder(CopyingAutoencoder(**GENERATORS[kind]), crops, steps=COPY_STEPS, seed=seed)  # type: ignore[arg-type]


def _crop(image: Float[Tensor, "3 s s"], rng: np.random.Generator) -> Float[Tensor, "3 c c"]:
    top, left = (int(rng.integers(0, extent - COPY_CROP + 1)) for extent in image.shape[1:])
    return image[:, top : top + COPY_CROP, left : left + COPY_CROP]


@torch.no_grad()
def copied(
    real: Sequence[Float[Tensor, "3 s s"]], makers: Sequence[CopyingAutoencoder]
) -> list[Float[Tensor, "3 s s"]]:
    """A copy of each square, as an 8-bit file holds it; the makers take turns."""
    return [
        (makers[row % len(makers)](image[None])[0] * 255).round() / 255 for row, image in enumerate(real)
    ]  # fmt: skip


def detector_of(real: Sequence[Float[Tensor, "3 s s"]], fakes: dict[str, list[Float[Tensor, "3 s s"]]]) -> Detector:
    """A detector trained on squares and their copies."""
    torch.manual_seed(0)
    detector = AIDE("small", **DETECTOR)
    train_detector(
        detector, RealFakeSet.from_pictures(real, fakes), degradation=Degradation(p=DEGRADED), **TRAINING
    )  # fmt: skip
    return detector
