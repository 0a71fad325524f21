"""Do windows of one canvas show one scene when their predicted pictures are drawn towards one window's?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.generate import (
    GaussianDenoiser,
    GaussianMixtureDenoiser,
    JointWindows,
    NoiseSchedule,
    SyncGuidance,
    sample,
)
from binderclip.studies.harness import Row, Table, declared_study

JOINT, SYNC, SAME = "joint windows", "synchronised", "one window's noise everywhere"
AGREE, LIKELY = "pairs of windows that show one scene", "log density of a window, nats a pixel"
SCENES, SIDE, CANVAS, STRIDE, STEPS, CANVASES = (-0.6, 0.0, 0.6), 8, (8, 40), 4, 50, 8
VARIANCE, LENGTH, WEIGHT, DECAY = 0.04, 2.0, 0.3, 0.95


def scenes() -> GaussianMixtureDenoiser:
    """Three scenes, equally likely: smooth random fields around a brightness of their own."""
    schedule = NoiseSchedule.scaled_linear()
    places = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).double()
    covariance = VARIANCE * torch.exp(-torch.cdist(places, places) / LENGTH)
    parts = [GaussianDenoiser(torch.full((1, SIDE, SIDE), v).double(), covariance, schedule) for v in SCENES]
    return GaussianMixtureDenoiser(parts, schedule=schedule)


def distance(pictures: Tensor, anchor: Tensor) -> Tensor:
    """Squared distance of pictures at a quarter of their resolution."""
    return (F.avg_pool2d(pictures, 4) - F.avg_pool2d(anchor, 4)).square().flatten(1).sum(1)


def measure(seed: int) -> list[Row]:
    """All rows of one seed, over its canvases."""
    g, denoiser, windows = torch.Generator().manual_seed(seed), scenes(), JointWindows(CANVAS, SIDE, STRIDE)
    sync = SyncGuidance(distance, weight=WEIGHT, decay=DECAY)
    lefts = torch.tensor(windows.grid.lefts)
    pairs = (lefts[:, None] - lefts[None] >= SIDE).nonzero().T  # windows that share no pixel
    level = torch.full((len(windows),), 0.05, dtype=torch.float64)
    found: dict[str, list[tuple[float, float]]] = {JOINT: [], SYNC: [], SAME: []}
    for _ in range(CANVASES):
        noise = torch.randn(1, *CANVAS, generator=g, dtype=torch.float64)
        same = noise[..., :SIDE].repeat(1, 1, CANVAS[1] // SIDE)
        for name, start, hooks in ((JOINT, noise, [windows]), (SYNC, noise, [sync, windows]), (SAME, same, [windows])):
            x = sample(denoiser, windows.split(start), hooks=hooks, num_inference_steps=STEPS)
            scene = denoiser.log_probability(x, torch.zeros(len(x), dtype=torch.long)).argmax(1)
            agree = (scene[pairs[0]] == scene[pairs[1]]).double().mean()
            density = denoiser.log_density(x, level).mean() / SIDE**2
            found[name].append((float(agree), float(density)))
    rows = []
    for name, values in found.items():
        agree, density = torch.tensor(values, dtype=torch.float64).mean(0).tolist()
        rows += [Row(AGREE, name, agree), Row(LIKELY, name, density)]
    return rows


def draw(table: Table, figure: object) -> None:
    """Both measures, a dot for each seed."""
    axes = figure.subplots(1, 2)  # type: ignore[attr-defined]
    for ax, metric in zip(axes, (AGREE, LIKELY), strict=True):
        for number, name in enumerate((JOINT, SYNC, SAME)):
            values = table.values(metric, name)
            ax.plot([number] * len(values), values, "o", alpha=0.5)
            ax.plot([number - 0.2, number + 0.2], [values.mean()] * 2, color="C3")
        ax.set_xticks(range(3), ["joint", "synchronised", "one noise"])
        ax.set_title(metric, fontsize=9)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 20), registered="eb088332347d")
