"""Does SortedAP see every error of an instance segmentation, evenly, where scores at fixed thresholds stand or jump?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from binderclip.segment.metrics import (
    InstanceMatcher,
    Overlaps,
    instance_average_precision,
    match,
    mean_instance_average_precision,
    overlaps,
)
from binderclip.segment.metrics.sorted_precision import area_under_sorted
from binderclip.studies.harness import Figure, Row, Table, declared_study, one_thread
from binderclip.studies.protocols.data.instance_errors import (
    LADDERS,
    Masks,
    Scene,
    error_chain,
    invented,
    ladder,
    peeled_all,
    scene_of,
    shifted,
)
from binderclip.studies.protocols.data.visual_scenes import cluttered

Curves: TypeAlias = "dict[str, np.ndarray]"

SCENES, SIDE, OBJECTS, AREA = 8, 192, (6, 10), (0.015, 0.04)
SORTED, AP, MEAN, PQ, AJI, SBD = "sortedAP", "AP at 0.5", "mAP", "PQ", "AJI", "SBD"
METRICS = {SORTED: "sorted_ap", AP: "ap_50", MEAN: "mean_ap", PQ: "pq", AJI: "aji", SBD: "sbd"}
RANDOM = "random score"
RIM, EROSION, SHIFT = LADDERS
PERFECT, GOOD, POOR = "perfect masks", "good masks", "poor masks"
CHANGES = ("one lost", "one invented")
STATES = {PERFECT: (1.0, 1.0), GOOD: (0.55, 0.95), POOR: (0.05, 0.45)}
ERRORS = 25
GRIDS = {
    "0.50:0.95": np.arange(0.5, 0.96, 0.05),
    "0.5:0.9": np.arange(0.5, 0.91, 0.1),
    "0.3:0.9": np.arange(0.3, 0.91, 0.1),
    "0.05:0.95": np.arange(0.05, 0.96, 0.05),
    "0.75:0.95": np.arange(0.75, 0.96, 0.05),
}
MATCHED_AT = (0.001, 0.01, 0.05, 0.1)
FALLS, JUMPS = "share of steps at which the score falls", "largest drop over the whole fall"
MISSED, KEPT = "steps at which the score does not fall", "events that do not lower the score"
EVEN = "ladders without 3 flat steps and without a drop above 3x sortedAP's largest"
RULE = "ladders with 3 flat steps, or a drop above 3x sortedAP's largest"
EVENTS, COSTS = "share of events that lower the score", "dearest over cheapest object"
TAU, SPREAD = "Kendall's tau with the number of errors", "spread over choices of thresholds"
AS_PUBLISHED = "mean distance to the published matching"
EPS = 1e-12


@lru_cache(maxsize=3)
def _scenes(seed: int) -> list[Scene]:
    found = cluttered(seed, SCENES, objects=OBJECTS, size=SIDE, area=AREA)
    return [scene_of(masks, np.random.default_rng([seed, i])) for i, masks in enumerate(found.visible.numpy())]


def scores(predicted: Masks, scene: Scene) -> dict[str, float]:
    """All metrics of one prediction."""
    matcher = InstanceMatcher()
    shape = scene.masks[0].shape
    matcher.update(np.array(predicted).reshape(-1, *shape).astype(bool), np.array(scene.masks))
    found = matcher.compute()
    return {name: getattr(found, field) for name, field in METRICS.items()}


def _curves(predictions: list[Masks], scene: Scene) -> Curves:
    each = [scores(predicted, scene) for predicted in predictions]
    return {name: np.array([one[name] for one in each]) for name in METRICS}


def kendall(values: np.ndarray) -> float:
    """Tau of scores with their places, descending; equal scores order nothing."""
    ahead, behind = np.triu_indices(len(values), 1)
    gaps = values[ahead] - values[behind]
    return float((np.sign(gaps) * (np.abs(gaps) > EPS)).mean())


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    with one_thread():
        found = _scenes(seed)
        rng = np.random.default_rng(seed)
        parts = (_ladders, _objects, _equality, _ranking, _thresholds)
        return [row for part in parts for row in part(found, rng)]


def _ladders(found: list[Scene], rng: np.random.Generator) -> list[Row]:
    rows = []
    for kind in LADDERS:
        falls: dict[str, list[float]] = {name: [] for name in (*METRICS, RANDOM)}
        jumps: dict[str, list[float]] = {name: [] for name in METRICS}
        rule: dict[str, list[float]] = {name: [] for name in METRICS}
        for scene in found:
            steps = ladder(kind, scene, rng)
            iou = np.array([_worst(predicted, scene) for predicted in steps])
            # A shift can leave the IoU of a shape with holes as it is or better it: such a step is no error.
            worse = np.diff(iou) < -EPS
            drops = {name: -np.diff(curve) for name, curve in _curves(steps, scene).items()}
            falls[RANDOM] += (np.diff(rng.uniform(size=len(steps)))[worse] < 0).tolist()
            for name, drop in drops.items():
                falls[name] += (drop[worse] > EPS).tolist()
                jumps[name].append(float(drop.max() / drop.sum()) if drop.sum() > EPS else 0.0)
                flat = int((np.abs(drop[worse]) <= EPS).sum())
                rule[name].append(bool(flat >= 3 or drop.max() > 3 * drops[SORTED].max()))
        for metric, values in ((FALLS, falls), (JUMPS, jumps), (RULE, rule)):
            rows += [Row(metric, name, float(np.mean(v)), kind) for name, v in values.items()]
        for count, values in ((MISSED, falls), (EVEN, rule)):
            rows += [Row(count, name, v.count(False), kind) for name, v in values.items()]
    return rows


def _worst(predicted: Masks, scene: Scene) -> float:
    return min(float((a & b).sum() / (a | b).sum()) for a, b in zip(predicted, scene.masks, strict=True))


def _objects(found: list[Scene], rng: np.random.Generator) -> list[Row]:
    rows = []
    for name in STATES:
        lost: dict[str, list[float]] = {metric: [] for metric in METRICS}
        added: dict[str, list[float]] = {metric: [] for metric in METRICS}
        for scene in found:
            base = peeled_all(scene, STATES[name], rng)
            before = scores(base, scene)
            for k in range(len(base)):
                after = scores(base[:k] + base[k + 1 :], scene)
                for metric in METRICS:
                    lost[metric].append(bool(after[metric] < before[metric] - EPS))
            for _ in range(4):
                base = [*base, invented(base, scene, rng)]
                before, last = scores(base, scene), before
                for metric in METRICS:
                    added[metric].append(bool(before[metric] < last[metric] - EPS))
        for what, values in (("one lost", lost), ("one invented", added)):
            rows += [Row(EVENTS, metric, float(np.mean(v)), f"{name}, {what}") for metric, v in values.items()]
            rows += [Row(KEPT, metric, v.count(False), f"{name}, {what}") for metric, v in values.items()]
    return rows


def _equality(found: list[Scene], rng: np.random.Generator) -> list[Row]:
    """How much more the dearest object of a scene costs than the cheapest, lost or with a fifth of it missing.

    A metric that does not see every object so changed has no such ratio and no row.
    """
    ratios: dict[tuple[str, str], list[float]] = {}
    for scene in found:
        for what in ("lost", "a fifth missing"):
            costs = []
            for k in range(len(scene.masks)):
                left = [] if what == "lost" else [scene.peeled(k, 0.8)]
                costs.append(list(scores([*scene.masks[:k], *left, *scene.masks[k + 1 :]], scene).values()))
            table = 1 - np.array(costs)
            for name, column in zip(METRICS, table.T, strict=True):
                cheapest = float(column.min())
                ratios.setdefault((name, what), []).append(float(column.max()) / cheapest if cheapest > EPS else np.nan)
    return [Row(COSTS, name, float(np.mean(v)), what) for (name, what), v in ratios.items() if np.isfinite(v).all()]


def _ranking(found: list[Scene], rng: np.random.Generator) -> list[Row]:
    taus: dict[str, list[float]] = {name: [] for name in (*METRICS, RANDOM)}
    for scene in found:
        for name, curve in _curves(error_chain(scene, ERRORS, rng), scene).items():
            taus[name].append(kendall(curve))
        taus[RANDOM].append(kendall(rng.uniform(size=ERRORS + 1)))
    return [Row(TAU, name, float(np.mean(v))) for name, v in taus.items()]


def _thresholds(found: list[Scene], rng: np.random.Generator) -> list[Row]:
    """Largest minus smallest score of good masks, by the thresholds of each metric; for sortedAP of poor ones too."""
    spreads: dict[str, list[float]] = {MEAN: [], SORTED: [], AP: []}
    distances = []
    for scene in found:
        predicted, true = np.array(peeled_all(scene, STATES[GOOD], rng)), np.array(scene.masks)
        pairs = overlaps(predicted, true)
        means = [mean_instance_average_precision(predicted, true, thresholds=grid.tolist()) for grid in GRIDS.values()]
        spreads[MEAN].append(float(np.ptp(means)))
        single = [instance_average_precision(predicted, true, threshold=t) for t in (0.5, 0.75)]
        spreads[AP].append(float(np.ptp(single)))
        # Among good masks no pair is below any of the thresholds: poor ones are where the choice could matter.
        poor = overlaps(np.array(peeled_all(scene, STATES[POOR], rng)), true)
        spreads[SORTED].append(max(float(np.ptp([_sorted_at(each, t) for t in MATCHED_AT])) for each in (pairs, poor)))
        # The pairs of a crowded prediction, where masks touch several objects.
        crowded = overlaps(np.array([shifted(m, *rng.integers(-12, 13, 2)) for m in scene.masks]), true)
        distances.append(abs(_sorted_at(crowded, MATCHED_AT[0]) - _sorted_at(crowded, MATCHED_AT[0], published=True)))
    rows = [Row(SPREAD, name, float(np.mean(v))) for name, v in spreads.items()]
    return [*rows, Row(AS_PUBLISHED, SORTED, float(np.mean(distances)), "masks shifted by up to 12 px")]


def _sorted_at(pairs: Overlaps, threshold: float, published: bool = False) -> float:
    iou = match(pairs, threshold, as_assigned=published).iou
    return area_under_sorted(iou, len(pairs.true) - len(iou), len(pairs.predicted))


def null(seed: int) -> list[Row]:
    """Random scores in the place of all metrics: half of the errors raise them, and none leaves them as they are."""
    rng = np.random.default_rng(seed)
    rows = []
    for name in METRICS:
        for kind, steps in ((RIM, 99 * SCENES), (EROSION, 8 * SCENES), (SHIFT, 10 * SCENES)):
            rows.append(Row(MISSED, name, int(rng.binomial(steps, 0.5)), kind))
            rows.append(Row(EVEN, name, SCENES, kind))
        rows += [
            Row(KEPT, name, int(rng.binomial(8 * SCENES, 0.5)), f"{state}, {what}")
            for state in STATES
            for what in CHANGES
        ]
    return rows


def _none(metric: str, methods: tuple[str, ...], *settings: str) -> Any:
    """A test that nothing was counted anywhere."""

    def test(table: Table) -> tuple[bool, str]:
        found = {(m, s): round(float(table.values(metric, m, s).sum())) for m in methods for s in settings}
        return sum(found.values()) == 0, "; ".join(f"{m}, {s}: {count}" for (m, s), count in found.items())

    return test


def draw(table: Table, figure: Figure) -> None:
    """One object that is peeled away, the scores on the way, and what each metric sees."""
    parts: Any = figure.subfigures(1, 3, width_ratios=(0.55, 1.25, 1.5))
    left, middle, right = parts
    scene = _scenes(0)[0]
    steps = ladder(RIM, scene, np.random.default_rng(5))
    for ax, step in zip(left.subplots(3, 1), (0, 40, 80), strict=True):
        labels = np.zeros(scene.masks[0].shape, dtype=int)
        for number, mask in enumerate(steps[step], 1):
            labels[mask] = number
        ax.imshow(np.ma.masked_equal(labels, 0), cmap="tab10", vmin=1, vmax=10, interpolation="nearest")
        ax.set(xticks=[], yticks=[], facecolor="#eeeeee")
        ax.set_title(f"{step} % peeled", fontsize=8)
        ax.grid(visible=False)
    ax = middle.subplots()
    for name, curve in _curves(steps, scene).items():
        ax.plot(range(len(curve)), curve, label=name, linewidth=2.4 if name == SORTED else 1.1)
    ax.set_xlabel("one object, % of its pixels gone", fontsize=8)
    ax.set_ylabel("score", fontsize=8)
    ax.legend(fontsize=7)
    _properties(table, right.subplots())


def _properties(table: Table, ax: Any) -> None:
    columns = {
        "falls: 1 %\nof pixels": (FALLS, RIM), "falls:\n1 px eroded": (FALLS, EROSION),
        "falls:\n1 px shifted": (FALLS, SHIFT), "falls:\none lost": (EVENTS, f"{GOOD}, one lost"),
        "falls: one\ninvented": (EVENTS, f"{GOOD}, one invented"),
        "falls: one of\npoor lost": (EVENTS, f"{POOR}, one lost"), "tau with\nerrors": (TAU, ""),
    }  # fmt: skip
    values = np.array([[table.mean(metric, name, where) for metric, where in columns.values()] for name in METRICS])
    ax.imshow(values, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto", alpha=0.75)
    for (y, x), value in np.ndenumerate(values):
        shown = f"{value:.3f}" if list(columns.values())[x][0] == TAU else f"{value:.2f}"
        ax.text(x, y, shown, ha="center", va="center", fontsize=7)
    ax.set_xticks(range(len(columns)), list(columns), fontsize=6, rotation=90)
    ax.set_yticks(range(len(METRICS)), list(METRICS), fontsize=7)
    ax.set_title("share of errors that lower the score", fontsize=8)
    ax.grid(visible=False)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), null=null, registered="1efb6076c20e")
