"""Weights `small-detector`: a small network on the noise of windows, trained on copies of pictures by autoencoders.

`train_bundled_detector(".../bundled/small-detector")` trains autoencoders, the detector and one more for every kind of
up-sampling left out, sets the threshold on photographs that were kept back, measures on those of scikit-image and
scikit-learn, which nothing here learned from, and writes weights and card; about half an hour on one core.

An earlier one, trained on copies that were blurrier than their pictures, took every blurred photograph for generated.
So here copies are as sharp as their pictures, ring by ring of the spectrum, both go through the same processing at
every step, and the threshold holds after each kind of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from binderclip.data import PROCESSING, Degradation, RealFakeSet, load_data, matched_spectrum, open_image
from binderclip.data.images import to_tensor
from binderclip.documents import json_text
from binderclip.evaluate import DetectorSanityCheck
from binderclip.evaluate.detectors import GeneratorFigures
from binderclip.files import make_folder, write_whole
from binderclip.quality import NoiseDetector, false_alarm_threshold, save_detector, train_detector
from binderclip.quality.forensics.generators import GENERATORS, CopyingAutoencoder, train_autoencoder
from binderclip.train.bundled.data.photographs import WALLPAPERS, photographs_in

__all__ = ["train_bundled_detector"]

Tiles = Float[Tensor, "N 3 s s"]

SIDES, TEST_SIDES = (1280, 640, 384), (640, 384)
"""Longer sides that each photograph is learned, or measured, at."""
TILE, TILES, OFFSETS = 160, 2, 8
"""Side of the squares in pixels, how many of each photograph at each size, and phases of a copy's grid in them."""
KEPT_BACK = 5
"""Every fifth photograph sets the threshold and is not learned from."""
COPIES, COPY_CROP = 2, 32
"""Autoencoders of each kind, each from a start of its own, and the crops that they learn from."""
COPYING: dict[str, Any] = {"width": 16, "detail": 24, "texture": 0.1}
COPY_TRAINING: dict[str, Any] = {"steps": 1000, "batch_size": 8, "lr": 6e-3}
DETECTOR: dict[str, Any] = {"grid": 2}
GRID = 3
"""Windows along a side once it is trained."""
TRAINING: dict[str, Any] = {"steps": 300, "batch_size": 16, "lr": 2e-3}
DEGRADED: dict[str, Any] = {
    "p": 0.4, "blur": (0.1, 1.5), "quality": (40, 95), "resize": (0.4, 0.9), "sharpen": (0.2, 2.0),
    "noise": (0.002, 0.02),
}  # fmt: skip
"""What happens to pictures, real and generated alike, at every step."""
FALSE_ALARMS = 0.05


@dataclass(frozen=True)
class DetectorFigures:
    """Figures on squares of photographs that nothing learned from.

    Attributes:
        shipped: of the detector that learned from all kinds.
        unseen: kind -> of a detector that learned from the others.
        loose: of the first, on copies that were not filtered to the spectrum of their pictures.
        sharpness: kind -> probability that a picture is sharper than a filtered copy.
        filtered_back: processing -> share of real pictures called fake after it and the filter of the copies.
    """

    shipped: DetectorSanityCheck
    unseen: Mapping[str, GeneratorFigures]
    loose: DetectorSanityCheck
    sharpness: Mapping[str, float]
    filtered_back: Mapping[str, float]


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
    kept = paths[::KEPT_BACK]
    learned = [path for path in paths if path not in kept]
    real, aside = (_of_all([open_image(path, mode="RGB") for path in part], SIDES, rng) for part in (learned, kept))
    test = _of_all([sample.image.convert("RGB") for sample in load_data("photographs")], TEST_SIDES, rng)
    made = {
        kind: copied(real, [autoencoder(kind, real, seed) for seed in range(COPIES)]) for kind in GENERATORS
    }  # fmt: skip
    makers = {kind: [autoencoder(kind, real, COPIES)] for kind in GENERATORS}
    fresh = {kind: without_rim(copied(test, maker)) for kind, maker in makers.items()}
    loose = {kind: without_rim(copied(test, maker, matched=False)) for kind, maker in makers.items()}

    def taught(kinds: Sequence[str]) -> NoiseDetector:
        return calibrated(
            detector_of(without_rim(real), {kind: without_rim(made[kind]) for kind in kinds}), without_rim(aside)
        )

    detector = taught(list(GENERATORS))
    unseen = {}
    for kind in GENERATORS:
        others = [name for name in GENERATORS if name != kind]
        check = DetectorSanityCheck.measure(
            taught(others), without_rim(test), {kind: fresh[kind]}, processing={}, seen=others
        )
        unseen[kind] = check.figures[0]
    measured = DetectorFigures(
        shipped=DetectorSanityCheck.measure(detector, without_rim(test), fresh, seen=list(GENERATORS)),
        unseen=unseen,
        loose=DetectorSanityCheck.measure(detector, without_rim(test), loose, processing={}, seen=list(GENERATORS)),
        sharpness={kind: round(sharpness_auc(without_rim(test), copies), 3) for kind, copies in fresh.items()},
        filtered_back=filtered_back(detector, test),
    )
    card = card_of(Path(target).name, measured, learned=len(learned), kept=len(kept), real=len(real))
    make_folder(target)
    save_detector(detector, Path(target) / "detector.safetensors", card, dtype=torch.float16)
    write_whole(Path(target) / "card.json", json_text(card) + "\n")
    return Path(target)


def _of_all(images: Sequence[Image.Image], sides: Sequence[int], rng: np.random.Generator) -> Tiles:
    return torch.stack([square for image in images for side in sides for square in squares(image, side, TILES, rng)])


def squares(image: Image.Image, side: int, count: int, rng: np.random.Generator) -> list[Float[Tensor, "3 s s"]]:
    """Squares of a photograph whose longer side is made `side` pixels first, if it is larger; a rim for `copies_of`."""
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    pixels, extent = to_tensor(image), TILE + OFFSETS
    if min(pixels.shape[1:]) < extent:
        return []
    corners = [[int(rng.integers(0, length - extent + 1)) for length in pixels.shape[1:]] for _ in range(count)]
    return [pixels[:, top : top + extent, left : left + extent] for top, left in corners]


def autoencoder(kind: str, real: Tiles, seed: int) -> CopyingAutoencoder:
    """One of a kind, trained on crops of the squares."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    rows = rng.permutation(len(real))[:512]
    crops = []
    for row in rows.tolist():
        top, left = (int(rng.integers(0, extent - COPY_CROP + 1)) for extent in real.shape[2:])
        crops.append(real[row, :, top : top + COPY_CROP, left : left + COPY_CROP])
    settings = {**GENERATORS[kind], **COPYING}
    return train_autoencoder(CopyingAutoencoder(**settings), torch.stack(crops), seed=seed, **COPY_TRAINING)  # type: ignore[arg-type]


def without_rim(squares: Tiles) -> Float[Tensor, "N 3 c c"]:
    """Every square without its rim, from an offset of its own: the grid of a copy starts anywhere in it."""
    places = np.random.default_rng(7).integers(0, OFFSETS, (len(squares), 2)).tolist()
    return torch.stack(
        [one[:, top : top + TILE, left : left + TILE] for one, (top, left) in zip(squares, places, strict=True)]
    )


@torch.no_grad()
def copied(real: Tiles, makers: Sequence[CopyingAutoencoder], *, matched: bool = True) -> Tiles:
    """A copy of each square with the spectrum of its picture, as an 8-bit file holds it; the makers take turns."""
    copies = torch.cat([makers[row % len(makers)](one[None]) for row, one in enumerate(real)])
    if matched:
        copies = torch.cat([matched_spectrum(a, b) for a, b in zip(copies.split(32), real.split(32), strict=True)])
    return (copies * 255).round() / 255


def sharpness(images: Tiles) -> Float[Tensor, "N"]:
    """Variance of the Laplacian of the mean of the channels, the plain measure of sharpness."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
    return functional.conv2d(images.mean(1, keepdim=True), kernel[None, None]).flatten(1).var(1)


def sharpness_auc(real: Float[Tensor, "_ 3 s s"], fakes: Float[Tensor, "_ 3 s s"]) -> float:
    """Probability that a real picture is sharper than a fake one; near 0.5 where sharpness tells nothing."""
    one, other = sharpness(real), sharpness(fakes)
    return float(((one[:, None] > other).double() + 0.5 * (one[:, None] == other)).mean())


def detector_of(real: Tiles, fakes: Mapping[str, Tiles], seed: int = 0) -> NoiseDetector:
    """A detector trained on squares and their copies, with numbers as its file of 16 bits holds them."""
    torch.manual_seed(seed)
    detector = NoiseDetector(**DETECTOR)
    data = RealFakeSet.from_pictures(list(real), {kind: list(made) for kind, made in fakes.items()})
    train_detector(detector, data, degradation=Degradation(seed=seed, **DEGRADED), seed=seed, **TRAINING)
    wider = NoiseDetector(**{**DETECTOR, "grid": GRID}).eval()
    wider.load_state_dict(detector.state_dict())
    return _in_16_bits(wider)


@torch.no_grad()
def calibrated(detector: NoiseDetector, real: Tiles) -> NoiseDetector:
    """The detector with a threshold that real pictures exceed as seldom as is wanted, plain and after processing."""
    changes = {"no processing": lambda images: images, **PROCESSING}
    logits = {
        name: torch.cat([detector.output(change(part)).logit for part in real.split(32)])
        for name, change in changes.items()
    }
    detector.move_threshold_(false_alarm_threshold(logits, share=FALSE_ALARMS))
    return _in_16_bits(detector)


def _in_16_bits(detector: NoiseDetector) -> NoiseDetector:
    """The detector with its numbers as its file holds them; what is no part of the file stays exact."""
    rounded = {
        key: value.half().float() if value.is_floating_point() else value
        for key, value in detector.state_dict().items()
    }
    detector.load_state_dict(rounded)
    return detector


@torch.no_grad()
def filtered_back(detector: NoiseDetector, real: Tiles) -> dict[str, float]:
    """Whether the filter of the copies, not the copy, is found: real pictures after processing and that filter."""
    shares = {}
    for name, change in PROCESSING.items():
        parts = [matched_spectrum(change(part), part) for part in real.split(32)]
        images = without_rim((torch.cat(parts) * 255).round() / 255)
        called = torch.cat([detector.output(part).logit > 0 for part in images.split(32)])
        shares[name] = float(called.double().mean())
    return shares


def card_of(name: str, measured: DetectorFigures, *, learned: int, kept: int, real: int) -> dict[str, Any]:
    """What the file says of itself.

    Args:
        name: of the weights.
        measured: its figures.
        learned, kept: photographs that it learned from, and that set the threshold.
        real: squares that it learned from.
    """
    shipped = measured.shipped
    seen = {figures.generator: figures for figures in shipped.figures}
    alarms = {"plain": 1 - shipped.figures[0].real_accuracy} | {one.processing: one.after for one in shipped.controls}
    return {
        "name": name,
        "summary": "knows copies of photographs by small autoencoders; nobody has measured it on other generators",
        "recipe": "binderclip.train.bundled.detector.train_bundled_detector",
        "how": f"{real} squares of {TILE} px from {learned} photographs of Debian's packages "
        f"plasma-workspace-wallpapers and mate-backgrounds, and their copies by {COPIES} autoencoders of each kind, "
        f"filtered to the spectrum of their pictures; {TRAINING['steps']} steps; threshold: at most {FALSE_ALARMS:.0%} "
        f"false alarms after each processing on {kept} photographs kept back; weights in 16 bits.",
        "method": "noise", "generators": list(seen), "real": real, "fake": len(seen) * real,
        "held_out": shipped.figures[0].n_real, **TRAINING, "seed": 0, "limits": limits_told(measured, alarms, learned),
        "false_alarms": alarms, "check": shipped.as_dict(),
        "unseen": {kind: asdict(figures) for kind, figures in measured.unseen.items()},
        "unfiltered": {figures.generator: asdict(figures) for figures in measured.loose.figures},
        "sharpness": dict(measured.sharpness), "filtered_back": dict(measured.filtered_back),
        "unit": "squares of the photographs of scikit-image and scikit-learn, and copies by autoencoders with starts "
        "of their own; `unseen`: a detector trained like this one, without that kind; `unfiltered`: copies as they "
        "come; `sharpness`: probability that a picture is sharper than a filtered copy; `filtered_back`: share of real "
        "pictures called fake after processing and the filter of the copies.",
    }  # fmt: skip


def limits_told(measured: DetectorFigures, alarms: Mapping[str, float], learned: int) -> str:
    """The paragraph that is printed beside every answer."""
    worst = max(alarms, key=lambda processing: alarms[processing])
    kinds = ", ".join(
        f"{figures.generator} {figures.average_precision:.2f} / "
        f"{measured.unseen[figures.generator].average_precision:.2f}"
        for figures in measured.shipped.figures
    )
    accuracies = [figures.fake_accuracy for figures in measured.loose.figures]
    return (
        f"it learned from {learned} photographs and copies of them by small autoencoders; nobody has measured it on "
        "diffusion models or other generators of today, whose pictures it may well call real. Of "
        f"{measured.shipped.figures[0].n_real} squares of other photographs it calls {alarms['plain']:.0%} fake, after "
        f"{worst} {alarms[worst]:.0%}. Average precision by kind of copy, learned from / left out of a training like "
        f"it: {kinds}; these copies were filtered to the sharpness of their pictures: of copies as they come, which "
        f"are blurrier, it finds {min(accuracies):.0%} to {max(accuracies):.0%}"
    )
