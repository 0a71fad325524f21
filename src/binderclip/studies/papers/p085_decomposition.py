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
from binderclip.studies.harness.criteria import Criterion
from binderclip.studies.harness.panels import bare
from binderclip.studies.harness.quantities import value_of
from binderclip.studies.harness.study import FIRST_RULES, Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.harness.threads import one_thread
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.few_shot_sets import CLIP_ART
from binderclip.studies.protocols.head_removal import head_removal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from binderclip.data import Scenes

SIZE, SCENES = 128, 40
TEXTS, CHOSEN, DRAWS = 1000, 10, 5
SPEAKS = 0.01
"""Share of all heads' variance from which a head is counted."""
TRAIN, TEST, BIAS = 240, 240, 0.95
OURS, BEST_CAM, PLAIN = "decomposition", "Grad-CAM, the best of four", "patch tokens"


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
    rows = [Row("largest relative error of the sum", "all terms", float(error.max()))]
    order = torch.randperm(len(found), generator=generator)
    fit, held = order[: len(order) // 2], order[len(order) // 2 :]
    with one_thread():
        rows += _texts(found, fit, held, generator)
        rows += _ablation(found, labels, fit, held)
    rows += _foreground(seed)
    rows += _labels(seed)
    return rows + head_removal(bundled(), seed, least_share=SPEAKS, train=TRAIN, test=TEST, rate=BIAS, size=SIZE)


def _pool(generator: torch.Generator) -> tuple[list[str], Float[Tensor, "M E"]]:
    pool = description_pool()
    drawn = torch.randperm(len(pool), generator=generator)[:TEXTS].tolist()
    texts = [pool.texts[i] for i in drawn]
    return texts, bundled().encode_text(texts, normalize=True).detach()


def _texts(found: Decomposition, fit: Tensor, held: Tensor, generator: torch.Generator) -> list[Row]:
    """Variance of held-out outputs that ten texts explain, for every head that speaks."""
    texts, rows = _pool(generator)
    values = found.unit().values.double()
    variance = values.var(0, correction=0).sum(-1)
    share = variance / variance.sum()
    out = [Row("share of the variance of all heads", f"block {b}", float(share[b].sum())) for b in range(len(share))]
    for block, head in (share >= SPEAKS).nonzero().tolist():
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
            out.append(Row("explained variance, held out", method, value, name))
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
        rows.append(Row("zero-shot accuracy, ablated", name, float((said == truth).mean())))
    rows.append(Row("zero-shot accuracy, ablated", "chance", 1 / len(bank.names)))
    return rows


def _scenes(seed: int, objects: int) -> Scenes:
    from binderclip.data import vocabulary
    from binderclip.data.scenes.stream import scenes

    return scenes(
        seed, SCENES, SIZE, vocabulary=vocabulary("scenes15", split="val"), objects=objects, area=(0.06, 0.25),
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
    """One object a scene: its mask from each heat, cut at the mean of the map, and the ranking of pixels."""
    from sklearn.metrics import average_precision_score

    found = _scenes(seed, 1)
    masks = found.visible[:, 0]
    rows = []
    with one_thread():
        for name, heat in _heats(found).items():
            guess = heat > heat.mean(dim=(1, 2), keepdim=True)
            rows.append(Row("foreground IoU", name, _iou(guess, masks)))
            ranked = [average_precision_score(m.flatten(), h.flatten()) for m, h in zip(masks, heat, strict=True)]
            rows.append(Row("average precision of pixels", name, float(np.mean(ranked))))
    cams = [row.value for row in rows if row.metric == "foreground IoU" and row.method.startswith("Grad-CAM")]
    rows.append(Row("foreground IoU", BEST_CAM, max(cams)))
    rows.append(Row("foreground IoU", "the whole picture", _iou(torch.ones_like(masks), masks)))
    rows.append(Row("average precision of pixels", "chance", float(masks.float().mean())))
    return rows


def _iou(guess: Bool[Tensor, "N S S"], truth: Bool[Tensor, "N S S"]) -> float:
    return float(np.mean([float(mask_iou(g, t)) for g, t in zip(guess, truth, strict=True)]))


def _labels(seed: int) -> list[Row]:
    """Three objects a scene, 15 classes: share of the objects' pixels that get their own class."""
    found, rows = _scenes(seed + 100, 3), []
    names = [f"a {name}" for name in found.classes[1:]]
    for method in (OURS, "plain", "value"):
        segmenter = Segmenter(bundled(), method, size=SIZE)
        hits = [
            (segmenter(image, names).labels + 1 == truth)[truth > 0].float().mean()
            for image, truth in zip(found.images, found.semantic, strict=True)
        ]
        shown = {"plain": PLAIN, "value": "value path"}.get(method, method)
        rows.append(Row("object pixels labelled right, 15 classes", shown, float(np.mean(hits))))
    return [*rows, Row("object pixels labelled right, 15 classes", "chance", 1 / len(names))]


def _exact(table: Table) -> tuple[bool, str]:
    worst = float(table.values("largest relative error of the sum", "all terms").max())
    return worst < 1e-5, f"{worst:.1e}"


def _variance(table: Table, method: str) -> np.ndarray:
    """(heads, seeds)."""
    metric = "explained variance, held out"
    return np.stack([table.values(metric, method, head) for head in table.names("setting", metric)])


def _near_the_bound(table: Table) -> tuple[bool, str]:
    ours, bound = _variance(table, "TextSpan"), _variance(table, "principal components")
    return bool(ours.mean() >= 0.5 * bound.mean()), f"{ours.mean():.2f} of {bound.mean():.2f}"


def _direct_effects_are_late(table: Table) -> tuple[bool, str]:
    metric = "zero-shot accuracy, ablated"
    whole, both = table.mean(metric, "nothing"), table.mean(metric, "both")
    return both >= whole - 0.05, f"{whole:.2f} whole, {both:.2f} after"


def _head_removal(table: Table, metric: str) -> tuple[bool, str]:
    none, ours, random = (
        table.mean(metric, name) for name in ("nothing ablated", "head by TextSpan", "another head at random")
    )
    return ours > none and ours > random, f"{ours:.2f} against {none:.2f} (nothing) and {random:.2f} (random head)"


def draw(table: Table, figure: Figure) -> None:
    """Heat maps on scenes, explained variance of each head, and the measured masks."""
    parts: Any = figure.subfigures(1, 2, width_ratios=[1, 1.5])
    pictures, bars = parts
    found = _scenes(0, 1)
    chosen = found.select([0, 1, 2])
    heats = _heats(chosen)
    shown = {
        "scene": None,
        "decomposition": OURS,
        "Grad-CAM": "Grad-CAM less the mean class",
        "patch tokens": PLAIN,
    }
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
    metric = "explained variance, held out"
    heads = table.names("setting", metric)
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
    _bars(top, table, "foreground IoU", [OURS, "value path", PLAIN, BEST_CAM, "the whole picture"])
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


LAST_HEADS = tuple(f"head 3.{head}" for head in range(4))

STUDY = Study(
    paper="p085",
    claim="An image embedding is exactly the sum of the contributions of heads and MLPs; late heads carry it; a few "
    "texts span what a head writes; summed over heads, the contributions of patches segment better than Grad-CAM and "
    "patch tokens; averaging away a head whose texts are about the background makes a biased classifier fairer.",
    protocol=f"The bundled `small`. Held-out clip art (1,075 pictures) in random halves: {CHOSEN} of {TEXTS} "
    "descriptions chosen on one, variance explained on the other, for heads with 1 % of the variance or more; "
    "zero-shot accuracy in seven categories with components replaced by the other half's mean. "
    f"{SCENES} scenes of one held-out object with exact masks: heat of its class cut at the "
    "map's mean; as many of three objects, labelled among 15 classes. Bias: two classes, each on its ground in "
    f"{BIAS:.0%} of {TRAIN} training scenes, {TEST} balanced test scenes, other classes and grounds for every seed; of "
    "the heads with 1 % of the variance the one whose texts are most about colour, texture or place is averaged away "
    "before a logistic probe is fitted. Trial runs on other scenes showed which blocks speak, that five texts explain "
    "half of the bound, that with other draws the first two pairs leave room, and that a third (apple, heart) leaves "
    "none; it was replaced unseen. A first whole run tested the bias on other classes than it trained on; that was "
    "mended, and Grad-CAM of the centred class added, before this one. The last criterion, "
    "which fails, was added after it: the paper removes heads of a zero-shot classifier.",
    baseline="Ten random and the ten longest projected texts; Grad-CAM at the last block and the one before, of the "
    "class and of the class less the mean of all; patch tokens; no ablation, and the mean of all other heads ablated.",
    lower_bound="Chance in 7 and 15 classes; the whole picture as a mask.",
    upper_bound="Principal components for explained variance; the best head, known afterwards.",
    measure=measure,
    criteria=(
        Criterion.exact("the terms sum to the embedding to a relative 1e-5", _exact, why="an identity", essential=True),
        *(
            Criterion.paired(
                f"TextSpan explains more than {other}, mean over heads",
                value_of("explained variance, held out", "TextSpan", *LAST_HEADS),
                value_of("explained variance, held out", other, *LAST_HEADS),
                essential=True,
            )
            for other in ("random texts", "longest texts")
        ),
        *(
            Criterion.paired(
                f"foreground IoU above {other}",
                value_of("foreground IoU", OURS),
                value_of("foreground IoU", other),
                essential=True,
            )
            for other in (BEST_CAM, PLAIN)
        ),
        Criterion("ten texts explain at least half of what ten principal components do", _near_the_bound),
        Criterion(
            "without all MLPs and the heads before the last block, zero-shot loses 5 points at most",
            _direct_effects_are_late,
        ),
        Criterion(
            "the head chosen by its texts raises a probe's worst-group accuracy, more than others",
            lambda table: _head_removal(table, "worst group, probe"),
        ),
        Criterion("and that of the zero-shot classifier", lambda table: _head_removal(table, "worst group, zero-shot")),
    ),
    draw=draw,
    remeasure=FIRST_RULES,
    stand_in=(
        "`small`, a convolutional stem with four blocks of which the last attends uniformly, instead of ViT-B to H",
        "keywords and emoji names instead of 3,498 sentences by a language model",
        "composite scenes instead of ImageNet-segmentation and Waterbirds; roles by keyword instead of by reading",
    ),
)
