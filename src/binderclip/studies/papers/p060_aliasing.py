"""Do segmenters err where features alias, and do filtering before strides and mixing of bands help at boundaries?"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.segment.metrics import BoundaryErrors, IoU, boundary_band
from binderclip.studies.harness import Figure, Row, Table, bare, declared_study, dots, one_thread
from binderclip.studies.protocols.training.dense_net import (
    BAND,
    CLASSES,
    TEST,
    TRAIN,
    Part,
    UNet,
    dense_part,
    predicted,
    trained,
)
from binderclip.vision import DeAliasingFilter, FrequencyMixing, aliasing_map, aliasing_score

BASE, WIDER, BOTH = "baseline", "wider baseline", "filter + mixing"
METHODS, CUTOFF = (BASE, WIDER, BOTH), 0.35
ERRORS = ("FErr", "MErr", "DErr")
SUM = "FErr + MErr + DErr"
RANK, RATES = "rank correlation over ten bins", "error rate"
WINDOW, BINS = 4, 10
OTHER_WINDOWS = (6, 8)
PLACES = ("all pixels", "boundary band")


def _net(method: str) -> UNet:
    options: dict[str, Any] = {}
    if method == BOTH:
        options |= {"before_stride": lambda: DeAliasingFilter(CUTOFF), "in_block": FrequencyMixing}
    return UNet(len(CLASSES) + 1, 17 if method == WIDER else 16, **options)


def _test(seed: int) -> Part:
    return dense_part(9000 + seed, TEST, 0.0, 1.0)


@lru_cache(maxsize=64)
def _trained(method: str, seed: int) -> tuple[UNet, Int[Tensor, "N S S"]]:
    """A network and its label maps of the test scenes."""
    torch.manual_seed(seed)
    net = _net(method).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trained(net, dense_part(seed, TRAIN, 0.0, 1.0), seed)
    return net, predicted(net, _test(seed).images).argmax(1)


@torch.no_grad()
def _halved(net: UNet, images: Float[Tensor, "N 3 S S"]) -> list[Float[Tensor, "N C h w"]]:
    """The maps that strided convolutions between levels see."""
    return [before(x) for before, x in zip(net.before, net.stages(images), strict=False)]


def _local(net: UNet, images: Float[Tensor, "N 3 S S"], window: int = WINDOW) -> Float[Tensor, "N S S"]:
    """Aliasing around each pixel: the mean over the halved maps."""
    found = []
    for part in images.split(20):
        maps = [aliasing_map(x, window=window)[:, None] for x in _halved(net, part)]
        found.append(sum(F.interpolate(m, size=images.shape[-2:], mode="bilinear")[:, 0] for m in maps) / len(maps))
    return torch.cat(found)  # type: ignore[arg-type]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = []
    with one_thread():
        for method in METHODS:
            net, labels = _trained(method, seed)
            rows += _scores(method, labels, _test(seed).exact)
            halved = _halved(net, _test(seed).images)
            score = torch.stack([aliasing_score(x).mean() for x in halved]).mean()
            rows.append(Row("aliasing score of the halved maps", method, float(score)))
            rows.append(Row("parameters (thousand)", method, sum(p.numel() for p in net.parameters()) / 1000))
        net, labels = _trained(BASE, seed)
        images, exact = _test(seed).images, _test(seed).exact
        for window in OTHER_WINDOWS:
            found = _by_aliasing(_local(net, images, window), labels, exact)
            rows += [replace(row, setting=f"windows of {window}") for row in found if row.metric == RANK]
        return rows + _by_aliasing(_local(net, images), labels, exact)


def _scores(method: str, labels: Int[Tensor, "N S S"], exact: Int[Tensor, "N S S"]) -> list[Row]:
    near, overlap = BoundaryErrors(len(CLASSES) + 1, width=BAND), IoU(len(CLASSES) + 1)
    near.update(labels, exact)
    overlap.update(labels, exact)
    found = near.compute()
    errors = (found.ferr, found.merr, found.derr)
    values = dict(zip(ERRORS, errors, strict=True)) | {SUM: sum(errors), "BIoU": found.biou, "BAcc": found.bacc}
    return [Row(k, method, v) for k, v in (values | {"mIoU": overlap.compute().miou}).items()]


def _by_aliasing(
    aliasing: Float[Tensor, "N S S"], labels: Int[Tensor, "N S S"], exact: Int[Tensor, "N S S"]
) -> list[Row]:
    """Error rates in ten bins of equally many pixels, and their rank correlation with aliasing."""
    from scipy.stats import spearmanr

    rows, wrong = [], labels != exact
    for place, where in zip(PLACES, (torch.ones_like(wrong), boundary_band(exact, width=BAND)), strict=True):
        order = aliasing[where].argsort()
        rates = [float(part.float().mean()) for part in wrong[where][order].tensor_split(BINS)]
        rows += [Row(RATES, place, rate, f"bin {k}") for k, rate in enumerate(rates)]
        rows.append(Row(RANK, place, float(spearmanr(range(BINS), rates).statistic)))
    return rows


def null(seed: int) -> list[Row]:
    """Any order of the bins, and scores that differ by chance."""
    rng = np.random.default_rng(seed)
    rows = [Row(RANK, place, float(rng.uniform(-0.6, 0.6))) for place in PLACES]
    rows += [Row(SUM, method, rng.normal(0.28, 0.02)) for method in METHODS]
    return rows + [Row("BIoU", method, rng.normal(0.82, 0.02)) for method in METHODS]


def draw(table: Table, figure: Figure) -> None:
    """Errors over aliasing, the three error rates by network, the sweep, and maps of two scenes."""
    parts: Any = figure.subfigures(1, 2, width_ratios=(1.5, 1))
    left, right = parts
    axes = left.subplots(2, 2)
    for place, colour in zip(PLACES, ("C0", "C1"), strict=True):
        rates = np.array([table.values(RATES, place, f"bin {k}") for k in range(BINS)])
        axes[0, 0].plot(range(1, BINS + 1), rates.mean(1), "o-", ms=3, color=colour, label=place)
        axes[0, 0].plot(range(1, BINS + 1), rates, color=colour, alpha=0.3, linewidth=0.7)
    axes[0, 0].set_title("Error rate by bin of aliasing", fontsize=8)
    axes[0, 0].legend(fontsize=7, frameon=False)
    shown = METHODS
    for index, (method, colour) in enumerate(zip(shown, ("C7", "0.75", "C2"), strict=True)):
        for k, error in enumerate(ERRORS):
            values = table.values(error, method)
            label = method if k == 0 else None
            axes[0, 1].bar(k + 0.2 * index, values.mean(), 0.18, color=colour, label=label)
            axes[0, 1].plot([k + 0.2 * index] * len(values), values, "k.", ms=3)
    axes[0, 1].set_xticks([k + 0.3 for k in range(3)], ERRORS)
    axes[0, 1].set_title("Boundary errors", fontsize=8)
    axes[0, 1].set_ylim(top=1.45 * axes[0, 1].get_ylim()[1])
    axes[0, 1].legend(fontsize=6, frameon=False, ncols=2, loc="upper center")
    for ax, metric in zip(axes[1], ("BIoU", "aliasing score of the halved maps"), strict=True):
        dots(ax, table, metric, METHODS)
        ax.set_title(metric, fontsize=8)
    for ax in axes.flat:
        ax.tick_params(labelsize=7)
    _pictures(right)


def _pictures(figure: Any) -> None:
    axes, part = figure.subplots(2, 4), _test(STUDY.seeds[0])
    net, plain = _trained(BASE, STUDY.seeds[0])
    _, ours = _trained(BOTH, STUDY.seeds[0])
    local = _local(net, part.images[:2])
    for row, cells in enumerate(axes):
        cells[0].imshow(part.images[row].permute(1, 2, 0).numpy())
        cells[1].imshow(local[row].numpy(), cmap="magma")
        for ax, labels in zip(cells[2:], (plain, ours), strict=True):
            ax.imshow((labels[row] != part.exact[row]).numpy(), cmap="Reds", vmin=0, vmax=1.3)
        for ax in cells:
            bare(ax)
    titles = ("scene", "aliasing", "errors,\nbaseline", "errors, filter\n+ mixing")
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=7)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 26), null=null, registered="1a5bb7ffb935")
