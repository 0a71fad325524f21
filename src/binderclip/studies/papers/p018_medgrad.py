"""Do Grad-ECLIP and its entropy weighting show where a fine-tuned CLIP found its criterion?"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.explain import (
    AttentionRollout,
    GradCAM,
    GradECLIP,
    MedGradECLIP,
    attribute_all,
    concept_report,
    deletion_auc,
    energy_inside,
    pointing_game,
)
from binderclip.studies.harness.criteria import Criterion
from binderclip.studies.harness.panels import bare
from binderclip.studies.harness.quantities import value_of
from binderclip.studies.harness.study import FIRST_RULES, Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.protocols.bundled import bundled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE, TRAIN, TEST, DELETED = 128, 300, 40, 20
STEPS, BATCH, LR = 150, 16, 1e-3
METHODS: dict[str, Any] = {
    "Grad-CAM": GradCAM(),
    "Grad-ECLIP": GradECLIP(),
    "MedGrad E-CLIP": MedGradECLIP(),
}
OTHERS: dict[str, Any] = {
    "Grad-ECLIP without similarity": GradECLIP(ksim=False),
    "Grad-ECLIP, one head": GradECLIP(heads="single"),
    "MedGrad, mu 0.5": MedGradECLIP(mu=0.5),
    "rollout, last block": AttentionRollout(residual=0.0, layers=1),
    "rollout with gradients": AttentionRollout(gradient=True),
}
CRITERIA = {
    "nominal": "regular woven fabric",
    "local": "woven fabric with a hole or a spot",
    "global": "fabric with uneven colour and structure",
}
MARGIN, COSINE, SCENES, TEXTILE = "margin", "cosine", "scenes", "textile"
AREA = "the object's share of the picture"


@lru_cache(maxsize=1)
def _names() -> tuple[str, ...]:
    from binderclip.data import vocabulary

    return tuple(vocabulary("scenes15", split="train").names)


@lru_cache(maxsize=8)
def _scenes(seed: int, n: int, split: str) -> Any:
    from binderclip.data import vocabulary
    from binderclip.data.scenes.stream import scenes

    return scenes(
        seed, n, SIZE, vocabulary=vocabulary("scenes15", split=split), objects=1, area=(0.06, 0.25),
        background=["plain", "gradient", "noise", "texture"],
    )  # fmt: skip


@lru_cache(maxsize=2)
def _textile(split: str, count: int) -> tuple[list[Any], Tensor]:
    """`count` pictures of each kind and their kinds."""
    from binderclip.data import load_data

    data = load_data("textile", split=split)
    kinds = np.array([str(kind) for kind in data.attributes["kind"]])
    picked = [np.random.default_rng(0).permutation(np.flatnonzero(kinds == kind))[:count] for kind in CRITERIA]
    labels = np.concatenate([np.full(len(rows), place) for place, rows in enumerate(picked)])
    return [data[int(row)].image for row in np.concatenate(picked)], torch.as_tensor(labels)


@lru_cache(maxsize=2)
def _material(domain: str) -> tuple[Any, Tensor, Tensor]:
    """Tokens that enter the last block of `small` for the training pictures, their labels, and the texts' rows."""
    from binderclip.data import FeatureCache

    clip = bundled()
    if domain == SCENES:
        found = _scenes(100, TRAIN, "train")
        pictures: Any = found.images
        labels = torch.tensor([_names().index(names[0]) for names in found.names])
        texts = [f"a {name}" for name in _names()]
    else:
        images, labels = _textile("train", TRAIN // 3)
        pictures = torch.stack([torch.from_numpy(clip.preprocess.pixels(image).copy()) for image in images])
        pictures = pictures.permute(0, 3, 1, 2).float() / 255
        texts = list(CRITERIA.values())
    tower = clip.image_tower
    with torch.no_grad():
        first = tower.run(tower.embed(clip.preprocess(pictures[:1])), stop=-1)
        cache = FeatureCache(clip.fingerprint, f"study p018, tokens before the last block, {domain} {SIZE}")

        def entering(rows: list[int]) -> Tensor:
            parts = [tower.run(tower.embed(clip.preprocess(part)), stop=-1).x for part in pictures[rows].split(50)]
            return torch.cat(parts)

        tokens = cache.fetch([f"{row:06d}" for row in range(len(pictures))], entering)
        rows = F.normalize(clip.encode_text(texts), dim=-1)
    return first.with_x(tokens), labels, rows


@lru_cache(maxsize=6)
def _tuned(domain: str, seed: int) -> Any:
    """`small` with its last block fine-tuned on pictures and their criterion, its attention set free.

    The block's queries and keys are zero as shipped, so that it attends uniformly and no gradient reaches the keys;
    they begin at random here. The blocks before are frozen, their tokens computed once.
    """
    from binderclip.fit import fit

    tokens, labels, rows = _material(domain)
    clip = copy.deepcopy(bundled())
    tower, generator = clip.image_tower, torch.Generator().manual_seed(seed)
    block = tower.blocks[-1]
    with torch.no_grad():
        for key in "qk":
            part = block.projections()[key]
            getattr(part.owner, part.name)[part.start : part.stop].normal_(0, 0.06, generator=generator)
    trained = [*block.module.parameters(), *tower.final_norm.parameters()]
    clip.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    scale = clip.scale().detach()

    def batches() -> Iterator[Tensor]:
        while True:
            yield torch.randint(len(labels), (BATCH,), generator=generator)

    def loss(picked: Tensor) -> Tensor:
        last = tower.run(tokens.with_x(tokens.x[picked]), start=tower.depth - 1)
        return F.cross_entropy(scale * F.normalize(tower.project(tower.pool(last)), dim=-1) @ rows.T, labels[picked])

    fit(loss, trained, batches(), steps=STEPS, lr=LR)
    return clip.requires_grad_(True).eval()


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    return [*_on_scenes(seed), *_on_textile(seed)]


def _margin(rows: Float[Tensor, "C E"], own: Tensor) -> Any:
    """The target: cosine with the own criterion minus that with the best other one."""

    def score(features: Tensor) -> Tensor:
        scores = F.normalize(features, dim=-1) @ rows.T
        return scores.gather(1, own[:, None])[:, 0] - scores.scatter(1, own[:, None], -2.0).amax(dim=1)

    return score


def _on_scenes(seed: int) -> list[Row]:
    # seeds from 20 on: the trials looked at others
    found = _scenes(20 + seed, TEST, "val")
    masks = found.visible[:, 0]
    own = torch.tensor([_names().index(names[0]) for names in found.names])
    rows_of = _material(SCENES)[2]
    targets = {MARGIN: _margin(rows_of, own), COSINE: [f"a {names[0]}" for names in found.names]}
    rows = [Row("inside share", AREA, float(masks.float().mean()), target) for target in targets]
    tuned, small = _tuned(SCENES, seed), bundled()
    for name, clip in (("as shipped", small), ("fine-tuned", tuned)):
        with torch.no_grad():
            scores = F.normalize(clip.encode_image(found.images), dim=-1) @ rows_of.T
        rows.append(Row("accuracy", name, float((scores.argmax(1) == own).float().mean()), SCENES))
    blocks = {
        f"{name}, block {layer}": method(layer=layer)
        for layer in (-1, -2)
        for name, method in (("Grad-CAM", GradCAM), ("Grad-ECLIP", GradECLIP))
    }
    for target, what in targets.items():
        drawn = attribute_all(tuned, found.images, what, methods=METHODS | OTHERS)
        rows += [row for name, a in drawn.items() for row in _localised(name, a.maps(), masks, target)]
        shipped = attribute_all(small, found.images, what, methods=blocks)
        rows += [
            row for name, a in shipped.items() for row in _localised(name, a.maps(), masks, f"as shipped, {target}")
        ]
        short = _margin(rows_of, own[:DELETED]) if target == MARGIN else what[:DELETED]
        rows += _deleted(tuned, found.images[:DELETED], short, drawn, f"{SCENES}, {target}")
    return rows


def _localised(name: str, maps: Tensor, masks: Tensor, setting: str) -> list[Row]:
    return [
        Row("inside share", name, float(energy_inside(maps, masks).mean()), setting),
        Row("recall at the top 20 %", name, _recall(maps, masks), setting),
        Row("pointing game", name, float(pointing_game(maps, masks).float().mean()), setting),
        Row("entropy of the map", name, _spread(maps), setting),
    ]


def _recall(maps: Float[Tensor, "B H W"], masks: Tensor) -> float:
    """Share of the object's pixels among the highest fifth of all."""
    top = maps.flatten(1).topk(round(0.2 * maps[0].numel()), dim=1).indices
    inside = masks.flatten(1).float()
    return float((inside.gather(1, top).sum(1) / inside.sum(1)).mean())


def _spread(maps: Float[Tensor, "B H W"]) -> float:
    """Entropy of the map as a distribution over pixels, 1 where it is flat."""
    share = maps.clamp(min=0).flatten(1)
    share = share / share.sum(1, keepdim=True).clamp(min=1e-12)
    return float((torch.special.entr(share).sum(1) / np.log(share.shape[1])).mean())


def _deleted(clip: Any, images: Tensor, target: Any, drawn: dict[str, Any], setting: str) -> list[Row]:
    """The score while the most salient pixels are taken away, as an area; lower is better."""
    rows = []
    for place, name in enumerate(METHODS):
        maps, draws = drawn[name].maps()[: len(images)], int(place == 0)
        area = deletion_auc(clip, images, target, maps=maps, steps=6, fill="mean", draws=draws)
        if place == 0:
            rows.append(Row("deletion area", "random order", area.random_mean, setting))
        rows.append(Row("deletion area", name, area.mean, setting))
    return rows


def _on_textile(seed: int) -> list[Row]:
    images, labels = _textile("val", TEST // 3)
    rows_of, rows = _material(TEXTILE)[2], []
    tuned = _tuned(TEXTILE, seed)
    with torch.no_grad():
        for name, clip in (("as shipped", bundled()), ("fine-tuned", tuned)):
            scores = clip.encode_image(images, normalize=True) @ rows_of.T
            rows.append(Row("accuracy", name, float((scores.argmax(1) == labels).float().mean()), TEXTILE))
    faulty = torch.nonzero(labels > 0)[:, 0][:: max(1, int((labels > 0).sum()) // DELETED)][:DELETED]
    pixels = torch.stack([torch.from_numpy(tuned.preprocess.pixels(images[k]).copy()) for k in faulty.tolist()])
    pixels = pixels.permute(0, 3, 1, 2).float() / 255
    target = _margin(rows_of, labels[faulty])
    drawn = attribute_all(tuned, pixels, target, methods=METHODS)
    rows += [Row("entropy of the map", name, _spread(a.maps()), TEXTILE) for name, a in drawn.items()]
    return rows + _deleted(tuned, pixels, target, drawn, f"{TEXTILE}, {MARGIN}")


def _better_than_chance(table: Table) -> tuple[bool, str]:
    ours, area = (table.mean("inside share", name, MARGIN) for name in ("Grad-ECLIP", AREA))
    return ours > 1.2 * area, f"{ours:.3f} against {area:.3f}"


def _with_the_cosine(table: Table) -> tuple[bool, str]:
    cam, ours, area = (table.mean("inside share", name, COSINE) for name in ("Grad-CAM", "Grad-ECLIP", AREA))
    return ours > area, f"Grad-ECLIP {ours:.3f}, Grad-CAM {cam:.3f}, the object {area:.3f}"


def _learns(table: Table) -> tuple[bool, str]:
    after, before = (table.mean("accuracy", name, TEXTILE) for name in ("fine-tuned", "as shipped"))
    return after > before, f"{after:.2f}, as shipped {before:.2f}"


def draw(table: Table, figure: Figure) -> None:
    """Scenes with their maps and truth, a fabric with its report, and the measured bars."""
    halves: Any = figure.subfigures(1, 2, width_ratios=[1.25, 1])
    found, clip = _scenes(20, TEST, "val"), _tuned(SCENES, 0)
    axes = halves[0].subplots(3, 5)
    picked = (0, 3)
    own = torch.tensor([_names().index(found.names[k][0]) for k in picked])
    maps = attribute_all(clip, found.images[list(picked)], _margin(_material(SCENES)[2], own), methods=METHODS)
    for row, index in enumerate(picked):
        picture = (found.images[index].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        truth = np.where(found.visible[index, 0].numpy()[..., None], picture, 255)
        cells = [picture, *(a.overlay(picture, row) for a in maps.values()), truth]
        for ax, cell in zip(axes[row], cells, strict=True):
            ax.imshow(cell)
        axes[row, 0].set_ylabel(found.names[index][0], fontsize=8)
    images, labels = _textile("val", TEST // 3)
    fabric = images[int(torch.nonzero(labels == 1)[0])]
    report = concept_report(_tuned(TEXTILE, 0), fabric, CRITERIA, top=3)
    axes[2, 0].imshow(fabric)
    axes[2, 0].set_ylabel("report, local\ndefect", fontsize=8)
    for ax, (overlay, caption) in zip(axes[2, 1:], report.pictures(), strict=False):
        ax.imshow(overlay)
        ax.set_xlabel(caption, fontsize=7)
    axes[2, 4].set_visible(False)
    for ax, title in zip(axes[0], ("scene", *METHODS, "truth"), strict=True):
        ax.set_title(title, fontsize=8)
    for ax in axes.flat:
        bare(ax, frame=False)
    top, bottom = halves[1].subplots(2, 1, height_ratios=[2.2, 1])
    names = [*METHODS, *OTHERS]
    places = np.arange(len(names))
    for number, metric in enumerate(("inside share", "recall at the top 20 %", "pointing game")):
        values = [table.values(metric, name, MARGIN) for name in names]
        top.barh(
            places + 0.27 * (number - 1), [v.mean() for v in values], xerr=[v.std() for v in values], height=0.25,
            label=metric, color=f"C{number}", error_kw={"lw": 0.8},
        )  # fmt: skip
    top.axvline(table.mean("inside share", AREA, MARGIN), color="0.3", lw=1, ls=":")
    top.set_yticks(places, names)
    top.set_xlim(0, 0.7)
    top.legend(fontsize=7, loc="center right")
    top.set_title("scenes (dotted: the object's share)", fontsize=9)
    order = ["random order", *METHODS]
    values = [table.values("deletion area", name, f"{SCENES}, {MARGIN}") for name in order]
    bottom.barh(order, [v.mean() for v in values], xerr=[v.std() for v in values], color="C4", height=0.6)
    bottom.set_title("deletion area (lower is better)", fontsize=9)
    for ax in (top, bottom):
        ax.invert_yaxis()
        ax.tick_params(labelsize=7)
        ax.grid(axis="y", visible=False)


STUDY = Study(
    paper="p018",
    claim="Gradients at the class token's attention output, weighted by query-key similarity, show the evidence better "
    "than Grad-CAM; weighting by local entropy covers more of the true region without losing its place.",
    protocol=f"The bundled `small` attends uniformly in its last block, so that block is set free (random queries and "
    f"keys) and fine-tuned with the final norm for {STEPS} steps of {BATCH} pictures and their criterion (AdamW {LR}), "
    f"once on {TRAIN} scenes of one clip-art object (15 classes), once on {TRAIN} textile pictures (three criteria), a "
    f"seed each. Tested on {TEST} scenes with exact masks (held-out drawings) and on held-out fabric; deletion of "
    f"{DELETED} pictures in six steps, filled with the mean. The rule looks at the margin of the own criterion over "
    "the best other one: trials on other scenes had shown that with the published target, the cosine alone, all of "
    "these methods, Grad-CAM too, point away from the object in this model (likely because the object fills its "
    "embedding already, and normalisation takes that direction out of the gradient); rows for the cosine and for "
    "`small` as shipped are beside it. Four trial runs chose how to train; the methods' settings are the published "
    "ones.",
    baseline="Grad-CAM on the tokens that enter the last block.",
    lower_bound="The object's share of the picture; pixels deleted in random order.",
    upper_bound="",
    measure=measure,
    criteria=(
        Criterion.paired(
            "Grad-ECLIP has a larger share inside the object than Grad-CAM",
            value_of("inside share", "Grad-ECLIP", MARGIN),
            value_of("inside share", "Grad-CAM", MARGIN),
            essential=True,
        ),
        Criterion.paired(
            "Grad-ECLIP has a smaller deletion area than Grad-CAM",
            value_of("deletion area", "Grad-ECLIP", f"{SCENES}, {MARGIN}"),
            value_of("deletion area", "Grad-CAM", f"{SCENES}, {MARGIN}"),
            lower=True,
            essential=True,
        ),
        Criterion.paired(
            "MedGrad covers more of the object with the top 20 % than Grad-ECLIP",
            value_of("recall at the top 20 %", "MedGrad E-CLIP", MARGIN),
            value_of("recall at the top 20 %", "Grad-ECLIP", MARGIN),
            essential=True,
        ),
        Criterion.paired(
            "MedGrad points at the object at most 2 points less often",
            value_of("pointing game", "MedGrad E-CLIP", MARGIN),
            value_of("pointing game", "Grad-ECLIP", MARGIN),
            margin=-0.02,
            essential=True,
        ),
        Criterion("Grad-ECLIP's share inside is a fifth above the object's share", _better_than_chance),
        Criterion("with the published target, the cosine, its share inside is above the object's", _with_the_cosine),
        Criterion("fine-tuning classifies fabric better than the shipped model", _learns),
    ),
    draw=draw,
    remeasure=FIRST_RULES,
    stand_in=(
        "textile inspection pictures and composite scenes instead of PH2 and Derm7pt; nothing medical is shown",
        "bundled `small`, its last block fine-tuned, instead of CLIP ViT-B/16",
        "the margin over other criteria as the target; the cosine beside it",
        "our reading of the entropy weighting: the authors' code of it is not readable",
    ),
)
