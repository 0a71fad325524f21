"""Does SortedAP see every error of an instance segmentation, evenly, where scores at fixed thresholds stand or jump?"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from binderclip.segment.metrics import (
    InstanceMatcher,
    Overlaps,
    average_precision,
    match,
    mean_average_precision,
    overlaps,
)
from binderclip.segment.metrics.sorted_ap import area_under_sorted
from binderclip.studies.harness.criteria import Criterion
from binderclip.studies.harness.study import FIRST_RULES, Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.harness.threads import one_thread
from binderclip.studies.protocols.instance_errors import (
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
from binderclip.studies.protocols.visual_scenes import cluttered

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curves: TypeAlias = "dict[str, np.ndarray]"

SCENES, SIDE, OBJECTS, AREA = 20, 192, (6, 10), (0.015, 0.04)
SORTED, AP, MEAN, PQ, AJI, SBD = "sortedAP", "AP at 0.5", "mAP", "PQ", "AJI", "SBD"
METRICS = {SORTED: "sorted_ap", AP: "ap_50", MEAN: "mean_ap", PQ: "pq", AJI: "aji", SBD: "sbd"}
RANDOM = "random score"
RIM, EROSION, SHIFT = LADDERS
PERFECT, GOOD, POOR = "perfect masks", "good masks", "poor masks"
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
                flat = int((drop[worse] <= EPS).sum())
                rule[name].append(flat >= 3 or drop.max() > 3 * drops[SORTED].max())
        for metric, values in ((FALLS, falls), (JUMPS, jumps), (RULE, rule)):
            rows += [Row(metric, name, float(np.mean(v)), kind) for name, v in values.items()]
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
                    lost[metric].append(after[metric] < before[metric] - EPS)
            for _ in range(4):
                base = [*base, invented(base, scene, rng)]
                before, last = scores(base, scene), before
                for metric in METRICS:
                    added[metric].append(before[metric] < last[metric] - EPS)
        for what, values in (("one lost", lost), ("one invented", added)):
            rows += [Row(EVENTS, metric, float(np.mean(v)), f"{name}, {what}") for metric, v in values.items()]
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
        means = [mean_average_precision(predicted, true, thresholds=grid.tolist()) for grid in GRIDS.values()]
        spreads[MEAN].append(float(np.ptp(means)))
        single = [average_precision(predicted, true, threshold=t) for t in (0.5, 0.75)]
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


def _falls_everywhere(table: Table) -> tuple[bool, str]:
    shares = [table.values(FALLS, SORTED, kind) for kind in LADDERS]
    text = ", ".join(f"{kind}: {v.mean():.1%}" for v, kind in zip(shares, LADDERS, strict=True))
    return bool(all((v == 1).all() for v in shares)), f"falls at so many steps: {text}"


def _fixed_thresholds_stand_or_jump(table: Table) -> tuple[bool, str]:
    found = {name: table.values(RULE, name, RIM) for name in (MEAN, PQ)}
    text = "; ".join(f"{n}: {v.mean():.0%} of the ladders, falls at {table.mean(FALLS, n, RIM):.0%} of the steps"
                     for n, v in found.items())  # fmt: skip
    return bool(all((v == 1).all() for v in found.values())), text


def _also_in_pixels(table: Table) -> tuple[bool, str]:
    found = {n: sum(table.mean(RULE, n, kind) for kind in (EROSION, SHIFT)) / 2 for n in (MEAN, PQ)}
    return min(found.values()) > 0.5, ", ".join(f"{name} {value:.0%}" for name, value in found.items())


def _smooth(table: Table) -> tuple[bool, str]:
    largest = {name: table.mean(JUMPS, name, RIM) for name in METRICS}
    others = min(largest[name] for name in (AP, MEAN, PQ))
    text = ", ".join(f"{name} {value:.2f}" for name, value in largest.items())
    return largest[SORTED] < others / 3, text


def _objects_count(table: Table) -> tuple[bool, str]:
    names = [f"{state}, {what}" for state in (PERFECT, GOOD) for what in ("one lost", "one invented")]
    least = {metric: min(table.mean(EVENTS, metric, name) for name in names) for metric in METRICS}
    text = ", ".join(f"{metric} {value:.0%}" for metric, value in least.items())
    return least[SORTED] == 1, f"least share of four kinds: {text}"


def _poor_objects_count(table: Table) -> tuple[bool, str]:
    lost = {metric: table.mean(EVENTS, metric, f"{POOR}, one lost") for metric in METRICS}
    invented_ = table.mean(EVENTS, SORTED, f"{POOR}, one invented")
    text = ", ".join(f"{metric} {value:.0%}" for metric, value in lost.items())
    return min(lost[SORTED], invented_) == 1, f"falls when one is lost: {text}"


def _equal(table: Table) -> tuple[bool, str]:
    ours = max(table.mean(COSTS, SORTED, what) for what in ("lost", "a fifth missing"))
    area = min(table.mean(COSTS, AJI, what) for what in ("lost", "a fifth missing"))
    return ours < 1.05 and area > 1.5, f"sortedAP at most {ours:.3f}, AJI at least {area:.2f}"


def _ranks(table: Table) -> tuple[bool, str]:
    taus = {name: table.mean(TAU, name) for name in METRICS}
    best = max(value for name, value in taus.items() if name != SORTED)
    text = ", ".join(f"{name} {value:.3f}" for name, value in taus.items())
    return taus[SORTED] > 0.95 and taus[SORTED] > best, text


def _little_choice(table: Table) -> tuple[bool, str]:
    ours, mean, single = (table.mean(SPREAD, name) for name in (SORTED, MEAN, AP))
    return ours < mean / 4, f"sortedAP {ours:.4f} (match at 0.001 to 0.1), mAP {mean:.3f} (five grids), AP {single:.3f}"


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


COUNTED = "a property of the score, counted over all ladders and events"

STUDY = Study(
    paper="p031",
    claim="SortedAP falls with every pixel that a mask loses and with every object that is missing or invented, in "
    "even steps and by the same amount for objects of every size, where AP, mAP and PQ at fixed thresholds stand still "
    "or jump.",
    protocol=f"{SCENES} scenes a seed of {OBJECTS[0]} to {OBJECTS[1]} clip-art objects at {SIDE} px (1.5 to 4 % of the "
    "picture each, at most a tenth hidden), their exact masks as truth. Ladders make one object of a perfect "
    "prediction worse: peeled from the rim by 1 % of its pixels a step (99 steps), eroded or shifted by 0 to 10 "
    "px; steps count at which its IoU falls. Objects are lost one at a time and invented (discs on free ground) "
    "one after another, from perfect, good (each IoU drawn from 0.55 to 0.95) and poor masks (0.05 to 0.45). Costs "
    f"compare the objects of a scene, each lost or a fifth peeled off. Chains of {ERRORS} nested errors (20 peels "
    "by a tenth of an object, 2 or 3 lost, 2 or 3 invented) are ranked by each score; equal scores rank nothing. "
    "The spread over thresholds is that of five grids (mAP), of 0.5 and 0.75 (AP), of the matching threshold 0.001 "
    "to 0.1 (sortedAP). Good masks are scored, for sortedAP poor ones as well, the larger spread counts (a first "
    "measurement had good ones alone, which cannot differ). Where the card asks for flat steps or jumps on the "
    "ladders in pixels, the one of 1 % steps is required and those in pixels only weaken. The figure's ladder is "
    "drawn for it, on a scene of seed 0. The rule was written before any measurement. A calculation beforehand had "
    "shown that losing a poor mask can raise sortedAP where several are poor (it is no longer counted as invented "
    "as well); the criterion on poor masks tests the claim as worded all the same.",
    baseline="AP at IoU 0.5, mAP over 0.50 to 0.95, PQ; AJI and SBD beside them.",
    lower_bound="A random score: it falls at half of the errors and its tau is 0.",
    upper_bound="1: the score falls at every error; tau 1, dearest over cheapest object 1.",
    measure=measure,
    criteria=(
        Criterion.exact(
            "sortedAP falls at every step of all three ladders",
            _falls_everywhere, why=COUNTED, essential=True,
        ),
        Criterion.exact(
            "peeled by 1 % a step, mAP and PQ stand still at 3 steps or more, or drop once by more than 3 times "
                  "sortedAP's largest drop, in every ladder",
            _fixed_thresholds_stand_or_jump, why=COUNTED, essential=True,
        ),
        Criterion("and in most ladders of 0 to 10 px", _also_in_pixels),
        Criterion("sortedAP's largest step is below a third of that of AP, mAP and PQ, relative to the whole fall",
                  _smooth),
        Criterion.exact(
            "every object lost or invented lowers sortedAP, from perfect and from good masks",
            _objects_count, why=COUNTED, essential=True,
        ),
        Criterion("and from poor masks", _poor_objects_count),
        Criterion("all objects of a scene cost the same in sortedAP (within 5 %), not in AJI (above 1.5)", _equal),
        Criterion("sortedAP ranks nested errors with a tau above 0.95 and above every other metric's", _ranks),
        Criterion("its one threshold moves it less than a quarter of what the choice of grid moves mAP",
                  _little_choice),
    ),
    draw=draw,
    remeasure=FIRST_RULES,
    stand_in=(
        "clip-art scenes with made errors instead of cells, leaves and trained segmenters' predictions",
    ),
)  # fmt: skip
