"""Do weights over the descriptors that each image finds for itself beat equal weights?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.adapt import AutoPool, MaxPool, MeanPool, ZeroShotClassifier
from binderclip.studies.harness import Figure, Row, Table, declared_study, lines
from binderclip.studies.protocols.data.few_shot_sets import few_shot_set

POOLS: dict[str, Any] = {
    "mean": MeanPool(),
    "max": MaxPool(),
    "AutoCLIP": AutoPool(),
    "softmax of mean similarity": AutoPool(gradient="pre"),
}
NOISE = (2.5, 5.0, 10.0)
MIXTURE = (0.0, 0.25, 0.5, 0.75, 1.0)
SETS = ("OpenMoji", "clip art")
KINDS = ("8 templates", "30 random-word templates")
TEMPLATES = (
    "{}", "a {}.", "a picture of a {}.", "a drawing of a {}.", "clip art of a {}.", "an icon of a {}.",
    "a cartoon of a {}.", "the {}, simple and colourful.",
)  # fmt: skip


def _simulated(noise: float, mixture: float, seed: int, repeats: int = 12) -> list[tuple[Tensor, Tensor]]:
    """Cosines and classes of the authors' simulation: 5 classes, 10 templates, 128 dimensions, 40 images a class."""
    found = []
    for repeat in range(repeats):
        rng = torch.Generator().manual_seed(1000 * seed + repeat)
        classes, templates = torch.randn(5, 1, 128, generator=rng), torch.randn(1, 10, 128, generator=rng)
        own = torch.randn(5, 10, 128, generator=rng)
        raw = (1 - mixture) * (classes + templates) + mixture * own
        descriptors = F.normalize(raw, dim=-1)
        y = torch.arange(5).repeat_interleave(40)
        shown = raw[y, torch.randint(10, (200,), generator=rng)]
        images = F.normalize(shown + noise * torch.randn(200, 128, generator=rng), dim=-1)
        found.append((torch.einsum("nd,ckd->nck", images, descriptors), y))
    return found


def _simulation(seed: int) -> list[Row]:
    rows = []
    for noise in NOISE:
        for mixture in MIXTURE:
            draws = _simulated(noise, mixture, seed)
            for name, pool in POOLS.items():
                hits = [float((pool(sims).argmax(-1) == y).double().mean()) for sims, y in draws]
                setting = f"noise {noise:g}, entanglement {mixture:g}"
                rows.append(Row("accuracy, simulated", name, float(np.mean(hits)), setting))
    return rows


@lru_cache(maxsize=1)
def _words() -> list[str]:
    """Words of the clip-art captions, three letters or more."""
    from binderclip.data import load_data

    captions = load_data("openclipart", split="train").captions
    found = {word for text in captions for word in text.lower().split() if word.isalpha() and len(word) >= 3}
    return sorted(found)


def _random_templates(seed: int) -> list[str]:
    """Thirty templates with two random words each, as WaffleCLIP makes them; short, to fit the context of `small`."""
    rng = np.random.default_rng([seed, 5])
    return [f"{{}}, {first}, {second}." for first, second in rng.choice(_words(), (30, 2))]


def _pictures(seed: int) -> list[Row]:
    from binderclip.models import load

    clip = load("small")
    rows = []
    for name in SETS:
        data = few_shot_set(name)
        texts = {label: data.bank.texts[i] for i, label in enumerate(data.bank.names)}
        for kind, templates in zip(KINDS, (list(TEMPLATES), _random_templates(seed)), strict=True):
            bank = clip.text_bank({label: [t.replace("{}", text) for t in templates] for label, text in texts.items()})
            # The pictures are fixed: another half of them for each draw gives the deterministic set a spread, too.
            half = np.random.default_rng([seed, 7]).permutation(len(data.labels))[: len(data.labels) // 2]
            for method, pool in POOLS.items():
                value = ZeroShotClassifier(bank, pool=pool).fit().score(data.features[half], data.labels[half])
                rows.append(Row("accuracy, pictures", method, value, f"{name}, {kind}"))
            # `mean-unit` is the usual classifier; the paper's baseline is the mean of cosines.
            usual = ZeroShotClassifier(bank).score(data.features[half], data.labels[half])
            rows.append(Row("accuracy, pictures", "mean-unit prototypes", usual, f"{name}, {kind}"))
    return rows


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    return _simulation(seed) + _pictures(seed)


def draw(table: Table, figure: Figure) -> None:
    """The simulation at two noises, and the gain on pictures."""
    axes = figure.subplots(1, 3)
    for ax, noise in zip(axes, NOISE[:2], strict=False):
        settings = [f"noise {noise:g}, entanglement {mixture:g}" for mixture in MIXTURE]
        lines(ax, table, "accuracy, simulated", settings, list(MIXTURE), list(POOLS)[:3])
        ax.set(title=f"Simulation, noise {noise:g}", xlabel="share of noise in a descriptor", ylabel="accuracy")
    axes[0].legend()
    settings = table.names("setting", "accuracy, pictures")
    base = np.stack([table.values("accuracy, pictures", "mean", s) for s in settings])
    for number, method in enumerate(("max", "AutoCLIP")):
        gain = 100 * (np.stack([table.values("accuracy, pictures", method, s) for s in settings]) - base)
        place = np.arange(len(settings)) + 0.36 * number - 0.18
        color = f"C{number + 1}"
        axes[2].barh(place, gain.mean(1), 0.34, xerr=gain.std(1), label=method, color=color, error_kw={"elinewidth": 1})
    axes[2].axvline(0, color="black", linewidth=0.8)
    axes[2].set_yticks(
        range(len(settings)),
        [
            s.replace(", 8 templates", "\n8 templates").replace(", 30 random-word templates", "\nrandom words")
            for s in settings
        ],
    )
    axes[2].invert_yaxis()
    axes[2].set(title="Pictures", xlabel="points over the mean of cosines")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 20), registered="9bbf83e74afd")
