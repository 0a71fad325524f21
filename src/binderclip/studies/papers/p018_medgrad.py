"""Do Grad-ECLIP and its entropy weighting show where a fine-tuned CLIP found its criterion?"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.evaluate import last_attention
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
from binderclip.studies.harness import Figure, Row, Table, bare, declared_study
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.random_maps import random_maps
from binderclip.studies.protocols.tables.scene_attention import DENSITY, LOOKS

SIZE, TRAIN, TEST, DELETED = 128, 300, 40, 20
STEPS, BATCH, LR = 150, 16, 1e-3
METHODS: dict[str, Any] = {"Grad-CAM": GradCAM(), "Grad-ECLIP": GradECLIP(), "MedGrad E-CLIP": MedGradECLIP()}
ATTENTION = "the class token's attention"
OTHERS: dict[str, Any] = {
    "Grad-ECLIP without similarity": GradECLIP(ksim=False),
    ATTENTION: AttentionRollout(residual=0.0, layers=1),
}
RANDOM = ("a random map", "another random map")
ORDER = "random order"
CRITERIA = {
    "nominal": "regular woven fabric",
    "local": "woven fabric with a hole or a spot",
    "global": "fabric with uneven colour and structure",
}
MARGIN, COSINE, SCENES, TEXTILE = "margin", "cosine", "scenes", "textile"
AREA = "the object's share of the picture"
INSIDE, RECALL, POINTS, DELETION = "inside share", "recall at the top 20 %", "pointing game", "deletion area"


@lru_cache(maxsize=1)
def _names() -> tuple[str, ...]:
    from binderclip.data import vocabulary

    return tuple(vocabulary("scenes15", split="train").names)


@lru_cache(maxsize=8)
def _scenes(seed: int, n: int, split: str) -> Any:
    from binderclip.data import vocabulary
    from binderclip.data.synthetic_scenes.stream import scenes

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
    """`small` with its last block fine-tuned on pictures and their criterion; its blocks before are frozen.

    Their tokens are computed once.
    """
    from binderclip.fit import fit

    tokens, labels, rows = _material(domain)
    clip = copy.deepcopy(bundled())
    tower, generator = clip.image_tower, torch.Generator().manual_seed(seed)
    trained = [*tower.blocks[-1].module.parameters(), *tower.final_norm.parameters()]
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
    found = _scenes(seed, TEST, "val")
    masks = found.visible[:, 0]
    own = torch.tensor([_names().index(names[0]) for names in found.names])
    rows_of = _material(SCENES)[2]
    targets = {MARGIN: _margin(rows_of, own), COSINE: [f"a {names[0]}" for names in found.names]}
    rows = [Row(INSIDE, AREA, float(masks.float().mean()), target) for target in targets]
    tuned, small = _tuned(SCENES, seed), bundled()
    for name, clip in (("as shipped", small), ("fine-tuned", tuned)):
        with torch.no_grad():
            scores = F.normalize(clip.encode_image(found.images), dim=-1) @ rows_of.T
        rows.append(Row("accuracy", name, float((scores.argmax(1) == own).float().mean()), SCENES))
    rows.append(Row(DENSITY, "class token", last_attention(tuned, found.images, found.visible, size=SIZE).density))
    generator = torch.Generator().manual_seed(seed)
    for target, what in targets.items():
        maps = {n: a.maps() for n, a in attribute_all(tuned, found.images, what, methods=METHODS | OTHERS).items()}
        for name in RANDOM:
            maps[name] = random_maps(TEST, SIZE, generator, cells=tuned.image_tower.grid[0])
        rows += [row for name, each in maps.items() for row in _localised(name, each, masks, target)]
        short = _margin(rows_of, own[:DELETED]) if target == MARGIN else what[:DELETED]
        chosen = {name: maps[name] for name in (*METHODS, *RANDOM)}
        rows += _deleted(tuned, found.images[:DELETED], short, chosen, f"{SCENES}, {target}")
    return rows


def _localised(name: str, maps: Tensor, masks: Tensor, setting: str) -> list[Row]:
    return [
        Row(INSIDE, name, float(energy_inside(maps, masks).mean()), setting),
        Row(RECALL, name, _recall(maps, masks), setting),
        Row(POINTS, name, float(pointing_game(maps, masks).float().mean()), setting),
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


def _deleted(clip: Any, images: Tensor, target: Any, maps: dict[str, Tensor], setting: str) -> list[Row]:
    """The score while the most salient pixels are taken away, as an area; lower is better."""
    rows = []
    for place, (name, each) in enumerate(maps.items()):
        draws = int(place == 0)
        area = deletion_auc(clip, images, target, maps=each[: len(images)], steps=6, fill="mean", draws=draws)
        if place == 0:
            rows.append(Row(DELETION, ORDER, area.random_mean, setting))
        rows.append(Row(DELETION, name, area.mean, setting))
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
    maps = {name: a.maps() for name, a in attribute_all(tuned, pixels, target, methods=METHODS).items()}
    rows += [Row("entropy of the map", name, _spread(each), TEXTILE) for name, each in maps.items()]
    return rows + _deleted(tuned, pixels, target, maps, f"{TEXTILE}, {MARGIN}")


def draw(table: Table, figure: Figure) -> None:
    """Scenes with their maps and truth, a fabric with its report, and the measured bars."""
    halves: Any = figure.subfigures(1, 2, width_ratios=[1.25, 1])
    found, clip = _scenes(STUDY.seeds[0], TEST, "val"), _tuned(SCENES, STUDY.seeds[0])
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
    report = concept_report(_tuned(TEXTILE, STUDY.seeds[0]), fabric, CRITERIA, top=3)
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
    for number, metric in enumerate((INSIDE, RECALL, POINTS)):
        values = [table.values(metric, name, MARGIN) for name in names]
        top.barh(
            places + 0.27 * (number - 1), [v.mean() for v in values], xerr=[v.std() for v in values], height=0.25,
            label=metric, color=f"C{number}", error_kw={"lw": 0.8},
        )  # fmt: skip
    top.axvline(table.mean(INSIDE, AREA, MARGIN), color="0.3", lw=1, ls=":")
    top.set_yticks(places, names)
    top.set_xlim(0, 0.7)
    top.legend(fontsize=7, loc="center right")
    top.set_title("scenes (dotted: the object's share)", fontsize=9)
    order = [ORDER, *METHODS]
    values = [table.values(DELETION, name, f"{SCENES}, {MARGIN}") for name in order]
    bottom.barh(order, [v.mean() for v in values], xerr=[v.std() for v in values], color="C4", height=0.6)
    bottom.set_title("deletion area (lower is better)", fontsize=9)
    for ax in (top, bottom):
        ax.invert_yaxis()
        ax.tick_params(labelsize=7)
        ax.grid(axis="y", visible=False)


STUDY = declared_study(
    __name__, measure, preconditions=(LOOKS,), draw=draw, seeds=range(20, 30), registered="62db6de0a1ed"
)
