"""The labelled sets that few-shot studies share: cached features, class names and the text bank of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from binderclip.errors import UsageError
from binderclip.studies.harness.features import dataset_features

if TYPE_CHECKING:
    from binderclip.data import ImageTextDataset
    from binderclip.models import TextBank

EACH = 62
"""Pictures a class: 16 shots, as many for validation, and 30 for testing."""

EMOJI_GROUPS = {
    "Activities": ["sport, game or celebration"],
    "Animals & Nature": ["animal or plant"],
    "Flags": ["flag of a country"],
    "Food & Drink": ["food or drink"],
    "Objects": ["household object or tool"],
    "People & Body": ["person or body part"],
    "Smileys & Emotion": ["smiling or emotional face"],
    "Symbols": ["abstract symbol or sign"],
    "Travel & Places": ["vehicle, building or place"],
}
EMOJI_SUBGROUPS = {
    "alphanum": "letter",
    "animal-bird": "bird",
    "animal-bug": "insect",
    "animal-mammal": "mammal",
    "arrow": "arrow",
    "av-symbol": "media button",
    "body-parts": "body part",
    "book-paper": "book",
    "clothing": "piece of clothing",
    "country-flag": "flag",
    "drink": "drink",
    "event": "celebration",
    "face-concerned": "sad face",
    "face-neutral-skeptical": "neutral face",
    "family": "family",
    "food-asian": "Asian dish",
    "food-fruit": "fruit",
    "food-prepared": "meal",
    "food-vegetable": "vegetable",
    "game": "game",
    "geometric": "geometric shape",
    "heart": "heart",
    "household": "household item",
    "light & video": "camera or lamp",
    "office": "office item",
    "person-gesture": "gesturing person",
    "person-role": "worker",
    "person-sport": "athlete",
    "place-building": "building",
    "plant-other": "plant",
    "sky & weather": "weather",
    "sport": "sports equipment",
    "time": "clock",
    "tool": "tool",
    "transport-ground": "land vehicle",
}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLIP_ART = {
    "animals": ["an animal"],
    "computer": ["a computer icon"],
    "food": ["food or drink"],
    "people": ["a person"],
    "recreation": ["sport, a game or a celebration"],
    "shapes": ["a geometric shape"],
    "signs and symbols": ["a sign or symbol"],
}
TEXTILE = {
    "nominal": ["a regular textile without a defect"],
    "local": ["a textile with a small damaged spot"],
    "global": ["a textile whose whole texture is disturbed"],
}


@dataclass(frozen=True)
class FewShotSet:
    """Features (N, E) float64 of unit length, class names (N,), the bank of the classes, and the pictures themselves.

    Attributes:
        indices: (N,) rows of `data`.
    """

    name: str
    features: np.ndarray
    labels: np.ndarray
    bank: TextBank
    data: ImageTextDataset
    indices: np.ndarray
    pool: int

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the pool that shots and validation are drawn from, and of the test pictures, by class at random."""
        rng = np.random.default_rng([seed, 1])
        orders = [rng.permutation(np.flatnonzero(self.labels == name)) for name in np.unique(self.labels)]
        return np.concatenate([o[: self.pool] for o in orders]), np.concatenate([o[self.pool :] for o in orders])


@cache
def few_shot_set(name: str, model: str = "small", each: int = EACH, pool: int = 32) -> FewShotSet:
    """A labelled set by name, `each` pictures a class at the most, `pool` of them for shots and validation.

    Args:
        name: `OpenMoji` (nine groups, a style `small` never saw), `OpenMoji subgroups` (35 of its subgroups with at
            least 16 pictures, for base-to-new), `digits`, `clip art` (drawings of the validation and
            test splits in the seven categories that have enough of them), `Fashion-MNIST` (Debian's package; test
            part), or `textile`.
        model: whose features.
        each: pictures a class, drawn once and for all.
        pool: how many of them are for training and validation.

    Raises:
        UsageError: an unknown name.
        DataError: the set is not on this machine.
    """
    from binderclip.models import load

    clip = load(model)
    data, named, texts = _source(name)
    bank = clip.text_bank(texts)
    rows = [np.flatnonzero(named == label) for label in bank.names]
    chosen = np.concatenate([np.random.default_rng(0).permutation(r)[:each] for r in rows])
    features = dataset_features(clip, data.subset(chosen)).double().numpy()
    return FewShotSet(name, features, named[chosen], bank, data, chosen, pool)


def _source(name: str) -> tuple[ImageTextDataset, np.ndarray, dict[str, list[str]]]:
    from binderclip.data import load_data

    if name == "OpenMoji":
        data = load_data("openmoji")
        return data, _names(data, data.classes), EMOJI_GROUPS
    if name == "OpenMoji subgroups":
        data = load_data("openmoji")
        named = np.array([EMOJI_SUBGROUPS.get(str(part), "") for part in data.attributes["subgroup"]])
        return data, named, {c: [f"a photo of a {c}."] for c in EMOJI_SUBGROUPS.values()}
    if name == "digits":
        data = load_data("digits")
        texts = {word: [f"the number {word}", f"the digit {i}"] for i, word in enumerate(DIGITS)}
        return data, _names(data, DIGITS), texts
    if name == "Fashion-MNIST":
        data = load_data("fashion-mnist", split="test")
        return data, _names(data, data.classes), {c: [f"a {c}", f"clothing, a {c}"] for c in data.classes}
    if name == "clip art":
        whole = load_data("openclipart")
        data = whole.subset(np.flatnonzero(np.isin(whole.attributes["split"], ["val", "test"])))
        return data, _names(data, data.classes), CLIP_ART
    if name == "textile":
        data = load_data("textile")
        kinds = np.array([str(kind) for kind in data.attributes["kind"]])
        return data, kinds, TEXTILE
    raise UsageError(
        f"few-shot set {name!r} is unknown: OpenMoji, OpenMoji subgroups, digits, Fashion-MNIST, clip art or textile"
    )


def _names(data: ImageTextDataset, classes: tuple[str, ...]) -> np.ndarray:
    return np.array([classes[i] if i >= 0 else "" for i in data.labels])
