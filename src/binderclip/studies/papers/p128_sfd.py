"""Do discriminators of CLIP features bring enlarged pictures nearer to real ones, and rank quality afterwards?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.data.distortions.library import LEVELS, distort
from binderclip.quality import ANTONYMS, SFD, SFDIQA, PromptQuality, RRDBNet
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.distorted_tiles import tiles, tracked

KINDS = ("gaussian_blur", "gaussian_noise", "jpeg")
SIDE, CROPS, BATCH, PIXELS, ADVERSARIAL = 64, 60, 4, 80, 40
RATE, SLOW = 1e-3, 1e-4
"""Of the first stage and the discriminators; of the generator against them, the paper's."""
PLAIN, METHOD, WITHOUT = "pixel loss alone", "SFD", "perceptual loss without discriminators"
SCORE, FEATURE, TEXT = "SFD-IQA", "features alone", "prompts alone"
WORDS, RANDOM = "antonym prompts", "random score"
SCORES = (SCORE, FEATURE, TEXT, WORDS, RANDOM)
NETS = (PLAIN, WITHOUT, METHOD)
APART, PSNR, RANK, ALL = "1 - cosine to the original", "PSNR (dB)", "rank correlation with the level", "all"


def crops(sources: Float[Tensor, "n 3 S S"], count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random crops and the same at half the size."""
    rng = np.random.default_rng([seed, 128])
    high = []
    for _ in range(count):
        tile = sources[rng.integers(len(sources))]
        y, x = (int(rng.integers(tile.shape[1] - SIDE + 1)) for _ in range(2))
        high.append(tile[:, y : y + SIDE, x : x + SIDE])
    stacked = torch.stack(high)
    return halved(stacked), stacked


def halved(high: Float[Tensor, "n 3 S S"]) -> Float[Tensor, "n 3 s s"]:
    """Bicubic, antialiased."""
    return F.interpolate(high, scale_factor=0.5, mode="bicubic", antialias=True).clamp(0, 1)


def trained(seed: int, sources: Float[Tensor, "n 3 S S"]) -> dict[str, SFD]:
    """From one start by pixels: as it is, with the perceptual loss, and with the discriminators as well."""
    low, high = crops(sources, CROPS, seed)
    start: dict[str, Tensor] | None = None
    found = {}
    for name in NETS:
        torch.manual_seed(seed)
        sfd = SFD(RRDBNet(2, blocks=1, features=16, growth=8), bundled(), hidden=64, seed=seed)
        if start is None:
            sfd.fit_pixels(low, high, steps=PIXELS, lr=RATE, batch_size=BATCH)
            start = {key: value.clone() for key, value in sfd.generator.state_dict().items()}
        sfd.generator.load_state_dict(start)
        if name == WITHOUT:
            sfd.feature = sfd.text = 0.0
        if name != PLAIN:
            sfd.fit(low, high, steps=ADVERSARIAL, lr=SLOW, judge_lr=RATE, batch_size=BATCH)
        found[name] = sfd
    return found


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    sources, held = tiles(seed)
    made = trained(seed, sources)
    low, high = crops(held, 2 * len(held), seed + 1000)
    rows = []
    with torch.no_grad():
        wanted = made[METHOD].maps(high).embedding
        for name, sfd in made.items():
            enlarged = sfd.generator(low).clamp(0, 1)
            cosine = (sfd.maps(enlarged).embedding * wanted).sum(1)
            error = (enlarged - high).square().mean((1, 2, 3))
            rows += [Row(APART, name, float(1 - cosine.mean())), Row(PSNR, name, float(-10 * error.log10().mean()))]
        middle = held[..., 16:80, 16:80]
        generator = torch.Generator().manual_seed(seed)
        words = PromptQuality(bundled(), ANTONYMS)
        scores: dict[str, Any] = {
            FEATURE: SFDIQA(made[METHOD], use="feature"), TEXT: SFDIQA(made[METHOD], use="text"), WORDS: words,
            RANDOM: lambda images: torch.rand(len(images), generator=generator),
        }  # fmt: skip
        ladder = [[distort(middle, kind, n, seed + 1000) for n in range(LEVELS + 1)] for kind in KINDS]
        found = {
            name: torch.stack([torch.stack([score(images) for images in levels]) for levels in ladder])
            for name, score in scores.items()
        }  # (K, L, n) each
        found[SCORE] = (found[FEATURE] + found[TEXT]) / 2
        for name, values in found.items():
            each = [tracked(levels) for levels in values]
            rows += [Row(RANK, name, value, kind) for kind, value in zip(KINDS, each, strict=True)]
            rows.append(Row(RANK, name, float(np.mean(each)), ALL))
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Distance to the originals, signal-to-noise ratio, and the rank correlation of every score."""
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.6))
    dots(left, table, APART, NETS)
    dots(middle, table, PSNR, NETS)
    dots(right, table, RANK, SCORES, ALL)
    for ax, title, names in ((left, APART, NETS), (middle, PSNR, NETS), (right, RANK, SCORES)):
        ax.set_title(title, fontsize=9)
        ax.set_xticks(range(len(names)), [name.replace(" without", "\nwithout") for name in names], fontsize=7,
                      rotation=30, ha="right")  # fmt: skip


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), registered="0c94bfb1ada9")
