"""Does a model lose accuracy on grounds that a model found hard, and does training for texts keep from shortcuts?"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.data import CounterfactualGroups, colored_scenes, vocabulary
from binderclip.data.scenes.stream import scenes
from binderclip.evaluate import PredictionTable, group_drop, limited_options, linear_contrastive, spurious_pairs
from binderclip.evaluate.probes import class_weight
from binderclip.fit import fit
from binderclip.studies.harness.criteria import Criterion
from binderclip.studies.harness.panels import dots, lines
from binderclip.studies.harness.power import Pilot
from binderclip.studies.harness.quantities import value_of
from binderclip.studies.harness.study import Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.protocols.bundled import bundled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES = ("flag", "heart", "clock", "tree", "house", "cat", "dog", "moon", "woman", "apple", "car", "flower")
GROUNDS = ("plain", "gradient", "noise", "texture", "photo")
CHOOSE, EACH, OPTIONS = 12, 2, 5
SOME, COLOURS = ("tree", "cat", "car", "house", "flower"), ("red", "green", "blue", "yellow", "purple")
POOL, TEST, DRAWN, STEPS, BATCH = 450, 300, 300, 150, 64
AGREEMENTS = (0.0, 0.5, 0.8, 0.95)
CHOSEN, RANDOM, SMALL, OTHER = "chosen by `small`", "chosen at random", "small", "small-b"
TEXTS, BOTH, LABELS = "texts of the object", "texts of object and colour", "labels"
RIGHT, GAP, THEORY = "right", "own colour minus others", "error where the attribute differs"
PILOT = (100, 101, 102, 103)


@torch.no_grad()
def _scores(name: str, images: Float[Tensor, "N 3 S S"]) -> Float[np.ndarray, "N C"]:
    clip = bundled(name)
    bank = clip.text_bank(list(CLASSES), "simple")
    return np.concatenate([bank.logits(clip.encode_image(part)).numpy() for part in images.split(64)])


def counterfactuals(seed: int, each: int, split: str, models: tuple[str, ...]) -> dict[str, PredictionTable]:
    """Predictions on layouts of one drawing, the same layout on every ground: by class, then layout, then ground."""
    words, images = vocabulary(list(CLASSES), split=split), []
    for number, name in enumerate(CLASSES):
        own = words.only([name])
        made = [
            scenes(
                100 * seed + number, each, 128, vocabulary=own, objects=1, area=(0.06, 0.15), background=ground
            ).images
            for ground in GROUNDS
        ]
        images.append(torch.stack(made, dim=1).flatten(0, 1))
    target = np.repeat(np.arange(len(CLASSES)), each * len(GROUNDS))
    keys, places = tuple(map(str, range(len(target)))), GROUNDS * (each * len(CLASSES))
    pictures = torch.cat(images)
    return {
        name: PredictionTable(keys, target, _scores(name, pictures), CLASSES, {"ground": places}) for name in models
    }


class Reference(NamedTuple):
    """What was chosen before any picture of the test: groups by `small`, groups at random, and its predictions."""

    chosen: CounterfactualGroups
    random: CounterfactualGroups
    table: PredictionTable


@lru_cache(maxsize=1)
def reference() -> Reference:
    """Choose the grounds of each class on training drawings."""
    table = counterfactuals(7, CHOOSE, "train", (SMALL,))[SMALL]
    labels, places = table.column("label"), table.column("ground")
    chosen = CounterfactualGroups(least=CHOOSE).fit(labels, places, table.correct)
    random = CounterfactualGroups(least=CHOOSE).fit(labels, places, table.correct)
    rng = np.random.default_rng(7)
    random.chosen_ = {name: tuple(rng.permutation(GROUNDS)[:2].tolist()) for name in chosen.chosen_}
    return Reference(chosen, random, table)


def drops(seed: int) -> list[Row]:
    """Common and counter examples of held-out drawings: item by item, and averaged over classes."""
    found = reference()
    rows = []
    for model, table in counterfactuals(seed, EACH, "val+test+shift", (SMALL, OTHER)).items():
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
    """Features of scenes whose plain ground says nothing, what they show, and the number of the ground's colour."""

    features: Float[Tensor, "N E"]
    y: Int[np.ndarray, "N"]
    colour: Int[np.ndarray, "N"]

    def drawn(self, rng: np.random.Generator, count: int, correlation: float) -> np.ndarray:
        """Rows with repeats, as `colored_scenes` would make them at a correlation."""
        y, any_one = rng.integers(len(SOME), size=(2, count))
        cells = np.stack([y, np.where(rng.random(count) < correlation, y, any_one)], axis=1)
        return np.array([rng.choice(np.flatnonzero((self.y == a) & (self.colour == b))) for a, b in cells.tolist()])

    def gap(self, weight: Float[Tensor, "E C"]) -> tuple[float, float]:
        """Accuracy where the ground is the class's own colour, and how much less where it is that of another class."""
        right, own = (self.features @ weight).argmax(1).numpy() == self.y, self.colour == self.y
        return float(right[own].mean()), float(right[own].mean() - right[~own].mean())


@lru_cache(maxsize=2)
@torch.no_grad()
def _pool(split: str) -> ColouredPool:
    count = POOL if split == "train" else TEST
    made = colored_scenes(7, count, classes=vocabulary(list(SOME), split=split), colours=COLOURS, correlation=0.0)
    features = torch.cat([bundled().encode_image(part) for part in made.images.split(64)])
    y = np.array([SOME.index(names[0]) for names in made.names])
    colour = np.array([COLOURS.index(str(value)) for value in made.attributes["background"]])
    return ColouredPool(F.normalize(features, dim=1), y, colour)


@lru_cache(maxsize=2)
@torch.no_grad()
def _texts(colours: bool) -> tuple[Float[Tensor, "T E"], Float[Tensor, "C E"]]:
    """Captions, of each class or of each class on each colour, and the classes' own texts."""
    clip = bundled()
    named = [f"a photo of a {name}" for name in SOME]
    told = [f"{text} on {colour}" for text in named for colour in COLOURS] if colours else named
    return F.normalize(clip.encode_text(told), dim=1), F.normalize(clip.encode_text(named), dim=1)


def trained(method: str, rows: np.ndarray, seed: int) -> Float[Tensor, "E C"]:
    """Class weights after training a linear map of frozen features, for captions or as a classifier of labels."""
    pool, order = _pool("train"), torch.Generator().manual_seed(seed)
    x, y, colour = pool.features[rows], torch.from_numpy(pool.y[rows]), torch.from_numpy(pool.colour[rows])
    captions, classes = _texts(method == BOTH)
    start = torch.zeros(x.shape[1], len(SOME)) if method == LABELS else torch.eye(x.shape[1])
    weight = start.requires_grad_()
    owner = y * len(COLOURS) + colour if method == BOTH else y

    def step(chosen: Tensor) -> Tensor:
        if method == LABELS:
            return F.cross_entropy(bundled().scale().detach() * x[chosen] @ weight, y[chosen])
        # Captions are few, so each picture is told from every caption there is.
        seen = F.normalize(x[chosen] @ weight, dim=1)
        return F.cross_entropy(bundled().scale().detach() * seen @ captions.T, owner[chosen])

    batches = [torch.randint(len(rows), (BATCH,), generator=order) for _ in range(STEPS)]
    fit(step, [weight], batches, steps=STEPS, lr=3e-3)
    return weight.detach() if method == LABELS else weight.detach() @ classes.T


def coloured(seed: int) -> list[Row]:
    """Accuracy on held-out drawings on the colour that went with their class, minus that on another class's."""
    found = []
    for correlation in AGREEMENTS:
        rng = np.random.default_rng([seed, round(100 * correlation)])
        rows = _pool("train").drawn(rng, DRAWN, correlation)
        for method in (TEXTS, BOTH, LABELS):
            inside, gap = _pool("val+test+shift").gap(trained(method, rows, seed))
            found.append(Row(GAP, method, gap, f"{correlation:g}"))
            found.append(Row("on the own colour", method, inside, f"{correlation:g}"))
    return found


def theory(seed: int) -> list[Row]:
    """Two features: errors of the closed-form minimiser where the attribute differs, and of the invariant feature."""
    found = []
    for agreement in AGREEMENTS[1:]:
        made = spurious_pairs(4000, agreement=agreement, seed=seed)
        weight = class_weight(linear_contrastive(made.images, made.texts), agreement)
        for method, used in (("linear contrastive", weight), ("invariant", np.array([1.0, 0.0]))):
            found.append(Row(THEORY, method, made.errors(used)[1], f"{agreement:g}"))
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
    lines(third, table, GAP, settings, AGREEMENTS, (TEXTS, BOTH, LABELS))
    third.set_title(GAP, fontsize=9)
    third.legend(fontsize=6)
    lines(fourth, table, THEORY, settings[1:], AGREEMENTS[1:], ("linear contrastive", "invariant"))
    fourth.set_title(THEORY, fontsize=9)
    fourth.legend(fontsize=6)


STUDY = Study(
    paper="p175",
    claim="A model is less accurate on the grounds that were found hard for a class than on those found easy, on other "
    "pictures too; training for texts does not keep it from using the ground.",
    protocol=f"Scenes at 128 px of one object of {len(CLASSES)} classes (6 to 15 % of the area) on {len(GROUNDS)} "
    f"kinds of ground, the same layout on each. `small` on {CHOOSE} layouts a class of training drawings chooses the "
    f"easiest and the hardest ground; measured on {EACH} layouts a class and seed of held-out drawings, paired by "
    f"layout, among all classes and among {OPTIONS}. Then {len(SOME)} classes on plain colours: linear maps of frozen "
    f"features of `small` learn {DRAWN} draws from {POOL} scenes, where a class is on its colour with the correlation, "
    f"{STEPS} steps of {BATCH}, for captions or for labels; tested on {TEST} scenes of held-out drawings, all colours "
    "alike. The two-feature model: the closed-form minimiser on 4,000 pairs.",
    baseline="Two grounds of a class chosen at random; a classifier of labels; the invariant feature alone.",
    lower_bound="Grounds chosen at random stand in the null's place.",
    upper_bound="",
    measure=measure,
    criteria=(
        Criterion.paired(
            "accuracy falls by five points or more from common to counter examples of held-out drawings",
            value_of(f"{RIGHT}, common", CHOSEN, SMALL), value_of(f"{RIGHT}, counter", CHOSEN, SMALL),
            margin=0.05, expected=0.2, over="items", items=240, pilot=Pilot(0.56, PILOT), essential=True,
        ),
        Criterion.paired(
            "a second model loses less", value_of("drop", CHOSEN, SMALL), value_of("drop", CHOSEN, OTHER)
        ),
        Criterion.paired(
            "the two-feature model errs ten points more than its invariant feature",
            value_of(THEORY, "linear contrastive", "0.95"), value_of(THEORY, "invariant", "0.95"), margin=0.1,
        ),
    ),
    draw=draw,
    seeds=tuple(range(200, 210)),
    null={CHOSEN: RANDOM},
    one_thread=True,
    remeasure="Nothing has been measured yet. In a pilot, on seeds 100 to 103 with three layouts, `small` lost 28 "
    "points on grounds that it had chosen and none on random ones, `small-b` 23 on the same. Maps of frozen features "
    "learned no shortcut at any correlation, for captions or for labels, so the second half of the claim needs what "
    "the paper does, tuning of the tower itself, before criteria are registered.",
    stand_in=(
        "drawings on five made kinds of ground instead of photographs of 45 animals",
        "`small` and `small-b` instead of CLIPs and ImageNet models, so no line of effective robustness over models",
        "five classes on plain colours instead of ColoredCOCO, maps of frozen features instead of fine-tuned towers",
    ),
)  # fmt: skip
