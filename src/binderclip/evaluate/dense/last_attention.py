"""What the last block of an image tower attends to, measured on scenes whose masks are exact."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from binderclip.errors import UsageError
from binderclip.evaluate.dense.patch_affinity import patch_owners
from binderclip.models import ImageTextModel
from binderclip.models.checks import refuse_bare_module

__all__ = ["LastAttention", "last_attention"]


@dataclass(frozen=True)
class LastAttention:
    """Means over scenes; methods that read or rewire the last attention need these to differ from the first values.

    Attributes:
        density: attention of CLS on object patches over their share of all patches, mean over heads (1: uniform, or as
            much on the ground as on objects).
        entropy: entropy of the rows of patches, mean over heads, over the largest that it can be (1: uniform).
        auroc: probability that two patches of one object have the larger cosine than a patch of an object and one
            outside it, by name: `qq`, `kk`, `vv` (heads side by side), and `qk` by the logit (0.5: blind).
    """

    density: float
    entropy: float
    auroc: dict[str, float]

    def as_dict(self) -> dict[str, float]:
        """Plain values, for JSON."""
        plain = asdict(self)
        return {**{f"auroc {name}": value for name, value in plain.pop("auroc").items()}, **plain}


@torch.no_grad()
def last_attention(
    model: ImageTextModel,
    images: Float[Tensor, "N 3 S S"],
    masks: Bool[Tensor, "N K S S"],
    *,
    size: int | None = None,
    batch_size: int = 32,
) -> LastAttention:
    """Measure the last attention of a model's image tower.

    Args:
        model: its tower must have a class token.
        images: scenes with values in [0, 1]. masks: visible pixels of each object (all False: no object).
        size: side in pixels at which the model sees them; None is its own.
        batch_size: scenes a forward pass.

    Raises:
        UsageError: numbers that differ, a tower without class token or blocks, or no object of two patches anywhere.
    """
    refuse_bare_module(model, "last_attention")
    if len(images) != len(masks) or not len(images):
        raise UsageError(f"{len(images)} images with masks of {len(masks)}: as many of both, and at least one")
    tower = model.image_tower
    if tower.prefix < 1 or not tower.blocks:
        raise UsageError("the image tower has no class token whose attention could be measured")
    density, entropy = [], []
    areas: dict[str, list[float]] = {name: [] for name in ("qq", "kk", "vv", "qk")}
    block, first = tower.blocks[-1], tower.prefix
    for start in range(0, len(images), batch_size):
        pixels = model.preprocess(images[start : start + batch_size], size=size)
        tokens = tower.run(tower.embed(pixels), stop=-1)
        q, k, v = (part.float() for part in block.qkv(tokens.x))  # (B, H, L, d)
        weights = block.weights(q, k)  # (B, H, L, L)
        owners = patch_owners(masks[start : start + batch_size], tower.grid_of(pixels))  # (B, P)
        there = owners >= 0
        of_cls = weights[:, :, 0, first:].mean(1)  # (B, P)
        lift = (of_cls * there).sum(1) / of_cls.sum(1) / there.float().mean(1)
        density.append(lift[there.any(1)])
        rows = weights[:, :, first:]  # (B, H, P, L)
        entropy.append(-(rows * rows.clamp(min=1e-12).log()).sum(-1).mean((1, 2)) / math.log(rows.shape[-1]))
        heads = [part[:, :, first:].transpose(1, 2).flatten(2) for part in (q, k, v)]  # (B, P, D)
        for one in zip(*heads, owners, strict=True):
            for name, area in _areas(*one).items():
                areas[name].append(area)
    if not areas["qq"]:
        raise UsageError("no scene has an object of two patches; take a finer grid or larger objects")
    means = {name: math.fsum(values) / len(values) for name, values in areas.items()}
    return LastAttention(float(torch.cat(density).mean()), float(torch.cat(entropy).mean()), means)


def _areas(
    q: Float[Tensor, "P D"], k: Float[Tensor, "P D"], v: Float[Tensor, "P D"], owner: Int[Tensor, "P"]
) -> dict[str, float]:
    """AUROC of one scene by name; none where no object has two patches or nothing is outside."""
    there = owner >= 0
    same = (owner[:, None] == owner) & there
    pairs = there[:, None] & ~torch.eye(len(owner), dtype=torch.bool, device=owner.device)
    if not bool((same & pairs).any()) or not bool((~same & pairs).any()):
        return {}
    scores = {name: part @ part.T for name, part in zip(("qq", "kk", "vv"), map(_unit, (q, k, v)), strict=True)}
    scores["qk"] = q @ k.T
    return {name: _auroc(score[pairs], same[pairs]) for name, score in scores.items()}


def _unit(x: Float[Tensor, "P D"]) -> Float[Tensor, "P D"]:
    return functional.normalize(x, dim=-1)


def _auroc(scores: Float[Tensor, "M"], right: Bool[Tensor, "M"]) -> float:
    """Area under the ROC curve by mean ranks (ties count half)."""
    _, inverse, counts = torch.unique(scores.double(), return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks = (last - (counts - 1) / 2)[inverse]
    positives = int(right.sum())
    negatives = len(right) - positives
    return float((ranks[right].sum() - positives * (positives + 1) / 2) / (positives * negatives))
