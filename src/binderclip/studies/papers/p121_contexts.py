"""Does inferring the context and conditioning on it help where the context is a shortcut?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.adapt import ContextPool, ZeroShotClassifier, attribute_product, scrambled
from binderclip.data import vocabulary
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.evaluate import worst_group_accuracy
from binderclip.fit import fit
from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.studies.protocols.training.last_blocks import BATCH, entering, leaving, trained_parameters

ANIMALS = ("cat", "dog", "chicken", "bear")
HOME = {"cat": "grass", "dog": "water", "chicken": "grass", "bear": "water"}
CONTEXTS = {"background": {"others": [""], "grass": ["on grass"], "water": ["on water"]}}
TEMPERATURES = (1.0, 3.0, 5.0)
STEPS, TEST = 80, 100
LR = 2e-4
TYPICAL = 0.95


def texture(kind: str, rng: np.random.Generator, count: int, side: int = 192) -> np.ndarray:
    """Pictures (count, side, side, 3) uint8 of green blades or blue waves."""
    found = []
    for _ in range(count):
        y, x = np.mgrid[:side, :side] / side
        noise = rng.normal(size=(side, side))
        if kind == "grass":
            blades = np.repeat(rng.normal(size=(side // 8, side)), 8, axis=0)
            shade, base, tone = 0.5 * noise + 0.8 * blades, np.array([70, 150, 50]), np.array([25, 35, 20])
        else:
            wave = np.sin(2 * np.pi * (rng.uniform(6, 12) * y + 0.6 * np.sin(2 * np.pi * (2 * x + rng.uniform()))))
            shade, base, tone = 0.2 * noise + wave, np.array([60, 120, 190]), np.array([20, 30, 35])
        found.append((base + tone * shade[..., None] + rng.normal(scale=8, size=3)).clip(0, 255).astype(np.uint8))
    return np.stack(found)


@lru_cache(maxsize=1)
def _drawings() -> Any:
    aliases = {"cat": ("cat", "kitten"), "dog": ("dog",), "chicken": ("chicken", "hen", "rooster"), "bear": ("bear",)}
    return {part: vocabulary(aliases, split=split) for part, split in (("train", "train"), ("test", "val+test+shift"))}


def _pictures(part: str, name: str, place: str, count: int, seed: int) -> Tensor:
    """Scenes of one animal on one ground."""
    rng = np.random.default_rng([seed, ANIMALS.index(name), place == "water", part == "test"])
    number = int(rng.integers(2**31))
    words = _drawings()[part].only([name])
    ground = texture(place, rng, 4)
    return scenes(number, count, 128, objects=1, area=(0.12, 0.25), vocabulary=words, background=ground).images


def _tuned(seed: int) -> Any:
    """A copy of `small` that knows the grounds and has learned the shortcut."""
    import copy

    from binderclip.models import load

    clip = copy.deepcopy(load("small"))
    images, captions = [], []
    for name in ANIMALS:
        for place in ("grass", "water"):
            count = round(60 * (TYPICAL if HOME[name] == place else 1 - TYPICAL))
            images.append(_pictures("train", name, place, count, seed))
            captions += [f"a {name} on {place}"] * count
    pictures = torch.cat(images)
    texts = sorted(set(captions))
    owner = torch.tensor([texts.index(c) for c in captions])
    order = torch.Generator().manual_seed(seed)

    clip.eval()
    held = entering(clip, pictures)
    with torch.no_grad():
        t = F.normalize(clip.encode_text(texts), dim=-1)

    def step(rows: Tensor) -> Tensor:
        # Captions are few, so each picture is told from every caption there is.
        return F.cross_entropy(clip.scale().detach() * leaving(clip, held, rows) @ t.T, owner[rows])

    batches = [torch.randint(len(owner), (BATCH,), generator=order) for _ in range(STEPS)]
    fit(step, trained_parameters(clip), batches, steps=STEPS, lr=LR, module=clip, warmup=10)
    return clip.eval()


@torch.no_grad()
def _test_set(clip: Any, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    features, names, places = [], [], []
    for name in ANIMALS:
        for place in ("grass", "water"):
            features.append(clip.encode_image(_pictures("test", name, place, TEST, seed)))
            names += [name] * TEST
            places += [place] * TEST
    return torch.cat(features).double().numpy(), np.array(names), np.array(places)


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    from binderclip.models import load

    rows = []
    for model, clip in (("fine-tuned", _tuned(seed)), ("as shipped", load("small"))):
        x, y, place = _test_set(clip, seed)
        rows += _rows(clip, x, y, place, model, seed)
    return rows


def _rows(clip: Any, x: np.ndarray, y: np.ndarray, place: np.ndarray, model: str, seed: int) -> list[Row]:
    built = attribute_product(clip, ANIMALS, CONTEXTS, main="a {}", noun="animal")
    random = attribute_product(clip, ANIMALS, scrambled(CONTEXTS, seed), main="a {}", noun="animal")
    heads = {
        "no context": ZeroShotClassifier(clip.text_bank(list(ANIMALS), "a {}.")),
        "average of contexts": ZeroShotClassifier(built.bank),
        **{f"joint, t = {t:g}": ZeroShotClassifier(built.bank, pool=ContextPool(t)) for t in TEMPERATURES},
        "pure, t = 1": ZeroShotClassifier(built.bank, pool=ContextPool(infer=built.free)),
        "joint, hard": ZeroShotClassifier(built.bank, pool=ContextPool(hard=True)),
        "random context": ZeroShotClassifier(random.bank, pool=ContextPool()),
    }
    rows = []
    for method, head in heads.items():
        found = worst_group_accuracy(y, head.fit().predict(x), place)
        rows += [Row("worst-group accuracy", method, found.worst, model), Row("accuracy", method, found.average, model)]
    unit = torch.from_numpy(x / np.linalg.norm(x, axis=1, keepdims=True))
    sims = torch.einsum("nd,ckd->nck", unit, built.bank.padded()[0].to(unit))
    for method, pool in (("joint", ContextPool()), ("pure", ContextPool(infer=built.free))):
        z = pool.posterior(sims, scale=float(built.bank.scale), features=unit)[:, 1:].argmax(-1).numpy()
        rows.append(Row("context found", method, float((np.array(["grass", "water"])[z] == place).mean()), model))
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Worst group and average by method, and whether contexts are found."""
    axes = figure.subplots(1, 3, width_ratios=(1.3, 1.3, 0.8))
    methods = table.names("method", "accuracy")
    for ax, model in zip(axes, ("fine-tuned", "as shipped"), strict=False):
        for number, metric in enumerate(("accuracy", "worst-group accuracy")):
            found = [table.values(metric, method, model) for method in methods]
            place = np.arange(len(methods)) + 0.38 * number - 0.19
            mean, spread = [v.mean() for v in found], [v.std() for v in found]
            ax.barh(place, mean, 0.36, xerr=spread, label=metric, color=f"C{number}", error_kw={"elinewidth": 1})
        ax.set_yticks(range(len(methods)), methods if model == "fine-tuned" else [])
        ax.invert_yaxis()
        ax.set(title=model.capitalize(), xlabel="accuracy", xlim=(0, 1))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    for number, model in enumerate(("fine-tuned", "as shipped")):
        values = [table.mean("context found", method, model) for method in ("joint", "pure")]
        axes[2].bar(np.arange(2) + 0.36 * number - 0.18, values, 0.34, label=model, color=f"C{number + 5}")
    axes[2].axhline(0.5, color="grey", linestyle=":")
    axes[2].set_xticks(range(2), ["joint", "pure"])
    axes[2].set(title="Ground inferred", ylabel="right", ylim=(0, 1.3))
    axes[2].legend(fontsize=8, loc="upper left")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), registered="84c29d983b84")
