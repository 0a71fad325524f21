"""Do visual sentences beat the bare name, and does a sentence adapter carry over to new classes?"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from binderclip.adapt import (
    CLIPAdapter,
    DescriptionClassifier,
    PromptLearning,
    SentenceAttentionAdapter,
    ZeroShotClassifier,
    shipped_descriptions,
)
from binderclip.data import Vocabulary, vocabulary
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.studies.harness import Figure, Row, Table, declared_study, tensor_features

HEADS = ("zero-shot descriptions", "CLIP-Adapter", "CoOp", "sentence attention")
SHOTS, TEST = 4, 12


@lru_cache(maxsize=1)
def _parts() -> tuple[Any, Vocabulary, Vocabulary]:
    """The model, and the cut-outs of the twenty animals for training and for testing: no drawing is in both."""
    from binderclip.models import load

    aliases: dict[str, tuple[str, ...]] = {name: (name,) for name in shipped_descriptions()["animals"].classes}
    aliases |= {"chicken": ("chicken", "hen", "rooster"), "cat": ("cat", "kitten"), "rabbit": ("rabbit", "bunny")}
    whole = vocabulary(aliases, split="all")
    odd = np.zeros(len(whole.owner), bool)
    for owner in range(len(whole)):
        odd[whole.members(owner)[1::2]] = True
    return load("small"), _rows(whole, ~odd), _rows(whole, odd)


def _rows(whole: Vocabulary, keep: np.ndarray) -> Vocabulary:
    chosen = np.flatnonzero(keep)
    return replace(
        whole,
        sprites=whole.sprites[chosen],
        owner=whole.owner[chosen],
        captions=tuple(whole.captions[i] for i in chosen),
        keys=tuple(whole.keys[i] for i in chosen),
        styles=tuple(whole.styles[i] for i in chosen),
        _members={},
        _cut={},
    )


def _pictures(words: Vocabulary, each: int, seed: int, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Features and names of `each` scenes an animal, one animal large in each."""
    clip = _parts()[0]
    images, names = [], []
    for number, name in enumerate(words.names):
        batch = scenes(
            1000 * seed + number, each, 128, objects=1, area=(0.25, 0.45), vocabulary=words.only([name]),
            background=["photo", "texture", "plain"],
        )  # fmt: skip
        images.append(batch.images)
        names += [name] * each
    x = tensor_features(clip, torch.cat(images), f"p179 {part} {each} {seed}")
    return x.double().numpy(), np.array(names)


def _sentences(names: list[str], kind: str) -> dict[str, list[str]]:
    described = shipped_descriptions()["animals"].of(names)
    if kind == "descriptions":
        return described
    # The sentences of another animal under this one's name: as long, as visual, and wrong.
    turned = names[7:] + names[:7]
    return {
        name: [sentence.replace(f"a {other},", f"a {name},", 1) for sentence in described[other]]
        for name, other in zip(names, turned, strict=True)
    }


def _zero_shot(x: np.ndarray, y: np.ndarray, names: list[str]) -> list[Row]:
    clip = _parts()[0]
    described, shuffled = (clip.text_bank(_sentences(names, kind)) for kind in ("descriptions", "shuffled"))
    heads = {
        "name": ZeroShotClassifier(clip.text_bank(names, "a picture of a {}.")),
        "template set": ZeroShotClassifier(clip.text_bank(names, "clipart")),
        "descriptions": DescriptionClassifier(described),
        "shuffled descriptions": DescriptionClassifier(shuffled),
        "descriptions, mean-unit": DescriptionClassifier(described, prototype="mean-unit"),
        "descriptions, AutoCLIP": ZeroShotClassifier(described, pool="auto"),
    }
    return [Row("zero-shot accuracy", method, head.fit().score(x, y), "20 animals") for method, head in heads.items()]


def _few_shot(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], seed: int) -> list[Row]:
    clip, (x, y), (x_test, y_test) = _parts()[0], train, test
    order = np.random.default_rng([seed, 9]).permutation(np.unique(y)).tolist()
    base, new = sorted(order[:10]), sorted(order[10:])
    banks = [clip.text_bank(_sentences(own, "descriptions")) for own in (base, new)]
    shown = np.isin(y, base)
    adapter = CLIPAdapter(DescriptionClassifier(banks[0]).fit(), seed=seed).fit(x[shown], y[shown])
    coop = PromptLearning(clip, n_ctx=4, init="a picture of a", seed=seed).fit(x[shown], y[shown])
    sentence = SentenceAttentionAdapter(banks[0], seed=seed).fit(x[shown], y[shown])
    answers = {
        "zero-shot descriptions": [DescriptionClassifier(bank).fit() for bank in banks],
        "CLIP-Adapter": [adapter, _with_rows(adapter, DescriptionClassifier(banks[1]).fit())],
        "CoOp": [coop, coop.classifier_for(new)],
        "sentence attention": [sentence, sentence.classifier_for(banks[1])],
    }
    rows = [Row("attention entropy", "sentence attention", sentence.attention_entropy_, "of equal weights")]
    for method, heads in answers.items():
        scores = []
        for head, own, setting in zip(heads, (base, new), ("base", "new"), strict=True):
            asked = np.isin(y_test, own)
            scores.append(float(head.score(x_test[asked], y_test[asked])))
            rows.append(Row("accuracy after 4 shots", method, scores[-1], setting))
        rows.append(
            Row("accuracy after 4 shots", method, 2 * scores[0] * scores[1] / max(sum(scores), 1e-9), "harmonic")
        )
    return rows


def _with_rows(adapter: CLIPAdapter, classifier: Any) -> Any:
    """CLIP-Adapter's image side in front of the texts of other classes."""
    import copy

    other = copy.copy(adapter)
    other.prior_ = F.normalize(torch.from_numpy(classifier.coef_), dim=-1).to(adapter.prior_)
    other.classes_ = classifier.classes_
    return other


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    _, shown, hidden = _parts()
    train, test = _pictures(shown, SHOTS, seed, "train"), _pictures(hidden, TEST, seed, "test")
    return _zero_shot(*test, list(hidden.names)) + _few_shot(train, test, seed)


def _attends(table: Table) -> tuple[bool, str]:
    value = table.mean("attention entropy", "sentence attention", "of equal weights")
    return value < 0.99, f"entropy {value:.4f} of equal weights"


def draw(table: Table, figure: Figure) -> None:
    """Zero-shot by text, and base and new classes by head."""
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
    methods = table.names("method", "zero-shot accuracy")
    values = [table.values("zero-shot accuracy", method, "20 animals") for method in methods]
    colors = ["C7", "C7", "C2", "C3", "C8", "C8"]
    left.barh(range(len(methods)), [v.mean() for v in values], xerr=[v.std() for v in values], color=colors)
    left.set_yticks(range(len(methods)), methods)
    left.invert_yaxis()
    left.set(title="Zero-shot, 20 animals", xlabel="accuracy")
    place = np.arange(3)
    for number, method in enumerate(HEADS):
        found = [table.values("accuracy after 4 shots", method, s) for s in ("base", "new", "harmonic")]
        mean, deviation = [v.mean() for v in found], [v.std() for v in found]
        right.bar(place + 0.2 * number - 0.3, mean, 0.19, yerr=deviation, label=method, color=f"C{number}")
    right.set_xticks(place, ["base classes", "new classes", "harmonic mean"])
    right.set(title="4 shots of 10 base classes", ylabel="accuracy", ylim=(0, 1.12))
    right.legend(ncols=2, fontsize=8, loc="upper right")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 50), registered="ed94e9439a8e")
