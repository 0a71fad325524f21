"""Do signed attention gradients of the text tower find the word that does not fit the picture?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.evaluate import f_clipscore_dm, word_detection
from binderclip.explain import DenseMisalignment, LeaveOneWordOut, Misalignment, TextTokenAttribution
from binderclip.studies.harness import (
    Figure,
    Row,
    Table,
    bare,
    dataset_features,
    declared_study,
    one_thread,
    random_rows,
    tensor_features,
)
from binderclip.studies.protocols.bundled import bundled

SIZE = 128
SCENES, CAPTIONS = 200, 100
ALIGNED_SCENES, ALIGNED_CAPTIONS = 134, 66
COLOURS = ("red", "green", "blue", "yellow", "black")
KINDS = ("noun in a scene", "colour in a scene", "noun in a caption")
SCORERS: dict[str, Any] = {
    "signed (CLIP4DM)": TextTokenAttribution(),
    "ReLU": TextTokenAttribution(rule="relu"),
    "relevance propagation": TextTokenAttribution(rule="relevance"),
    "leave one word out": LeaveOneWordOut(),
}
OURS, OUT = "signed (CLIP4DM)", "leave one word out"


@dataclass(frozen=True)
class CaptionPairs:
    """Pictures as features, what they show, the same with one word replaced, and which."""

    features: Float[Tensor, "N E"]
    true: list[str]
    false: list[str]
    place: list[int]
    kind: list[str]


def _scenes(seed: int, n: int, split: str) -> Any:
    from binderclip.data import vocabulary
    from binderclip.data.synthetic_scenes.stream import scenes

    words = vocabulary("scenes15", split=split)
    return scenes(
        seed, n, SIZE, vocabulary=words, objects=2, area=(0.08, 0.25), factors={"colour": COLOURS}, occlusion=0.1
    )


@lru_cache(maxsize=1)
def _nouns() -> dict[str, str]:
    """Words that are a whole caption of a training picture, with its category: names of things."""
    from binderclip.data import load_data

    data = load_data("openclipart", split="train")
    alone = zip(data.captions, data.labels, strict=True)
    return {text: data.classes[label] for text, label in alone if text.isalpha() and text.islower()}


@lru_cache(maxsize=2)
def _captioned(split: str) -> tuple[list[int], list[str], list[int]]:
    """Rows of the clip art whose caption has two or more words that the model sees, one of them a noun's name."""
    from binderclip.data import load_data

    data = load_data("openclipart", split=split)
    room = bundled().tokenizer.context_length - 8  # the template, start and end
    rows, texts, places = [], [], []
    for row, text in enumerate(data.captions):
        words = [word.strip(",.") for word in text.split()]
        known = [place for place, word in enumerate(words) if word in _nouns()]
        if len(words) >= 2 and known and len(bundled().tokenizer.encode([text])[0][0].nonzero()) - 2 <= room:
            rows.append(row)
            texts.append(text)
            places.append(known[0])
    return rows, texts, places


def _caption_features(split: str, picks: np.ndarray) -> Float[Tensor, "N E"]:
    from binderclip.data import load_data

    data = load_data("openclipart", split=split)
    return dataset_features(bundled(), data.subset([_captioned(split)[0][pick] for pick in picks]))


def _replaced(text: str, place: int, word: str) -> str:
    words = text.split()
    words[place] = words[place].replace(words[place].strip(",."), word)
    return " ".join(words)


def _pairs(seed: int) -> CaptionPairs:
    """Two hundred scenes (half a false noun, half a false colour) and a hundred clip-art captions (a false noun)."""
    rng = np.random.default_rng([seed, 146])
    found = _scenes(seed, SCENES, "val")
    features = [tensor_features(bundled(), found.images, f"p146 scenes {seed} {SCENES} {SIZE}")]
    true, false, places, kinds = list(found.captions), [], [], []
    for index, (text, names) in enumerate(zip(found.captions, found.names, strict=True)):
        words, which = text.split(), int(rng.integers(2))
        # "a COLOUR NOUN and a COLOUR NOUN"
        place = (2, 6)[which] if index % 2 else (1, 5)[which]
        pool = [c for c in _scene_nouns() if c not in names] if index % 2 else [c for c in COLOURS if c not in words]
        false.append(_replaced(text, place, str(rng.choice(pool))))
        places.append(place)
        kinds.append(KINDS[0] if index % 2 else KINDS[1])
    _, texts, where = _captioned("val")
    picks = rng.permutation(len(texts))[:CAPTIONS]
    nouns = _nouns()
    for pick in picks:
        text, place = texts[pick], where[pick]
        kind = nouns[text.split()[place].strip(",.")]
        other = [word for word, category in nouns.items() if category != kind and word not in text]
        true.append(text)
        false.append(_replaced(text, place, str(rng.choice(other))))
        places.append(place)
        kinds.append(KINDS[2])
    features.append(_caption_features("val", picks))
    return CaptionPairs(torch.cat(features), true, false, places, kinds)


@lru_cache(maxsize=1)
def _scene_nouns() -> tuple[str, ...]:
    from binderclip.data import vocabulary

    return tuple(vocabulary("scenes15", split="val").names)


def _aligned(seed: int) -> tuple[Float[Tensor, "N E"], list[str]]:
    """Fitting pairs of the training split, for the threshold."""
    rng = np.random.default_rng([seed, 147])
    found = _scenes(seed, ALIGNED_SCENES, "train")
    scenes = tensor_features(bundled(), found.images, f"p146 training scenes {seed} {ALIGNED_SCENES} {SIZE}")
    texts = _captioned("train")[1]
    picks = rng.permutation(len(texts))[:ALIGNED_CAPTIONS]
    return torch.cat([scenes, _caption_features("train", picks)]), [*found.captions, *(texts[p] for p in picks)]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    with one_thread():
        pairs = _pairs(seed)
        rows = [Row("foil word found", "a random word", value, kind) for kind, value in _chances(pairs, None)]
        content = ("a", "an", "and")
        rows += [Row("foil word found", "a random content word", v, kind) for kind, v in _chances(pairs, content)]
        scored = {name: DenseMisalignment("most-negative", scores=s) for name, s in SCORERS.items()}
        found = {name: method(bundled(), pairs.features, pairs.false) for name, method in scored.items()}
        for name, result in found.items():
            rows += [Row("foil word found", name, value, kind) for kind, value in _located(pairs, result)]
        rows.append(Row("Spearman with leave one word out", OURS, _agreement(found[OURS], found[OUT])))
        return rows + _separation(seed, pairs)


def _chances(pairs: CaptionPairs, without: tuple[str, ...] | None) -> list[tuple[str, float]]:
    shares = [1 / sum(word not in (without or ()) for word in text.split()) for text in pairs.false]
    return _by_kind(pairs, shares)


def _located(pairs: CaptionPairs, found: Misalignment) -> list[tuple[str, float]]:
    """Share of foils with the lowest score at the wrong word; among equals chance decides, counted as its share."""
    hits = []
    for row, place in zip(found.words(), pairs.place, strict=True):
        scores = np.array([np.inf if score is None else score for _, score in row])
        lowest = scores == scores.min()
        hits.append(float(lowest[place]) / lowest.sum())
    return _by_kind(pairs, hits)


def _by_kind(pairs: CaptionPairs, values: list[float]) -> list[tuple[str, float]]:
    parts = [(kind, [v for v, k in zip(values, pairs.kind, strict=True) if k == kind]) for kind in KINDS]
    return [("all", float(np.mean(values))), *((kind, float(np.mean(part))) for kind, part in parts)]


def _agreement(ours: Misalignment, out: Misalignment) -> float:
    from scipy.stats import spearmanr

    found = []
    for left, right in zip(ours.words(), out.words(), strict=True):
        both = [(a, b) for (_, a), (_, b) in zip(left, right, strict=True) if a is not None and b is not None]
        if len(both) > 2:
            found.append(spearmanr(*zip(*both, strict=True)).statistic)
    return float(np.nanmean(found))


def _separation(seed: int, pairs: CaptionPairs) -> list[Row]:
    """Average precision of true captions against foils, and the words below the calibrated threshold."""
    from sklearn.metrics import average_precision_score

    features, texts = _aligned(seed)
    method = DenseMisalignment().calibrate(bundled(), features, texts)
    both = torch.cat([pairs.features, pairs.features])
    result = f_clipscore_dm(bundled(), both, [*pairs.true, *pairs.false], method=method)
    truth = np.repeat([1, 0], len(pairs.true))
    rows = [Row("threshold (1e-5)", OURS, method.eps * 1e5), Row("average precision", "chance", 0.5)]
    for name, values in (("CLIPScore", result.clip_score), ("F-CLIPScore", result.f_clip_score)):
        rows.append(Row("average precision", name, float(average_precision_score(truth, values.numpy()))))
    others = {"lowest word": DenseMisalignment("most-negative"), "all negative words": DenseMisalignment(eps=0.0)}
    for name, other in others.items():
        values = f_clipscore_dm(bundled(), both, [*pairs.true, *pairs.false], method=other).f_clip_score
        rows.append(Row("average precision", f"F-CLIPScore, {name}", float(average_precision_score(truth, values))))
    for name, quantities in (("CLIPScore", result.clip_score), ("F-CLIPScore", result.f_clip_score)):
        true, false = quantities.chunk(2)
        rows.append(Row("true caption scores higher than its foil", name, _wins(true, false)))
    wrong = [*([] for _ in pairs.true), *([place] for place in pairs.place)]
    figures = word_detection(result.found, wrong)
    return rows + [Row("words below the threshold", name, figures[name]) for name in ("precision", "recall", "f1")]


def _wins(true: Tensor, false: Tensor) -> float:
    return float(((true > false).double() + 0.5 * (true == false).double()).mean())


def null(seed: int) -> list[Row]:
    """Random scores of words and captions: every share is the same but for chance."""
    return random_rows(STUDY.criteria, seed, 0.45, 0.55)


def draw(table: Table, figure: Figure) -> None:
    """Some foils with coloured words, where the wrong word is found, and how well captions are told from foils."""
    halves: Any = figure.subfigures(1, 2, width_ratios=[0.85, 1])
    _examples(halves[0])
    top, bottom = halves[1].subplots(2, 1, height_ratios=[2.1, 1])
    names = ["a random word", "a random content word", *SCORERS]
    places = np.arange(len(names))
    for number, kind in enumerate(KINDS):
        values = [table.mean("foil word found", name, kind) for name in names]
        top.barh(places + 0.26 * (number - 1), values, height=0.24, color=f"C{number}", label=kind)
    top.set_yticks(places, names)
    top.set_title("share of foils whose wrong word is found", fontsize=9)
    top.legend(fontsize=7, loc="center right", bbox_to_anchor=(1.0, 0.33))
    top.set_xlim(0, 0.95)
    scores = table.names("method", "average precision")
    found = [table.values("average precision", name) for name in scores]
    bottom.barh(scores, [v.mean() for v in found], xerr=[v.std() for v in found], color="C4", height=0.6)
    bottom.set_xlim(0.4, 0.7)
    bottom.set_title("average precision, caption against foil", fontsize=9)
    for ax in (top, bottom):
        ax.invert_yaxis()
        ax.tick_params(labelsize=8)
        ax.grid(axis="y", visible=False)


def _examples(part: Any) -> None:
    model = bundled()
    found = _scenes(STUDY.seeds[0], 8, "val")
    pairs = _pairs(STUDY.seeds[0])
    shown = [1, 2, 5]
    result = DenseMisalignment("most-negative")(model, pairs.features[shown], [pairs.false[index] for index in shown])
    axes = part.subplots(3, 2, width_ratios=[1, 3.4])
    for (picture, line), index, row in zip(axes, shown, result.words(), strict=True):
        picture.imshow(found.images[index].permute(1, 2, 0).numpy())
        for ax in (picture, line):
            bare(ax, frame=False)
        top = max(abs(score) for _, score in row if score is not None)
        for place, (word, score) in enumerate(row):
            mark = "\n(foil)" if place == pairs.place[index] else ""
            x, y = (0.02 + 0.25 * (place % 4), 0.72 - 0.42 * (place // 4))
            shade = 0.0 if score is None else 0.6 * score / top
            colour = (1, 1 + shade, 1 + shade) if shade < 0 else (1 - shade, 1 - 0.4 * shade, 1)
            line.text(
                x, y, word + mark, fontsize=8, va="center", transform=line.transAxes,
                bbox={"facecolor": colour, "edgecolor": "none", "pad": 2},
            )  # fmt: skip
    axes[0, 1].set_title("words that speak for (blue) and against (red)", fontsize=9)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), null=null, registered="5b7b9544a024")
