"""Does CMMD follow distortion, ignore the sample size, and see what two moments cannot?"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from binderclip.quality import CMMD, frechet_distance, mmd_permutation_test
from binderclip.studies.harness import Figure, Row, Table, dataset_features, declared_study, lines, tensor_features

LEVELS = range(6)
SIZES = (50, 100, 200, 400)
DRAWS = 20
# FID needs a decomposition for every draw, and its differences are far larger than its spread.
FID_DRAWS = 4
PICTURES = 420
SHIFTED, P_VALUE = "distance, fixed shift", "p-value, equal moments"


@lru_cache(maxsize=1)
def _features() -> tuple[Tensor, list[Tensor]]:
    """Unit features of the validation drawings, and of the test drawings at every level of scrambling."""
    from binderclip.data import load_data
    from binderclip.data.distortions.library import distort
    from binderclip.models import load

    model = load("small")
    real = dataset_features(model, load_data("openclipart", "val")[:PICTURES])
    test = load_data("openclipart", "test")[:PICTURES]
    pixels, _ = test.pixels(64, mode="RGB")
    images = pixels.float() / 255
    made = [
        tensor_features(model, distort(images, "scramble", level, seed=0), f"{test.data_hash}, scramble {level}")
        for level in LEVELS
    ]
    return real, made


def _cmmd(x: Tensor, y: Tensor, unbiased: bool = False) -> float:
    return float(CMMD(unbiased=unbiased).distance(x, y))


def _distortion(seed: int) -> list[Row]:
    real, made = _features()
    rng = np.random.default_rng(seed)
    chosen = torch.from_numpy(rng.permutation(len(real))[:400])
    fake = torch.from_numpy(rng.permutation(len(made[0]))[:400])
    rows = []
    found: dict[str, list[float]] = {"CMMD": [], "FID": []}
    for level, features in zip(LEVELS, made, strict=True):
        found["CMMD"].append(_cmmd(real[chosen], features[fake]))
        found["FID"].append(float(frechet_distance(real[chosen], features[fake])))
        rows += [Row("distance", name, values[-1], f"level {level}") for name, values in found.items()]
    return rows + [
        Row("rank correlation with level", name, float(spearmanr(list(LEVELS), values).statistic))
        for name, values in found.items()
    ]


def _sample_size(seed: int) -> list[Row]:
    """The distance of two halves of one set, one of them shifted by a fixed vector, at several sample sizes."""
    real, made = _features()
    pool = torch.cat([real, made[0]])
    generator = torch.Generator().manual_seed(seed)
    shift = 0.3 * torch.nn.functional.normalize(torch.randn(pool.shape[1], generator=generator), dim=0)
    values: dict[tuple[str, int], list[float]] = {}
    for size in SIZES:
        for draw_number in range(DRAWS):
            order = torch.randperm(len(pool), generator=generator)
            x, y = pool[order[:size]], pool[order[size : 2 * size]] + shift
            values.setdefault(("CMMD, unbiased", size), []).append(_cmmd(x, y, unbiased=True))
            values.setdefault(("CMMD", size), []).append(_cmmd(x, y))
            if draw_number < FID_DRAWS:
                values.setdefault(("FID", size), []).append(_fid_of_few(x, y))
    rows = [Row(SHIFTED, name, float(np.mean(v)), f"n = {size}") for (name, size), v in values.items()]
    spread = np.std(values["CMMD, unbiased", SIZES[0]], ddof=1)
    return [*rows, Row("standard deviation of one estimate", "CMMD, unbiased", float(spread), f"n = {SIZES[0]}")]


def _fid_of_few(x: Tensor, y: Tensor) -> float:
    import warnings

    with warnings.catch_warnings():
        # Fewer samples than features is what is being measured here.
        warnings.simplefilter("ignore", UserWarning)
        return float(frechet_distance(x, y))


def _equal_moments(seed: int) -> list[Row]:
    """A normal sample against four clusters with the same mean and covariance; p-values by permutation."""
    n = 400
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    signs = torch.randint(0, 2, (n, 2), generator=generator) * 2.0 - 1
    clusters = 0.85 * signs + (1 - 0.85**2) ** 0.5 * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    test = mmd_permutation_test(normal, clusters, sigma=0.5, permutations=199, seed=seed)
    pooled = torch.cat([normal, clusters])
    observed = float(frechet_distance(normal, clusters))
    null = []
    for _ in range(199):
        order = torch.randperm(2 * n, generator=generator)
        null.append(float(frechet_distance(pooled[order[:n]], pooled[order[n:]])))
    larger = sum(value >= observed for value in null)
    return [Row(P_VALUE, "MMD", test.p_value), Row(P_VALUE, "FID", (1 + larger) / 200)]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    return [*_distortion(seed), *_sample_size(seed), *_equal_moments(seed)]


def null(seed: int) -> list[Row]:
    """Random numbers in the place of every distance and p-value."""
    draw_ = np.random.default_rng(seed).uniform
    rows = [Row("distance", name, draw_(0.1, 1), f"level {level}") for name in ("CMMD", "FID") for level in LEVELS]
    for name in ("CMMD, unbiased", "FID"):
        rows += [Row(SHIFTED, name, draw_(0.1, 1), f"n = {n}") for n in SIZES]
    return rows + [Row(P_VALUE, name, draw_(0, 1)) for name in ("MMD", "FID")]


def draw(table: Table, figure: Figure) -> None:
    """Distances against distortion and sample size, relative to where each begins, and the p-values."""
    left, middle, right = figure.subplots(1, 3)
    levels = [f"level {level}" for level in LEVELS]
    for number, name in enumerate(("CMMD", "FID")):
        values = np.stack([table.values("distance", name, level) for level in levels])
        relative = values / values[-1]
        left.plot(list(LEVELS), relative.mean(axis=1), marker="o", markersize=4, color=f"C{number}", label=name)
        left.fill_between(
            list(LEVELS), relative.min(axis=1), relative.max(axis=1), color=f"C{number}", alpha=0.15, linewidth=0
        )
    left.set(title="Scrambled drawings", xlabel="level", ylabel="distance / distance at level 5")
    left.legend()
    base = {name: table.mean(SHIFTED, name, "n = 400") for name in ("CMMD", "FID", "CMMD, unbiased")}
    scaled = Table(
        Row(r.metric, r.method, r.value / base[r.method], r.setting, r.seed) for r in table.rows if r.metric == SHIFTED
    )
    sizes = [f"n = {n}" for n in SIZES]
    lines(middle, scaled, SHIFTED, sizes, list(map(float, SIZES)), list(base))
    middle.set(title="The same shift, fewer samples", xlabel="samples", ylabel="distance / distance at n = 400")
    middle.set_xscale("log", base=2)
    middle.set_xticks(SIZES, [str(n) for n in SIZES])
    middle.legend()
    for number, name in enumerate(("MMD", "FID")):
        values = table.values(P_VALUE, name)
        right.scatter(np.full(len(values), number), values, color=f"C{number}", zorder=3)
    right.axhline(0.05, color="grey", linewidth=1, linestyle="--")
    right.set(title="Equal mean and covariance", ylabel="p-value", xlim=(-0.6, 1.6), yscale="log")
    right.set_xticks([0, 1], ["MMD", "FID"])


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 28), null=null, registered="5857b7714b7d")
