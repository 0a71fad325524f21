"""Image towers without a text side: how a recipe starts one, and the closed form its tokens start from.

[model]      arch = "vision"
[[stage]]    kind = "slow-features"   no gradient step
[[stage]]    kind = "dino"            see `bundled.dino`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import vocabulary
from binderclip.errors import NotSupported
from binderclip.models import load
from binderclip.models.image_text.preprocess import Preprocess
from binderclip.models.image_text.vision import VisionModel, new_backbone
from binderclip.train.engine.context import StageContext
from binderclip.train.recipe.passes import OwnCount, SampleCost, forward_operations
from binderclip.train.recipe.registry import BARE, MODELS, PASSES, STAGES, register
from binderclip.train.recipe.stage import Stage

__all__ = ["BACKGROUNDS", "hybrid", "new_vision", "slow_directions", "slow_features"]

BACKGROUNDS = ("plain", "gradient", "noise", "texture", "photo", "photo")


@register(MODELS, "vision")
def new_vision(
    *,
    seed: int,
    captions: Callable[[], Sequence[str]],
    arch: str = "binderclip_lite0_vit8",
    options: dict[str, Any] | None = None,
    stem: str = "small",
) -> VisionModel:
    """A new image tower.

    Args:
        seed: of the weights.
        captions: not used.
        arch: a VisionTransformer of timm by name.
        options: its further arguments.
        stem: the model whose lower convolutions are the start of `binderclip_lite0_vit8` (built like `small`); "none"
            starts at random.
    """
    torch.manual_seed(seed)
    backbone = new_backbone(arch, options)
    embed = backbone.patch_embed
    if stem != "none" and hasattr(getattr(embed, "backbone", None), "load_trunk"):
        embed.backbone.load_trunk(load(stem).backbone.visual.trunk.patch_embed.backbone.state_dict())
    side = getattr(embed, "img_size", None) or (128, 128)
    pixels = Preprocess(size=(int(side[0]), int(side[1])))
    return VisionModel(backbone, arch=arch, options=options, preprocess=pixels)


@register(BARE, "vision")
def _bare_vision(
    *, arch: str = "binderclip_lite0_vit8", options: dict[str, Any] | None = None, stem: str = "small"
) -> VisionModel:
    with torch.device("meta"):
        return new_vision(seed=0, captions=list, arch=arch, options=options, stem="none")


def slow_directions(
    maps: Float[Tensor, "N C h w"], rank: int, *, ridge: float = 0.01
) -> tuple[Float[Tensor, "C"], Float[Tensor, "C R"]]:
    """The directions of features that vary most over pictures and least between neighbouring places.

    Slow feature analysis (Wiskott and Sejnowski, 2002) over space: generalised eigenvectors of the covariance against
    that of the differences of neighbours, in float64. What belongs to the same thing lies side by side, so such
    directions tell things apart.

    Args:
        maps: of many pictures.
        rank: how many directions.
        ridge: added to the differences' covariance, as a share of its mean diagonal.

    Returns:
        The mean, and the directions, each with a weight of the square root of its ratio of variances.
    """
    x = maps.double().permute(0, 2, 3, 1)
    mean = x.mean((0, 1, 2))
    x = x - mean
    down, right = x[:, 1:] - x[:, :-1], x[:, :, 1:] - x[:, :, :-1]
    steps = [part.flatten(0, 2) for part in (down, right)]
    fast = sum((part.T @ part for part in steps), torch.zeros(x.shape[-1], x.shape[-1], dtype=x.dtype))
    fast = fast / sum(len(part) for part in steps)
    rows = x.flatten(0, 2)
    total = rows.T @ rows / len(rows)
    fast = fast + ridge * fast.diagonal().mean() * torch.eye(len(fast), dtype=x.dtype)
    inverse = torch.linalg.inv(torch.linalg.cholesky(fast))
    ratio, vectors = torch.linalg.eigh(inverse @ total @ inverse.T)
    directions = (inverse.T @ vectors) * ratio.clamp(min=0).pow(0.25)
    return mean.float(), directions.flip(1)[:, :rank].float()


@register(STAGES, "slow-features")
def slow_features(
    context: StageContext,
    *,
    pictures: int = 400,
    names: str | Sequence[str] = "captions",
    backgrounds: Sequence[str] = BACKGROUNDS,
) -> dict[str, Any]:
    """Set the projection of a hybrid tower's stem to its slow features, and the blocks to the identity.

    Args:
        context: of the stage; its length is not used.
        pictures: scenes it is computed from.
        names, backgrounds: of the scenes.
    """
    model = hybrid(context)
    trunk = model.backbone
    side, chosen = max(model.preprocess.size), names if isinstance(names, str) else tuple(names)
    source = vocabulary(chosen, split="train")
    maps = []
    with torch.no_grad():
        for first in range(0, pictures, 40):
            images = scenes(
                context.seed, min(40, pictures - first), side, vocabulary=source, objects=(0, 4),
                background=list(backgrounds), first=first,
            ).images  # fmt: skip
            maps.append(trunk.patch_embed.backbone(model.preprocess.normalize(images)))
        features = torch.cat(maps)
        mean, directions = slow_directions(features, trunk.embed_dim)
        directions = nn.functional.pad(directions, (0, trunk.embed_dim - directions.shape[1]))
        tokens = (features.permute(0, 2, 3, 1) - mean) @ directions
        directions = directions / tokens.square().mean().sqrt()
        trunk.patch_embed.proj.weight.copy_(directions.T[:, :, None, None])
        trunk.patch_embed.proj.bias.copy_(-(mean @ directions))
        trunk.pos_embed.mul_(0.5)
        for block in trunk.blocks:
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.mlp.fc2.weight)
    return {"scenes": pictures}


@register(PASSES, "slow-features")
def _passes(stage: Stage, *, pictures: int = 400, **settings: object) -> OwnCount:
    def count(model: Any, stages: Sequence[Stage], index: int) -> SampleCost:
        stem, side = model.backbone.patch_embed.backbone, max(model.preprocess.size)
        pixels = torch.empty(1, 3, side, side, device="meta")
        cells = stem(pixels).shape[-2:].numel()
        return SampleCost(
            image_tokens=cells, operations=forward_operations(lambda: stem(pixels)), samples=pictures,
            left_out="the eigenvectors, found once, are not counted",
        )  # fmt: skip

    return OwnCount(count=count)


def hybrid(context: StageContext) -> VisionModel:
    """The stage's model, known to be a tower with a convolutional stem.

    Raises:
        NotSupported: another model.
    """
    model: Any = context.model
    if not isinstance(model, VisionModel) or not hasattr(model.backbone.patch_embed, "backbone"):
        raise NotSupported(f"stage kind {context.outcome.kind!r} trains a hybrid tower of arch = 'vision'")
    return model
