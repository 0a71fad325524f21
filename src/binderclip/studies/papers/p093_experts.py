"""Do labels of dense experts teach the patches of a trained model more than further captions, at no cost in words?"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip import losses
from binderclip.data import (
    Scenes,
    decode_labels,
    encode_labels,
    load_data,
    scenes,
    surface_normals,
    to_tensor,
    vocabulary,
)
from binderclip.segment.metrics import IoU
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.training.last_blocks import Entering, entering, trained_parameters
from binderclip.studies.protocols.training.selections import CONCEPTS
from binderclip.train.stages.expert_labels import relief

BEFORE, CAPTIONS, EXPERTS, SHUFFLED, CONSTANT = (
    "before",
    "captions alone",
    "captions and experts",
    "captions and experts of other pictures",
    "captions and one constant label",
)
METHODS = (BEFORE, CAPTIONS, EXPERTS, SHUFFLED, CONSTANT)
SIDE, TRAIN, FITTED, HELD, NAMED = 128, 240, 200, 300, 300
TUNED, BATCH, ON, HEADS = 40, 24, 5e-4, 10.0
TOLD = 32
"""Side of the labels that heads learn: every fourth pixel."""
RIDGE_CLASSES, RIDGE_DEPTH = 1.0, 0.1
WRONG, NOISE, SLOPE = 0.1, 0.1, 4
MIOU, DEPTH, ACCURACY = "mIoU of a linear probe on drawings", "depth error of a linear probe", "zero-shot accuracy"
LEARNED = "pixels of drawings that the head names as they are, training scenes"


class LabelledEntering(NamedTuple):
    """What enters the blocks that are trained, texts of the captions, and the truth."""

    held: Entering
    texts: Float[Tensor, "N E"]
    truth: Scenes


@torch.no_grad()
def made(seed: int, count: int, split: str) -> LabelledEntering:
    """Scenes of one to three drawings of a split, with captions that name them."""
    clip = bundled()
    found = scenes(seed, count, SIDE, vocabulary=vocabulary("scenes15", split=split), objects=(1, 3))
    return LabelledEntering(entering(clip, found.images), clip.encode_text(found.captions).float(), found)


@lru_cache(maxsize=1)
def probe_scenes(pool: int) -> tuple[LabelledEntering, LabelledEntering]:
    """What the probe is fitted on, and held-out drawings that it is judged on: the same for all seeds of a hundred."""
    return made(9_000 + 2 * pool, FITTED, "train"), made(9_001 + 2 * pool, HELD, "val+test+shift")


@lru_cache(maxsize=1)
@torch.no_grad()
def named() -> tuple[Entering, Bool[Tensor, "N C"], Float[Tensor, "C E"]]:
    """Held-out clip art that names a concept, which it names, and texts of the concepts."""
    clip, data = bundled(), [load_data("openclipart", split) for split in ("val", "test")]
    pairs = [
        (each.image, text.lower().split()) for part in data for each, text in zip(part, part.captions, strict=True)
    ]
    kept = [(image, words) for image, words in pairs if set(CONCEPTS) & set(words)]
    kept = kept[:: -(-len(kept) // NAMED)]
    right = torch.tensor([[concept in words for concept in CONCEPTS] for _, words in kept])
    pictures = torch.stack([to_tensor(image.resize((SIDE, SIDE))) for image, _ in kept])
    return entering(clip, pictures), right, clip.text_bank(list(CONCEPTS)).prototypes()


def labels_of(truth: Scenes, seed: int) -> dict[str, Tensor]:
    """What imperfect experts say: eroded masks, a tenth of the objects misnamed, noise on depth and normals.

    The ground, four fifths of the pixels, has no class, or a head would learn nothing but it.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = len(truth.classes)
    kept = -F.max_pool2d(-truth.visible.float(), 3, stride=1, padding=1) > 0  # (N, K, S, S), one pixel less all round
    other = torch.randint(1, classes, truth.labels.shape, generator=generator)
    misnamed = torch.rand(truth.labels.shape, generator=generator) < WRONG
    named = torch.where(misnamed, other, truth.labels)[:, :, None, None]
    seg = torch.where(kept, named, -1).amax(1)
    depth = 1 - truth.depth[:, 0]
    depth = depth + NOISE * torch.randn(depth.shape, generator=generator)
    mask = truth.visible.any(1, keepdim=True).float()
    normals = surface_normals(relief(mask.expand(-1, 4, -1, -1), SLOPE), SLOPE)
    normals = normals + NOISE * torch.randn(normals.shape, generator=generator)
    stored = {"seg": (seg, "classes"), "depth": (depth, "depth"), "normals": (normals, "normals")}
    return {
        name: fewer(decode_labels(encode_labels(said, kind), kind))  # type: ignore[arg-type]
        for name, (said, kind) in stored.items()
    }


def fewer(pixels: Tensor) -> Tensor:
    """Every so many of the pixels, so that `TOLD` a side are left."""
    each = SIDE // TOLD
    return pixels[..., each // 2 :: each, each // 2 :: each].contiguous()


def constant(labels: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same for every pixel of every picture: ground, and a surface that faces the viewer; of depth nothing."""
    towards = torch.zeros_like(labels["normals"])
    towards[:, 2] = 1
    return {"seg": torch.zeros_like(labels["seg"]), "normals": towards}


def features(
    clip: Any, held: Entering, rows: Int[Tensor, "B"]
) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B D h w"]]:
    """Embeddings, and the patches' tokens after the final norm."""
    tower = clip.image_tower
    tokens = tower.run(held.first.with_x(held.x[rows]), start=held.start)
    return tower.project(tower.pool(tokens)), tower.norm(tokens.patches).mT.unflatten(2, tokens.grid)


def tuned(data: LabelledEntering, labels: dict[str, Tensor], seed: int) -> tuple[Any, float]:
    """`small` after further steps of its last two blocks, with a linear head for each kind of label, and `LEARNED`."""
    from binderclip.fit import fit

    clip = copy.deepcopy(bundled())
    torch.manual_seed(seed)
    loss = losses.clip(init_scale=float(clip.scale().detach()), learnable=False)
    channels = {"seg": len(data.truth.classes), "depth": 1, "normals": 3}
    heads = nn.ModuleDict({name: nn.Conv2d(clip.image_tower.width, channels[name], 1) for name in labels})
    generator = torch.Generator().manual_seed(seed)
    batches = (torch.randperm(TRAIN, generator=generator)[:BATCH] for _ in range(TUNED))

    def step(rows: Tensor) -> Tensor:
        image, maps = features(clip, data.held, rows)
        pairs = loss(image, data.texts[rows]).total
        outputs = {
            name: F.interpolate(head(maps), (TOLD, TOLD), mode="bilinear", align_corners=False)
            for name, head in heads.items()
        }
        return pairs + losses.expert_losses(outputs, {name: each[rows] for name, each in labels.items()}).total

    groups = [{"params": trained_parameters(clip), "lr_scale": 1.0}]
    if labels:
        groups.append({"params": list(heads.parameters()), "lr_scale": HEADS})
    fit(step, groups, batches, steps=TUNED, lr=ON, warmup=0.1)
    return clip, learned(clip, heads["seg"], data) if labels else 0.0


@torch.no_grad()
def learned(clip: Any, head: nn.Module, data: LabelledEntering) -> float:
    """Share of the pixels of drawings in the training scenes that a head names as they are."""
    maps = torch.cat([features(clip, data.held, rows)[1] for rows in torch.arange(TRAIN).split(100)])
    said = F.interpolate(head(maps), (TOLD, TOLD), mode="bilinear", align_corners=False).argmax(1)
    truth = fewer(data.truth.semantic)
    return float((said == truth)[truth > 0].float().mean())


@torch.no_grad()
def probed(clip: Any, fitted: LabelledEntering, held: LabelledEntering) -> dict[str, float]:
    """Ridge regression from a patch's standardised token to the shares of classes and the mean depth, judged by pixels.

    Of classes the pixels of drawings alone, of depth all.
    """
    classes = len(held.truth.classes)
    known, seen = (
        torch.cat([features(clip, part.held, rows)[1] for rows in torch.arange(len(part.held.x)).split(100)])
        for part in (fitted, held)
    )
    shape = (known.shape[2], known.shape[3])
    share = F.adaptive_avg_pool2d(F.one_hot(fitted.truth.semantic, classes).permute(0, 3, 1, 2).float(), shape)
    target = torch.cat([share, F.adaptive_avg_pool2d(fitted.truth.depth, shape)], 1)
    x, y = (each.permute(0, 2, 3, 1).flatten(0, 2) for each in (known, target))
    middle, spread, mean = x.mean(0), x.std(0), y.mean(0)
    x, y = (x - middle) / spread, y - mean
    both, eye = x.T @ x / len(x), torch.eye(x.shape[1])
    to_share, to_depth = (
        torch.linalg.solve(both + ridge * eye, x.T @ part / len(x))
        for ridge, part in ((RIDGE_CLASSES, y[:, :classes]), (RIDGE_DEPTH, y[:, classes:]))
    )
    weight = torch.cat([to_share, to_depth], 1)
    said = (((seen.permute(0, 2, 3, 1) - middle) / spread) @ weight + mean).permute(0, 3, 1, 2)
    said = F.interpolate(said, (SIDE, SIDE), mode="bilinear", align_corners=False)
    truth = held.truth.semantic
    metric = IoU(classes)
    metric.update(torch.where(truth > 0, said[:, 1:classes].argmax(1) + 1, 0), truth)
    error = unexplained(said[:, classes], held.truth.depth[:, 0])
    return {MIOU: float(metric.compute().per_class[1:].nanmean()), DEPTH: error}


def unexplained(said: Float[Tensor, "N S S"], depth: Float[Tensor, "N S S"]) -> float:
    """Root mean square error after the best scale (at least 0) and shift, over the depth's deviation, mean of pictures.

    A flat map has 1. Of `scale_shift_invariant_l1` it has 1, too, but where most pixels are ground, at the median of
    the depth, every bit of noise on them counts as much as the drawings: probes that tell depth have more than 1.
    """
    one, other = (each.flatten(1) - each.flatten(1).mean(1, keepdim=True) for each in (said, depth))
    correlation = F.cosine_similarity(one, other, dim=1).clamp_min(0)
    return float((1 - correlation.square()).clamp_min(0).sqrt().mean())


@torch.no_grad()
def accuracy(clip: Any) -> float:
    """Zero-shot accuracy on held-out clip art: a picture is right with any concept that it names."""
    held, right, texts = named()
    image = torch.cat([features(clip, held, rows)[0] for rows in torch.arange(len(held.x)).split(100)])
    guessed = (F.normalize(image, dim=1) @ F.normalize(texts, dim=1).T).argmax(1)
    return float(right[torch.arange(len(right)), guessed].float().mean())


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    data, (fitted, held) = made(20_000 + seed, TRAIN, "train"), probe_scenes(seed // 100)
    labels = labels_of(data.truth, seed)
    arms = {
        CAPTIONS: {},
        EXPERTS: labels,
        SHUFFLED: {name: each.roll(1, 0) for name, each in labels.items()},
        CONSTANT: constant(labels),
    }
    models = {BEFORE: (bundled(), 0.0)} | {name: tuned(data, told, seed) for name, told in arms.items()}
    rows = [
        Row(metric, name, value)
        for name, (model, _) in models.items()
        for metric, value in {**probed(model, fitted, held), ACCURACY: accuracy(model)}.items()
    ]
    return [*rows, *(Row(LEARNED, name, models[name][1]) for name in (EXPERTS, SHUFFLED))]


STUDY = declared_study(
    __name__,
    measure,
    draw=dot_panels((MIOU, METHODS), (DEPTH, METHODS), (ACCURACY, METHODS), wrap=28),
    seeds=range(30, 38),
    registered="7d6012802d67",
)
