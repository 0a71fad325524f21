"""Does mixing real and generated patches make a detector use more of the picture, and meet unseen generators better?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.data import Cutout, RandomPatchReplacement
from binderclip.evaluate.detectors import detection_average_precision
from binderclip.explain import patch_direct_effect
from binderclip.quality import DetectorBatch, PanopticPatchDetector, fit_detector
from binderclip.studies.harness import Figure, Row, Table, bare, declared_study, dots, pictures
from binderclip.studies.protocols.data.made_fakes import SEEN, UNSEEN, bench, tiles

SIDE, PATCH, TRAIN, TEST, MAPS = 32, 8, 160, 100, 24
STEPS, BATCH, RATE, RANK = 100, 32, 3e-3, 8
PLAIN, HIDDEN, MIXED, FULL, RANDOM = "plain", "patches hidden", "patches mixed", "mixed and contrasted", "random"
ARMS = (PLAIN, HIDDEN, MIXED, FULL)
AP, SHARE, MASKED = "average precision", "share of the strongest patch", "fakes still found without the strongest patch"


def marked(images: Float[Tensor, "N 3 s s"], seed: int) -> Float[Tensor, "N 3 s s"]:
    """Squares of 3 px, +-0.4, at a random place of the upper left patch: what a lazy detector would look for."""
    board = 0.4 * (1 - 2 * ((torch.arange(6)[:, None] // 3 + torch.arange(6) // 3) % 2).float())
    places = np.random.default_rng([seed, 7]).integers(0, PATCH - 5, (len(images), 2))
    out = images.clone()
    for image, (top, left) in zip(out, places, strict=True):
        image[:, top : top + 6, left : left + 6] += board
    return out.clamp(0, 1)


def pools(real: Tensor, fake: Tensor, seed: int) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Of every arm the training pictures, their labels and those of their patches."""
    keys, cells = [str(row) for row in range(len(real))], (SIDE // PATCH) ** 2
    count, both = len(real), torch.cat([real, fake])
    labels = torch.cat([torch.zeros(count), torch.ones(count)])
    plain = both, labels, labels[:, None].expand(-1, cells)
    hide = Cutout(SIDE // 2, inside=True, fill=0.5, seed=seed)
    hidden = torch.cat([hide(one, keys, epoch) for one in (real, fake) for epoch in (0, 1)])
    halves = labels.repeat_interleave(2)
    swap = RandomPatchReplacement(0.5, patch=PATCH, seed=seed)
    draws = [swap(real, fake, keys, epoch) for epoch in (0, 1)]
    mixed = (
        torch.cat([both, *(draw.images for draw in draws)]),
        torch.cat([labels, *(draw.labels.float() for draw in draws)]),
        torch.cat([plain[2], *(draw.patch_labels.flatten(1).float() for draw in draws)]),
    )
    said = torch.cat([labels, halves])
    return {PLAIN: plain, HIDDEN: (torch.cat([both, hidden]), said, said[:, None].expand(-1, cells)), MIXED: mixed,
            FULL: mixed}  # fmt: skip


def trained(arm: str, pool: tuple[Tensor, Tensor, Tensor], seed: int) -> PanopticPatchDetector:
    """A detector of one arm; all see as many pictures, half of them of the arm's own kind, and the same steps."""
    torch.manual_seed(seed)
    contrast = 0.3 if arm == FULL else 0.0
    detector = PanopticPatchDetector("small-dino", side=SIDE, contrast=contrast, r=RANK, lora_alpha=2 * RANK)
    images, labels, cells = pool
    with torch.no_grad():
        features = torch.cat([detector.features(detector.view(part))[0] for part in images.split(64)])
    rng, plain = np.random.default_rng([seed, 3]), 2 * TRAIN

    def batches() -> Iterator[DetectorBatch]:
        while True:
            kinds = [(0, TRAIN), (TRAIN, plain), (plain if len(images) > plain else 0, len(images))]
            counts = (BATCH // 4, BATCH // 4, BATCH // 2)
            rows = np.concatenate([rng.integers(*kind, size=n) for kind, n in zip(kinds, counts, strict=True)])
            yield DetectorBatch((features[rows],), labels[rows], cells[rows])

    fit_detector(detector, batches(), steps=STEPS, lr=RATE, seed=seed)
    return detector


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    made = bench(seed, train=TRAIN, test=TEST, side=SIDE)
    shown = {SEEN: marked(made.fakes[SEEN], seed + 1), **{name: made.fakes[name] for name in UNSEEN}}
    rows = []
    for arm, pool in pools(made.train, marked(made.train_fakes, seed), seed).items():
        detector = trained(arm, pool, seed)
        with torch.no_grad():
            real = logits(detector, made.test)
            rows += [
                Row(AP, arm, detection_average_precision(real, logits(detector, x)), name) for name, x in shown.items()
            ]
        maps = patch_direct_effect(detector, shown[SEEN][:MAPS], patch=PATCH)
        top = maps.strongest()
        without = maps.score - maps.effects[torch.arange(MAPS), top[:, 0], top[:, 1]]
        rows.append(Row(SHARE, arm, float(maps.top_share(0.05).mean())))
        rows.append(Row(MASKED, arm, float((without > 0).float().mean())))
    return rows + null_rows(seed)


def logits(detector: PanopticPatchDetector, images: Float[Tensor, "N 3 s s"]) -> np.ndarray:
    """Logit of each picture, above 0 for generated."""
    return detector(images).diff()[:, 0].numpy()


def null_rows(seed: int) -> list[Row]:
    """Random scores, and maps of random effects."""
    rng = np.random.default_rng([seed, 11])
    effects = np.abs(rng.standard_normal((MAPS, (SIDE // PATCH) ** 2)))
    rows = [
        Row(AP, RANDOM, detection_average_precision(*rng.standard_normal((2, TEST))), name) for name in (SEEN, *UNSEEN)
    ]
    return [*rows, Row(SHARE, RANDOM, float((effects.max(1) / effects.sum(1)).mean())), Row(MASKED, RANDOM, 0.5)]


def draw(table: Table, figure: Figure) -> None:
    """Average precision on seen and unseen generators, the share of the strongest patch, and a picture of the mark."""
    axes: Any = figure.subplots(1, 4, width_ratios=(1, 1, 1, 0.7))
    dots(axes[0], table, AP, ARMS, SEEN)
    axes[0].set(title="the training's generator,\nwith the planted mark", ylabel=AP)
    for number, arm in enumerate(ARMS):
        values = np.mean([table.values(AP, arm, name) for name in UNSEEN], axis=0)
        axes[1].plot(np.full(len(values), number), values, "o", markersize=4, alpha=0.5, color=f"C{number}")
        axes[1].plot([number + 0.2], [values.mean()], "s", color=f"C{number}")
    axes[1].set_title("three other generators,\nwithout it")
    dots(axes[2], table, SHARE, ARMS)
    axes[2].set_title("share of the strongest\nof 16 patches")
    for ax in axes[:3]:
        ax.set_xticks(range(len(ARMS)), ARMS, rotation=30, ha="right", fontsize=8)
    tile = tiles([4], 1, SIDE, np.random.default_rng(0))
    pictures(axes[3:], [marked(tile, 0)[0]], ["the planted mark"])
    bare(axes[3])


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), registered="757e43b6c7e1")
