"""Is the embedding a sum of heads that texts describe, and do its terms show where things are?"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.explain import (
    Decomposition,
    GradCAM,
    TextSpan,
    decompose_image_embedding,
    description_pool,
    early_heads,
    mean_ablate,
)
from binderclip.segment import DecompositionSegmenter, Segmenter, mask_iou
from binderclip.studies.harness import Figure, Row, Table, bare, declared_study, random_rows
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.biased_scenes import class_pairs
from binderclip.studies.protocols.data.few_shot_sets import CLIP_ART
from binderclip.studies.protocols.random_maps import random_maps
from binderclip.studies.protocols.tables.head_removal import head_removal
from binderclip.studies.protocols.tables.scene_attention import LOOKS, attention_rows

if TYPE_CHECKING:
    from binderclip.data import Scenes

SIZE, SCENES = 128, 40
TEXTS, CHOSEN, DRAWS = 1000, 10, 5
SPEAKS = 0.01
"""Share of all heads' variance from which a head is counted."""
TRAIN, TEST, BIAS = 120, 120, 0.95
PAIRS, EACH = 20, 2
"""Class pairs of all seeds together, and of one."""
OURS, BEST_CAM, PLAIN, RANDOM = "decomposition", "Grad-CAM, the best of four", "patch tokens", "a random map"
VARIANCE, IOU = "explained variance, held out", "foreground IoU"
ABLATED, ERROR = "zero-shot accuracy, ablated", "largest relative error of the sum"


@lru_cache(maxsize=1)
def _clip_art() -> tuple[Decomposition, np.ndarray, Float[Tensor, "N E"]]:
    """Held-out clip art taken apart once, the category of each picture, and what `encode_image` says."""
    from binderclip.data import load_data

    data = load_data("openclipart")
    data = data.subset(np.flatnonzero(np.isin(data.attributes["split"], ["val", "test"])))
    pictures = [sample.image for sample in data]
    labels = np.array([data.classes[i] if i >= 0 else "" for i in data.labels])
    with torch.no_grad():
        raw = bundled().encode_image(pictures)
    return decompose_image_embedding(bundled(), pictures), labels, raw


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    generator = torch.Generator().manual_seed(seed)
    found, labels, raw = _clip_art()
    error = (found.total() - raw).norm(dim=-1) / raw.norm(dim=-1)
    rows = [Row(ERROR, "all terms", float(error.max()))]
    order = torch.randperm(len(found), generator=generator)
    fit, held = order[: len(order) // 2], order[len(order) // 2 :]
    rows += _texts(found, fit, held, generator)
    rows += _ablation(found, labels, fit, held)
    return [*rows, *_foreground(seed), *_removal(seed), *attention_rows(seed)]


def _removal(seed: int) -> list[Row]:
    """Means over the class pairs of a seed."""
    each = [
        head_removal(
            bundled(), 100 * seed + number, class_pairs(PAIRS)[(EACH * seed + number) % PAIRS], least_share=SPEAKS,
            train=TRAIN, test=TEST, rate=BIAS, size=SIZE,
        )
        for number in range(EACH)
    ]  # fmt: skip
    return [
        Row(one[0].metric, one[0].method, float(np.mean([r.value for r in one]))) for one in zip(*each, strict=True)
    ]


def _pool(generator: torch.Generator) -> tuple[list[str], Float[Tensor, "M E"]]:
    pool = description_pool()
    drawn = torch.randperm(len(pool), generator=generator)[:TEXTS].tolist()
    texts = [pool.texts[i] for i in drawn]
    return texts, bundled().encode_text(texts, normalize=True).detach()


def _texts(found: Decomposition, fit: Tensor, held: Tensor, generator: torch.Generator) -> list[Row]:
    """Variance of held-out outputs that ten texts explain, for every head that speaks and those of the last block."""
    texts, rows = _pool(generator)
    values = found.unit().values.double()
    variance = values.var(0, correction=0).sum(-1)
    share = variance / variance.sum()
    out = [Row("share of the variance of all heads", f"block {b}", float(share[b].sum())) for b in range(len(share))]
    heard = share >= SPEAKS
    heard[-1] = True
    for block, head in heard.nonzero().tolist():
        outputs, rest = values[fit, block, head], values[held, block, head]
        span = TextSpan(CHOSEN)(outputs, rows, texts)
        axes = torch.linalg.svd(outputs, full_matrices=False)[2][: TextSpan().rank]
        projected = rows.double() @ axes.T @ axes
        longest = projected.norm(dim=1).topk(CHOSEN).indices
        random = [
            _explained(rest, projected[torch.randperm(len(texts), generator=generator)[:CHOSEN]]) for _ in range(DRAWS)
        ]
        principal = torch.linalg.eigh(torch.cov(outputs.T))[1].flip(1)[:, :CHOSEN].T
        name = f"head {block}.{head}"
        for method, value in (
            ("TextSpan", _explained(rest, span.basis)),
            ("random texts", float(np.mean(random))),
            ("longest texts", _explained(rest, projected[longest])),
            ("principal components", _explained(rest, principal)),
        ):
            out.append(Row(VARIANCE, method, value, name))
    return out


def _explained(outputs: Float[Tensor, "N E"], directions: Float[Tensor, "K E"]) -> float:
    """Share of the variance inside the span of some directions."""
    basis = torch.linalg.qr(directions.T)[0]
    centred = outputs - outputs.mean(0)
    return float((centred @ basis).square().sum() / centred.square().sum())


def _ablation(found: Decomposition, labels: np.ndarray, fit: Tensor, held: Tensor) -> list[Row]:
    """Zero-shot accuracy on clip-art categories after mean ablation, means from the other half."""
    bank = bundled().text_bank(CLIP_ART)
    keep = held[torch.from_numpy(np.isin(labels[held.numpy()], bank.names))]
    own, reference = found.select(keep), found.select(fit)
    truth = labels[keep.numpy()]
    late = [(found.depth - 1, h) for h in range(found.values.shape[2])]
    settings: dict[str, dict[str, Any]] = {
        "nothing": {},
        "all MLPs": {"mlps": True},
        "heads before the last block": {"heads": early_heads(found, 1)},
        "both": {"heads": early_heads(found, 1), "mlps": True},
        "heads of the last block": {"heads": late},
    }
    rows = []
    for name, setting in settings.items():
        features = mean_ablate(own, reference=reference, **setting)
        said = np.array(bank.names)[bundled().classify_features(features, bank).logits.argmax(-1).numpy()]
        rows.append(Row(ABLATED, name, float((said == truth).mean())))
    rows.append(Row(ABLATED, "chance", 1 / len(bank.names)))
    return rows


def _scenes(seed: int) -> Scenes:
    from binderclip.data import vocabulary
    from binderclip.data.synthetic_scenes.stream import scenes

    return scenes(
        seed, SCENES, SIZE, vocabulary=vocabulary("scenes15", split="val"), objects=1, area=(0.06, 0.25),
        background=["plain", "gradient", "noise", "texture"],
    )  # fmt: skip


def _heat(segmenter: Segmenter, found: Scenes) -> Float[Tensor, "N S S"]:
    """Heat of the one object's class minus the mean over all classes."""
    maps = []
    for image, names in zip(found.images, found.names, strict=True):
        scores = segmenter(image, [f"a {name}" for name in found.classes[1:]]).scores
        maps.append(scores[found.classes.index(names[0]) - 1] - scores.mean(dim=0))
    return torch.stack(maps)


def _heats(found: Scenes) -> dict[str, Float[Tensor, "N S S"]]:
    model = bundled()
    heats = {
        OURS: _heat(DecompositionSegmenter(model, size=SIZE), found),
        PLAIN: _heat(Segmenter(model, "plain", size=SIZE), found),
        "value path": _heat(Segmenter(model, "value", size=SIZE), found),
    }
    rows = model.encode_text([f"a {name}" for name in found.classes[1:]], normalize=True).detach()
    own = rows[[found.classes.index(names[0]) - 1 for names in found.names]]

    def against(reference: Tensor) -> Any:
        """The cosine with each image's text less the mean over `reference`."""
        return lambda features: (F.normalize(features, dim=-1) * (own - reference)).sum(-1)

    for place, layer in (("", None), (", block before", -2)):
        for less, reference in (("", torch.zeros(1)), (" less the mean class", rows.mean(0))):
            heats[f"Grad-CAM{less}{place}"] = GradCAM(layer=layer)(model, found.images, against(reference)).maps()
    return heats


def _foreground(seed: int) -> list[Row]:
    """One object a scene: its mask from each heat, cut at the mean of the map."""
    found = _scenes(seed)
    masks = found.visible[:, 0]
    heats = _heats(found)
    heats[RANDOM] = random_maps(SCENES, SIZE, seed, cells=8)
    rows = [Row(IOU, name, _iou(heat > heat.mean(dim=(1, 2), keepdim=True), masks)) for name, heat in heats.items()]
    rows.append(Row(IOU, BEST_CAM, max(row.value for row in rows if row.method.startswith("Grad-CAM"))))
    return [*rows, Row(IOU, "the whole picture", _iou(torch.ones_like(masks), masks))]


def _iou(guess: Bool[Tensor, "N S S"], truth: Bool[Tensor, "N S S"]) -> float:
    return float(np.mean([float(mask_iou(g, t)) for g, t in zip(guess, truth, strict=True)]))


def _exact(table: Table) -> tuple[bool, str]:
    worst = float(table.values(ERROR, "all terms").max())
    return worst < 1e-5, f"{worst:.1e}"


def _variance(table: Table, method: str) -> np.ndarray:
    """(heads, seeds)."""
    return np.stack([table.values(VARIANCE, method, head) for head in table.names("setting", VARIANCE)])


def null(seed: int) -> list[Row]:
    """Random figures for all."""
    return [*random_rows(STUDY.criteria, seed), Row(ERROR, "all terms", 1.0)]


def draw(table: Table, figure: Figure) -> None:
    """Heat maps on scenes, explained variance of each head, and the measured masks."""
    parts: Any = figure.subfigures(1, 2, width_ratios=[1, 1.5])
    pictures, bars = parts
    found = _scenes(0)
    chosen = found.select([0, 1, 2])
    heats = _heats(chosen)
    shown = {"scene": None, "decomposition": OURS, "Grad-CAM": "Grad-CAM less the mean class", "patch tokens": PLAIN}
    axes = pictures.subplots(3, 4)
    for row in range(3):
        for ax, (title, name) in zip(axes[row], shown.items(), strict=True):
            grey = chosen.images[row].mean(dim=0)
            ax.imshow(chosen.images[row].permute(1, 2, 0) if name is None else grey, cmap="gray", vmin=0, vmax=1)
            if name is not None:
                ax.imshow(heats[name][row], cmap="inferno", alpha=0.75)
                ax.contour(chosen.visible[row, 0], [0.5], colors="w", linewidths=0.8)
            bare(ax, frame=False)
            if row == 0:
                ax.set_title(title, fontsize=8)
        axes[row, 0].set_ylabel(chosen.names[row][0], fontsize=8)
    columns = bars.subfigures(1, 2, width_ratios=[1, 1.15])
    left = columns[0].subplots()
    heads = table.names("setting", VARIANCE)
    place = np.arange(len(heads))
    for number, method in enumerate(("TextSpan", "random texts", "longest texts", "principal components")):
        values = _variance(table, method)
        colour = "0.6" if method == "principal components" else f"C{number}"
        left.bar(place + 0.2 * (number - 1.5), values.mean(1), 0.18, yerr=values.std(1), color=colour, label=method)
    left.set_xticks(place, [head.removeprefix("head ") for head in heads])
    left.set(xlabel="block.head", ylim=(0, 0.8))
    left.set_title("variance ten texts explain", fontsize=9)
    left.legend(fontsize=7)
    left.tick_params(labelsize=7)
    top, bottom = columns[1].subplots(2, 1)
    _bars(top, table, IOU, [OURS, "value path", PLAIN, BEST_CAM, RANDOM, "the whole picture"])
    for number, kind in enumerate(("probe", "zero-shot")):
        names = table.names("method", f"worst group, {kind}")
        found_by = np.stack([table.values(f"worst group, {kind}", name) for name in names])
        rows = np.arange(len(names)) + 0.4 * (number - 0.5)
        bottom.barh(rows, found_by.mean(1), height=0.36, color=f"C{number}", alpha=0.8, label=kind)
        bottom.plot(found_by.ravel(), rows.repeat(found_by.shape[1]), "k.", markersize=3)
    bottom.set_yticks(range(len(names)), names)
    bottom.invert_yaxis()
    bottom.set_title("worst group", fontsize=9)
    bottom.set_xlim(0, 2)
    bottom.tick_params(labelsize=7)
    bottom.grid(axis="y", visible=False)
    bottom.legend(fontsize=7, loc="center right", handlelength=1)


def _bars(ax: Any, table: Table, metric: str, names: list[str]) -> None:
    values = [table.values(metric, name) for name in names]
    ax.barh(names, [v.mean() for v in values], xerr=[v.std() for v in values], height=0.65, color="C0", alpha=0.8)
    ax.invert_yaxis()
    ax.set_title(metric, fontsize=9)
    ax.tick_params(labelsize=7)
    ax.grid(axis="y", visible=False)


STUDY = declared_study(
    __name__, measure, preconditions=(LOOKS,), null=null, draw=draw, seeds=range(20, 30), registered="9ef640592cc9"
)
