"""Instance metrics against loops over pairs of masks and torchmetrics, on one picture of 50 to 1,000 instances."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from benchmarks.harness import Row, compare, row, timed
from binderclip.segment.metrics import instance_scores, panoptic_quality, sorted_ap

SIDE = 256
#: Instances and pairs of runs; the loop takes a minute at the largest.
COUNTS = {50: 5, 200: 3, 1000: 1}
GOAL = 10.0


def cells(n: int, *, seed: int = 0, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Label maps (predicted, true) of n discs on a grid; predictions are moved, resized, one in twelve is missing."""
    rng = np.random.default_rng(seed)
    across = math.ceil(math.sqrt(n))
    step = side / across
    yy, xx = np.mgrid[:side, :side]
    true, ours = np.zeros((side, side), dtype=np.int32), np.zeros((side, side), dtype=np.int32)
    for number in range(n):
        y, x = (number // across + 0.5) * step, (number % across + 0.5) * step
        radius = step * rng.uniform(0.35, 0.5)
        true[(yy - y) ** 2 + (xx - x) ** 2 <= radius**2] = number + 1
        dy, dx = rng.normal(0, 0.12 * step, 2)
        if number % 12 != 5:
            ours[(yy - y - dy) ** 2 + (xx - x - dx) ** 2 <= (radius * rng.uniform(0.85, 1.1)) ** 2] = n - number
    return ours, true


def stacks(*maps: np.ndarray) -> list[np.ndarray]:
    """Label maps as boolean stacks."""
    return [np.array([labels == k for k in np.unique(labels[labels != 0])]) for labels in maps]


class PairLoop:
    """Intersections as the metric's authors count them: of boolean stacks, each prediction times all true masks."""

    def __init__(self, ours: np.ndarray, true: np.ndarray, *, shared: np.ndarray | None = None) -> None:
        areas = [stack.sum(axis=(1, 2)) for stack in (ours, true)]
        if shared is None:
            shared = np.zeros((len(ours), len(true)))
            for k, mask in enumerate(ours):
                shared[k] = (true * mask[None]).sum(axis=(1, 2))
        self.iou = shared / (areas[0][:, None] + areas[1][None] - shared + 1e-12)

    def sorted_ap(self) -> float:
        """The score with their matching, which also takes pairs that share nothing."""
        usable = np.where(self.iou >= 0.001, self.iou, 0)
        rows, columns = usable.any(axis=1).nonzero()[0], usable.any(axis=0).nonzero()[0]
        a, b = linear_sum_assignment(1 - usable[rows][:, columns])
        matched = np.sort(self.iou[rows[a], columns[b]])
        either = self.iou.shape[0] + self.iou.shape[1] - len(matched)
        score, before, height = 0.0, 0.0, len(matched) / either
        for failed, u in enumerate(matched):
            ap = (len(matched) - failed) / (either + failed)
            score += (u - before) * (ap + height) / 2
            before, height = u, ap
        return float(score + (1 - before) * height / 2)

    def panoptic_quality(self) -> float:
        """Segmentation times recognition quality at 0.5."""
        hits = self.iou[self.iou > 0.5]
        return float(hits.mean() * 2 * len(hits) / sum(self.iou.shape)) if len(hits) else 0.0


def torchmetrics_pq(ours: np.ndarray, true: np.ndarray) -> Callable[[], float]:
    """torchmetrics' panoptic quality of one class, its background left out of the mean."""
    from torchmetrics.functional.detection import panoptic_quality as reference

    maps = [torch.from_numpy(np.stack([np.where(m > 0, 1, 9), m], axis=-1))[None] for m in (ours, true)]

    def score() -> float:
        found = reference(maps[0], maps[1], things={1}, stuffs={9}, return_per_class=True)
        return float(found.flatten()[0])

    return score


def agree(name: str, ours: float, peer: float) -> None:
    """Nothing is timed that does not say the same."""
    if not math.isclose(ours, peer, abs_tol=1e-6):
        raise AssertionError(f"{name}: {ours} is not the peer's {peer}")


def run(*, counts: dict[int, int] | None = None) -> list[Row]:
    """All rows.

    Args:
        counts: instances -> pairs of runs.
    """
    return [made for n, repeats in (counts or COUNTS).items() for made in [*_maps(n, repeats), _stacks(n)]]


def _maps(n: int, repeats: int) -> list[Row]:
    ours, true = cells(n)

    def fast_sorted() -> float:
        return sorted_ap(ours, true, as_published=True)

    def fast_quality() -> float:
        return panoptic_quality(ours, true).pq

    keys = ours.ravel().astype(np.int64) * (n + 1) + true.ravel()
    least = min(timed(lambda: np.bincount(keys)) for _ in range(5)) * 1e3
    where = f"of {n} instances, {SIDE} px"
    reference = torchmetrics_pq(ours, true)
    agree("PQ", fast_quality(), reference())
    return [
        _against_loop(
            f"sortedAP {where}", fast_sorted, lambda: PairLoop(*stacks(ours, true)).sorted_ap(), repeats, n, least
        ),
        _against_loop(
            f"PQ {where}", fast_quality, lambda: PairLoop(*stacks(ours, true)).panoptic_quality(), repeats, n, least
        ),
        compare(f"PQ {where}", fast_quality, reference, repeats=7, limit=least, peer_name="torchmetrics"),
        compare(
            f"all eleven scores {where}", lambda: instance_scores(ours, true), fast_sorted, repeats=7, speedup=False,
            limit=least, peer_name="sortedAP alone, ours",
        ),
    ]  # fmt: skip


def _stacks(n: int) -> Row:
    """Masks that overlap, against one matrix product of them all, as a user who knows NumPy writes it."""
    ours, true = (np.stack([m | np.roll(m, 2, 1) for m in side]) for side in stacks(*cells(n, seed=1)))

    def product() -> float:
        flat = [side.reshape(len(side), -1).astype(np.float32) for side in (ours, true)]
        return PairLoop(ours, true, shared=flat[0] @ flat[1].T).sorted_ap()

    agree("sortedAP of stacks", sorted_ap(ours, true, as_published=True), product())
    return compare(
        f"sortedAP of {n} masks that overlap, {SIDE} px", lambda: sorted_ap(ours, true, as_published=True), product,
        repeats=3, peer_name="one matrix product",
    )  # fmt: skip


def _against_loop(
    name: str, fast: Callable[[], float], slow: Callable[[], float], repeats: int, n: int, least: float
) -> Row:
    agree(name, fast(), slow()) if repeats > 1 else fast()
    own, peer, found = [], [], []
    for _ in range(repeats):
        peer.append(timed(lambda: found.append(slow())))
        own.append(timed(lambda: found.append(fast())))
    agree(name, found[1], found[0])
    goal = {"goal": f"at least {GOAL:.0f}x", "target": GOAL} if n >= 200 else {}
    note = "one run of the loop" if repeats == 1 else ""
    return row(name, own, peer, limit=least, note=note, peer_name="loop over pairs", **goal)  # type: ignore[arg-type]
