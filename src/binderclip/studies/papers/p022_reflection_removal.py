"""Does a mark tell a network which of two exchangeable layers is the reflection, where nothing else can?"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from binderclip.data import Reflected, synthesize_reflection
from binderclip.generate import ReflectionRemover, reflection_losses, training_masks
from binderclip.studies.harness import Row, declared_study, dot_panels, random_rows

PSNR, ERROR = "PSNR of the transmission, dB", "largest |T + R - I|"
REGIONS, POINTS, NOTHING, SWAPPED = "marked regions", "marked points", "no marks", "marks swapped"
HALF, RULE = "I/2, the best without marks", "marks applied by hand"
MIXES = "the mixed pictures"
SIDE, TRAIN, BATCH, STEPS, RATE, TEST, WIDTH = 16, 900, 16, 140, 6e-3, 200, 12


@lru_cache(maxsize=1)
def _digits() -> Tensor:
    """scikit-learn's digits in [0, 1], [N, 8, 8]."""
    from sklearn.datasets import load_digits

    return torch.tensor(load_digits().images / 16).float()


def layers(pool: Tensor, count: int, g: torch.Generator) -> Tensor:
    """Coloured digits at random places on black, [N, 3, 16, 16]."""
    chosen = pool[torch.randint(len(pool), (count,), generator=g)]
    colors = torch.rand(count, 3, 1, 1, generator=g) * 0.7 + 0.3
    images = torch.zeros(count, 3, SIDE, SIDE)
    for image, digit, color, (top, left) in zip(
        images, chosen, colors, torch.randint(0, 9, (count, 2), generator=g).tolist(), strict=True
    ):
        image[:, top : top + 8, left : left + 8] = color * digit
    return images


def mixed(pool: Tensor, count: int, g: torch.Generator) -> Reflected:
    """Sums of two layers of one distribution, which nothing but a mark can tell apart."""
    return synthesize_reflection(
        layers(pool, count, g), layers(pool, count, g), transmission_weight=(0.3, 0.5), reflection_weight=(0.3, 0.5),
        kernel_sizes=(1,), kernel_weights=(1.0,), screen=0.0, linear=0.0, generator=g,
    )  # fmt: skip


def trained(seed: int, g: torch.Generator) -> ReflectionRemover:
    """A small network, trained with the paper's losses, masks and optimizer."""
    torch.manual_seed(seed)
    net = ReflectionRemover(
        WIDTH, encoder_blocks=(1, 1), decoder_blocks=(1, 1), heads=2, hidden=16, coverage=0.5
    )  # fmt: skip
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-3, betas=(0.9, 0.9))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        glass = mixed(_digits()[:TRAIN], BATCH, g)
        masks = training_masks(glass.image, glass.transmission, generator=g)
        losses = reflection_losses(net(glass.image, masks), glass.transmission, glass.reflection)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        cosine.step()
    return net.eval()


def points(masks: Tensor, g: torch.Generator) -> Tensor:
    """Of every kind of mark that a mask has, a dot of 3 x 3 pixels around one of its pixels, cut where it ends."""
    dots = torch.zeros_like(masks)
    for mask, dot in zip(masks[:, 0], dots[:, 0], strict=True):
        for value in mask.unique()[mask.unique() > 0]:
            places = (mask == value).nonzero()
            row, column = places[int(torch.randint(len(places), (1,), generator=g))].tolist()
            part = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
            dot[part] = torch.where(mask[part] == value, value, dot[part])
    return dots


@torch.no_grad()
def measure(seed: int) -> list[Row]:
    """All rows of one seed: one training, and test pictures of other digits under every kind of mask."""
    g = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        net = trained(seed, g)
    glass = mixed(_digits()[TRAIN:], TEST, g)
    masks = training_masks(glass.image, glass.transmission, probability=1.0, generator=g)
    mirror, behind = masks == 1, (masks > 0) & (masks < 1)
    swapped = torch.where(mirror, 125 / 255, behind.float())
    given = {REGIONS: masks, POINTS: points(masks, g), NOTHING: torch.zeros_like(masks), SWAPPED: swapped}
    guesses = {name: net(glass.image, mask).transmission for name, mask in given.items()}
    guesses[HALF] = glass.image / 2
    guesses[RULE] = glass.image * torch.where(mirror, 0.0, torch.where(behind, 1.0, 0.5))
    error = float((glass.transmission + glass.reflection - glass.image).abs().max())
    rows = [Row(ERROR, MIXES, error)]
    for name, guess in guesses.items():
        rows.append(Row(PSNR, name, float(-10 * (guess.clamp(0, 1) - glass.transmission).square().mean().log10())))
    return rows


def null(seed: int) -> list[Row]:
    """Random numbers for every row that is judged."""
    return random_rows(STUDY.criteria, seed)


PANELS = dot_panels((PSNR, (REGIONS, POINTS, NOTHING, SWAPPED, HALF, RULE)), rotation=20)
STUDY = declared_study(__name__, measure, draw=PANELS, seeds=range(10, 20), null=null, registered="2553f656eb68")
