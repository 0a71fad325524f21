"""Does a support picture say more where its background is kept beside the masked target?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from binderclip.segment import (
    CorrelationBackbone,
    FewShotEpisodes,
    FewShotSegmenter,
    PriorMask,
    PrototypeMatch,
    train_few_shot,
)
from binderclip.segment.few_shot.segmenter import full_logits
from binderclip.segment.few_shot.training import Episode
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots, pictures
from binderclip.studies.protocols.data.few_shot_scenes import seen_scenes, unseen_scenes

SIDE, TRAIN, TEST, EPISODES = 64, 160, 50, 60
TRAINING: dict[str, Any] = {"steps": 500, "batch": 8, "lr": 5e-3}
FEATURES, MASKED, MSI = "feature masking", "input masking", "MSI"
SUPPORT = {FEATURES: "features", MASKED: "masked", MSI: "msi"}
PRIOR, PROTOTYPE, WHOLE = "prior mask, untrained", "two prototypes, untrained", "the whole picture"
METHODS = (WHOLE, PRIOR, PROTOTYPE, *SUPPORT)
MIOU, SMALL, BOTH, LATE = "mIoU", "mIoU, smallest third", "mean IoU of target and rest", "loss of steps 26 to 50"


@lru_cache(maxsize=1)
def backbone() -> CorrelationBackbone:
    """`lite0`, frozen."""
    from binderclip.models import load_vision

    return CorrelationBackbone(load_vision("lite0"), SIDE)


@lru_cache(maxsize=1)
def _test(seed: int) -> tuple[FewShotEpisodes, list[Episode]]:
    """Scenes of unseen classes and the episodes drawn from them."""
    made = unseen_scenes(68_000 + seed, TEST, SIDE)
    pool = FewShotEpisodes(backbone(), made.images, made.semantic)
    generator = torch.Generator().manual_seed(seed)
    return pool, [pool.draw(generator) for _ in range(EPISODES)]


@lru_cache(maxsize=1)
def _trained(seed: int) -> dict[str, tuple[FewShotSegmenter, list[float]]]:
    """A segmenter for each use of the support picture, of the same weights at the start and the same episodes."""
    made = seen_scenes(6_800 + seed, TRAIN, SIDE)
    pool = FewShotEpisodes(backbone(), made.images, made.semantic)
    found = {}
    for name, support in SUPPORT.items():
        trained = train_few_shot(pool, support=support, seed=seed, **TRAINING)  # type: ignore[arg-type]
        found[name] = (trained.segmenter, trained.losses.tolist())
    return found


@torch.no_grad()
def predicted(
    matcher: Callable[..., Tensor], pool: FewShotEpisodes, episodes: Sequence[Episode]
) -> Bool[Tensor, "N H W"]:
    """The mask of each episode."""
    parts = []
    for start in range(0, len(episodes), 10):
        query, support, target = pool.batch(episodes[start : start + 10])
        parts.append(full_logits(matcher(query, support), tuple(target.shape[1:])).argmax(1) == 1)  # type: ignore[arg-type]
    return torch.cat(parts)


def class_iou(masks: Bool[Tensor, "N H W"], targets: Bool[Tensor, "N H W"], labels: Sequence[int]) -> float:
    """Intersections and unions summed over the episodes of a class, and the mean over classes."""
    overlap, union = (masks & targets).sum((1, 2)).double(), (masks | targets).sum((1, 2)).double()
    names = torch.tensor(labels)
    return float(np.mean([float(overlap[names == n].sum() / union[names == n].sum()) for n in names.unique()]))


def _scored(
    name: str,
    masks: Bool[Tensor, "N H W"],
    targets: Bool[Tensor, "N H W"],
    labels: Sequence[int],
    small: Int[Tensor, "_"],
) -> list[Row]:
    rest = class_iou(~masks, ~targets, [0] * len(labels))
    return [
        Row(MIOU, name, class_iou(masks, targets, labels)),
        Row(SMALL, name, class_iou(masks[small], targets[small], [labels[row] for row in small.tolist()])),
        Row(BOTH, name, (class_iou(masks, targets, [0] * len(labels)) + rest) / 2),
    ]


def _asked(seed: int) -> tuple[Bool[Tensor, "N H W"], list[int], Int[Tensor, "_"]]:
    """Targets and classes of the test episodes, and the third with the smallest support masks."""
    pool, episodes = _test(seed)
    targets = torch.stack([pool.target(each) == 1 for each in episodes])
    size = torch.tensor([int((pool.labels[each.support] == each.label).sum()) for each in episodes])
    return targets, [each.label for each in episodes], size.argsort()[: len(episodes) // 3]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    pool, episodes = _test(seed)
    asked = _asked(seed)
    rows = _scored(WHOLE, torch.ones_like(asked[0]), *asked)
    rules: dict[str, Any] = {PRIOR: PriorMask(), PROTOTYPE: PrototypeMatch()}
    for name, rule in rules.items():
        rows += _scored(name, predicted(rule, pool, episodes), *asked)
    for name, (segmenter, losses) in _trained(seed).items():
        rows += _scored(name, predicted(segmenter.matcher, pool, episodes), *asked)
        rows.append(Row(LATE, name, float(np.mean(losses[25:50]))))
    return rows


def null(seed: int) -> list[Row]:
    """Masks drawn anew for every episode, smooth and of a fifth of the picture, under every name."""
    asked = _asked(seed)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for name in METHODS:
        noise = torch.randn(len(asked[0]), 1, 6, 6, generator=generator)
        maps = torch.nn.functional.interpolate(noise, asked[0].shape[1:], mode="bicubic")[:, 0]
        masks = maps > maps.flatten(1).quantile(0.8, dim=1)[:, None, None]
        rows += [*_scored(name, masks, *asked), Row(LATE, name, float(torch.rand((), generator=generator)))]
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Test episodes with the masks of three methods, and the figures of all."""
    seed = STUDY.seeds[0]
    pool, episodes = _test(seed)
    shown = episodes[:3]
    masks = {name: predicted(own[0].matcher, pool, shown) for name, own in _trained(seed).items()}
    titles = ("example", "picture", "truth", *masks)
    halves: Any = figure.subfigures(1, 2, width_ratios=[1.7, 1])
    images = unseen_scenes(68_000 + seed, TEST, SIDE).images
    for row, axes in enumerate(halves[0].subplots(len(shown), len(titles))):
        one = shown[row]
        example = images[one.support] * (0.35 + 0.65 * (pool.labels[one.support] == one.label))
        image = images[one.query]
        drawn = [pool.target(one) == 1, *(each[row] for each in masks.values())]
        panels = [example, image, *(image * (0.25 + 0.75 * mask) for mask in drawn)]
        pictures(axes, panels, [name.replace(" ", "\n") for name in titles] if row == 0 else ())
    top, bottom = halves[1].subplots(2, 1)
    dots(top, table, MIOU, METHODS)
    top.set_title(f"{MIOU} on unseen classes", fontsize=9)
    top.tick_params(axis="x", labelrotation=25, labelsize=7)
    for name, (_, losses) in _trained(seed).items():
        bottom.plot(np.convolve(losses, np.ones(10) / 10, "valid"), label=name)
    bottom.set_title("loss, mean of ten steps", fontsize=9)
    bottom.legend(fontsize=7)


def train_bundled(folder: Path, steps: int = 500) -> Path:
    """Train the network that is shipped as `small-few-shot`, and write it; about two minutes of one core."""
    from binderclip.segment import save_few_shot

    made = seen_scenes(68, 160, SIDE)
    pool = FewShotEpisodes(backbone(), made.images, made.semantic)
    trained = train_few_shot(pool, steps=steps, batch=8, lr=5e-3, schedule="cosine")
    held = unseen_scenes(69, 60, SIDE)
    test = FewShotEpisodes(backbone(), held.images, held.semantic)
    generator = torch.Generator().manual_seed(0)
    episodes = [test.draw(generator) for _ in range(100)]
    targets = torch.stack([test.target(each) == 1 for each in episodes])
    matchers: dict[str, Any] = {"mIoU": trained.segmenter.matcher, PRIOR: PriorMask(), PROTOTYPE: PrototypeMatch()}
    scores = {
        name: round(class_iou(predicted(matcher, test, episodes), targets, [each.label for each in episodes]), 3)
        for name, matcher in matchers.items()
    }
    card = {
        "name": "small-few-shot",
        "summary": "finds in pictures what an example shows with its mask, on features of lite0",
        "recipe": "binderclip.studies.papers.p068_msi.train_bundled",
        "data": "160 scenes of the packs' training drawings, 40 classes (protocols.few_shot_scenes.seen_scenes)",
        "data hash": hashlib.sha256(made.images.numpy().tobytes() + made.semantic.numpy().tobytes()).hexdigest()[:16],
        "validation": {f"100 episodes of {len(test.pictures)} classes of held-out drawings": scores},
    }
    return save_few_shot(trained.segmenter, folder, card=card, dtype="float16")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), null=null, registered="a08c0492e1fa")
