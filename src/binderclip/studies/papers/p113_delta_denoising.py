"""Does delta denoising change what the prompt asks for and leave the rest, where score distillation blurs it?"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.generate import (
    ConditionalDenoiser,
    DistillationStep,
    GaussianDenoiser,
    NoiseSchedule,
    ScoreDistillation,
    dds_direction,
)
from binderclip.studies.harness import Row, Table, declared_study, dot_panels, random_rows

DDS, SDS, PASTED = "DDS", "SDS", "mean difference added"
OUTSIDE, EDITED = "mean change of a pixel outside the edit", "named as the target by an independent classifier"
BLUR, ERROR = "change of sharpness outside, |log of the ratio of Laplacian variances|", "largest error of an identity"
FIXED_POINT, NOISE = "the fixed point", "the delta over draws of noise"
PAIRS, EACH, PARTNERS, STEPS, RATE, SHRINKAGE = ((0, 6), (3, 8), (4, 9)), 12, 4, 100, 0.1, 0.01


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits in [-1, 1], [N, 1, 8, 8], and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.images / 8 - 1).float()[:, None], torch.tensor(data.target)


def prompts(images: Tensor, labels: Tensor, g: torch.Generator) -> ConditionalDenoiser:
    """Best linear denoisers of pictures [1, 8, 16]: left a digit of the prompt's class, right one of any."""
    schedule, parts = NoiseSchedule.scaled_linear(), {}
    for label in {label for pair in PAIRS for label in pair}:
        left = images[labels == label].repeat(PARTNERS, 1, 1, 1)
        rows = beside(left, images, g).flatten(1)
        covariance = rows.T.cov(correction=0) + SHRINKAGE * torch.eye(rows.shape[1])
        parts[label] = GaussianDenoiser(rows.mean(0).reshape(1, 8, 16), covariance, schedule)
    return ConditionalDenoiser(parts, schedule)


def beside(left: Tensor, images: Tensor, g: torch.Generator) -> Tensor:
    """Digits with a random other one on their right."""
    return torch.cat([left, images[torch.randint(len(images), (len(left),), generator=g)]], 3)


def identities(seed: int) -> list[Row]:
    """Two prompts of one covariance, float64: where the edit ends, and what the noise does to its direction."""
    g = torch.Generator().manual_seed(seed)
    root, *rest = (torch.randn(*size, generator=g, dtype=torch.float64) for size in ((9, 9), (1, 3, 3), (1, 3, 3)))
    covariance = root @ root.T / 9 + torch.eye(9)
    schedule = NoiseSchedule.scaled_linear()
    both = ConditionalDenoiser({k: GaussianDenoiser(m, covariance) for k, m in enumerate(rest)}, schedule)
    source, *noises = torch.randn(3, 4, 1, 3, 3, generator=g, dtype=torch.float64)
    direction = ScoreDistillation(1, 0, guidance_scale=1.0)
    edited = direction.edit(both, source, num_steps=1500, learning_rate=0.3, generator=g)
    t = torch.tensor([60, 300, 600, 900])
    first, second = (dds_direction(DistillationStep(both, source + 1, source, t, n, 0, 1), 1, 0, 1.0) for n in noises)
    errors = {FIXED_POINT: edited - source - (rest[1] - rest[0]), NOISE: first - second}
    return [Row(ERROR, name, float(error.abs().max())) for name, error in errors.items()]


def measure(seed: int) -> list[Row]:
    """All rows of one seed: half of the digits make the prompts, of the other come the sources and the classifier."""
    from sklearn.svm import SVC

    images, labels = _digits()
    g = torch.Generator().manual_seed(seed)
    first, second = torch.randperm(len(images), generator=g).chunk(2)
    denoiser = prompts(images[first], labels[first], g)
    pictures, classes = images[second], labels[second]
    judge = SVC().fit(pictures.flatten(1).numpy(), classes.numpy())
    edits: dict[str, list[Tensor]] = {name: [] for name in (DDS, SDS, PASTED)}
    sources, targets = [], []
    for source, target in PAIRS:
        picture = beside(pictures[classes == source][:EACH], pictures, g)
        sources.append(picture)
        targets += [target] * len(picture)
        for name, kind in ((DDS, "dds"), (SDS, "sds")):
            direction = ScoreDistillation(target, source, kind=kind, guidance_scale=1.0)  # type: ignore[arg-type]
            edit = direction.edit(denoiser, picture, num_steps=STEPS, learning_rate=RATE, generator=g)
            edits[name].append(edit)
        means = [images[first][labels[first] == label].mean(0) for label in (source, target)]
        edits[PASTED].append(picture + F.pad(means[1] - means[0], (0, 8)))
    before, rows = torch.cat(sources)[..., 8:], identities(seed)
    for name, parts in edits.items():
        after = torch.cat(parts)
        named = torch.as_tensor(judge.predict(after[..., :8].flatten(1).numpy()))
        rows.append(Row(OUTSIDE, name, float((after[..., 8:] - before).abs().mean())))
        rows.append(Row(EDITED, name, float((named == torch.tensor(targets)).float().mean())))
        rows.append(Row(BLUR, name, float((sharpness(after[..., 8:]) / sharpness(before)).log().abs().mean())))
    return rows


def sharpness(x: Tensor) -> Tensor:
    """Variance of the Laplacian of every picture."""
    kernel = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]
    return F.conv2d(x, kernel).flatten(1).var(1)


def exact(table: Table) -> tuple[bool, str]:
    """Whether the edit ends where it should, and the noise falls out."""
    worst = {name: float(table.values(ERROR, name).max()) for name in (FIXED_POINT, NOISE)}
    return worst[FIXED_POINT] < 1e-3 and worst[NOISE] < 1e-10, "; ".join(f"{n}: {v:.0e}" for n, v in worst.items())


def null(seed: int) -> list[Row]:
    """Random numbers, and identities that miss."""
    return [Row(ERROR, name, 0.5) for name in (FIXED_POINT, NOISE)] + random_rows(STUDY.criteria, seed)


PANELS = dot_panels(*((metric, (DDS, SDS, PASTED)) for metric in (OUTSIDE, EDITED, BLUR)), rotation=20)
STUDY = declared_study(__name__, measure, draw=PANELS, seeds=range(10, 20), null=null, registered="49b13b3d3d7f")
