"""The segmentation table that studies share: presets x sets x seeds, each cell measured once in a process.

The labels are always all classes of the set. The ground is left out of the score unless `background` words are given.
Presets that are asked for together share the tower's passes, and so do the bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.data import LabelledScenes
from binderclip.errors import UsageError
from binderclip.segment import Frame, IoUScore, Measured, Parts, Segmenter, measure_segmenters, parts_of
from binderclip.studies.harness.criteria import Test
from binderclip.studies.harness.power import Estimate
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.harness.threads import one_thread
from binderclip.studies.protocols.bundled import bundled

SETS = ("scenes", "scenes-hard", "scenes-cluttered", "scenes-photographs")
SCENES = 20
SIZE = 256
ONE_LABEL, ORACLE, CHANCE = "one label for the scene", "true regions", "chance"
LOWER_BOUND = (
    "A label drawn for every pixel (chance), and one label for the whole scene: the class with the largest mean cosine."
)
UPPER_BOUND = "True regions: the exact masks, each labelled by the mean of the model's value-path features inside."
GROUND_METRIC = "mIoU, ground a class"

#: What a table is asked for: preset names, or name -> the name of a preset or parts of one's own.
Asked = Sequence[str] | Mapping[str, str | Parts]


def protocol(scenes: int) -> str:
    """What all these studies measure, with so many scenes of a set and seed."""
    return (
        f"{scenes} scenes of {SIZE} px a set and seed, held-out clip art of 15 classes, all of them labels: on plain "
        "and gradient grounds (scenes), textured with hidden parts (scenes-hard), 4 to 7 small objects "
        "(scenes-cluttered), on photographs (scenes-photographs). mIoU over the classes that occur, one confusion "
        "matrix a set and seed; the ground does not count. Differences are of the mIoU of single scenes, their 95 % "
        "intervals by the paired bootstrap."
    )


@dataclass(frozen=True)
class SegmenterCell:
    """One segmenter on one set: scores over all its scenes, and (N,) mIoU of each scene."""

    parts: Parts
    score: IoUScore
    images: Float[Tensor, "N"]


@dataclass(frozen=True)
class OneLabel:
    """Relabels every pixel as the class with the largest mean logit."""

    def __call__(self, labels: Int[Tensor, "H W"], logits: Float[Tensor, "C h w"], _frame: Frame) -> Tensor:
        """One label."""
        return torch.full_like(labels, int(logits.mean(dim=(1, 2)).argmax()))


@dataclass(frozen=True, eq=False)
class TrueRegions:
    """Relabels every true region as the class with the largest mean logit inside.

    The mean of unit features is a region's embedding, and its cosine with a text is, but for the region's own length,
    the mean of the cosines.

    Args:
        truth: bytes of a picture -> its (H, W) true labels, -1 for what does not count.
    """

    truth: Mapping[bytes, Tensor]

    def __call__(self, labels: Int[Tensor, "H W"], logits: Float[Tensor, "C h w"], frame: Frame) -> Tensor:
        """The labels of the regions; -1 outside."""
        true = self.truth[frame.image.cpu().numpy().tobytes()]
        drawn = torch.nn.functional.interpolate(logits[None].cpu().float(), size=true.shape, mode="bilinear")[0]
        out = torch.full_like(labels, -1)
        for region in true[true >= 0].unique():
            inside = true == region
            out[inside] = int(drawn[:, inside].mean(dim=1).argmax())
        return out


@cache
def scene_set(name: str, seed: int, n: int = SCENES, *, background: bool = False) -> LabelledScenes:
    """The scenes of a set and seed; seeds share none."""
    return LabelledScenes(name, n, seed=seed, size=SIZE, background=background)


_cells: dict[tuple[str, str, int, int, tuple[str, ...], str], SegmenterCell] = {}


def measured(
    asked: Asked,
    name: str,
    seed: int,
    *,
    n: int = SCENES,
    background: Sequence[str] = (),
    model: str = "small",
    bounds: bool = False,
) -> Measured:
    """Segmenters on one set, those that are not yet measured in one go.

    Args:
        asked: presets; one name must mean the same parts in all studies.
        name: of `SETS`.
        seed: of the scenes.
        n: number of scenes.
        background: words for the ground, which is then a class; none leaves it out.
        model: a bundled model.
        bounds: with `ONE_LABEL` and `ORACLE`.

    Raises:
        UsageError: a name that meant other parts before, or an unknown preset.
    """
    data = scene_set(name, seed, n, background=bool(background))
    wanted = dict(asked) if isinstance(asked, Mapping) else {each: each for each in asked}
    parts = {each: parts_of(of) if isinstance(of, str) else of for each, of in wanted.items()}
    if bounds:
        parts |= {ONE_LABEL: parts_of("value", relabel=OneLabel()), ORACLE: parts_of("value", relabel=_oracle(data))}
    key = (name, seed, n, tuple(background), model)
    missing = {}
    for each, own in parts.items():
        old = _cells.get((each, *key))
        if old is None:
            missing[each] = segmenter_of(bundled(model), own, background)
        elif each not in (ONE_LABEL, ORACLE) and old.parts != own:
            raise UsageError(f"{each!r} was measured with other parts before; give one of them another name")
    if missing:
        with one_thread():
            found = measure_segmenters(missing, data)
        for each in missing:
            _cells[(each, *key)] = SegmenterCell(parts[each], found.scores[each], found.images[each])
    cells = {each: _cells[(each, *key)] for each in parts}
    return Measured(
        tuple(data.classes),
        {each: cell.score for each, cell in cells.items()},
        {each: cell.images for each, cell in cells.items()},
        tuple(f"scene {index}" for index in range(n)),
        (),
    )


def segmenter_of(model: Any, parts: Parts, background: Sequence[str] = ()) -> Segmenter:
    """A segmenter of these parts, with words for the ground."""
    return Segmenter(model, parts, background=background)


def _oracle(data: LabelledScenes) -> TrueRegions:
    from binderclip.data import to_tensor

    return TrueRegions({to_tensor(s.image)[None].numpy().tobytes(): s.labels for s in data})


def chance(data: LabelledScenes) -> float:
    """mIoU expected of a label drawn uniformly for every pixel: with share p and C classes p/C / (p + 1/C - p/C)."""
    counts = np.zeros(len(data.classes))
    for sample in data:
        counts += np.bincount(sample.labels[sample.labels >= 0].flatten(), minlength=len(counts))
    share = counts[counts > 0] / counts.sum()
    guess = 1 / len(counts)
    return float(np.mean(share * guess / (share + guess - share * guess)))


def table_rows(
    asked: Asked,
    seed: int,
    *,
    sets: Sequence[str] = SETS,
    against: Sequence[tuple[str, str]] = (),
    **options: Any,
) -> list[Row]:
    """Rows `mIoU` of the segmenters and the bounds, the setting being the set.

    Args:
        asked: as in `measured`.
        seed: of the scenes.
        sets: of `SETS`.
        against: pairs (one, other); gives rows `gain` and `gain, half its interval` of `one - other`, whose 95 %
            interval over all seeds `gain` puts together.
        options: of `measured`.
    """
    rows = []
    for name in sets:
        found = measured(asked, name, seed, bounds=True, **options)
        data = scene_set(name, seed, options.get("n", SCENES), background=bool(options.get("background")))
        rows.append(Row("mIoU", CHANCE, chance(data), name))
        rows += [Row("mIoU", each, score.miou, name) for each, score in found.scores.items()]
        rows += gain_rows(found, against, name)
    return rows


def gain_rows(found: Measured, pairs: Sequence[tuple[str, str]], name: str) -> list[Row]:
    """Rows `gain` and `gain, half its interval` of `one - other` for pairs (one, other) on a set."""
    rows = []
    for one, other in pairs:
        mean, low, high = found.difference(one, other)
        rows.append(Row("gain", f"{one} - {other}", mean, name))
        rows.append(Row("gain, half its interval", f"{one} - {other}", (high - low) / 2, name))
    return rows


def ground_rows(
    asked: Asked, name: str, seed: int, background: Sequence[str], *, n: int = SCENES,
    against: Sequence[tuple[str, str]] = (),
) -> list[Row]:  # fmt: skip
    """mIoU on one set with the ground as a class, and the gains of pairs.

    Args:
        asked, name, seed, n: as in `measured`.
        background: words for the ground.
        against: pairs (one, other), as in `table_rows`.
    """
    found = measured(asked, name, seed, n=n, background=background)
    rows = [Row(GROUND_METRIC, each, score.miou, name) for each, score in found.scores.items()]
    return rows + gain_rows(found, against, name)


def gain(table: Table, one: str, other: str, sets: Sequence[str] = SETS) -> tuple[float, float, float]:
    """(mean, low, high) of `one - other` in mIoU of single scenes, over sets and seeds, with its 95 % interval.

    The scenes of different sets and seeds are independent, so half the interval of the mean of k means is the root of
    the summed squares, by k.
    """
    name = f"{one} - {other}"
    means = np.concatenate([table.values("gain", name, each) for each in sets])
    halves = np.concatenate([table.values("gain, half its interval", name, each) for each in sets])
    half = float(np.sqrt((halves**2).sum()) / len(halves))
    return float(means.mean()), float(means.mean()) - half, float(means.mean()) + half


def mean_miou(table: Table, name: str, sets: Sequence[str] = SETS) -> float:
    """mIoU over sets and seeds."""
    return float(np.mean([table.mean("mIoU", name, each) for each in sets]))


def seed_miou(table: Table, name: str, sets: Sequence[str] = SETS) -> np.ndarray:
    """mIoU over sets, one value a seed."""
    return np.mean([table.values("mIoU", name, each) for each in sets], axis=0)


def said(values: tuple[float, float, float]) -> str:
    """A gain in words, in points of mIoU."""
    mean, low, high = (100 * value for value in values)
    return f"{mean:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"


def beats(one: str, other: str, *, every_seed: bool = False, show: bool = False) -> Test:
    """A criterion's test: `one` is above `other` in mIoU, the interval of the gain above 0.

    Args:
        one, other: compared, named together in `against` of `table_rows`.
        every_seed: and the mIoU over sets is higher for every seed.
        show: whether the text gives the two mIoU.
    """

    def test(table: Table) -> tuple[bool, str]:
        found = gain(table, one, other)
        met, text = found[1] > 0, said(found)
        if every_seed:
            every = bool((seed_miou(table, one) > seed_miou(table, other)).all())
            met, text = met and every, f"{text}; every seed: {'yes' if every else 'no'}"
        if show:
            text += "; mIoU " + " and ".join(f"{100 * mean_miou(table, name):.1f}" for name in (one, other))
        return met, text

    return test


def scene_gain(one: str, other: str, scenes: int = SCENES) -> Callable[[Table], Estimate]:
    """An estimate for `Criterion.estimated`: the gain in mIoU of single scenes, by the paired bootstrap over scenes.

    Args:
        one, other: `one` is to be above `other`; named together in `against` of `table_rows`.
        scenes: of a set and seed.
    """

    def estimate(table: Table) -> Estimate:
        mean, low, high = gain(table, one, other)
        seeds = len(table.values("gain", f"{one} - {other}", SETS[0]))
        return Estimate(mean, low, high, scenes * len(SETS) * seeds, "paired bootstrap over scenes")

    return estimate


def random_gains(pairs: Sequence[tuple[str, str]], seed: int, scenes: int, deviation: float = 0.1) -> list[Row]:
    """The rows of segmenters that change scenes at random: every gain is noise.

    Args:
        pairs: as in `against` of `table_rows`.
        seed: of the noise.
        scenes: of a set and seed.
        deviation: of the gain of a scene.
    """
    rng, error = np.random.default_rng([seed, 7]), deviation / scenes**0.5
    return [
        Row(metric, f"{one} - {other}", value, name)
        for name in SETS
        for one, other in pairs
        for metric, value in (("gain", rng.normal(0, error)), ("gain, half its interval", 1.96 * error))
    ]
