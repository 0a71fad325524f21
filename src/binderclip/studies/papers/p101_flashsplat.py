"""Can masks of a few views be lifted to 3-D Gaussians in closed form, as well as by gradient descent and far faster?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_dilation
from torch import Tensor

from binderclip.segment import lift_masks, lifted_mask, mask_votes
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots, pictures
from binderclip.vision import GaussianScene, SplatCamera

OBJECTS, EACH, GROUND = 3, 80, 200
VIEWS, UNSEEN, SIDE = 12, 6, 48
STEPS, RATE, EVERY, DRAWS = 300, 0.1, 15, 6
SAME, WORSE = 0.01, 0.05
"""IoU by which descent may miss where it ends to count as done, and by which labels may be worse to count as fast."""
BIAS = 0.2
CLOSED, BIASED, DESCENT, CENTRES = "closed form", f"closed form, bias {BIAS}", "gradient descent", "centres"
NULL = "random"
METHODS = (CLOSED, BIASED, DESCENT, CENTRES)
CLEAN, NOISY = "true masks", "masks with false positives"
DRAWN = f"{NOISY}, {DRAWS} draws"
PAPER_STEPS = 30_000
"""Of the methods that the paper compares its time with."""
IOU, LABELS = "IoU in unseen views", "Gaussians labelled rightly"
FASTER = "times as fast as gradient descent until it is done, logarithm"
FASTER_THAN_ALL = f"times as fast as {PAPER_STEPS:,} steps of gradient descent, logarithm"
NEEDED = "steps until gradient descent is done"


@lru_cache(maxsize=4)
def scene_of(seed: int) -> tuple[GaussianScene, Tensor]:
    """Three clouds of Gaussians above a ground of others, and the label of each, 0 for the ground."""
    rng = np.random.default_rng([seed, 101])
    label = np.repeat(np.arange(OBJECTS + 1), [GROUND, *[EACH] * OBJECTS])
    angle = rng.uniform(0, 2 * math.pi) + 2 * math.pi / OBJECTS * np.arange(OBJECTS)
    middles = np.stack([0.75 * np.sin(angle), rng.uniform(-0.1, 0.3, OBJECTS), 0.75 * np.cos(angle)], 1)
    shapes = rng.uniform(0.12, 0.28, (OBJECTS, 3))
    means = np.empty((len(label), 3))
    means[label == 0] = np.stack(
        [rng.uniform(-1.6, 1.6, GROUND), rng.normal(-0.45, 0.03, GROUND), rng.uniform(-1.6, 1.6, GROUND)], 1
    )
    for number in range(OBJECTS):
        means[label == number + 1] = middles[number] + shapes[number] * rng.normal(size=(EACH, 3))
    scales = rng.uniform(0.03, 0.12, (len(label), 3))
    scales[label == 0] = rng.uniform(0.08, 0.2, (GROUND, 3))
    rotations, colours = rng.normal(size=(len(label), 4)), rng.uniform(size=(len(label), 3))
    parts = (means, scales, rotations, rng.uniform(0.5, 0.95, len(label)), colours)
    return GaussianScene(*(torch.tensor(part, dtype=torch.float32) for part in parts)), torch.from_numpy(label)


def cameras_of(seed: int) -> list[SplatCamera]:
    """Views from all around, those that are kept back between the others."""
    rng = np.random.default_rng([seed, 102])
    count = VIEWS + UNSEEN
    around = 2 * math.pi * (np.arange(count) + rng.uniform(-0.3, 0.3, count)) / count
    heights = rng.uniform(0.6, 1.6, count)
    return [
        SplatCamera.looking_at((3 * math.sin(a), h, 3 * math.cos(a)), size=(SIDE, SIDE))
        for a, h in zip(around, heights, strict=True)
    ]


def true_mask(scene: GaussianScene, label: Tensor, camera: SplatCamera) -> Tensor:
    """The label that has painted most of each pixel."""
    shares = torch.stack([lifted_share(scene, label == k, camera) for k in range(OBJECTS + 1)])
    return torch.where(shares.sum(0) > 0.5, shares.argmax(0), 0)


def lifted_share(scene: GaussianScene, chosen: Tensor, camera: SplatCamera) -> Tensor:
    """How much of each pixel these Gaussians have painted."""
    with torch.no_grad():
        return scene.coloured(chosen.float()[:, None].expand(-1, 3)).render(camera).image[0]


def spoilt(mask: Tensor, rng: np.random.Generator) -> Tensor:
    """False positives: objects grown by a pixel or two, and two blobs of a wrong label."""
    found = mask.numpy().copy()
    for k in range(1, OBJECTS + 1):
        own, by = found == k, int(rng.integers(1, 3))
        found[binary_dilation(own, iterations=by)] = k
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for _ in range(2):
        y, x, radius = rng.uniform((0, 0, 3), (SIDE, SIDE, 7))
        found[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = rng.integers(1, OBJECTS + 1)
    return torch.from_numpy(found)


def descended(
    scene: GaussianScene, cameras: list[SplatCamera], masks: list[Tensor], seed: int
) -> list[tuple[int, float, Tensor]]:
    """Soft labels by Adam through the renderer, a view a step, as colours: at most three objects at once.

    Returns:
        Every few steps (how many there were, the processor seconds until then, the labels of shape (objects, N)).
    """
    logits = torch.zeros(len(scene), OBJECTS, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=RATE)
    targets = [torch.stack([(mask == k + 1).float() for k in range(OBJECTS)]) for mask in masks]
    generator = torch.Generator().manual_seed(seed)
    found, start = [], time.process_time()
    for step in range(1, STEPS + 1):
        view = int(torch.randint(len(cameras), (1,), generator=generator))
        shown = scene.coloured(logits.sigmoid()).render(cameras[view]).image
        loss = (shown - targets[view]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % EVERY == 0:
            found.append((step, time.process_time() - start, (logits.detach() > 0).T))
    return found


def by_centres(scene: GaussianScene, cameras: list[SplatCamera], masks: list[Tensor]) -> Tensor:
    """Each Gaussian to the label that its centre falls on in most views, whether it can be seen there or not."""
    votes = torch.zeros(OBJECTS + 1, len(scene))
    for camera, mask in zip(cameras, masks, strict=True):
        seen = scene.means @ camera.to_camera[:3, :3].T + camera.to_camera[:3, 3]
        x = (camera.focal[0] * seen[:, 0] / seen[:, 2] + SIDE / 2).long()
        y = (camera.focal[1] * seen[:, 1] / seen[:, 2] + SIDE / 2).long()
        inside = (x >= 0) & (x < SIDE) & (y >= 0) & (y < SIDE)
        votes[mask[y[inside], x[inside]], inside.nonzero()[:, 0]] += 1
    return torch.stack([votes.argmax(0) == k for k in range(1, OBJECTS + 1)])


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    scene, label = scene_of(seed)
    cameras = cameras_of(seed)
    order = np.random.default_rng([seed, 103]).permutation(VIEWS + UNSEEN)
    known, unseen = [cameras[i] for i in order[:VIEWS]], [cameras[i] for i in order[VIEWS:]]
    truth = [true_mask(scene, label, camera) for camera in known]
    rows = []
    for setting, (views, masks) in {CLEAN: (known, truth), NOISY: _noisy(known, truth, seed, 0)}.items():
        path = descended(scene, views, masks, seed)
        found, seconds = _labels(scene, views, masks, seed)
        found[DESCENT] = path[-1][2]
        ious = {name: _iou(scene, label, chosen, unseen) for name, chosen in found.items()}
        for name, chosen in found.items():
            right = torch.stack([own == (label == k + 1) for k, own in enumerate(chosen)]).float().mean()
            rows.append(Row(IOU, name, ious[name], setting))
            rows.append(Row(LABELS, name, float(right), setting))
        needed, until, _ = next(at for at in path if _iou(scene, label, at[2], unseen) >= ious[DESCENT] - SAME)
        rows.append(Row(NEEDED, DESCENT, needed, setting))
        for name in (CLOSED, BIASED, NULL):
            for metric, taken in ((FASTER, until), (FASTER_THAN_ALL, path[-1][1] * PAPER_STEPS / STEPS)):
                # Labels that are not as good have saved no time.
                saved = math.log(taken / seconds[name]) if ious[name] > ious[DESCENT] - WORSE else 0.0
                rows.append(Row(metric, name, saved, setting))
    return rows + _of_draws(scene, label, (known, unseen), truth, seed)


def _noisy(
    known: list[SplatCamera], truth: list[Tensor], seed: int, draw: int
) -> tuple[list[SplatCamera], list[Tensor]]:
    """The views that are left when a fifth has lost its masks, and spoilt masks of those."""
    rng = np.random.default_rng([seed, 104, draw])
    kept = sorted(rng.permutation(VIEWS)[: round(0.8 * VIEWS)].tolist())
    return [known[i] for i in kept], [spoilt(truth[i], rng) for i in kept]


def _of_draws(
    scene: GaussianScene, label: Tensor, cameras: tuple[list[SplatCamera], list[SplatCamera]], truth: list[Tensor],
    seed: int,
) -> list[Row]:  # fmt: skip
    """IoU with and without the bias over several draws of false positives: one alone is too noisy to tell."""
    ious: dict[str, list[float]] = {CLOSED: [], BIASED: [], NULL: []}
    for number in range(DRAWS):
        found, _ = _labels(scene, *_noisy(cameras[0], truth, seed, 1 + number), seed, tuple(ious))
        for name, chosen in found.items():
            ious[name].append(_iou(scene, label, chosen, cameras[1]))
    return [Row(IOU, name, float(np.mean(values)), DRAWN) for name, values in ious.items()]


def _labels(
    scene: GaussianScene,
    views: list[SplatCamera],
    masks: list[Tensor],
    seed: int,
    names: tuple[str, ...] = (CLOSED, BIASED, CENTRES, NULL),
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """(objects, N) of each method without descent, and the processor seconds that it took."""
    generator = torch.Generator().manual_seed(seed)
    ways: dict[str, Callable[[], Tensor]] = {
        CLOSED: lambda: lift_masks(mask_votes(scene, views, masks, OBJECTS + 1))[1:],
        BIASED: lambda: lift_masks(mask_votes(scene, views, masks, OBJECTS + 1), bias=BIAS)[1:],
        CENTRES: lambda: by_centres(scene, views, masks),
        NULL: lambda: torch.rand(OBJECTS, len(scene), generator=generator) < EACH / len(scene),
    }
    found, seconds = {}, {}
    for name in names:
        start = time.process_time()
        found[name] = ways[name]()
        seconds[name] = time.process_time() - start
    return found, seconds


def _iou(scene: GaussianScene, label: Tensor, chosen: Tensor, views: list[SplatCamera]) -> float:
    """Mean over objects and views in which the object can be seen."""
    values = []
    for camera in views:
        for k in range(OBJECTS):
            truth = lifted_mask(scene, label == k + 1, camera)
            shown = lifted_mask(scene, chosen[k], camera)
            if int(truth.sum()) >= 10:
                values.append(int((truth & shown).sum()) / int((truth | shown).sum()))
    return float(np.mean(values))


def draw(table: Table, figure: Figure) -> None:
    """A view with its noisy mask and the lifted ones, and the IoU of all methods."""
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    seed = STUDY.seeds[0]
    scene, label = scene_of(seed)
    cameras = cameras_of(seed)
    rng = np.random.default_rng([seed, 104])
    masks = [spoilt(true_mask(scene, label, camera), rng) for camera in cameras[::2]]
    votes = mask_votes(scene, cameras[::2], masks, OBJECTS + 1)
    palette = torch.tensor([[0.93, 0.93, 0.93], [0.85, 0.3, 0.2], [0.2, 0.5, 0.85], [0.2, 0.65, 0.35]])

    def shown(labels: Tensor) -> Tensor:
        return palette[labels].permute(2, 0, 1)

    def lifted(bias: float, camera: SplatCamera) -> Tensor:
        chosen = lift_masks(votes, bias=bias)[1:]
        each = torch.stack([lifted_mask(scene, c, camera) for c in chosen])
        return shown(torch.where(each.any(0), each.float().argmax(0) + 1, 0))

    titles = ("a view", "its mask,\nspoilt", "lifted", f"lifted,\nbias {BIAS}", "truth")
    for row, axes in enumerate(halves[0].subplots(2, 5)):
        camera = cameras[2 * row]
        with torch.no_grad():
            picture = scene.render(camera).image.clamp(0, 1)
        truth = shown(true_mask(scene, label, camera))
        cells = [picture, shown(masks[row]), lifted(0.0, camera), lifted(BIAS, camera), truth]
        pictures(axes, cells, titles if row == 0 else ())
    for ax, setting in zip(halves[1].subplots(1, 2, sharey=True), (CLEAN, NOISY), strict=True):
        dots(ax, table, IOU, METHODS, setting)
        ax.set_title(f"{IOU},\n{setting}", fontsize=9)
        ax.set_xticks(range(len(METHODS)), ["closed\nform", f"bias\n{BIAS}", "descent", "centres"], fontsize=8)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(40, 52), remeasure="by these criteria, on new seeds.")
