"""Do models progress as fast on drawings of everywhere as on those of one style, and does the last layer decide it?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.adapt import LastLayerRetraining, LinearProbe, remove_direction
from binderclip.data import ImageTextDataset, load_data
from binderclip.data.cache.features import content_hash
from binderclip.data.distortions.library import distort
from binderclip.evaluate import group_disparity, progress_rate
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots, tensor_features
from binderclip.studies.protocols.bundled import bundled

HOME, DRAWN, LINES, FAINT = "twemoji", ("twemoji", "emojione", "openmoji"), "outlines", "faint and grainy"
REGIONS = (*DRAWN, LINES, FAINT)
TOWERS, SIZES, CONCEPTS, HALF = ("pixels", "small-b", "small"), (10, 20, 40, 80, 120), 240, 120
STRENGTH, DRAWS = 30.0, 200
STANDARD, OTHERS = "one style, blurred", "four other styles"
RATE, GROWTH, SPAN = "progress rate", "growth of the disparity", "range of accuracies on the reference"
DISPARITY, CHANCE = "disparity", "disparity by chance"
ACCURACY, UNSEEN = "accuracy", "accuracy on two styles left out"
BEFORE, AFTER, ALL = "as trained", "retrained on all styles", "retrained on all styles, every picture"
SOME, CONTROL, CLEANED = "retrained on three styles", "retrained on one style", "style directions removed"


class Drawings(NamedTuple):
    """Unit features of one tower, style -> (N, E), row i of every style the same emoji."""

    features: dict[str, Float[Tensor, "N E"]]
    group: np.ndarray


@cache
def _pictures() -> tuple[dict[str, Float[Tensor, "N 3 64 64"]], np.ndarray]:
    """Emoji that three sets draw, and two styles made of the first, row by row; and which of nine groups each is in."""
    parts = [load_data("icons", split=split) for split in ("train", "val", "test")]
    parts.append(load_data("openmoji", split="shift"))
    found: dict[str, dict[str, tuple[ImageTextDataset, int]]] = {style: {} for style in DRAWN}
    groups: dict[str, str] = {}
    for data in parts:
        columns = [data.attributes[name] for name in ("style", "emoji", "group")]
        for row, (style, emoji, group) in enumerate(zip(*columns, strict=True)):
            if style in found and emoji is not None and group not in (None, "Other"):
                found[style][emoji], groups[emoji] = (data, row), group
    shared = sorted(set.intersection(*map(set, found.values())))
    chosen = [shared[place] for place in np.random.default_rng(158).permutation(len(shared))[:CONCEPTS]]
    images = {}
    for style, own in found.items():
        opened = [data[row].image.convert("RGB") for data, row in (own[emoji] for emoji in chosen)]
        images[style] = torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) / 255 for one in opened])
    home = images[HOME]
    grey = F.pad(home.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    ridge = (F.max_pool2d(grey, 3, stride=1) + F.max_pool2d(-grey, 3, stride=1)).clamp(max=0.5)  # local range
    images[LINES] = (1 - 2 * ridge).expand_as(home).contiguous()
    images[FAINT] = distort(0.6 + 0.25 * home, "gaussian_noise", 3)
    return images | {STANDARD: distort(home, "gaussian_blur", 2)}, np.array([groups[emoji] for emoji in chosen])


@cache
def drawings(tower: str) -> Drawings:
    """All pictures through one tower, once; the weakest is the picture itself at 8 x 8 pixels."""
    images, group = _pictures()
    if tower == "pixels":
        small = {style: F.adaptive_avg_pool2d(own, 8).flatten(1) for style, own in images.items()}
        mean = small[HOME].mean(dim=0)
        return Drawings({style: F.normalize(own - mean, dim=1) for style, own in small.items()}, group)
    keyed = {style: tensor_features(bundled(tower), own, content_hash(own)) for style, own in images.items()}
    return Drawings(keyed, group)


class StyleAnswers(NamedTuple):
    """Whether each test picture is right, by style (S, N), and on the blurred ones (N,)."""

    by_style: np.ndarray
    blurred: np.ndarray

    @property
    def disparity(self) -> float:
        """Largest minus smallest accuracy over styles."""
        return float(group_disparity(self.by_style.mean(axis=1)[None])[0])

    def by_chance(self, rng: np.random.Generator) -> float:
        """Mean disparity where the styles of each emoji's pictures are shuffled."""
        drawn = [rng.permuted(self.by_style, axis=0).mean(axis=1) for _ in range(DRAWS)]
        return float(group_disparity(np.array(drawn)).mean())


def answered(head: LinearProbe, seen: Drawings, test: np.ndarray, cleaned: Tensor | None = None) -> StyleAnswers:
    """A head's answers on held-out emoji."""

    def right(style: str) -> np.ndarray:
        x = seen.features[style][test]
        return head.predict(x if cleaned is None else remove_direction(x, cleaned)) == seen.group[test]

    return StyleAnswers(np.stack([right(style) for style in REGIONS]), right(STANDARD))


def retrained(seen: Drawings, train: np.ndarray, seed: int) -> dict[str, tuple[LinearProbe, Tensor | None]]:
    """The last layer as trained on one style, and what was done against the disparity, each on as many pictures."""
    rng = np.random.default_rng([seed, 1])

    def mixed(styles: Sequence[str]) -> LastLayerRetraining:
        own = np.resize(np.array(styles), len(train))
        rng.shuffle(own)
        x = torch.stack([seen.features[str(style)][row] for style, row in zip(own, train, strict=True)])
        return LastLayerRetraining(C=STRENGTH).fit(x, seen.group[train])

    before = LinearProbe(STRENGTH).fit(seen.features[HOME][train], seen.group[train])
    every = torch.cat([seen.features[style][train] for style in REGIONS])
    means = torch.stack([seen.features[style][train].mean(dim=0) for style in REGIONS])
    by_chance = rng.integers(0, len(REGIONS), len(train))
    control = LastLayerRetraining(C=STRENGTH)
    control.fit(seen.features[HOME][train], seen.group[train], sensitive_features=by_chance)
    return {
        BEFORE: (before, None),
        AFTER: (mixed(REGIONS), None),
        SOME: (mixed(REGIONS[:3]), None),
        ALL: (LastLayerRetraining(C=STRENGTH).fit(every, np.tile(seen.group[train], len(REGIONS))), None),
        CONTROL: (control, None),
        CLEANED: (before, means[1:] - means[0]),
    }


def measure(seed: int) -> list[Row]:
    """All rows of one seed: another split of the emoji into training and test."""
    order = np.random.default_rng(seed).permutation(CONCEPTS)
    train, test = order[:HALF], order[HALF:]
    points, gaps, rows = [], [], []
    for tower in TOWERS:
        seen = drawings(tower)
        for size in SIZES:
            own = train[:size]
            found = answered(LinearProbe(STRENGTH).fit(seen.features[HOME][own], seen.group[own]), seen, test)
            points.append((found.by_style[0].mean(), found.blurred.mean(), found.by_style[1:].mean()))
            gaps.append(found.disparity)
        if tower == "pixels":
            continue  # too weak for its last layer to tell anything
        for method, (head, cleaned) in retrained(seen, train, seed).items():
            found = answered(head, seen, test, cleaned)
            by_chance = found.by_chance(np.random.default_rng([seed, 2]))
            rows += [
                Row(DISPARITY, method, found.disparity, tower),
                Row(CHANCE, method, by_chance, tower),
                Row(ACCURACY, method, float(found.by_style.mean()), tower),
                Row(f"{ACCURACY} on one style", method, float(found.by_style[0].mean()), tower),
                Row(UNSEEN, method, float(found.by_style[3:].mean()), tower),
            ]
    reference, standard, others = np.array(points).T
    rows += [
        Row(RATE, STANDARD, progress_rate(reference, standard).slope),
        Row(RATE, OTHERS, progress_rate(reference, others).slope),
        Row(GROWTH, "over models", progress_rate(reference, gaps).slope),
        Row(GROWTH, "models shuffled", progress_rate(np.random.default_rng(seed).permutation(reference), gaps).slope),
        Row(SPAN, "one style", float(np.ptp(reference))),
    ]
    for place, (x, y, z) in enumerate(points):
        model = f"{TOWERS[place // len(SIZES)]}, {SIZES[place % len(SIZES)]}"
        rows += [Row("reference", model, x), Row("standard", model, y), Row("others", model, z)]
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Accuracy elsewhere against that on the reference, one point a model; and disparities before and after."""
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.2, 1, 1))
    models = table.names("method", "reference")
    x = [table.mean("reference", model) for model in models]
    for number, (metric, label) in enumerate((("standard", STANDARD), ("others", OTHERS))):
        y = [table.mean(metric, model) for model in models]
        left.plot(x, y, "o", color=f"C{number}", markersize=4, label=label)
        slope, at_zero = np.polyfit(x, y, 1)
        left.plot(x, np.array(x) * slope + at_zero, color=f"C{number}", linewidth=1)
    left.set(xlabel="accuracy on held-out emoji of one style", ylabel="accuracy")
    left.legend(fontsize=7)
    names = (BEFORE, CONTROL, CLEANED, AFTER, ALL)
    for ax, tower in ((middle, "small-b"), (right, "small")):
        dots(ax, table, DISPARITY, names, tower)
        ax.axhline(table.mean(CHANCE, BEFORE, tower), color="grey", linestyle=":")
        ax.set_xticks(range(len(names)), [name.replace("retrained on ", "") for name in names], rotation=70, fontsize=7)
        ax.set_title(f"disparity of {tower}", fontsize=9)
        ax.set_ylim(0)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(30, 46), registered="60f3254344ce")
