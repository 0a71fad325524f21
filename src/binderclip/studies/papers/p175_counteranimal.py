"""Does a model lose accuracy on grounds that a model found hard, and does training for texts keep from shortcuts?"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.data import CounterfactualGroups, colored_scenes, vocabulary
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.evaluate import PredictionTable, group_drop, limited_options, linear_contrastive, spurious_pairs
from binderclip.evaluate.probes import class_weight
from binderclip.fit import fit
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots, lines, random_rows
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.training.last_blocks import BATCH, Entering, entering, leaving, trained_parameters

CLASSES = ("flag", "clock", "tree", "house", "cat", "woman", "car", "flower")
GROUNDS = ("plain", "gradient", "noise", "texture", "photo")
CHOOSE, EACH, OPTIONS = 10, 4, 5
SOME, COLOURS = ("tree", "cat", "car", "house", "flower"), ("red", "green", "blue", "yellow", "purple")
POOL, TEST, DRAWN, STEPS, RATE = 200, 150, 160, 60, 2e-4
AGREEMENTS = (0.0, 0.95)
CHOSEN, RANDOM, SMALL, OTHER = "chosen by `small`", "chosen at random", "small", "small-b"
TEXTS, LABELS = "texts", "labels"
RIGHT, GAP, THEORY = "right", "own colour minus others", "error where the attribute differs"


@torch.no_grad()
def _scores(name: str, images: Float[Tensor, "N 3 S S"]) -> Float[np.ndarray, "N C"]:
    clip = bundled(name)
    bank = clip.text_bank(list(CLASSES), "simple")
    return np.concatenate([bank.logits(clip.encode_image(part)).numpy() for part in images.split(64)])


def counterfactuals(
    seed: int, each: int, split: str, models: tuple[str, ...], grounds: Mapping[str, Sequence[str]]
) -> dict[str, PredictionTable]:
    """Predictions on layouts of one drawing, the same layouts on every ground: by class, then ground, then layout."""
    words, images, target, places = vocabulary(list(CLASSES), split=split), [], [], []
    for number, name in enumerate(CLASSES):
        for ground in grounds.get(name, ()):
            made = scenes(
                100 * seed + number, each, 128, vocabulary=words.only([name]), objects=1, area=(0.06, 0.15),
                background=ground,
            )  # fmt: skip
            images.append(made.images)
            target += [number] * each
            places += [ground] * each
    keys, pictures = tuple(map(str, range(len(target)))), torch.cat(images)
    return {
        name: PredictionTable(
            keys, np.array(target), _scores(name, pictures), CLASSES, {"ground": tuple(places)}
        ) for name in models
    }  # fmt: skip


class Reference(NamedTuple):
    """What was chosen before any picture of the test: groups by `small`, groups at random, and its predictions."""

    chosen: CounterfactualGroups
    random: CounterfactualGroups
    table: PredictionTable


@lru_cache(maxsize=1)
def reference() -> Reference:
    """Choose the grounds of each class on training drawings."""
    table = counterfactuals(7, CHOOSE, "train", (SMALL,), dict.fromkeys(CLASSES, GROUNDS))[SMALL]
    labels, places = table.column("label"), table.column("ground")
    chosen = CounterfactualGroups(least=CHOOSE).fit(labels, places, table.correct)
    random = CounterfactualGroups(least=CHOOSE).fit(labels, places, table.correct)
    rng = np.random.default_rng(7)
    random.chosen_ = {name: tuple(rng.permutation(GROUNDS)[:2].tolist()) for name in chosen.chosen_}
    return Reference(chosen, random, table)


def drops(seed: int) -> list[Row]:
    """Common and counter examples of held-out drawings: item by item, and averaged over classes."""
    found = reference()
    used = {name: list(dict.fromkeys([*found.chosen.chosen_[name], *found.random.chosen_[name]]))
            for name in found.chosen.chosen_}  # fmt: skip
    rows = []
    for model, table in counterfactuals(seed, EACH, "val+test+shift", (SMALL, OTHER), used).items():
        for method, groups in ((CHOSEN, found.chosen), (RANDOM, found.random)):
            told = np.array(groups.groups(table.column("label"), table.column("ground")), dtype=object)
            for kind in ("common", "counter"):
                right = table.correct[told == kind].astype(float)
                rows.append(Row(f"{RIGHT}, {kind}", method, float(right.mean()), model, items=tuple(right.tolist())))
            marked = PredictionTable(table.keys, table.target, table.scores, CLASSES, {"group": tuple(told)})
            few = limited_options(marked, found.table, options=OPTIONS)
            rows.append(Row("drop", method, group_drop(marked, "group", "common", "counter").drop, model))
            rows.append(Row("drop, 1 of 5", method, group_drop(few, "group", "common", "counter").drop, model))
    return rows


class ColouredPool(NamedTuple):
    """Scenes whose plain ground says nothing, up to the last blocks of `small`; what they show, and the colour."""

    held: Entering
    y: Int[np.ndarray, "N"]
    colour: Int[np.ndarray, "N"]

    def drawn(self, rng: np.random.Generator, count: int, correlation: float) -> Int[np.ndarray, "n"]:
        """Rows with repeats, as `colored_scenes` would make them at a correlation."""
        y, any_one = rng.integers(len(SOME), size=(2, count))
        cells = np.stack([y, np.where(rng.random(count) < correlation, y, any_one)], axis=1)
        return np.array([rng.choice(np.flatnonzero((self.y == a) & (self.colour == b))) for a, b in cells.tolist()])

    @torch.no_grad()
    def gap(self, clip: Any, weight: Float[Tensor, "E C"]) -> tuple[float, float]:
        """Accuracy where the ground is the class's own colour, and how much less where it is that of another class."""
        seen = torch.cat([leaving(clip, self.held, rows) for rows in torch.arange(len(self.y)).split(BATCH)])
        right, own = (seen @ weight).argmax(1).numpy() == self.y, self.colour == self.y
        return float(right[own].mean()), float(right[own].mean() - right[~own].mean())


@lru_cache(maxsize=2)
def _pool(split: str) -> ColouredPool:
    count = POOL if split == "train" else TEST
    made = colored_scenes(7, count, classes=vocabulary(list(SOME), split=split), colours=COLOURS, correlation=0.0)
    y = np.array([SOME.index(names[0]) for names in made.names])
    colour = np.array([COLOURS.index(str(value)) for value in made.attributes["background"]])
    return ColouredPool(entering(bundled(), made.images), y, colour)


@lru_cache(maxsize=1)
@torch.no_grad()
def _texts() -> Float[Tensor, "C E"]:
    return F.normalize(bundled().encode_text([f"a photo of a {name}" for name in SOME]), dim=1)


def tuned(method: str, rows: Int[np.ndarray, "n"], seed: int) -> tuple[Any, Float[Tensor, "E C"]]:
    """A copy of `small` whose last two blocks learned these scenes, by captions or by labels; and its class weights."""
    clip, pool, order = copy.deepcopy(bundled()), _pool("train"), torch.Generator().manual_seed(seed)
    place, owner = torch.from_numpy(rows), torch.from_numpy(pool.y[rows])
    scale = clip.scale().detach()
    weight = torch.zeros(_texts().shape[1], len(SOME)) if method == LABELS else _texts().T
    learned = [*trained_parameters(clip), *([weight.requires_grad_()] if method == LABELS else [])]

    def step(chosen: Tensor) -> Tensor:
        # Captions are few, so each picture is told from every caption there is.
        return F.cross_entropy(scale * leaving(clip, pool.held, place[chosen]) @ weight, owner[chosen])

    batches = [torch.randint(len(rows), (BATCH,), generator=order) for _ in range(STEPS)]
    fit(step, learned, batches, steps=STEPS, lr=RATE, module=clip, warmup=10)
    return clip.eval(), weight.detach()


def coloured(seed: int) -> list[Row]:
    """Accuracy on held-out drawings on the colour that went with their class, minus that on another class's."""
    found = []
    for correlation in AGREEMENTS:
        rows = _pool("train").drawn(np.random.default_rng([seed, round(100 * correlation)]), DRAWN, correlation)
        for method in (TEXTS, LABELS) if correlation == AGREEMENTS[-1] else (TEXTS,):
            inside, gap = _pool("val+test+shift").gap(*tuned(method, rows, seed))
            found.append(Row(GAP, method, gap, f"{correlation:g}"))
            found.append(Row("on the own colour", method, inside, f"{correlation:g}"))
    return found


def theory(seed: int) -> list[Row]:
    """Two features: errors of the closed-form minimiser where the attribute differs, and of the invariant feature."""
    found = []
    for correlation in AGREEMENTS:
        agreement = (1 + correlation) / 2  # of two values the other one is as likely as chance
        made = spurious_pairs(4000, agreement=agreement, seed=seed)
        weight = class_weight(linear_contrastive(made.images, made.texts), agreement)
        for method, used in (("linear contrastive", weight), ("invariant", np.array([1.0, 0.0]))):
            found.append(Row(THEORY, method, made.errors(used)[1], f"{correlation:g}"))
    return found


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    return [*drops(seed), *coloured(seed), *theory(seed)]


def draw(table: Table, figure: Figure) -> None:
    """Drops of both models, the gap by correlation, and the errors of the two-feature model."""
    first, second, third, fourth = figure.subplots(1, 4)
    for ax, model in ((first, SMALL), (second, OTHER)):
        dots(ax, table, "drop", (CHOSEN, RANDOM), model)
        ax.set_xticks(range(2), ("chosen", "at random"), fontsize=8)
        ax.set_title(f"drop of {model}", fontsize=9)
    settings = [f"{value:g}" for value in AGREEMENTS]
    tuned_ones = [(TEXTS, settings[0]), (TEXTS, settings[-1]), (LABELS, settings[-1])]
    for number, (method, setting) in enumerate(tuned_ones):
        values = table.values(GAP, method, setting)
        third.plot(np.full(len(values), number), values, "o", markersize=4, alpha=0.5, color=f"C{number}")
        third.plot(number + 0.2, values.mean(), "s", color=f"C{number}")
    third.axhline(0, color="grey", linestyle=":")
    third.set_xticks(range(3), [f"{method},\n{setting}" for method, setting in tuned_ones], fontsize=7)
    third.set_title("tuned: lost on other colours", fontsize=9)
    lines(fourth, table, THEORY, settings, AGREEMENTS, ("linear contrastive", "invariant"))
    fourth.set_title("two features: errors", fontsize=9)
    fourth.set_xlabel("correlation")
    fourth.legend(fontsize=7)


def null(seed: int) -> list[Row]:
    """Random numbers in the place of all that is compared; answers to 200 pictures at random."""
    rng = np.random.default_rng([seed, 3])
    answers = {kind: tuple(rng.integers(0, 2, 28).astype(float).tolist()) for kind in ("common", "counter")}
    drawn = [Row(f"{RIGHT}, {kind}", CHOSEN, float(np.mean(own)), SMALL, items=own) for kind, own in answers.items()]
    return [*drawn, *random_rows([each for each in STUDY.criteria if getattr(each, "over", "") == "seeds"], seed)]


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(200, 208), null=null, registered="785aa195af3b")
