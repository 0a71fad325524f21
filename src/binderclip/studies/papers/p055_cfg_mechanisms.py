"""Do the mean shift and both contrastive parts of classifier-free guidance each make samples more of their class?"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from binderclip.generate import GaussianDenoiser, LinearGuidance, NoiseSchedule, cfg_components, sample
from binderclip.studies.harness import Row, Table, declared_study, dot_panels, random_rows

NONE, ALL, SHIFT, POSITIVE, NEGATIVE = "no guidance", "all parts", "mean shift", "CPC+", "CPC-"
SHRUNK = "no guidance, shrunk to the class mean"
PARTS = {ALL: ("mean_shift", "positive", "negative"), SHIFT: ("mean_shift",), POSITIVE: ("positive",)}
PARTS |= {NEGATIVE: ("negative",)}
SPECIFICITY = "samples named as their class by an independent classifier"
DISTANCE = "Fréchet distance between classes, median over pairs"
IDENTITY, AMPLIFIED = "largest error of the parts' sum", "largest relative error of the amplification"
SIDE, IMAGES, EACH, STEPS, GAMMA, RIDGE, SHRINK, FINE = 14, 10_000, 60, 18, 1.0, 1e-3, 0.5, 2000


@lru_cache(maxsize=1)
def _pictures() -> tuple[Tensor, Tensor]:
    """Fashion-MNIST in [-1, 1] and its classes."""
    from binderclip.studies.protocols.data.clothing import clothing

    images, labels = clothing("train", IMAGES, SIDE)
    return 2 * images.double() - 1, labels


def linear(images: Tensor, schedule: NoiseSchedule) -> GaussianDenoiser:
    """The best linear denoiser of pictures, with a little variance in every direction."""
    rows = images.flatten(1)
    covariance = rows.T.cov(correction=0) + RIDGE * torch.eye(rows.shape[1], dtype=rows.dtype)
    return GaussianDenoiser(rows.mean(0).reshape(images.shape[1:]), covariance, schedule)


def distance(classes: list[Tensor]) -> float:
    """Median over pairs of classes of the Fréchet distance between the normal distributions of their samples."""
    moments = [(rows.flatten(1).mean(0), rows.flatten(1).T.cov()) for rows in classes]
    roots = [_root(covariance) for _, covariance in moments]
    values = []
    for i in range(len(classes)):
        for j in range(i):
            trace = moments[i][1].trace() + moments[j][1].trace()
            mixed = torch.linalg.svdvals(roots[i] @ roots[j]).sum()
            values.append((moments[i][0] - moments[j][0]).square().sum() + trace - 2 * mixed)
    return float(torch.stack(values).median())


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def theory(seed: int) -> list[Row]:
    """Errors of the identity on random covariances that do not commute, and of the closed form where they do."""
    g = torch.Generator().manual_seed(seed)
    roots, means = (torch.randn(2, 6, *rest, generator=g, dtype=torch.float64) for rest in ((6,), ()))
    x = torch.randn(8, 6, generator=g, dtype=torch.float64)
    c, u = (GaussianDenoiser(mean, root @ root.T) for mean, root in zip(means, roots, strict=True))
    errors = []
    for sigma in (0.01, 1.0, 50.0):
        parts, level = cfg_components(c, u, x, sigma), torch.full((8,), sigma, dtype=torch.float64)
        total = parts.mean_shift + parts.positive + parts.negative
        errors.append(float((total - c.denoise(x, level) + u.denoise(x, level)).abs().max()))
    schedule, (lc, lu) = NoiseSchedule.karras(FINE, 1e-3), torch.rand(2, 6, generator=g, dtype=torch.float64) + 0.1
    c, u = (GaussianDenoiser(means[0], variances, schedule) for variances in (lc, lu))
    start = (means[0] + 1)[None] * schedule.alphas_cumprod[-1].sqrt()
    term = LinearGuidance(c, u, GAMMA, parts=("positive", "negative"))
    grown = sample(c, start, terms=[term], num_inference_steps=FINE)[0] - means[0]
    high = 80.0**2
    closed = (lc / (lc + high)).sqrt() * (lc * (lu + high) / ((lc + high) * lu)) ** (GAMMA / 2)
    return [Row(IDENTITY, ALL, max(errors)), Row(AMPLIFIED, "CPC", float((grown / closed - 1).abs().max()))]


def measure(seed: int) -> list[Row]:
    """All rows of one seed: half of the pictures make the denoisers, 2,000 others the classifier that judges."""
    from sklearn.svm import SVC

    images, labels = _pictures()
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=g)
    first, second = order[: IMAGES // 2], order[-2000:]
    judge = SVC().fit(images[second].flatten(1).numpy(), labels[second].numpy())
    schedule = NoiseSchedule.karras(STEPS)
    union = linear(images[first], schedule)
    samples: dict[str, list[Tensor]] = {name: [] for name in (NONE, *PARTS, SHRUNK)}
    for label in range(10):
        own = linear(images[first][labels[first] == label], schedule)
        x = torch.randn(EACH, *images.shape[1:], generator=g, dtype=images.dtype)
        samples[NONE].append(sample(own, x, num_inference_steps=STEPS))
        samples[SHRUNK].append(own.mean + SHRINK * (samples[NONE][-1] - own.mean))
        for name, parts in PARTS.items():
            term = LinearGuidance(own, union, GAMMA, parts=parts)
            samples[name].append(sample(own, x, terms=[term], num_inference_steps=STEPS))
    rows = theory(seed)
    for name, classes in samples.items():
        named = torch.as_tensor(judge.predict(torch.cat(classes).flatten(1).numpy()))
        expected = torch.arange(10).repeat_interleave(EACH)
        rows.append(Row(SPECIFICITY, name, float((named == expected).double().mean())))
        rows.append(Row(DISTANCE, name, distance(classes)))
    return rows


def exact(table: Table) -> tuple[bool, str]:
    """Whether the parts add up, and grow as the closed form says up to Euler's step."""
    identity, amplified = float(table.values(IDENTITY, ALL).max()), float(table.values(AMPLIFIED, "CPC").max())
    return identity < 1e-10 and amplified < 0.02, f"{identity:.0e} and {amplified:.1e}"


def null(seed: int) -> list[Row]:
    """Random numbers, and identities that miss."""
    return [Row(IDENTITY, ALL, 0.5), Row(AMPLIFIED, "CPC", 0.5), *random_rows(STUDY.criteria, seed)]


METHODS = (NONE, SHRUNK, ALL, SHIFT, POSITIVE, NEGATIVE)
PANELS = dot_panels((SPECIFICITY, METHODS), (DISTANCE, METHODS), rotation=30)
STUDY = declared_study(__name__, measure, draw=PANELS, seeds=range(10, 18), null=null, registered="c5e3014156a7")
