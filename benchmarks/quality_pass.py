"""Scores by ten pairs of words against one bare pass of the tower, and the grading of windows against AIDE's way."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.harness import Row, compare
from binderclip.data.frequency import dct_matrix, dct_patches
from binderclip.models import load
from binderclip.quality import CLIPIQA

WORDS = ("sharp", "bright", "clean", "colourful", "warm", "natural", "calm", "new", "simple", "beautiful")
AGAINST = ("blurry", "dark", "noisy", "grey", "cold", "artificial", "busy", "old", "complex", "ugly")


def run(*, pictures: int = 200, side: int = 128, repeats: int = 5) -> list[Row]:
    """Pictures in batches of 50 through the bundled `small`; four pictures of 256 px are graded.

    Args:
        pictures: how many are scored.
        side: of them.
        repeats: pairs.
    """
    return [_words(pictures, side, repeats), _windows(repeats)]


def _words(pictures: int, side: int, repeats: int) -> Row:
    model = load("small")
    pairs = [(f"A {good} photo.", f"A {bad} photo.") for good, bad in zip(WORDS, AGAINST, strict=True)]
    metric = CLIPIQA(model, pairs)
    images = torch.rand(pictures, 3, side, side, generator=torch.Generator().manual_seed(0)).split(50)
    assert metric.native is not None
    tower = metric.native

    @torch.no_grad()
    def scored() -> list[Tensor]:
        return [metric(part) for part in images]

    @torch.no_grad()
    def passed() -> list[Tensor]:
        return [tower(part) for part in images]

    return compare(
        f"{pictures} pictures, ten pairs of words, small",
        scored,
        passed,
        repeats=repeats,
        speedup=False,
        goal="at most 1.05x",
        target=1.05,
        peer_name="one pass of the tower",
    )


def _windows(repeats: int) -> Row:
    images = torch.rand(4, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    chosen = dct_patches(images)
    for number, image in enumerate(images):
        if not torch.allclose(_graded_band_by_band(image), chosen.grades[number], rtol=1e-4):
            raise RuntimeError("the two sides do not grade alike")
    return compare(
        "grades of all windows of 4 pictures, 256 px",
        lambda: dct_patches(images),
        lambda: [_graded_band_by_band(image).sort() for image in images],
        repeats=repeats,
        goal="at least 10x",
        target=10.0,
        peer_name="band by band, as AIDE's module",
        note="the peer masks the coefficients of every window once a band and transforms all of them back, picture by "
        "picture; ours shares the transform down the columns among the windows of a row and takes one logarithm for "
        "all channels; by a profile two fifths of what is left are matrix products and a third copies of windows",
    )


def _graded_band_by_band(image: Tensor, window: int = 32, stride: int = 16, bands: int = 6) -> Tensor:
    """The grades by one masked sum a band, with the inverse transform that AIDE's module makes of all windows."""
    d = dct_matrix(window)
    cut = F.unfold(image[None], window, stride=stride).transpose(1, 2).reshape(-1, 3, window, window)
    coefficients = d @ cut @ d.T
    _ = d.T @ coefficients @ d
    diagonal = torch.arange(window)[:, None] + torch.arange(window)
    grade = torch.zeros(len(cut))
    for k in range(bands):
        band = (diagonal >= window * 2.0 / bands * k) & (diagonal <= window * 2.0 / bands * (k + 1))
        grade += 2.0**k * (torch.log(coefficients.abs() + 1) * band).sum((1, 2, 3)) / band.sum()
    return grade
