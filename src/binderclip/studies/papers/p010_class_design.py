"""Do the names of the classes decide how often pictures land in wrong ones, and for whom?"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.data import join, load_data, vocabulary
from binderclip.data.sets.loading import NamedSet
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.evaluate import (
    ClassDesignProbe,
    IdentityProbe,
    LabelAssociationProbe,
    NearMissStressTest,
    PredictionTable,
)
from binderclip.studies.harness import Figure, Row, Table, dataset_features, declared_study, dots
from binderclip.studies.protocols.bundled import bundled

if TYPE_CHECKING:
    from binderclip.models import TextBank

PACKS: dict[NamedSet, tuple[str, ...]] = {
    "noto-emoji": ("train", "val", "test"),
    "icons": ("train", "val", "test"),
    "openmoji": ("shift",),
    "openclipart": ("train", "val", "test"),
}
YOUNG = {
    "boy", "girl", "baby", "child", "baby face", "crying baby", "boy standing", "girl standing", "my lovely baby",
    "kid", "little girl", "blue girl", "hide girl", "a happy boy", "red haired girl", "blonde girl", "girl sitting",
    "brown haired girl",
}  # fmt: skip
OFF_TARGET = (
    "dog", "cat", "bear", "monkey", "pig", "bird", "fish", "horse", "rabbit", "frog", "robot", "doll", "statue", "toy",
    "alien", "monster", "ghost", "clown", "snowman", "scarecrow", "lamp", "bottle", "chair", "clock", "ball",
    "balloon", "shoe", "flower", "tree", "mushroom", "potato", "egg",
)  # fmt: skip
LABELS = (
    "artist", "astronaut", "barista", "blond hair", "boss", "beard", "beauty", "business", "chef", "clerk", "coat",
    "construction", "crown", "curly hair", "dancer", "detective", "doctor", "dress", "driver", "engineer", "factory",
    "farmer", "fashion", "firefighter", "glasses", "guard", "hair", "hat", "health", "jewellery", "judge", "leader",
    "lipstick", "long hair", "magician", "mechanic", "moustache", "musician", "nurse", "office", "pilot", "police",
    "queen", "scientist", "shirt", "short hair", "singer", "skirt", "smile", "soldier", "student", "suit", "teacher",
    "tie", "uniform", "wedding", "white hair", "writer", "king", "bald head",
)  # fmt: skip
CHILD, WORD = "child", "another word"
CLOSE, FAR = "a close wrong option", "one more random option"
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
DRAWN, SCENES, TOP, NAMES = 8, 80, 10, (30, 300)
LOW, HIGH = 0.005, 0.04
FALL, RATE, RIGHT = "fall of the off-target rate", "off-target rate", "right option chosen"
ERRORS, OVERLAP, IDENTITY = "errors that are the close option", "overlap of the ten labels", "identity found"
ACROSS, WITHIN = "at 0.5 % and at 4 %", "at one threshold"


@lru_cache(maxsize=1)
def _people() -> tuple[Float[Tensor, "N E"], np.ndarray, np.ndarray]:
    """Features of drawings of one person, whether young or adult, and "man" or "woman" where the caption says so."""
    data = join([load_data(name, split=split) for name, splits in PACKS.items() for split in splits])
    roles, captions = data.attributes["subgroup"], data.captions
    named = [re.match(r"(?:old |older )?(man|woman|person)\b", text) for text in captions]
    young = [row for row, text in enumerate(captions) if text in YOUNG]
    adult = [row for row, found in enumerate(named) if found and roles[row] in ("person", "person-role")]
    said = ["" if found is None else found[1] for found in named]
    gender = np.array([""] * len(young) + [said[row] for row in adult], dtype=np.str_)
    age = np.repeat(["young", "adult"], [len(young), len(adult)])
    return dataset_features(bundled(), data.subset(young + adult)), age, gender


def table_of(classes: tuple[str, ...], rows: np.ndarray, **attributes: np.ndarray) -> PredictionTable:
    """Scores of the drawings in some rows, which may repeat."""
    scores = _text_bank(classes).logits(_people()[0][rows]).numpy()
    keys = tuple(map(str, range(len(rows))))
    told = {name: tuple(values[rows].tolist()) for name, values in attributes.items()}
    return PredictionTable(keys, np.full(len(rows), -1), scores, classes, told)


@lru_cache(maxsize=4)
def _text_bank(classes: tuple[str, ...]) -> TextBank:
    return bundled().text_bank(list(classes), "simple")


def class_design(seed: int) -> list[Row]:
    """Off-target rates by age, without and with one class more: the missing one, or one that nobody misses."""
    _, age, _ = _people()
    rng = np.random.default_rng([seed, 10])
    *bad, word = rng.permutation(OFF_TARGET)[: DRAWN + 1].tolist()
    drawn = np.concatenate([rng.choice(np.flatnonzero(age == a), (age == a).sum()) for a in ("young", "adult")])
    table = table_of(("man", "woman", "child", *OFF_TARGET), drawn, age=age)
    rows = []
    for method, added in ((CHILD, "child"), (WORD, word)):
        probe = ClassDesignProbe(classes=("man", "woman"), harmful={"off-target": bad}, added=(added,))
        for found in probe.measure(table, "age"):
            if found.group:
                rows.append(Row(FALL, method, -found.change, found.group[0]))
                rows.append(Row(RATE, method, found.after, found.group[0]))
                if method == CHILD:
                    rows.append(Row(RATE, "neither", found.before, found.group[0]))
    return rows


@torch.no_grad()
def near_misses(seed: int) -> list[Row]:
    """Captions of scenes against four of other scenes, and one more: with one wrong colour, or again of another one."""
    clip, rng = bundled(), np.random.default_rng([seed, 11])
    source = vocabulary("scenes15", split="val+test+shift")
    made = scenes(seed + 10_000, SCENES, 128, objects=2, slots="left-right", factors={"colour": COLOURS},
                  pairs="colour", vocabulary=source)  # fmt: skip
    assert made.pair is not None
    pictures = F.normalize(clip.encode_image(made.images), dim=1)
    right, close = (F.normalize(clip.encode_text(part.captions), dim=1) for part in (made, made.pair))
    scores, near = (pictures @ right.T).numpy(), (pictures * close).sum(1).numpy()
    wrong = [[j for j in rng.permutation(SCENES) if made.captions[j] != own][:5] for own in made.captions]
    others = np.take_along_axis(scores, np.array(wrong), axis=1)  # (N, 5) captions of other scenes
    rows = []
    for method, option in ((CLOSE, near), (FAR, others[:, 4])):
        found = NearMissStressTest().measure(scores.diagonal(), others[:, :4], option)
        rows += [Row(RIGHT, method, found.with_close), Row(ERRORS, method, found.errors_close)]
    return [*rows, Row(RIGHT, "four random options", found.without)]


def associations(seed: int) -> list[Row]:
    """How far the ten labels that differ most between men and women agree, across thresholds and within one."""
    _, _, gender = _people()
    order = np.random.default_rng([seed, 12]).permutation(np.flatnonzero(np.isin(gender, ("man", "woman"))))
    found = []
    for half in (order[::2], order[1::2]):
        listed = LabelAssociationProbe(thresholds=(LOW, HIGH)).measure(table_of(LABELS, half, gender=gender), "gender")
        ranked = {tau: [row.label for row in listed if row.threshold == tau] for tau in (LOW, HIGH)}
        found.append({tau: set(labels[:TOP]) for tau, labels in ranked.items()})
    one, other = found
    within = [len(one[tau] & other[tau]) / TOP for tau in (LOW, HIGH)]
    across = [len(one[LOW] & other[HIGH]) / TOP, len(one[HIGH] & other[LOW]) / TOP]
    return [Row(OVERLAP, WITHIN, float(np.mean(within))), Row(OVERLAP, ACROSS, float(np.mean(across)))]


@lru_cache(maxsize=1)
def _named() -> tuple[Float[np.ndarray, "N N"], tuple[str, ...]]:
    """Scores of 400 drawings of an unseen style against their own captions."""
    data = load_data("openmoji", split="shift")
    counts = {text: data.captions.count(text) for text in data.captions}
    rows = [row for row, text in enumerate(data.captions) if counts[text] == 1 and len(text) < 40]
    rows = np.random.default_rng(10).permutation(rows)[:400].tolist()
    names = tuple(data.captions[row] for row in rows)
    features = dataset_features(bundled(), data.subset(rows))
    return bundled().text_bank(list(names), "simple").logits(features).numpy(), names


def identities(seed: int) -> list[Row]:
    """Drawings told apart by their names, among few and many names."""
    scores, names = _named()
    table = PredictionTable(names, np.arange(len(names)), scores, names)
    return [
        Row(IDENTITY, f"{found.names} names", found.accuracy)
        for found in IdentityProbe(sizes=NAMES, repeats=1, seed=seed).measure(table)
    ]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    return [*class_design(seed), *near_misses(seed), *associations(seed), *identities(seed)]


def draw(table: Table, figure: Figure) -> None:
    """Off-target rates by age, near misses, labels across thresholds, and identities."""
    first, *others = figure.subplots(1, 4, width_ratios=(1.6, 1.2, 1, 1))
    methods = ("neither", CHILD, WORD)
    for number, age in enumerate(("young", "adult")):
        values = [table.values(RATE, method, age) for method in methods]
        place = np.arange(len(methods)) + 0.38 * number - 0.19
        first.bar(place, [v.mean() for v in values], 0.36, yerr=[v.std() for v in values], label=age)
    first.set_xticks(range(len(methods)), ("as it is", "and child", "and another"), fontsize=7)
    first.set_title(RATE, fontsize=9)
    first.legend(fontsize=8)
    for ax, metric, compared, short in (
        (others[0], RIGHT, ("four random options", FAR, CLOSE), ("random", "one more", "a close one")),
        (others[1], OVERLAP, (WITHIN, ACROSS), ("one threshold", "two")),
        (others[2], IDENTITY, tuple(f"{count} names" for count in NAMES), tuple(f"{count} names" for count in NAMES)),
    ):
        dots(ax, table, metric, compared)
        ax.set_xticks(range(len(compared)), short, fontsize=7)
        ax.set_title(metric, fontsize=9)
        ax.set_ylim(0, 1)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(200, 216), registered="a018c20ad1e1")
