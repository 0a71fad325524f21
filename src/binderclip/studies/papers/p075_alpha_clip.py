"""Does an alpha channel learn to say which object of a picture is meant, and leave the rest as it was?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.data.synthetic_scenes.batch import Scenes
from binderclip.data.synthetic_scenes.regions import rgba_pairs
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import vocabulary
from binderclip.losses import SameKey, clip
from binderclip.models import AlphaCLIP
from binderclip.models.layers.fast_gradients import fast_gradients
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.bundled import bundled

SIDE, TEST, STEPS, BATCH, RATE = 128, 150, 120, 24, 1e-2
WHOLE, CUT, CROP, ALPHA, SHUFFLED = "whole picture", "cut out", "crop", "alpha", "alpha of another object"
ONES = "alpha of all ones"
NAMED, SINGLE = "the meant object is named", "single objects are named"
METHODS = (WHOLE, CUT, CROP, ALPHA)


@dataclass(frozen=True)
class Meant:
    """Test scenes, the object that is meant in each and another one, and what is named by each cheap way."""

    images: Float[Tensor, "N 3 S S"]
    masks: Float[Tensor, "N 1 S S"]
    others: Float[Tensor, "N 1 S S"]
    labels: Int[Tensor, "N"]


@lru_cache(maxsize=1)
def texts() -> Float[Tensor, "C E"]:
    """Unit features of the class names."""
    with torch.no_grad():
        names = [f"a picture of a {name}" for name in vocabulary("scenes15", split="train").names]
        return bundled().encode_text(names, normalize=True)


@lru_cache(maxsize=1)
def meant(seed: int) -> Meant:
    """Held-out scenes of two or three objects, of which the first is meant."""
    made = scenes(75_000 + seed, TEST, SIDE, vocabulary=vocabulary("scenes15", split="val+test"), objects=(2, 3))
    masks = made.visible.float()
    return Meant(made.images, masks[:, :1], masks[:, 1:2], made.labels[:, 0] - 1)


@lru_cache(maxsize=1)
def single(seed: int) -> Scenes:
    """Held-out objects alone."""
    return scenes(76_000 + seed, TEST, SIDE, vocabulary=vocabulary("scenes15", split="val+test"), objects=1)


@torch.no_grad()
def named(model: AlphaCLIP, images: Tensor, labels: Tensor, alpha: Tensor | None = None) -> float:
    """Share of pictures whose object is named."""
    right = []
    for rows in torch.arange(len(images)).split(50):
        with torch.autocast("cpu", torch.bfloat16):
            part = None if alpha is None else alpha[rows]
            features = model.encode_image(images[rows], part, normalize=True)
        right.append((features.float() @ texts().T).argmax(1) == labels[rows])
    return float(torch.cat(right).float().mean())


def before(seed: int) -> dict[str, float]:
    """What the model names without an alpha channel: in the whole picture, cut out on white, in a crop, alone."""
    data, alone = meant(seed), single(seed)
    model = AlphaCLIP(bundled())
    cut = data.images * data.masks + (1 - data.masks)
    return {
        WHOLE: named(model, data.images, data.labels),
        CUT: named(model, cut, data.labels),
        CROP: named(model, cropped(data), data.labels),
        ONES: named(model, alone.images, alone.labels[:, 0] - 1),
    }


def cropped(data: Meant) -> Float[Tensor, "N 3 S S"]:
    """The smallest square around each meant object, at the side of the picture."""
    parts = []
    for image, mask in zip(data.images, data.masks[:, 0], strict=True):
        ys, xs = mask.nonzero(as_tuple=True)
        top, bottom, left, right = int(ys.min()), int(ys.max()) + 1, int(xs.min()), int(xs.max()) + 1
        side = min(max(bottom - top, right - left), SIDE)
        y, x = (
            min(max((top + bottom - side) // 2, 0), SIDE - side),
            min(max((left + right - side) // 2, 0), SIDE - side),
        )
        parts.append(F.interpolate(image[None, :, y : y + side, x : x + side], (SIDE, SIDE), mode="bilinear"))
    return torch.cat(parts)


def tuned(seed: int) -> AlphaCLIP:
    """The alpha channel and, at a hundredth of its rate, the blocks trained on scenes of training drawings."""
    from binderclip.fit import fit

    model = AlphaCLIP(bundled())
    groups = model.groups(RATE)
    for name, parameter in model.model.backbone.visual.named_parameters():  # type: ignore[union-attr]
        if ".backbone." in name and parameter is not model.conv.alpha_weight:
            parameter.requires_grad_(False)
    groups = [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in groups]
    scale = float(bundled().scale().detach())
    loss = clip(init_scale=scale, learnable=False, smoothing=0.1, targets=SameKey())
    source = vocabulary("scenes15", split="train")

    def step(number: int) -> Tensor:
        made = scenes(1000 + seed, BATCH, SIDE, vocabulary=source, objects=(2, 3), first=number * BATCH)
        pairs = rgba_pairs(made, seed=seed * 1000 + number)
        with torch.no_grad():
            text = model.encode_text([f"a picture of {caption}" for caption in pairs.captions])
        return loss(model.encode_image(pairs.images, pairs.alpha), text, keys=pairs.captions).total

    with fast_gradients(model):
        fit(step, groups, range(STEPS), steps=STEPS, lr=RATE, warmup=0.1, precision="bfloat16")
    return model


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    data, alone, known = meant(seed), single(seed), before(seed)
    model = tuned(seed)
    kept = named(model, alone.images, alone.labels[:, 0] - 1)
    return [
        *(Row(NAMED, name, known[name]) for name in (WHOLE, CUT, CROP)),
        Row(NAMED, ALPHA, named(model, data.images, data.labels, data.masks)),
        Row(NAMED, SHUFFLED, named(model, data.images, data.labels, data.others)),
        Row(SINGLE, WHOLE, known[ONES]),
        Row(SINGLE, ALPHA, kept),
        Row(SINGLE, SHUFFLED, kept),
    ]


STUDY = declared_study(
    __name__,
    measure,
    draw=dot_panels((NAMED, (*METHODS, SHUFFLED)), (SINGLE, (WHOLE, ALPHA)), rotation=30, ticks=8),
    seeds=range(10, 18),
    registered="7d7eaf1ff2e7",
)
