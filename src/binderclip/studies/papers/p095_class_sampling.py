"""Does a softmax over the classes of the batch and a draw of the others follow the classes' frequencies less?"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.evaluate import ImbalanceReport, imbalance_report, neural_collapse
from binderclip.losses import SampledClassifier, clip
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.bundled import bundled

CLASSES, MOST, LEAST, TEST = 100, 300, 3, 50
BATCH, SIZE, STEPS, RATE, WIDTH = 16, 20, 2000, 0.05, 256
FULL, SAMPLED, SAMPLED_TEXT, CAPTIONS = "all classes", "sampled", "sampled, text head", "CLIP"
ADJUSTED = "all classes, logits adjusted"
METHODS = (FULL, SAMPLED, SAMPLED_TEXT, CAPTIONS, ADJUSTED)
FOLLOWS, TAIL, MEAN, COLLAPSE = (
    "correlation of frequency and answers",
    "accuracy of the rarest third",
    "mean accuracy",
    "scatter inside the rarest third over that of the most frequent",
)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@lru_cache(maxsize=2)
def written(split: str) -> tuple[Float[Tensor, "N 8 8"], Int[np.ndarray, "N"]]:
    """Handwritten digits, in [-1, 1], and which they are."""
    from binderclip.data import load_data

    pixels, data = load_data("digits", split).pixels(8, mode="RGB")
    return pixels[:, 0].float() / 127.5 - 1, np.asarray(data.labels)


def numbers(labels: Int[np.ndarray, "N"], split: str, draws: np.random.Generator) -> Float[Tensor, "N 128"]:
    """Pictures of numbers of two digits, each digit drawn from those of the split."""
    pixels, digits = written(split)
    rows = [np.flatnonzero(digits == digit) for digit in range(10)]
    places = [[draws.choice(rows[digit]) for digit in side] for side in (labels // 10, labels % 10)]
    return torch.cat([pixels[place] for place in places], dim=2).flatten(1)


@lru_cache(maxsize=1)
@torch.no_grad()
def texts() -> Float[Tensor, "C E"]:
    """Unit features of the numbers' names."""
    return bundled().encode_text([f"the number {DIGITS[n // 10]} {DIGITS[n % 10]}" for n in range(CLASSES)],
                                 normalize=True).float()  # fmt: skip


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    draws = np.random.default_rng(seed)
    slope = np.log(MOST / LEAST) / np.log(CLASSES)
    freq = np.rint(MOST * np.arange(1, CLASSES + 1) ** -slope).astype(int)[draws.permutation(CLASSES)]
    train, test = np.repeat(np.arange(CLASSES), freq), np.repeat(np.arange(CLASSES), TEST)
    data = numbers(train, "train", draws), torch.as_tensor(train)
    held = numbers(test, "test", draws)
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.randperm(len(train), generator=generator) for _ in range(STEPS * BATCH // len(train) + 1)])
    rows = []
    for method in METHODS[:-1]:
        features, logits = trained(method, seed, data, torch.as_tensor(freq), order.split(BATCH)[:STEPS], held)
        rows += figures(method, logits, test, freq, features)
        if method == FULL:
            rows += figures(ADJUSTED, logits - torch.as_tensor(freq).log(), test, freq)
    return rows


def trained(
    method: str,
    seed: int,
    data: tuple[Tensor, Tensor],
    freq: Int[Tensor, "C"],
    batches: tuple[Tensor, ...],
    held: Float[Tensor, "M 128"],
) -> tuple[Float[Tensor, "M E"], Float[Tensor, "M C"]]:
    """Features and logits of the test pictures after training by a method."""
    from binderclip.fit import fit

    (pictures, labels), known = data, texts()
    torch.manual_seed(seed)
    tower = nn.Sequential(nn.Linear(128, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU(),
                          nn.Linear(WIDTH, known.shape[1]))  # fmt: skip
    if method == CAPTIONS:
        side = nn.Linear(known.shape[1], known.shape[1], bias=False)
        nn.init.eye_(side.weight)
        pairs = clip()
        modules, step = [tower, side, pairs], lambda rows: pairs(tower(pictures[rows]), side(known[labels[rows]])).total
    else:
        size, head = CLASSES if method == FULL else SIZE, known if method == SAMPLED_TEXT else None
        loss = SampledClassifier(known.shape[1], CLASSES, size=size, freq=freq, text_weights=head)
        modules, step = [tower, loss], lambda rows: loss(tower(pictures[rows]), labels[rows])
    fit(step, nn.ModuleList(modules), batches, steps=STEPS, lr=RATE,
        optimizer={"name": "sgd", "momentum": 0.9, "weight_decay": 1e-4})  # fmt: skip
    with torch.no_grad():
        features = tower(held)
        if method == CAPTIONS:
            return features, F.normalize(features, dim=1) @ F.normalize(side(known), dim=1).T
        return features, loss.logits(features)


def figures(
    method: str, logits: Float[Tensor, "M C"], truth: Int[np.ndarray, "M"], freq: Int[np.ndarray, "C"],
    features: Float[Tensor, "M E"] | None = None,
) -> list[Row]:  # fmt: skip
    """Rows of one classifier."""
    confusion = np.zeros((CLASSES, CLASSES), int)
    np.add.at(confusion, (truth, logits.argmax(1).numpy()), 1)
    found: ImbalanceReport = imbalance_report(confusion, freq)
    values = {FOLLOWS: abs(found.prediction_correlation), TAIL: found.tail, MEAN: found.mean_accuracy}
    if features is not None:
        within = neural_collapse(features, torch.as_tensor(truth)).within[torch.as_tensor(np.argsort(-freq))]
        # -100 // 3 is -34: of the rarest third 34 classes were measured, where 33 were meant
        values[COLLAPSE] = float(within[-CLASSES // 3 :].mean() / within[: CLASSES // 3].mean())
    return [Row(metric, method, value) for metric, value in values.items()]


STUDY = declared_study(
    __name__,
    measure,
    draw=dot_panels((FOLLOWS, METHODS), (TAIL, METHODS), (MEAN, METHODS)),
    seeds=range(24, 38),
    registered="90d4cb4a5822",
)
