"""Can a frozen model tell clouds from clear ground by a pair of texts, and what does a cheap fit repair?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from binderclip.adapt import LinearProbe, PolarClassifier, PromptLearning
from binderclip.evaluate import Binary, binary_scores, transfer_matrix
from binderclip.studies.harness import Figure, Row, Table, declared_study, tensor_features

SENSORS = ("RGB", "false colour", "grey, other gain")
PAIRS = {
    "satellite, clear sky": ("This is a satellite image with clouds.", "This is a satellite image with clear sky."),
    "cloudy, clear": ("a cloudy satellite image", "a clear satellite image"),
    "clouds, no clouds": ("clouds", "no clouds"),
    "clouds, ground": ("white clouds seen from above", "the ground seen from above"),
}
ZERO_SHOT = "zero-shot pair"
HEADS = (ZERO_SHOT, "zero-shot, best threshold", "learned prompt", "linear probe", "probe, two triples")
EACH = 120
PAIR = next(iter(PAIRS))
GROUNDS = ("grass", "gravel", "brick wall", "palace", "flower", "moon", "coffee")
TINTS = ((0.55, 0.75, 0.4), (0.75, 0.6, 0.4), (0.85, 0.78, 0.6), (0.45, 0.6, 0.75), (0.6, 0.6, 0.6))


@lru_cache(maxsize=1)
def _grounds() -> list[np.ndarray]:
    from binderclip.data import load_data

    data = load_data("photographs")
    found = [s for s in data if s.label is not None and data.classes[s.label] in GROUNDS]
    return [np.asarray(s.image.convert("RGB")) for s in found]


def _cloud(rng: np.random.Generator, side: int) -> np.ndarray:
    """An alpha map: fractal noise, thick where it is high."""
    total = np.zeros((side, side))
    for octave in range(5):
        grid = rng.standard_normal((3 * 2**octave,) * 2).astype(np.float32)
        total += 0.55**octave * np.asarray(Image.fromarray(grid).resize((side, side), Image.Resampling.BICUBIC))
    share = 1 / (1 + np.exp(-3 * (total / total.std() + rng.uniform(-0.4, 0.6))))
    return share * rng.uniform(0.3, 0.9) / share.max()


def _pictures(part: str, seed: int, side: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Reflectances (N, side, side, 3) in [0, 1], half of them clouded; training takes the left half of each ground."""
    rng = np.random.default_rng([seed, part == "test"])
    images, labels = [], []
    for number in range(EACH):
        ground = _grounds()[int(rng.integers(len(_grounds())))]
        half = ground.shape[1] // 2
        ground = ground[:, :half] if part == "train" else ground[:, half:]
        extent = int(min(ground.shape[:2]) * rng.uniform(0.4, 0.9))
        y, x = (int(rng.integers(length - extent + 1)) for length in ground.shape[:2])
        crop = Image.fromarray(ground[y : y + extent, x : x + extent]).resize((side, side), Image.Resampling.BICUBIC)
        pixels = np.asarray(crop, dtype=np.float32) / 255 * np.array(TINTS[int(rng.integers(len(TINTS)))]) / 0.7
        if number % 2:
            alpha = _cloud(rng, side)[..., None]
            pixels = (1 - alpha) * pixels + alpha * rng.uniform(0.9, 1.0)
        images.append(pixels)
        labels.append(number % 2)
    return np.stack(images).clip(0, 1), np.array(labels)


def _seen(pixels: np.ndarray, sensor: str, seed: int) -> np.ndarray:
    """What a sensor records, stretched by its own 2nd and 98th percentiles a band."""
    if sensor == "false colour":
        pixels = pixels[..., [2, 0, 1]]
    elif sensor != "RGB":
        grey = pixels.mean(axis=-1, keepdims=True)
        noise = np.random.default_rng(seed).normal(scale=0.04, size=grey.shape)
        pixels = np.repeat(0.6 * grey + 0.1 + noise, 3, axis=-1)
    low, high = np.percentile(pixels, (2, 98), axis=(0, 1, 2))
    return ((pixels - low) / (high - low)).clip(0, 1)


def _features(part: str, sensor: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from binderclip.models import load

    pixels, labels = _pictures(part, seed)
    images = torch.from_numpy(_seen(pixels, sensor, seed)).permute(0, 3, 1, 2).float().contiguous()
    return tensor_features(load("small"), images, f"p107 {part} {sensor} {seed}").double().numpy(), labels


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    from binderclip.models import load

    clip = load("small")
    train = {sensor: _features("train", sensor, seed) for sensor in SENSORS}
    test = {sensor: _features("test", sensor, seed) for sensor in SENSORS}
    poles = {name: [clip.text_bank([text]) for text in pair] for name, pair in PAIRS.items()}
    rows = []
    for name, pair in poles.items():
        for sensor in SENSORS:
            found = _scores(PolarClassifier(*pair), *test[sensor])
            rows += [
                Row(f"{metric}, text pair", name, value, sensor)
                for metric, value in (
                    ("accuracy", found.accuracy),
                    ("true-positive rate", found.true_positive_rate),
                    ("true-negative rate", found.true_negative_rate),
                    ("AUC", found.auc),
                )
            ]
    rows += _heads(clip, poles[PAIR], train, test, seed)
    names, _, matrix = transfer_matrix(LinearProbe(), train, test)
    for i, source in enumerate(names):
        rows += [Row("probe's accuracy", f"fitted on {source}", matrix[i, j], s) for j, s in enumerate(SENSORS)]
    return rows


def _scores(head: Any, x: np.ndarray, y: np.ndarray) -> Binary:
    return binary_scores(y, head.predict_proba(x)[:, 1])


def _heads(clip: Any, pair: Any, train: Any, test: Any, seed: int) -> list[Row]:
    (x, y), (x_test, y_test) = train["RGB"], test["RGB"]
    both, both_test = (np.concatenate([part[s][0] for s in SENSORS[:2]], axis=1) for part in (train, test))
    prompt = PromptLearning(clip, names={0: "clear sky", 1: "clouds"}, n_ctx=4, epochs=50, seed=seed).fit(x, y)
    found = {
        ZERO_SHOT: _scores(PolarClassifier(*pair).fit(), x_test, y_test),
        "zero-shot, best threshold": _scores(PolarClassifier(*pair, calibrate=True).fit(x, y), x_test, y_test),
        "learned prompt": _scores(prompt, x_test, y_test),
        "linear probe": _scores(LinearProbe().fit(x, y), x_test, y_test),
        "probe, two triples": _scores(LinearProbe().fit(both, y), both_test, y_test),
    }
    rows = []
    for method, value in found.items():
        rows += [
            Row("by head, RGB", method, value.accuracy, "accuracy"),
            Row("by head, RGB", method, value.true_positive_rate, "true-positive rate"),
            Row("by head, RGB", method, value.true_negative_rate, "true-negative rate"),
            Row("by head, RGB", method, value.f1, "F1"),
            Row("by head, RGB", method, value.auc, "AUC"),
        ]
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Rates by head and by text pair, and the transfer matrix."""
    axes = figure.subplots(1, 3, width_ratios=(1.2, 1.2, 1))
    signs = ("true-positive rate", "true-negative rate")
    for number, sign in enumerate(signs):
        by_head = [table.values("by head, RGB", method, sign) for method in HEADS]
        by_pair = [table.values(f"{sign}, text pair", pair, "RGB") for pair in PAIRS]
        for ax, found in ((axes[0], by_head), (axes[1], by_pair)):
            place = np.arange(len(found)) + 0.38 * number - 0.19
            mean, spread = [v.mean() for v in found], [v.std() for v in found]
            ax.barh(place, mean, 0.36, xerr=spread, label=sign, color=f"C{number}", error_kw={"elinewidth": 1})
    for ax, names, title in ((axes[0], HEADS, "Heads, RGB"), (axes[1], tuple(PAIRS), "Text pairs, zero-shot, RGB")):
        ax.set_yticks(range(len(names)), names, fontsize=8)
        ax.invert_yaxis()
        ax.set(title=title, xlim=(0, 1.05), xlabel="rate")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    rows = [f"fitted on {sensor}" for sensor in SENSORS]
    values = np.array([[table.mean("probe's accuracy", row, sensor) for sensor in SENSORS] for row in rows])
    axes[2].imshow(values, vmin=0.5, vmax=1, cmap="Blues")
    for i, j in np.ndindex(3, 3):
        color = "white" if values[i, j] > 0.8 else "black"
        axes[2].text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", color=color)
    short = ("RGB", "false colour", "grey")
    axes[2].set_xticks(range(3), short, fontsize=8)
    axes[2].set_yticks(range(3), short, fontsize=8)
    axes[2].grid(False)
    axes[2].set(title="Probe's accuracy", xlabel="tested on", ylabel="fitted on")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 20), registered="7eafe6429126")
